package expand

import (
	"fmt"
	"strings"

	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

// serdes is the Java package of Kafka's own serializers and deserializers.
const serdes = "org.apache.kafka.common.serialization."

// typeOf returns the type that a deserializer makes or a serializer takes. kind is Deserializer or Serializer.
//
// Java's expansion service has byte arrays, integers and longs; strings and doubles are more. Others would need their own classes.
func typeOf(class, kind string) (kafka.Type, error) {
	switch name, ok := strings.CutPrefix(class, serdes); {
	case !ok:
	case name == "ByteArray"+kind:
		return kafka.Bytes, nil
	case name == "String"+kind:
		return kafka.String, nil
	case name == "Integer"+kind:
		return kafka.Int32, nil
	case name == "Long"+kind:
		return kafka.Int64, nil
	case name == "Double"+kind:
		return kafka.Float64, nil
	}
	return "", fmt.Errorf("%q is not a class that this runner knows: use ByteArray%[2]s, String%[2]s, Integer%[2]s, Long%[2]s or Double%[2]s of %s, and convert byte arrays in the pipeline",
		class, kind, strings.TrimSuffix(serdes, "."))
}

// types takes the classes of key and value from a configuration.
func types(f *fields, kind string) kafka.Elements {
	one := func(name string) kafka.Type {
		t, err := typeOf(f.required(name), kind)
		if err != nil {
			f.fail(name, "%w", err)
		}
		return t
	}
	suffix := strings.ToLower(kind)
	return kafka.Elements{Key: one("key_" + suffix), Value: one("value_" + suffix)}
}
