package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// authority signs certificates of tests.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority writes its own certificate to ca.pem in dir.
func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	a := &authority{dir: dir}
	a.cert, a.key = a.sign(t, "ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue writes NAME.pem and NAME.key.
func (a *authority) issue(t *testing.T, name string, usage x509.ExtKeyUsage) *x509.Certificate {
	t.Helper()
	cert, _ := a.sign(t, name, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{usage}, DNSNames: []string{"localhost"}})
	return cert
}

func (a *authority) sign(t *testing.T, name string, cert *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	if cert.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<60)); err != nil {
		t.Fatal(err)
	}
	cert.Subject, cert.NotBefore, cert.NotAfter = pkix.Name{CommonName: name}, time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := cert, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, signer)
	must(t, err)
	out, err := x509.ParseCertificate(der)
	must(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(a.file(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	must(t, os.WriteFile(a.file(name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return out, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// config is a client's; certificate "" is none.
func (a *authority) config(t *testing.T, certificate string) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	out := &tls.Config{RootCAs: pool, ServerName: "localhost"}
	if certificate != "" {
		pair, err := tls.LoadX509KeyPair(a.file(certificate+".pem"), a.file(certificate+".key"))
		must(t, err)
		out.Certificates = []tls.Certificate{pair}
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestOpenAddress: what other machines can reach is not opened by accident.
func TestOpenAddress(t *testing.T) {
	for _, tc := range []struct {
		args string
		want string // "": accepted
	}{
		{"--host 127.0.0.1", ""},
		{"--host ::1", ""},
		{"--host localhost", ""},
		{"--host 127.1.2.3", ""},
		{"--host 0.0.0.0", `refusing to listen on "0.0.0.0"`},
		{"--host ::", "--auth_token_file FILE"},
		{"--host=", "or say --insecure"},
		{"--host 10.0.0.1", "--tls_client_ca FILE"},
		{"--host 0.0.0.0 --insecure", ""},
		{"--host 0.0.0.0 --auth_token x", ""},
		{"--host 0.0.0.0 --auth_token_file x", ""},
		{"--host 0.0.0.0 --tls_cert c --tls_key k", "refusing to listen"}, // encrypted, but for anybody
		{"--host 0.0.0.0 --tls_cert c --tls_key k --tls_client_ca a", ""},
		{"--tls_cert c", "--tls_cert and --tls_key belong together"},
		{"--tls_client_ca c", "needs --tls_cert"},
		{"--tls_ports rest,jobs", "invalid --tls_ports"},
		{"--max_body 1KB", "invalid --max_body"},
		{"--max_jar 100KiB", "invalid --max_body"},
	} {
		cmd := serveCommand(nil)
		err := cmd.ParseFlags(strings.Fields(tc.args))
		if err == nil {
			s := new(settings)
			fs := cmd.Flags()
			for _, row := range s.table() {
				must(t, row.value.Set(fs.Lookup(row.name).Value.String()))
			}
			err = s.validate()
		}
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.args, err, tc.want)
		}
	}
}

func TestHosts(t *testing.T) {
	name, err := os.Hostname()
	must(t, err)
	for args, want := range map[string]string{
		"":                              "localhost 127.0.0.1 " + strings.ToLower(name),
		"--advertise_host Box.local":    "localhost 127.0.0.1 box.local " + strings.ToLower(name),
		"--host 0.0.0.0 --auth_token x": "",
		"--allowed_hosts A.example,b":   "a.example b",
	} {
		s := parse(t, nil, strings.Fields(args)...)
		if got := strings.Join(s.hosts(), " "); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}

// TestAdmits: whom the job port lets in.
func TestAdmits(t *testing.T) {
	addr := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	token := security{token: "open sesame"}
	strict := security{token: "open sesame", loopback: true}
	mutual := security{mutual: true}
	known := credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{}}}}
	for name, tc := range map[string]struct {
		security      security
		from, to      string
		info          credentials.AuthInfo
		authorization string
		want          bool
	}{
		"another machine":              {security: token, from: "10.0.0.7", to: "10.0.0.1"},
		"it has the token":             {security: token, from: "10.0.0.7", to: "10.0.0.1", authorization: "Bearer open sesame", want: true},
		"it has another token":         {security: token, from: "10.0.0.7", to: "10.0.0.1", authorization: "Bearer open sesam"},
		"the token without its kind":   {security: token, from: "10.0.0.7", to: "10.0.0.1", authorization: "open sesame"},
		"an empty token":               {security: mutual, from: "10.0.0.7", to: "10.0.0.1", authorization: "Bearer "},
		"this machine":                 {security: token, from: "127.0.0.1", to: "127.0.0.1", want: true},
		"this machine by its address":  {security: token, from: "10.0.0.1", to: "10.0.0.1", want: true},
		"this machine in IPv6":         {security: mutual, from: "::1", to: "::1", want: true},
		"this machine, asked":          {security: strict, from: "127.0.0.1", to: "127.0.0.1"},
		"this machine, with the token": {security: strict, from: "127.0.0.1", to: "127.0.0.1", authorization: "Bearer open sesame", want: true},
		"a certificate":                {security: mutual, from: "10.0.0.7", to: "10.0.0.1", info: known, want: true},
		"TLS without a certificate":    {security: mutual, from: "10.0.0.7", to: "10.0.0.1", info: credentials.TLSInfo{}},
		"a certificate nobody wants":   {security: token, from: "10.0.0.7", to: "10.0.0.1", info: known},
	} {
		ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: addr(tc.from), LocalAddr: addr(tc.to), AuthInfo: tc.info})
		header := metadata.MD{}
		if tc.authorization != "" {
			header = metadata.Pairs("authorization", tc.authorization)
		}
		if got := tc.security.admits(ctx, header); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if token.admits(t.Context(), metadata.MD{}) {
		t.Error("a call from nowhere is admitted")
	}
}

// jobsOf lists the jobs over the Job API.
func jobsOf(t *testing.T, p *process, creds credentials.TransportCredentials, token string) error {
	t.Helper()
	conn := dial(t, p.endpoint(), creds)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	_, err := jobpb.NewJobServiceClient(conn).GetJobs(ctx, &jobpb.GetJobsRequest{})
	return err
}

func dial(t *testing.T, endpoint string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(creds))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestSecureServer: all ports with TLS, a token and client certificates, and callers of this machine are asked, too.
func TestSecureServer(t *testing.T) {
	a := newAuthority(t, t.TempDir())
	a.issue(t, "server", x509.ExtKeyUsageServerAuth)
	a.issue(t, "client", x509.ExtKeyUsageClientAuth)
	other := newAuthority(t, t.TempDir())
	other.issue(t, "client", x509.ExtKeyUsageClientAuth)
	must(t, os.WriteFile(a.file("token"), []byte("open sesame\n"), 0o600))
	p := startServer(t, "serve", "--tls_cert", a.file("server.pem"), "--tls_key", a.file("server.key"), "--tls_client_ca", a.file("ca.pem"),
		"--tls_ports=rest,job,worker", "--auth_token_file", a.file("token"), "--auth_loopback")

	plain := insecure.NewCredentials()
	withTLS := func(certificate string) credentials.TransportCredentials {
		return credentials.NewTLS(a.config(t, certificate))
	}
	foreign := a.config(t, "")
	foreign.Certificates = other.config(t, "client").Certificates
	foreign.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &foreign.Certificates[0], nil }
	for name, tc := range map[string]struct {
		creds credentials.TransportCredentials
		token string
		want  codes.Code
		text  string
	}{
		"plain text":               {creds: plain, token: "open sesame", want: codes.Unavailable},
		"TLS alone":                {creds: withTLS(""), want: codes.Unauthenticated, text: "authorization: Bearer TOKEN"},
		"a wrong token":            {creds: withTLS(""), token: "sesame", want: codes.Unauthenticated, text: "or connect by TLS with a client certificate"},
		"the token":                {creds: withTLS(""), token: "open sesame"},
		"a certificate":            {creds: withTLS("client")},
		"a foreign certificate":    {creds: credentials.NewTLS(foreign), want: codes.Unavailable},
		"a server's certificate":   {creds: withTLS("server"), want: codes.Unavailable},
		"an authority not trusted": {creds: credentials.NewTLS(&tls.Config{ServerName: "localhost"}), want: codes.Unavailable},
	} {
		err := jobsOf(t, p, tc.creds, tc.token)
		if status.Code(err) != tc.want || tc.text != "" && !strings.Contains(err.Error(), tc.text) {
			t.Errorf("job port with %s: %v, want %s %s", name, err, tc.want, tc.text)
		}
	}

	worker := fnpb.NewProvisionServiceClient(dial(t, fmt.Sprint("localhost:", p.ports["worker_port"]), withTLS("")))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "worker_id", "guess-1")
	if _, err := worker.GetProvisionInfo(ctx, &fnpb.GetProvisionInfoRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("worker port with a guessed id: %v", err)
	}

	address := fmt.Sprintf("https://localhost:%d", p.ports["http_port"])
	if code, _, errs := command(t.Context(), "jobs", "--address", address); code != exitUsage || !strings.Contains(errs, "--tls_ca") {
		t.Errorf("jobs without --tls_ca: %d %s", code, errs)
	}
	if code, _, errs := command(t.Context(), "jobs", "--data_dir", p.dir, "--tls_ca", a.file("ca.pem")); code != exitUsage || !strings.Contains(errs, "--tls_server_name") {
		t.Errorf("jobs at an address that the certificate does not name: %d %s", code, errs)
	}
	if code, _, errs := command(t.Context(), "jobs", "--address", address, "--tls_ca", a.file("ca.pem")); code != exitUsage || !strings.Contains(errs, "asks for a token") {
		t.Errorf("jobs without a token: %d %s", code, errs)
	}
	for _, args := range [][]string{
		{"--address", address, "--auth_token_file", a.file("token")},
		{"--address", address, "--tls_cert", a.file("client.pem"), "--tls_key", a.file("client.key")},
		{"--data_dir", p.dir, "--tls_server_name", "localhost", "--auth_token_file", a.file("token")},
	} {
		args = append([]string{"jobs", "--tls_ca", a.file("ca.pem")}, args...)
		if code, out, errs := command(t.Context(), args...); code != exitDone || !strings.Contains(out, "NAME") {
			t.Errorf("%v: %d %s%s", args, code, out, errs)
		}
	}
	health := http.Client{Transport: &http.Transport{TLSClientConfig: a.config(t, "")}}
	resp, err := health.Get(address + "/readyz") // as Kubernetes asks: with nothing
	must(t, err)
	must(t, resp.Body.Close())
	if resp.StatusCode != http.StatusOK {
		t.Errorf("/readyz: %s", resp.Status)
	}
}

