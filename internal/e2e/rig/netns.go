package rig

import (
	"context"
	"net"
	"net/http"
	"time"
)

// dialTimeout bounds one connection attempt from a site.
const dialTimeout = 3 * time.Second

// Dial opens a TCP connection from inside the site's network namespace. The address
// must be an IP address and a port: names are resolved nowhere.
func (s *Site) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	timeout := dialTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	return s.Net.Dial(addr, timeout)
}

// HTTP is a client whose requests start inside the site's network namespace. It keeps
// no connection open.
func (s *Site) HTTP() *http.Client {
	return &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{DialContext: s.Dial, DisableKeepAlives: true},
	}
}
