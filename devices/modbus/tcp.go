package modbus

import (
	"context"
	"net"
	"time"
)

// newTCP returns the wire of Modbus TCP. TCP keep-alive detects a peer that lost its power
// within half a minute, even while no requests are sent.
func newTCP(e endpoint) *wire {
	return &wire{framing: &mbap{}, dial: dialTCP(e.address)}
}

// newRTUOverTCP returns the wire of RTU frames through a serial device server that does not
// translate them.
func newRTUOverTCP(e endpoint) *wire {
	return &wire{framing: rtu{}, dial: dialTCP(e.address)}
}

func dialTCP(address string) dialer {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	return func(ctx context.Context) (conn, error) { return d.DialContext(ctx, "tcp", address) }
}
