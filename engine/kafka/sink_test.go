package kafka

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tinyrunner/tinyrunner/engine/coder"
	"github.com/tinyrunner/tinyrunner/engine/flow"
	"github.com/tinyrunner/tinyrunner/engine/native"
)

func writeConfig(b *broker, f Format, topic string, opts ...WriteOption) WriteConfig {
	c := newWriteConfig(b.addrs, topic, f)
	for _, o := range opts {
		o.applyWrite(&c)
	}
	return c
}

func sinkConfig(t *testing.T, c WriteConfig) native.SinkConfig {
	return native.SinkConfig{Transform: "test", Payload: encode(c, c.Validate()), Logger: quiet(),
		Coder: coder.NewWindowedValue(elementCoder(t, c.Format), coder.IntervalWindow())}
}

func openWriter(t *testing.T, cfg native.SinkConfig) *sink {
	t.Helper()
	s, err := OpenSink(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*sink)
}

// windowed makes an element in an interval window, as they come from a GroupByKey.
func windowed(ts int64, value ...[]byte) []byte {
	b := coder.AppendHeader(nil, ts, 1, coder.AppendInterval(nil, 0, ts+1), coder.Pane{First: true, Timing: coder.OnTime})
	for _, v := range value {
		b = coder.AppendBytes(b, v)
	}
	return b
}

func blocks(t *testing.T, elements ...[]byte) []*flow.Block {
	t.Helper()
	b := newPool(t).NewBuilder()
	for _, e := range elements {
		if err := b.Append(e, 0); err != nil {
			t.Fatal(err)
		}
	}
	out, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, k := range out {
			k.Release()
		}
	})
	return out
}

// deliver sends blocks and waits until they are acknowledged.
func deliver(ctx context.Context, s native.Sink, blocks []*flow.Block) error {
	sent, err := s.Send(ctx, blocks)
	if err != nil {
		return err
	}
	return sent.Wait(ctx)
}

// readBack reads a topic with a plain client. A fetch that began before the places of all partitions were known would wait for its maximum.
func (b *broker) readBack(t *testing.T, topic string, n int) []*kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out []*kgo.Record
	for len(out) < n {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("%d of %d records: %v", len(out), n, err)
		}
		out = append(out, fs.Records()...)
	}
	return out
}

func TestWritePairs(t *testing.T) {
	const n = 5000
	b := newBroker(t, kfake.SeedTopics(3, "out"))
	s := openWriter(t, sinkConfig(t, writeConfig(b, KV, "out", WithEventTime(), WithCompression("zstd"))))
	var elements [][]byte
	for i := range n {
		elements = append(elements, windowed(int64(i+1), fmt.Appendf(nil, "k%d", i%10), fmt.Appendf(nil, "%d", i)))
	}
	if err := deliver(t.Context(), s, blocks(t, elements...)); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]int32)
	var got []string
	for _, r := range b.readBack(t, "out", n) {
		if p, ok := seen[string(r.Key)]; ok && p != r.Partition {
			t.Fatalf("key %s in partitions %d and %d", r.Key, p, r.Partition)
		}
		seen[string(r.Key)] = r.Partition
		if fmt.Sprint(r.Timestamp.UnixMilli()-1) != string(r.Value) {
			t.Fatalf("value %s at %v", r.Value, r.Timestamp)
		}
		got = append(got, string(r.Value))
	}
	slices.Sort(got)
	if !slices.Equal(got, wantValues(0, n)) {
		t.Errorf("%d records", len(got))
	}
	if len(s.chunks) == 0 {
		t.Error("no memory is used again")
	}
}

