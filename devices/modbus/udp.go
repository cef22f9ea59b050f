package modbus

import (
	"context"
	"net"
)

// newUDP returns the wire of Modbus TCP frames in UDP datagrams.
func newUDP(e endpoint) *wire {
	return &wire{framing: &mbap{}, datagram: true, dial: func(ctx context.Context) (conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", e.address)
	}}
}
