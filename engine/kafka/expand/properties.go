package expand

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

// properties are those of a Kafka client. Each is taken by name; rest tells what nobody took.
//
// Their meaning: https://kafka.apache.org/documentation/#configuration.
type properties struct {
	field string // of the configuration, for messages
	left  map[string]string
	first error
}

func newProperties(field string, p map[string]string) *properties {
	left := maps.Clone(p)
	maps.DeleteFunc(left, func(_, v string) bool { return strings.TrimSpace(v) == "" })
	return &properties{field: field, left: left}
}

func (p *properties) take(name string) string {
	v := strings.TrimSpace(p.left[name])
	delete(p.left, name)
	return v
}

func (p *properties) fail(name, format string, args ...any) {
	if p.first == nil {
		p.first = fmt.Errorf("%s: %s: %w", p.field, name, fmt.Errorf(format, args...))
	}
}

// choice takes a property that has one of a few values; the first is the default.
func (p *properties) choice(name string, values ...string) string {
	v := p.take(name)
	if v == "" {
		return values[0]
	}
	if i := slices.IndexFunc(values, func(w string) bool { return strings.EqualFold(v, w) }); i >= 0 {
		return values[i]
	}
	p.fail(name, "%q is unknown: use %s", v, strings.TrimPrefix(strings.Join(values, " or "), " or "))
	return values[0]
}

// flag takes a boolean property.
func (p *properties) flag(name string, otherwise bool) bool {
	return p.choice(name, strconv.FormatBool(otherwise), strconv.FormatBool(!otherwise)) == "true"
}

// brokers takes bootstrap.servers: host:port, perhaps behind a protocol://, which Kafka's clients skip.
func (p *properties) brokers() []string {
	var out []string
	for b := range strings.SplitSeq(p.take("bootstrap.servers"), ",") {
		if _, after, ok := strings.Cut(b, "://"); ok {
			b = after
		}
		if b = strings.TrimSpace(b); b != "" {
			out = append(out, b)
		}
	}
	if len(out) == 0 {
		p.fail("bootstrap.servers", "it is not set: name at least one broker as host:port")
	}
	return out
}

// refused are the properties that would change results or be less safe to leave out, with what to do instead.
func refused(name string) string {
	switch {
	case name == "interceptor.classes":
		return "interceptors are Java classes: do in the pipeline what they do"
	case name == "partitioner.class", name == "partitioner.ignore.keys":
		return "keys go where Kafka's default partitioner puts them: leave it out"
	case name == "transactional.id":
		return "the runner names its transactions itself: leave it out"
	case name == "config.providers":
		return "the runner has only ${env:NAME} in sasl.jaas.config, without a provider: leave it out"
	case strings.HasPrefix(name, "schema.registry."):
		return "the runner does not ask schema registries: read byte arrays and decode them in the pipeline"
	case librdkafka(name):
		return "it is a property of librdkafka, not of Kafka's Java clients: use sasl.jaas.config, or ssl.truststore.location and ssl.keystore.location with the type PEM"
	case strings.HasPrefix(name, "sasl."), strings.HasPrefix(name, "ssl."), strings.HasPrefix(name, "security."):
		return "this runner does not have it: leave it out if the brokers can do without it"
	}
	return ""
}

// librdkafka says that a property is one of another client, which many examples for Python use.
func librdkafka(name string) bool {
	switch name {
	case "sasl.username", "sasl.password", "sasl.mechanisms", "ssl.ca.location", "ssl.certificate.location", "ssl.key.location":
		return true
	}
	return false
}

// idle says that a property only tunes Java's client, whose work another client does here: sizes, times and retries of
// requests, metrics, or the membership of a consumer group, which this runner never joins.
func idle(name string) bool {
	for _, prefix := range []string{"fetch.", "max.poll.", "metadata.", "metric", "reconnect.", "retry.", "retries", "socket.", "telemetry.", "auto.commit.", "group.", "enable.metrics."} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	switch name {
	case "acks", "enable.idempotence", // the sink is idempotent and waits for all replicas, whatever is asked for
		"allow.auto.create.topics", // what is not there is an error
		"batch.size", "buffer.memory", "check.crcs", "client.dns.lookup", "client.id", "client.rack", "connections.max.idle.ms",
		"default.api.timeout.ms", "delivery.timeout.ms", "exclude.internal.topics", "heartbeat.interval.ms", "auto.include.jmx.reporter",
		"key.deserializer", "key.serializer", "value.deserializer", "value.serializer", // Java's transforms set them, too
		"max.block.ms", "max.in.flight.requests.per.connection", "max.partition.fetch.bytes", "partition.assignment.strategy",
		"partitioner.adaptive.partitioning.enable", "partitioner.availability.timeout.ms", "receive.buffer.bytes", "request.timeout.ms",
		"send.buffer.bytes", "session.timeout.ms", "bootstrap.controllers", "compression.gzip.level", "compression.lz4.level",
		"compression.zstd.level":
		return true
	}
	return false
}

// done refuses what is left and would change something, and logs what is unknown, as Kafka's clients do.
func (p *properties) done(log *slog.Logger, transform string) error {
	for _, name := range slices.Sorted(maps.Keys(p.left)) {
		if why := refused(name); why != "" {
			p.fail(name, "%s", why)
		}
	}
	if p.first != nil {
		return p.first
	}
	for _, name := range slices.Sorted(maps.Keys(p.left)) {
		if !idle(name) {
			log.Warn("kafka: unknown client property has no effect", "transform", transform, "property", name)
		}
	}
	return nil
}

// connection takes what says how to reach the brokers.
func (p *properties) connection() kafka.Connection {
	c := kafka.Connection{Brokers: p.brokers()}
	switch p.choice("security.protocol", "PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL") {
	case "SSL":
		c.TLS = p.tls()
	case "SASL_PLAINTEXT":
		c.SASL = p.sasl()
	case "SASL_SSL":
		c.TLS, c.SASL = p.tls(), p.sasl()
	}
	p.ignoreSecurity(c)
	return c
}
