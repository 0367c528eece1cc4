package expand

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tinyrunner/tinyrunner/engine/kafka"
)

// tls takes the ssl. properties. Stores are PEM files (KIP-651), as the runner reads no Java key stores.
func (p *properties) tls() *kafka.TLS {
	t := &kafka.TLS{CAFile: p.store("ssl.truststore")}
	if pair := p.store("ssl.keystore"); pair != "" {
		t.CertFile, t.KeyFile = pair, pair // one file has both
	}
	if p.left["ssl.key.password"] != "" {
		p.fail("ssl.key.password", "the runner reads no encrypted keys: decrypt the key in ssl.keystore.location")
	}
	if v := p.take("ssl.endpoint.identification.algorithm"); v != "" && !strings.EqualFold(v, "https") {
		p.fail("ssl.endpoint.identification.algorithm", "%q is not https: names in certificates are always checked", v)
	}
	return t
}

// store takes the properties of a key store or trust store and returns its file, which the runner reads; "" if there is none.
func (p *properties) store(name string) string {
	for _, inline := range []string{".certificates", ".certificate.chain", ".key"} {
		if p.take(name+inline) != "" {
			p.fail(name+inline, "the runner reads certificates from files: put it in one and name it in %s.location, with %[1]s.type=PEM", name)
		}
	}
	file, kind := p.take(name+".location"), p.take(name+".type")
	if file != "" && !strings.EqualFold(kind, "PEM") {
		p.fail(name+".type", "the runner reads PEM files only: convert %s (keytool -exportcert -rfc, openssl pkcs12) and set %s.type=PEM", file, name)
	}
	if p.take(name+".password") != "" && file != "" && strings.EqualFold(kind, "PEM") {
		p.fail(name+".password", "PEM files have none: leave it out")
	}
	return file
}

// ignoreSecurity drops what a protocol without TLS or SASL does not look at, as Kafka's clients do.
func (p *properties) ignoreSecurity(c kafka.Connection) {
	for name := range p.left {
		switch {
		case librdkafka(name): // a mistake in any case
		case name == "ssl.protocol", name == "ssl.enabled.protocols", name == "ssl.cipher.suites", // negotiated
			strings.HasPrefix(name, "sasl.login."), // about tokens that expire
			c.TLS == nil && strings.HasPrefix(name, "ssl."),
			c.SASL == nil && strings.HasPrefix(name, "sasl."):
			delete(p.left, name)
		}
	}
}

func (p *properties) sasl() *kafka.SASL {
	s := new(kafka.SASL)
	mechanism := p.take("sasl.mechanism")
	switch strings.ToUpper(mechanism) {
	case kafka.Plain, kafka.ScramSHA256, kafka.ScramSHA512:
		s.Mechanism = strings.ToUpper(mechanism)
	case "":
		p.fail("sasl.mechanism", "it is not set, and Kafka's default GSSAPI is not one of this runner's: use %s, %s or %s", kafka.Plain, kafka.ScramSHA256, kafka.ScramSHA512)
	default:
		p.fail("sasl.mechanism", "this runner does not have %q: use %s, %s or %s", mechanism, kafka.Plain, kafka.ScramSHA256, kafka.ScramSHA512)
	}
	options, err := parseJAAS(p.take("sasl.jaas.config"))
	if err != nil {
		p.fail("sasl.jaas.config", "%w", err)
		return s
	}
	s.User = options["username"]
	if s.User == "" || options["password"] == "" {
		p.fail("sasl.jaas.config", `it needs username and password: org.apache.kafka.common.security.plain.PlainLoginModule required username="..." password="...";`)
	}
	// What Kafka's EnvVarConfigProvider reads: the password then is not in the pipeline, but in the runner's environment.
	if name, ok := strings.CutPrefix(options["password"], "${env:"); ok && strings.HasSuffix(name, "}") {
		s.PasswordEnv = strings.TrimSuffix(name, "}")
	} else {
		s.Password = options["password"]
	}
	return s
}

// parseJAAS reads the options of a JAAS configuration as Kafka has it in a property: LoginModuleClass controlFlag
// (optionName=optionValue)*;. Errors never show what is in it: it has a password.
func parseJAAS(s string) (map[string]string, error) {
	words, err := jaasWords(s)
	if err != nil {
		return nil, err
	}
	if len(words) < 2 {
		return nil, errors.New("it is not set, or not of the form class required name=\"value\" ...;")
	}
	switch class := words[0]; class {
	case "org.apache.kafka.common.security.plain.PlainLoginModule", "org.apache.kafka.common.security.scram.ScramLoginModule":
	default:
		return nil, fmt.Errorf("this runner does not have the login module %q: use PlainLoginModule or ScramLoginModule", class)
	}
	options := make(map[string]string)
	for i := 2; i < len(words); i += 3 {
		if i+2 >= len(words) || words[i+1] != "=" {
			return nil, errors.New("an option is not of the form name=\"value\"")
		}
		options[words[i]] = words[i+2]
	}
	return options, nil
}

// jaasWords cuts a JAAS configuration into words; = is one of its own, a final ; is left out.
func jaasWords(s string) ([]string, error) {
	var words []string
	for {
		s = strings.TrimLeft(s, " \t\r\n")
		switch {
		case s == "" || s[0] == ';':
			if s = strings.TrimLeft(strings.TrimPrefix(s, ";"), " \t\r\n"); s != "" {
				return nil, errors.New("more follows after the first ;")
			}
			return words, nil
		case s[0] == '=':
			words, s = append(words, "="), s[1:]
		case s[0] == '"' || s[0] == '\'':
			word, rest, ok := unquote(s)
			if !ok {
				return nil, errors.New("a quote is not closed")
			}
			words, s = append(words, word), rest
		default:
			end := strings.IndexAny(s, " \t\r\n=;")
			if end < 0 {
				end = len(s)
			}
			words, s = append(words, s[:end]), s[end:]
		}
	}
}

// unquote returns the quoted word at the beginning of s and what follows it. A backslash takes the next character as it is.
func unquote(s string) (word, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case s[0]:
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}
