package wire

import (
	"context"
	"net"
	"time"
)

// newTCP returns the medium of Modbus TCP. TCP keep-alive detects a peer that lost its power
// within half a minute, even while no requests are sent.
func newTCP(e Endpoint) medium {
	return medium{framing: &mbap{}, dial: dialTCP(e.Address)}
}

// newRTUOverTCP returns the medium of RTU frames through a serial device server that does not
// translate them.
func newRTUOverTCP(e Endpoint) medium {
	return medium{framing: rtu{}, dial: dialTCP(e.Address)}
}

func dialTCP(address string) dialer {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	return func(ctx context.Context) (conn, error) { return d.DialContext(ctx, "tcp", address) }
}

// newUDP returns the medium of Modbus TCP frames in UDP datagrams.
func newUDP(e Endpoint) medium {
	return medium{framing: &mbap{}, datagram: true, dial: func(ctx context.Context) (conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", e.Address)
	}}
}
