package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificates are this server's certificate and the authorities of its clients. They are read again when their files change:
// who issues certificates for Kubernetes replaces them while their users run. Goroutine safe.
type certificates struct {
	certFile, keyFile string
	caFile            string // "": clients need no certificate
	log               *slog.Logger

	mu     sync.Mutex // guards the rest
	looked time.Time
	seen   []fileStamp
	config *tls.Config // the newest that could be read
}

// fileStamp changes when a file does.
type fileStamp struct {
	changed time.Time
	size    int64
}

// certificateLook is how often the files are looked at, at most: with a handshake.
const certificateLook = time.Second

// openCertificates reads the files. caFile may be "".
func openCertificates(certFile, keyFile, caFile string, log *slog.Logger) (*certificates, error) {
	c := &certificates{certFile: certFile, keyFile: keyFile, caFile: caFile, log: log}
	var err error
	if c.seen, err = c.stamps(); err != nil {
		return nil, err
	}
	c.config, err = c.read()
	c.looked = time.Now()
	return c, err
}

// serverConfig is for listeners: each handshake takes what is newest.
func (c *certificates) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols(),
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.newest(), nil },
	}
}

func protocols() []string { return []string{"h2", "http/1.1"} }

// newest reads the files again if they have changed. What cannot be read is told of, and the old ones stay in use: files that
// belong together are not replaced in one instant.
func (c *certificates) newest() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < certificateLook {
		return c.config
	}
	c.looked = time.Now()
	seen, err := c.stamps()
	if err == nil && equalStamps(seen, c.seen) {
		return c.config
	}
	var config *tls.Config
	if err == nil {
		config, err = c.read()
	}
	if err != nil {
		c.log.Warn("cannot read the new certificates, the old ones stay in use", "error", err)
		return c.config
	}
	c.seen, c.config = seen, config
	c.log.Info("took new certificates", "certificate", c.certFile)
	return config
}

func (c *certificates) files() []string {
	if c.caFile == "" {
		return []string{c.certFile, c.keyFile}
	}
	return []string{c.certFile, c.keyFile, c.caFile}
}

func (c *certificates) stamps() ([]fileStamp, error) {
	var out []fileStamp
	for _, name := range c.files() {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		out = append(out, fileStamp{info.ModTime(), info.Size()})
	}
	return out, nil
}

func equalStamps(a, b []fileStamp) bool {
	for i := range a {
		if !a[i].changed.Equal(b[i].changed) || a[i].size != b[i].size {
			return false
		}
	}
	return true
}

// read makes a configuration of its own each time: sessions that began with older authorities cannot be taken up again.
// A certificate of a client is verified if there is one. Whether there has to be one depends on what is asked for: probes of
// health have none.
func (c *certificates) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols(), Certificates: []tls.Certificate{pair}}
	if c.caFile == "" {
		return out, nil
	}
	if out.ClientCAs, err = readAuthorities(c.caFile); err != nil {
		return nil, err
	}
	out.ClientAuth = tls.VerifyClientCertIfGiven
	return out, nil
}

// readAuthorities reads certificates in PEM.
func readAuthorities(file string) (*x509.CertPool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read certificates of authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("read certificates of authorities: %s holds no certificate in PEM", file)
	}
	return pool, nil
}