// The partition of a key is the one that Java's default partitioner gives it (murmur2; values from Kafka's UtilsTest).
func TestKeysGoWhereJavaPutsThem(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(50, "out"))
	s := openWriter(t, sinkConfig(t, writeConfig(b, KV, "out")))
	hashes := map[string]int32{"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}
	var elements [][]byte
	for k := range hashes {
		elements = append(elements, windowed(1, []byte(k), nil))
	}
	if err := deliver(t.Context(), s, blocks(t, elements...)); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.readBack(t, "out", len(hashes)) {
		if want := (hashes[string(r.Key)] & 0x7fffffff) % 50; r.Partition != want {
			t.Errorf("%s went to %d, want %d", r.Key, r.Partition, want)
		}
	}
}

func TestWriteNilAndEmpty(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "out", "other"))
	s := openWriter(t, sinkConfig(t, writeConfig(b, KV, "out")))
	if err := deliver(t.Context(), s, blocks(t, windowed(1, nil, nil))); err != nil {
		t.Fatal(err)
	}
	if r := b.readBack(t, "out", 1)[0]; r.Key != nil || r.Value == nil || len(r.Value) != 0 {
		t.Errorf("as KV: key %#v value %#v", r.Key, r.Value)
	}

	s = openWriter(t, sinkConfig(t, writeConfig(b, Records, "")))
	at := time.UnixMilli(77)
	in := Record{Topic: "other", Key: []byte{}, Timestamp: at, Headers: []Header{{"h", []byte("1")}, {"h", nil}}}
	if err := deliver(t.Context(), s, blocks(t, windowed(1, encodeRecord(in)))); err != nil {
		t.Fatal(err)
	}
	r := b.readBack(t, "other", 1)[0]
	want := []kgo.RecordHeader{{Key: "h", Value: []byte("1")}, {Key: "h"}}
	if r.Key == nil || r.Value != nil || !r.Timestamp.Equal(at) || fmt.Sprintf("%#v", r.Headers) != fmt.Sprintf("%#v", want) {
		t.Errorf("as record: %+v", r)
	}
	err := deliver(t.Context(), s, blocks(t, windowed(1, encodeRecord(Record{}))))
	checkError(t, err, "write to kafka test: element 0 of block: record names no topic")
}

func TestWriteErrors(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "out"))
	s := openWriter(t, sinkConfig(t, writeConfig(b, KV, "out")))
	one := blocks(t, windowed(1, []byte("k"), []byte("v")))

	fault := b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "out", Err: kerr.TopicAuthorizationFailed, Count: -1})
	err := deliver(t.Context(), s, one)
	checkError(t, err, "write to kafka test: kafka "+b.addrs+": TOPIC_AUTHORIZATION_FAILED")
	checkError(t, err, "grant the user the right (ACL)")
	fault.Remove()

	b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "out", Err: kerr.NotEnoughReplicas, Count: 2})
	if err := deliver(t.Context(), s, one); err != nil {
		t.Errorf("an error that passes is not retried: %v", err)
	}

	err = deliver(t.Context(), s, blocks(t, windowed(1, nil, make([]byte, 2<<20))))
	checkError(t, err, "MESSAGE_TOO_LARGE")
	checkError(t, err, "raise max.message.bytes")

	err = deliver(t.Context(), s, blocks(t, []byte{1, 2, 3}))
	checkError(t, err, "element 0 of block: encoded value is cut short")

	if err := deliver(t.Context(), s, one); err != nil {
		t.Errorf("the sink does not recover: %v", err)
	}
}

// A broker that does not answer is waited for, until the job is told to stop.
func TestWriteWaits(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "out"))
	s := openWriter(t, sinkConfig(t, writeConfig(b, KV, "out")))
	fault := b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "out", Err: kerr.NotEnoughReplicas, Count: -1})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	one := blocks(t, windowed(1, []byte("k"), []byte("v")))
	if err := deliver(ctx, s, one); ctx.Err() == nil {
		t.Errorf("Wait returned %v before its end", err)
	}
	fault.Remove()
	if err := deliver(t.Context(), s, one); err != nil {
		t.Error(err)
	}
}

