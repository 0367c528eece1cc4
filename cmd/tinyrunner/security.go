package main

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/tinyrunner/tinyrunner/web"
)

// The ports, as --tls_ports names them.
const (
	restPort   = "rest"
	jobPort    = "job"
	workerPort = "worker"
)

// security decides who may call this process, and how.
//
// With a token or with authorities of clients' certificates, a caller needs one of them: the token, or a certificate. That is
// all for REST. Beam's SDKs can neither send a token nor speak TLS to a job port, so callers of this machine need nothing on the
// job port, unless --auth_loopback. On the worker port an id of a worker that is expected will do as well: it is random, and
// only told to whom starts the harness.
type security struct {
	token    string        // "": none
	certs    *certificates // nil: no TLS
	tls      []string      // ports
	mutual   bool          // clients may have certificates
	loopback bool          // callers of this machine are asked, too
	log      *slog.Logger
}

// newSecurity reads what the settings name.
func newSecurity(s *settings, log *slog.Logger) (*security, error) {
	token, err := s.token()
	if err != nil {
		return nil, err
	}
	out := &security{token: token, loopback: s.authLoopback, mutual: s.tlsClientCA != "", log: log}
	if s.tlsCert == "" {
		return out, nil
	}
	out.tls = s.tlsPortList()
	if out.certs, err = openCertificates(s.tlsCert, s.tlsKey, s.tlsClientCA, log); err != nil {
		return nil, usage("cannot use --tls_cert: %w", err)
	}
	return out, nil
}

// guarded: callers have to prove who they are.
func (s *security) guarded() bool { return s.token != "" || s.mutual }

// encrypts reports whether a port speaks TLS.
func (s *security) encrypts(port string) bool { return s.certs != nil && slices.Contains(s.tls, port) }

// scheme of REST.
func (s *security) scheme() string {
	if s.encrypts(restPort) {
		return "https"
	}
	return "http"
}

// Bounds of a gRPC connection: how long a handshake may take, and the bytes of a call's headers.
const (
	handshakeTimeout = 20 * time.Second
	maxHeaders       = 64 << 10
)

// grpcOptions guard a gRPC port. also admits callers that the general rule does not; nil: nobody.
func (s *security) grpcOptions(port string, also func(metadata.MD) bool) []grpc.ServerOption {
	out := []grpc.ServerOption{grpc.ConnectionTimeout(handshakeTimeout), grpc.MaxHeaderListSize(maxHeaders)}
	if s.encrypts(port) {
		out = append(out, grpc.Creds(&portCredentials{credentials.NewTLS(s.certs.serverConfig()), !s.loopback}))
	}
	if !s.guarded() {
		return out
	}
	// Not an interceptor: those are called when the request has been read, and it may be large.
	return append(out, grpc.InTapHandle(func(ctx context.Context, i *tap.Info) (context.Context, error) {
		if s.admits(ctx, i.Header) || also != nil && also(i.Header) {
			return ctx, nil
		}
		s.log.Info("call refused", "method", i.FullMethodName, "code", codes.Unauthenticated.String(), "from", caller(ctx))
		return nil, status.Error(codes.Unauthenticated, s.remedy(port))
	}))
}

func caller(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return "unknown"
}

// remedy tells a caller what is missing.
func (s *security) remedy(port string) string {
	if port == workerPort {
		return "this port is for SDK harnesses whose worker_id the server has given out"
	}
	ways := []string{}
	if s.token != "" {
		ways = append(ways, "send the token as metadata (authorization: Bearer TOKEN)")
	}
	if s.mutual && s.encrypts(port) {
		ways = append(ways, "connect by TLS with a client certificate")
	}
	if !s.loopback {
		ways = append(ways, "call from the server's own machine, for instance through ssh -L or kubectl port-forward")
	}
	ways = append(ways, "submit over REST with --runner=FlinkRunner --flink_submit_uber_jar")
	return "the job port asks who calls: " + strings.Join(ways, ", or ")
}

// admits reports whether a call comes from this machine, brings the token, or came with a client's certificate.
func (s *security) admits(ctx context.Context, header metadata.MD) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	if !s.loopback && sameMachine(p.Addr, p.LocalAddr) {
		return true
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && s.mutual && len(info.State.VerifiedChains) > 0 {
		return true
	}
	return s.token != "" && slices.ContainsFunc(header.Get("authorization"), s.isToken)
}

// isToken looks into an authorization header.
func (s *security) isToken(authorization string) bool {
	given, ok := strings.CutPrefix(authorization, "Bearer ")
	return ok && web.IsToken(given, s.token)
}

// sameMachine: a connection from a loopback address, or from the address that it goes to. No other machine can have one of
// these two: the kernel drops such packets.
func sameMachine(remote, local net.Addr) bool {
	r, ok := remote.(*net.TCPAddr)
	if !ok {
		return false
	}
	l, ok := local.(*net.TCPAddr)
	return r.IP.IsLoopback() || ok && r.IP.Equal(l.IP)
}

// portCredentials are TLS, but let callers of this machine do without if plain.
type portCredentials struct {
	credentials.TransportCredentials
	plain bool
}

// tlsRecord begins a TLS handshake (RFC 8446, 5.1); HTTP/2 begins with "PRI".
const tlsRecord = 0x16

// ServerHandshake looks at the first byte to tell the two apart. gRPC bounds how long that may take.
func (c *portCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if !c.plain || !sameMachine(raw.RemoteAddr(), raw.LocalAddr()) {
		return c.TransportCredentials.ServerHandshake(raw)
	}
	conn := &peekedConn{Conn: raw, r: bufio.NewReaderSize(raw, 16)}
	first, err := conn.r.Peek(1)
	if err != nil {
		return nil, nil, fmt.Errorf("read the first byte of a connection: %w", err)
	}
	if first[0] == tlsRecord {
		return c.TransportCredentials.ServerHandshake(conn)
	}
	return insecure.NewCredentials().ServerHandshake(conn)
}

// Clone copies the credentials.
func (c *portCredentials) Clone() credentials.TransportCredentials {
	return &portCredentials{c.TransportCredentials.Clone(), c.plain}
}

// peekedConn is a connection whose beginning was looked at.
type peekedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *peekedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// Bounds of an HTTP connection. There is none for answers: those of package web have one of their own, and events are sent
// for as long as somebody looks.
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHTTPHeaders = 64 << 10
)

// httpServer makes the server of the REST port.
func (s *security) httpServer(h http.Handler) *http.Server {
	out := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHTTPHeaders,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	if s.encrypts(restPort) {
		out.TLSConfig = s.certs.serverConfig()
	}
	return out
}

// serveHTTP serves until the server is closed.
func serveHTTP(s *http.Server, l net.Listener) error {
	if s.TLSConfig != nil {
		return s.ServeTLS(l, "", "")
	}
	return s.Serve(l)
}

// isLoopback reports whether only this machine can reach a host that is listened on.
func isLoopback(host string) bool {
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsLoopback()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	return err == nil && len(ips) > 0 && !slices.ContainsFunc(ips, func(ip net.IP) bool { return !ip.IsLoopback() })
}

var _ credentials.TransportCredentials = (*portCredentials)(nil)
