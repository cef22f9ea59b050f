package natstest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
)

// DNS answers the lookups of a process, in place of the system's servers. Its methods are safe for
// concurrent use. The zero value knows no name.
type DNS struct {
	mu    sync.Mutex
	names map[string]net.IP
}

// Resolver returns what net.DefaultResolver has to be, before anything is looked up.
func (d *DNS) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go d.serve(far)
		return near, nil
	}}
}

// Set gives a name an IPv4 address; with "" no server can look it up.
func (d *DNS) Set(name, ip string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names == nil {
		d.names = map[string]net.IP{}
	}
	d.names[name] = net.ParseIP(ip).To4()
}

// serve answers queries over a stream (RFC 1035, 4.2.2) until it is closed.
func (d *DNS) serve(conn net.Conn) {
	defer conn.Close()
	size := make([]byte, 2)
	for {
		if _, err := io.ReadFull(conn, size); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size))
		if _, err := io.ReadFull(conn, query); err != nil || len(query) < 17 {
			return
		}
		answer := d.answer(query)
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// answer returns the answer to a query with one question.
func (d *DNS) answer(query []byte) []byte {
	var labels []string
	end := 12
	for end < len(query) && query[end] != 0 {
		next := end + 1 + int(query[end])
		labels = append(labels, string(query[end+1:min(next, len(query))]))
		end = next
	}
	end = min(end+5, len(query)) // the root, the type and the class
	isA := query[end-4] == 0 && query[end-3] == 1
	d.mu.Lock()
	defer d.mu.Unlock()
	ip, known := d.names[strings.ToLower(strings.Join(labels, "."))]
	const answered, serverFailure, noSuchName = 0x8180, 0x8182, 0x8183
	flags, answers := uint16(answered), uint16(0)
	switch {
	case !known:
		flags = noSuchName
	case ip == nil:
		flags = serverFailure
	case isA:
		answers = 1
	}
	out := append([]byte(nil), query[:2]...)
	for _, field := range []uint16{flags, 1, answers, 0, 0} {
		out = binary.BigEndian.AppendUint16(out, field)
	}
	out = append(out, query[12:end]...)
	if answers == 1 {
		out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4) // the name, A, IN, no time to live, 4 bytes
		out = append(out, ip...)
	}
	return out
}
