package main

import (
	"context"
	"fmt"
	"net"
)

// freePort is a port that nothing listens on at this moment.
func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "localhost:0")
	if err != nil {
		return 0, fmt.Errorf("find port: %w", err)
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// dials reports whether something listens at an address.
func dials(ctx context.Context, address string) bool {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	return c.Close() == nil
}