// Bundles with more bytes than the sink has memory: the next is sent while the ones before are not acknowledged, waits for
// their room, and stays behind them.
func TestSendAhead(t *testing.T) {
	const bundles, records = 8, 250
	b := newBroker(t, kfake.SeedTopics(4, "out"))
	cfg := sinkConfig(t, writeConfig(b, KV, "out"))
	cfg.Memory = 128 << 10
	s := openWriter(t, cfg)
	b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "out", Err: kerr.NotEnoughReplicas, Count: 3})
	var wg sync.WaitGroup
	for n := range bundles {
		var elements [][]byte
		for i := range records {
			elements = append(elements, windowed(1, fmt.Appendf(nil, "%d", i), fmt.Appendf(nil, "%0500d", n)))
		}
		sent, err := s.Send(t.Context(), blocks(t, elements...))
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := sent.Wait(t.Context()); err != nil {
				t.Errorf("bundle %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	next := map[string]int{}
	for _, r := range b.readBack(t, "out", bundles*records) {
		key := string(r.Key)
		if want := fmt.Sprintf("%0500d", next[key]); string(r.Value) != want {
			t.Fatalf("value %d of key %s is of bundle %s", next[key], key, strings.TrimLeft(string(r.Value), "0"))
		}
		next[key]++
	}
	if len(next) != records {
		t.Errorf("%d keys, want %d", len(next), records)
	}
}

func TestOpenSinkErrors(t *testing.T) {
	b := newBroker(t, kfake.SeedTopics(1, "out"))
	_, err := OpenSink(t.Context(), sinkConfig(t, writeConfig(b, KV, "none")))
	checkError(t, err, `open kafka sink test: kafka `+b.addrs+`: topic "none": UNKNOWN_TOPIC_OR_PARTITION`)
	checkError(t, err, "create the topic")
	cfg := sinkConfig(t, writeConfig(b, KV, "out"))
	cfg.Coder = coder.NewWindowedValue(elementCoder(t, Records), coder.GlobalWindow())
	_, err = OpenSink(t.Context(), cfg)
	checkError(t, err, "not as KV<bytes, bytes>")
}

func TestSASL(t *testing.T) {
	for _, mechanism := range []string{Plain, ScramSHA256, ScramSHA512} {
		t.Run(mechanism, func(t *testing.T) {
			c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"), kfake.EnableSASL(), kfake.Superuser(mechanism, "me", "secret"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			addr := c.ListenAddrs()[0]
			config := func(opts ...ReadOption) ReadConfig {
				rc := newReadConfig(addr, []string{"t"}, KV)
				for _, o := range append(opts, StopAtEnd()) {
					o.applyRead(&rc)
				}
				return rc
			}
			t.Setenv("TINYRUNNER_TEST_PASSWORD", "secret")
			s := open(t, sourceConfig(config(WithSASLFromEnv(mechanism, "me", "TINYRUNNER_TEST_PASSWORD")), 1))
			if _, f := fetch(t, s, 0, 1); !f.Done {
				t.Errorf("empty topic is not done: %+v", f)
			}
			_, err = OpenSource(t.Context(), sourceConfig(config(WithSASL(mechanism, "me", "wrong")), 1))
			checkError(t, err, "kafka "+addr) // kfake hangs up where Kafka says SASL_AUTHENTICATION_FAILED
			if strings.Contains(err.Error(), "wrong") {
				t.Error("the error shows the password")
			}
		})
	}
}

func TestTLS(t *testing.T) {
	cert, ca := certificate(t)
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{cert}}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	config := func(o TLS) ReadConfig {
		rc := newReadConfig(c.ListenAddrs()[0], []string{"t"}, KV)
		WithTLS(o).applyRead(&rc)
		StopAtEnd().applyRead(&rc)
		return rc
	}
	open(t, sourceConfig(config(TLS{CAFile: ca}), 1))
	open(t, sourceConfig(config(TLS{Insecure: true}), 1))
	_, err = OpenSource(t.Context(), sourceConfig(config(TLS{}), 1))
	checkError(t, err, "check the tls settings")
}

// certificate makes a self-signed one for loopback, and the file of it.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}
