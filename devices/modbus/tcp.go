package modbus

import (
	"context"
	"net"
	"time"
)

// newTCP is Modbus TCP. Keep-alive finds a peer that lost its power within half a
// minute also when nothing is asked.
func newTCP(e endpoint) *wire {
	return &wire{framing: &mbap{}, dial: dialTCP(e.address)}
}

// newRTUOverTCP is RTU frames through a serial server that does not translate.
func newRTUOverTCP(e endpoint) *wire {
	return &wire{framing: rtu{}, dial: dialTCP(e.address)}
}

func dialTCP(address string) dialer {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	return func(ctx context.Context) (conn, error) { return d.DialContext(ctx, "tcp", address) }
}