// TestThisMachine: Beam's SDKs can neither send a token nor speak TLS to a job port, and work all the same from this machine.
func TestThisMachine(t *testing.T) {
	a := newAuthority(t, t.TempDir())
	a.issue(t, "server", x509.ExtKeyUsageServerAuth)
	p := startServer(t, "serve", "--tls_cert", a.file("server.pem"), "--tls_key", a.file("server.key"), "--auth_token=open sesame")
	if err := jobsOf(t, p, insecure.NewCredentials(), ""); err != nil {
		t.Errorf("plain text: %v", err)
	}
	if err := jobsOf(t, p, credentials.NewTLS(a.config(t, "")), ""); err != nil {
		t.Errorf("TLS: %v", err)
	}
	worker := fnpb.NewProvisionServiceClient(dial(t, fmt.Sprint("localhost:", p.ports["worker_port"]), insecure.NewCredentials()))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "worker_id", "guess-1")
	if _, err := worker.GetProvisionInfo(ctx, &fnpb.GetProvisionInfoRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("an unknown worker: %v", err)
	}
	code, _, errs := invoke(t, nil, "run", "--tls_cert", a.file("server.pem"), "--tls_key", a.file("server.key"), "--auth_token=x", "--auth_loopback",
		"--tls_ports=rest,job,worker", "testdata/impulse.txtpb")
	if code != exitDone {
		t.Errorf("run: %d %s", code, errs)
	}
}

