package web

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
)

// schema is a JSON Schema, as far as OpenAPI 3.1 and the types here need it.
type schema map[string]any

var pathParameter = regexp.MustCompile(`\{([a-z]+)\}`)

// openAPI makes the OpenAPI document of the routes: shapes are those of the Go types that they answer with.
func openAPI(routes []route) (json.RawMessage, error) {
	paths := make(map[string]map[string]any)
	for _, rt := range routes {
		if paths[rt.path] == nil {
			paths[rt.path] = make(map[string]any)
		}
		paths[rt.path][strings.ToLower(rt.method)] = rt.describe()
	}
	data, err := json.Marshal(map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{
			"title":       "tinyrunner",
			"version":     flinkVersion,
			"description": "The monitoring REST API of Apache Flink " + flinkVersion + ", as far as it has a meaning here. Every path is also there below /v1.",
		},
		"servers": []any{map[string]any{"url": "/"}, map[string]any{"url": "/v1"}},
		"paths":   paths,
		"components": map[string]any{
			"schemas":         map[string]any{"errors": schemaOf(reflect.TypeFor[errorsJSON]())},
			"securitySchemes": map[string]any{"token": map[string]any{"type": "http", "scheme": "bearer"}},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make OpenAPI document: %w", err)
	}
	return data, nil
}

// describe is the route's operation object.
func (rt route) describe() map[string]any {
	var parameters []any
	for _, m := range pathParameter.FindAllStringSubmatch(rt.path, -1) {
		parameters = append(parameters, map[string]any{"name": m[1], "in": "path", "required": true, "schema": schema{"type": "string"}})
	}
	for _, q := range rt.query {
		parameters = append(parameters, map[string]any{"name": q, "in": "query", "schema": schema{"type": "string"}})
	}
	content := map[string]any{"application/json": map[string]any{"schema": schemaOf(reflect.TypeOf(rt.answer))}}
	if _, text := rt.answer.(plain); text {
		content = map[string]any{"text/plain": map[string]any{"schema": schema{"type": "string"}}}
	}
	op := map[string]any{
		"summary": rt.does,
		"responses": map[string]any{
			strconv.Itoa(rt.status): map[string]any{"description": "success", "content": content},
			"default": map[string]any{"description": "what is wrong", "content": map[string]any{
				"application/json": map[string]any{"schema": schema{"$ref": "#/components/schemas/errors"}},
			}},
		},
	}
	if parameters != nil {
		op["parameters"] = parameters
	}
	switch {
	case rt.upload:
		op["requestBody"] = map[string]any{"content": map[string]any{"multipart/form-data": map[string]any{"schema": schema{
			"type": "object", "properties": schema{"jarfile": schema{"type": "string", "format": "binary"}},
		}}}}
	case rt.body != nil:
		s := schemaOf(reflect.TypeOf(rt.body))
		delete(s, "required") // what is left out has a default
		op["requestBody"] = map[string]any{"content": map[string]any{"application/json": map[string]any{"schema": s}}}
	}
	return op
}

// schemaOf describes how a type is encoded. Types must not be recursive, but for those named here.
func schemaOf(t reflect.Type) schema {
	switch t {
	case reflect.TypeFor[ratio]():
		return schema{"type": []string{"number", "string"}}
	case reflect.TypeFor[*flameJSON]():
		return schema{"type": "object"}
	case reflect.TypeFor[exceptionEntryJSON]():
		s := structSchema(t)
		s["properties"].(schema)["concurrentExceptions"] = schema{"type": "array", "items": schema{"type": "object"}}
		return s
	}
	switch t.Kind() {
	case reflect.Pointer:
		s := schemaOf(t.Elem())
		if name, ok := s["type"].(string); ok {
			s["type"] = []string{name, "null"}
		}
		return s
	case reflect.Bool:
		return schema{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return schema{"type": "integer"}
	case reflect.Float64:
		return schema{"type": "number"}
	case reflect.String:
		return schema{"type": "string"}
	case reflect.Slice:
		return schema{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Map:
		return schema{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.Struct:
		return structSchema(t)
	default:
		return schema{}
	}
}

func structSchema(t reflect.Type) schema {
	properties := schema{}
	required := []string{}
	for k := range t.NumField() {
		f := t.Field(k)
		if f.Anonymous {
			inner := structSchema(f.Type)
			for name, s := range inner["properties"].(schema) {
				properties[name] = s
			}
			required = append(required, inner["required"].([]string)...)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Type == t || f.Type == reflect.SliceOf(t) {
			properties[name] = schema{}
			continue
		}
		properties[name] = schemaOf(f.Type)
		if !strings.Contains(options, "omitempty") {
			required = append(required, name)
		}
	}
	return schema{"type": "object", "properties": properties, "required": required}
}
