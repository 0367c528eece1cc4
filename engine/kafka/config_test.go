package kafka

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

const goodRead = `{"version":1,"brokers":["b:9092"],"topics":["t"],"format":"kv","start":{"at":"earliest"},
	"timestamps":{"policy":"create_time","max_out_of_orderness_ms":0,"idle_timeout_ms":0}}`

func TestDecodeReadConfig(t *testing.T) {
	tests := []struct{ name, old, new, want string }{
		{"good", "", "", ""},
		{"not json", `{"version"`, `{version`, "invalid character"},
		{"empty", goodRead, ``, "EOF"},
		{"unknown field", `"format":"kv"`, `"format":"kv","shards":3`, `unknown field "shards"`},
		{"two documents", goodRead, goodRead + "{}", "more follows"},
		{"newer", `"version":1`, `"version":2`, "version 2 is not 1"},
		{"newer with new field", `"version":1`, `"version":2,"new":1`, "version 2 is newer than this runner's 1: update the runner"},
		{"no version", `"version":1,`, ``, "version 0 is not 1"},
		{"no brokers", `["b:9092"]`, `[]`, "brokers is empty"},
		{"no port", `"b:9092"`, `"b"`, `"b" is not host:port`},
		{"bad port", `"b:9092"`, `"b:99999"`, "port of \"b:99999\""},
		{"no topics", `["t"]`, `[]`, "topics is empty"},
		{"bad topic", `["t"]`, `["a b"]`, `"a b" is not a topic name: ' '`},
		{"topic twice", `["t"]`, `["t","t"]`, `"t" is named twice`},
		{"format", `"kv"`, `"row"`, `format="row" is unknown: use kv or record`},
		{"start", `"earliest"`, `"begin"`, `start.at="begin" is unknown`},
		{"start without time", `"earliest"`, `"timestamp"`, "start.timestamp_ms=0 is not a time"},
		{"start without group", `"earliest"`, `"committed"`, "needs group"},
		{"bounded latest", `"earliest"},`, `"latest"},"stop_at_end":true,`, "would read nothing"},
		{"policy", `"create_time"`, `"event"`, `timestamps.policy="event" is unknown`},
		{"disorder", `orderness_ms":0`, `orderness_ms":-1`, "max_out_of_orderness_ms=-1 is not between"},
		{"idle", `timeout_ms":0`, `timeout_ms":99999999999`, "more than a year"},
		{"half tls", `"topics"`, `"tls":{"cert_file":"c"},"topics"`, "cert_file and key_file need each other"},
		{"mechanism", `"topics"`, `"sasl":{"mechanism":"GSSAPI","user":"u","password":"p"},"topics"`, `sasl.mechanism="GSSAPI" is unknown`},
		{"no user", `"topics"`, `"sasl":{"mechanism":"PLAIN","password":"p"},"topics"`, "sasl.user is empty"},
		{"no password", `"topics"`, `"sasl":{"mechanism":"PLAIN","user":"u"},"topics"`, "either password or password_env"},
		{"discovery", `"topics"`, `"discovery_interval_ms":99,"topics"`, "discovery_interval_ms=99 is less than 100"},
		{"out of range", `"topics"`, `"out_of_range":"skip","topics"`, `out_of_range="skip" is unknown: use fail, earliest or latest`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			payload := strings.Replace(goodRead, tt.old, tt.new, 1)
			if tt.name != "good" && payload == goodRead {
				t.Fatal("the test changes nothing")
			}
			_, err := DecodeReadConfig([]byte(payload))
			checkError(t, err, tt.want)
		})
	}
}

func TestDecodeWriteConfig(t *testing.T) {
	const good = `{"version":1,"brokers":["b:9092"],"topic":"t","format":"kv","linger_ms":5}`
	tests := []struct{ name, old, new, want string }{
		{"good", "", "", ""},
		{"no topic", `"t"`, `""`, "a topic's name is empty"},
		{"records name topics", `"topic":"t","format":"kv"`, `"format":"record"`, ""},
		{"compression", `"linger_ms"`, `"compression":"rar","linger_ms"`, `compression="rar" is unknown`},
		{"linger", `:5}`, `:-5}`, "linger_ms=-5 is not between"},
		{"guarantee", `"linger_ms"`, `"guarantee":"maybe","linger_ms"`, `guarantee="maybe" is unknown: use exactly_once or at_least_once`},
		{"transaction timeout", `"linger_ms"`, `"transaction_timeout_ms":999,"linger_ms"`, "transaction_timeout_ms=999 is not between 1000 and"},
		{"version", `"version":1`, `"version":7`, "version 7 is not 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := DecodeWriteConfig([]byte(strings.Replace(good, tt.old, tt.new, 1)))
			checkError(t, err, tt.want)
		})
	}
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("error %v, want one with %q", err, want)
	}
}

func FuzzDecodeConfig(f *testing.F) {
	f.Add([]byte(goodRead))
	f.Add([]byte(`{"version":1,"brokers":["b:9092"],"topic":"t","format":"record","linger_ms":5}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if c, err := DecodeReadConfig(payload); err == nil {
			again, err := DecodeReadConfig(encode(c))
			if err != nil || !reflect.DeepEqual(normal(t, c), normal(t, again)) {
				t.Fatalf("%+v came back as %+v: %v", c, again, err)
			}
		}
		if c, err := DecodeWriteConfig(payload); err == nil {
			again, err := DecodeWriteConfig(encode(c))
			if err != nil || !reflect.DeepEqual(normal(t, c), normal(t, again)) {
				t.Fatalf("%+v came back as %+v: %v", c, again, err)
			}
		}
	})
}

// normal hides the difference between nil and empty.
func normal(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