// TestCertificatesAreReadAgain: as they are replaced in Kubernetes, also half.
func TestCertificatesAreReadAgain(t *testing.T) {
	a := newAuthority(t, t.TempDir())
	first := a.issue(t, "server", x509.ExtKeyUsageServerAuth)
	var log bytes.Buffer
	c, err := openCertificates(a.file("server.pem"), a.file("server.key"), a.file("ca.pem"), slog.New(slog.NewTextHandler(&log, nil)))
	must(t, err)
	serial := func() *big.Int {
		c.looked = time.Time{}
		return c.newest().Certificates[0].Leaf.SerialNumber
	}
	if serial().Cmp(first.SerialNumber) != 0 {
		t.Error("not the first certificate")
	}
	key, err := os.ReadFile(a.file("server.key"))
	must(t, err)
	later := time.Now().Add(time.Minute)
	second := a.issue(t, "server", x509.ExtKeyUsageServerAuth)
	newKey, err := os.ReadFile(a.file("server.key"))
	must(t, err)
	must(t, os.WriteFile(a.file("server.key"), key, 0o600))
	must(t, os.Chtimes(a.file("server.pem"), later, later))
	if serial().Cmp(first.SerialNumber) != 0 || !strings.Contains(log.String(), "the old ones stay in use") {
		t.Errorf("a certificate with the key of another was taken; log: %s", log.String())
	}
	must(t, os.WriteFile(a.file("server.key"), newKey, 0o600))
	if serial().Cmp(second.SerialNumber) != 0 {
		t.Error("not the second certificate")
	}
	must(t, os.Remove(a.file("server.pem")))
	if serial().Cmp(second.SerialNumber) != 0 {
		t.Error("the certificate is gone with its file")
	}
	if got := c.newest().ClientAuth; got != tls.VerifyClientCertIfGiven || c.newest().MinVersion != tls.VersionTLS12 {
		t.Errorf("%v", got)
	}
	if _, err := openCertificates(a.file("ca.pem"), a.file("ca.key"), a.file("ca.key"), slog.Default()); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("authorities without a certificate: %v", err)
	}
}
