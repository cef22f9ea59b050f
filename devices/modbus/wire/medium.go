package wire

import (
	"context"
	"net"
	"time"
)

// medium is what a transport sends over: how to open a connection, and how frames are found
// on it.
type medium struct {
	dial     dialer
	framing  framing
	datagram bool
	// silence is the least time between frames, and character the duration of one
	// character, on a serial line; elsewhere both are zero.
	silence, character time.Duration
}

func newMedium(e Endpoint) medium {
	switch e.Mode {
	case TLS:
		return newTLS(e)
	case UDP:
		return newUDP(e)
	case RTUOverTCP:
		return newRTUOverTCP(e)
	case RTU:
		return newSerial(e)
	default:
		return newTCP(e)
	}
}

// lineTime returns the time that the characters of a request and its reply take on the
// line.
func (m *medium) lineTime(request []byte, echoes bool) time.Duration {
	if m.character == 0 {
		return 0
	}
	characters := len(request)
	if request[0] != Broadcast {
		characters += longestReply(request[1:len(request)-2]) + rtuEnvelope
	}
	if echoes {
		characters += len(request)
	}
	return time.Duration(characters) * m.character
}

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
