package expand

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// fields are the fields of a configuration. Each is taken by name, with the type that it must have; rest then tells what nobody
// took. After the first error nothing more is read: it is for err.
type fields struct {
	byName map[string]field // by canonical name
	first  error
}

type field struct {
	name  string // as the SDK has it
	value any
}

// newFields returns the fields of a decoded row. Python calls a field consumer_config, Go and Java consumerConfig.
func newFields(row map[string]any) *fields {
	f := &fields{byName: make(map[string]field, len(row))}
	for _, name := range slices.Sorted(maps.Keys(row)) {
		key := canonical(name)
		if _, twice := f.byName[key]; twice {
			f.fail(name, "the field is there twice")
		}
		f.byName[key] = field{name, row[name]}
	}
	return f
}

func canonical(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

func (f *fields) fail(name, format string, args ...any) {
	if f.first == nil {
		f.first = fmt.Errorf("%s: %w", name, fmt.Errorf(format, args...))
	}
}

// take returns the value of a field and forgets the field; false if it is null or not there.
func take[T any](f *fields, name, want string) (v T, ok bool) {
	key := canonical(name)
	x := f.byName[key].value
	delete(f.byName, key)
	if x == nil {
		return v, false
	}
	if v, ok = x.(T); !ok {
		f.fail(name, "it is a %s, not %s", kindOf(x), want)
	}
	return v, ok
}

func kindOf(v any) string {
	switch v.(type) {
	case bool:
		return "boolean"
	case int64:
		return "integer"
	case float64:
		return "float"
	case string:
		return "string"
	case []byte:
		return "byte string"
	case []any:
		return "list"
	case map[any]any:
		return "map"
	}
	return "row"
}

// text returns a string; "" if it is not there.
func (f *fields) text(name string) string {
	v, _ := take[string](f, name, "a string")
	return v
}

// required returns a string that must be there.
func (f *fields) required(name string) string {
	v := f.text(name)
	if v == "" {
		f.fail(name, "it is empty, and it is required")
	}
	return v
}

func (f *fields) flag(name string) bool {
	v, _ := take[bool](f, name, "a boolean")
	return v
}

// number returns an integer; false if it is not there.
func (f *fields) number(name string) (int64, bool) {
	return take[int64](f, name, "an integer")
}

// positive returns an integer above zero; 0 if it is not there.
func (f *fields) positive(name string) int64 {
	v, ok := f.number(name)
	if ok && v <= 0 {
		f.fail(name, "%d is not above 0", v)
	}
	return v
}

func (f *fields) texts(name string) []string {
	list, _ := take[[]any](f, name, "a list of strings")
	out := make([]string, 0, len(list))
	for i, x := range list {
		s, ok := x.(string)
		if !ok {
			f.fail(name, "element %d is not a string", i)
		}
		out = append(out, s)
	}
	return out
}

func (f *fields) mapping(name string) map[string]string {
	m, _ := take[map[any]any](f, name, "a map of strings")
	out := make(map[string]string, len(m))
	for k, v := range m {
		key, ok := k.(string)
		value, ok2 := v.(string)
		if !ok || !ok2 {
			f.fail(name, "the entry %v is not a string", k)
		}
		out[key] = value
	}
	return out
}

// none takes fields that have no meaning here, whatever is in them.
func (f *fields) none(names ...string) {
	for _, n := range names {
		delete(f.byName, canonical(n))
	}
}

// refuse takes a field that may only be unset: null, false, 0 or empty.
func (f *fields) refuse(name, remedy string) {
	key := canonical(name)
	x := f.byName[key].value
	delete(f.byName, key)
	if !unset(x) {
		f.fail(name, "this runner does not have it: %s", remedy)
	}
}

func unset(x any) bool {
	switch v := x.(type) {
	case nil:
		return true
	case bool:
		return !v
	case int64:
		return v == 0
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[any]any:
		return len(v) == 0
	}
	return false
}

// err returns the first error. Fields that were not taken are one, unless they are unset.
func (f *fields) err() error {
	if f.first != nil {
		return f.first
	}
	for _, key := range slices.Sorted(maps.Keys(f.byName)) {
		if left := f.byName[key]; !unset(left.value) {
			return fmt.Errorf("%s: this runner does not know the field: leave it out, or give the SDK the address of Java's expansion service", left.name)
		}
	}
	return nil
}
