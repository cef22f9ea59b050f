package modbus

import (
	"context"
	"net"
)

// newUDP is Modbus TCP's frames in datagrams.
func newUDP(e endpoint) *wire {
	return &wire{framing: &mbap{}, datagram: true, dial: func(ctx context.Context) (conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", e.address)
	}}
}
