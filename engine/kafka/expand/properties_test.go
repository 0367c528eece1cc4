package expand

import (
	"bytes"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/protobuf/proto"

	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func readRequestBytes(b []byte) *jobpb.ExpansionRequest {
	req := new(jobpb.ExpansionRequest)
	if proto.Unmarshal(b, req) != nil {
		return nil
	}
	return req
}

// props makes properties of lines name=value.
func props(lines string) map[string]string {
	m := map[string]string{}
	for line := range strings.SplitSeq(lines, "\n") {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			m[name] = value
		}
	}
	return m
}

const (
	plainJAAS = `sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="u" password="p\"w";` + "\n"
	sasl      = "bootstrap.servers=b:1\nsecurity.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n"
	ssl       = "bootstrap.servers=b:1\nsecurity.protocol=SSL\n"
)

func TestConnection(t *testing.T) {
	one := []string{"b:1"}
	tests := []struct {
		name, props string
		want        kafka.Connection
		err         string
	}{
		{"plain text", "bootstrap.servers=PLAINTEXT://a:9092, [::1]:9093,,", kafka.Connection{Brokers: []string{"a:9092", "[::1]:9093"}}, ""},
		{"TLS", ssl, kafka.Connection{Brokers: one, TLS: &kafka.TLS{}}, ""},
		{"TLS with files", ssl + "ssl.truststore.type=PEM\nssl.truststore.location=/ca.pem\nssl.keystore.type=pem\nssl.keystore.location=/me.pem\nssl.protocol=TLSv1.3\nssl.endpoint.identification.algorithm=HTTPS",
			kafka.Connection{Brokers: one, TLS: &kafka.TLS{CAFile: "/ca.pem", CertFile: "/me.pem", KeyFile: "/me.pem"}}, ""},
		{"SASL", sasl + plainJAAS, kafka.Connection{Brokers: one, SASL: &kafka.SASL{Mechanism: kafka.Plain, User: "u", Password: `p"w`}}, ""},
		{"SASL without protocol", "bootstrap.servers=b:1\nsasl.mechanism=PLAIN\n" + plainJAAS, kafka.Connection{Brokers: one}, ""},
		{"unknown protocol", "bootstrap.servers=b:1\nsecurity.protocol=TLS", kafka.Connection{}, `config: security.protocol: "TLS" is unknown: use PLAINTEXT or SSL or SASL_PLAINTEXT or SASL_SSL`},
		{"Java key store", ssl + "ssl.truststore.location=/trust.jks\nssl.truststore.password=x", kafka.Connection{}, "ssl.truststore.type: the runner reads PEM files only"},
		{"PEM with password", ssl + "ssl.truststore.location=/ca.pem\nssl.truststore.type=PEM\nssl.truststore.password=x", kafka.Connection{}, "ssl.truststore.password: PEM files have none"},
		{"certificates in the property", ssl + "ssl.truststore.certificates=-----BEGIN", kafka.Connection{}, "ssl.truststore.certificates: the runner reads certificates from files"},
		{"encrypted key", ssl + "ssl.key.password=x", kafka.Connection{}, "ssl.key.password: the runner reads no encrypted keys"},
		{"no host names", ssl + "ssl.endpoint.identification.algorithm=none", kafka.Connection{}, "names in certificates are always checked"},
		{"other TLS", ssl + "ssl.engine.factory.class=org.example.Factory", kafka.Connection{}, "ssl.engine.factory.class: this runner does not have it"},
		{"Kerberos", "bootstrap.servers=b:1\nsecurity.protocol=SASL_SSL\nsasl.mechanism=GSSAPI\n" + plainJAAS, kafka.Connection{}, `sasl.mechanism: this runner does not have "GSSAPI": use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512`},
		{"no mechanism", "bootstrap.servers=b:1\nsecurity.protocol=SASL_SSL\n" + plainJAAS, kafka.Connection{}, "sasl.mechanism: it is not set"},
		{"no user", sasl, kafka.Connection{}, "sasl.jaas.config: it is not set"},
		{"no password", sasl + `sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="u";`, kafka.Connection{}, "it needs username and password"},
		{"callback", sasl + plainJAAS + "sasl.client.callback.handler.class=org.example.Handler", kafka.Connection{}, "sasl.client.callback.handler.class: this runner does not have it"},
		{"librdkafka", "bootstrap.servers=b:1\nsasl.username=me", kafka.Connection{}, "sasl.username: it is a property of librdkafka"},
		{"interceptors", "bootstrap.servers=b:1\ninterceptor.classes=org.example.I", kafka.Connection{}, "interceptor.classes: interceptors are Java classes"},
		{"partitioner", "bootstrap.servers=b:1\npartitioner.class=org.example.P", kafka.Connection{}, "partitioner.class: keys go where"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newProperties("config", props(test.props))
			got := p.connection()
			var log bytes.Buffer
			err := p.done(slog.New(slog.NewTextHandler(&log, nil)), "test")
			checkError(t, err, test.err)
			if err == nil && !reflect.DeepEqual(got, test.want) {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
			if log.Len() > 0 {
				t.Errorf("warnings: %s", &log)
			}
			if err != nil && strings.Contains(err.Error(), "p\"w") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

func TestParseJAAS(t *testing.T) {
	const module = "org.apache.kafka.common.security.scram.ScramLoginModule "
	tests := []struct {
		text string
		want map[string]string
		err  string
	}{
		{module + `required username="a b" password='it"s';`, map[string]string{"username": "a b", "password": `it"s`}, ""},
		{module + "required\n  username=me\n  password = \"\\\\x\\\"\"\n  tokenauth=\"true\" ; ", map[string]string{"username": "me", "password": `\x"`, "tokenauth": "true"}, ""},
		{module + `required`, map[string]string{}, ""},
		{"", nil, "it is not set"},
		{"org.example.Login required a=b;", nil, `the login module "org.example.Login"`},
		{module + `required username="secret`, nil, "a quote is not closed"},
		{module + `required username="secret\`, nil, "a quote is not closed"},
		{module + `required username;`, nil, "an option is not of the form"},
		{module + `required username "secret";`, nil, "an option is not of the form"},
		{module + `required username="a"; more`, nil, "more follows"},
	}
	for _, test := range tests {
		got, err := parseJAAS(test.text)
		checkError(t, err, test.err)
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.text, got, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows what is in it: %v", err)
		}
	}
}

// What only tunes Java's client is dropped in silence, what is unknown is logged.
func TestPropertiesWithoutEffect(t *testing.T) {
	p := newProperties("config", props("bootstrap.servers=b:1\nfetch.min.bytes=1\nacks=0\nmax.poll.records=5\nclient.id=me\ngroup.instance.id=i\nmetrics.recording.level=INFO\nfetch.mim.bytes=1\nmax.request.size=5\nsecond.unknown=\n"))
	p.connection()
	var log bytes.Buffer
	if err := p.done(slog.New(slog.NewTextHandler(&log, nil)), "my transform"); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "property=max.request.size") {
		t.Errorf("warnings:\n%s", &log)
	}
}

func TestProperties(t *testing.T) {
	tests := []struct {
		props    string
		finalize bool
		start    kafka.Start
		group    string
		err      string
	}{
		{"", false, kafka.Start{At: kafka.Latest}, "", ""},
		{"auto.offset.reset=earliest", false, kafka.Start{At: kafka.Earliest}, "", ""},
		{"auto.offset.reset=none", false, kafka.Start{}, "", `auto.offset.reset: this runner does not have "none": use earliest or latest`},
		{"group.id=g", false, kafka.Start{At: kafka.Committed, Else: kafka.Latest}, "g", ""},
		{"group.id=g\nenable.auto.commit=false\nauto.offset.reset=earliest", false, kafka.Start{At: kafka.Committed, Else: kafka.Earliest, Group: "g"}, "", ""},
		{"group.id=g\nenable.auto.commit=FALSE", true, kafka.Start{At: kafka.Committed, Else: kafka.Latest}, "g", ""},
		{"enable.auto.commit=maybe", false, kafka.Start{}, "", `enable.auto.commit: "maybe" is unknown: use true or false`},
		{"isolation.level=read_all", false, kafka.Start{}, "", `isolation.level: "read_all" is unknown: use read_uncommitted or read_committed`},
	}
	for _, test := range tests {
		t.Run(test.props, func(t *testing.T) {
			p := newProperties("config", props("bootstrap.servers=b:1\n"+test.props))
			var c kafka.ReadConfig
			p.consumer(&c, test.finalize)
			err := p.done(discard(), "test")
			checkError(t, err, test.err)
			if err == nil && (c.Start != test.start || c.Group != test.group) {
				t.Errorf("got %+v and group %q", c.Start, c.Group)
			}
		})
	}
	for text, want := range map[string]string{
		"linger.ms=x":           `linger.ms: "x" is not a number of milliseconds`,
		"compression.type=zip":  `compression.type: "zip" is unknown: use none or gzip or snappy or lz4 or zstd`,
		"compression.type=gzip": "",
	} {
		p := newProperties("config", props("bootstrap.servers=b:1\n"+text))
		p.producer(newWrite(kafka.Pairs))
		checkError(t, p.done(discard(), "test"), want)
	}
}

// Fields of a wrong type, unknown ones, and such that may only be unset.
func TestFields(t *testing.T) {
	tests := []struct {
		name string
		row  map[string]any
		err  string
	}{
		{"nothing", map[string]any{}, ""},
		{"unset", map[string]any{"unknown": nil, "unknown2": false, "unknown3": int64(0), "unknown4": "", "unknown5": []any{}, "unknown6": map[any]any{}}, ""},
		{"unknown", map[string]any{"offset_deduplication": true}, "offset_deduplication: this runner does not know the field"},
		{"twice", map[string]any{"max_num_records": int64(1), "maxNumRecords": int64(1)}, "the field is there twice"},
		{"string", map[string]any{"text": int64(1)}, "text: it is a integer, not a string"},
		{"boolean", map[string]any{"flag": "yes"}, "flag: it is a string, not a boolean"},
		{"integer", map[string]any{"number": 1.5}, "number: it is a float, not an integer"},
		{"list", map[string]any{"texts": []any{"a", int64(1)}}, "texts: element 1 is not a string"},
		{"map", map[string]any{"mapping": map[any]any{"a": int64(1)}}, "mapping: the entry a is not a string"},
		{"refused", map[string]any{"refused": map[string]any{}}, "refused: this runner does not have it: do something else"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFields(test.row)
			f.text("text")
			f.flag("flag")
			f.number("number")
			f.texts("texts")
			f.mapping("mapping")
			f.refuse("refused", "do something else")
			checkError(t, f.err(), test.err)
		})
	}
}
