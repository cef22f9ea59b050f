package natsd

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"
)

// segmentBytes are the headers of IPv4 and TCP with its timestamps, of each segment.
const segmentBytes = 52

// Wire is what the connection to the hub has carried, as a provider counts it: with TLS and the
// headers of IP and TCP, without those of Ethernet and without what was sent again.
type Wire struct {
	// Conn is the id of the connection; another one starts from 0.
	Conn     uint64
	Up, Down uint64
}

// WireOf returns what the connection of a server to the hub has carried, as the kernel counts it.
// It returns false if there is no connection.
func WireOf(s *Server) (Wire, bool) {
	running := s.server()
	if running == nil || running.NumLeafNodes() == 0 {
		return Wire{}, false
	}
	z, err := running.Leafz(nil)
	if err != nil || len(z.Leafs) == 0 {
		return Wire{}, false
	}
	info, err := tcpInfo(z.Leafs[0])
	if err != nil {
		return Wire{}, false
	}
	return Wire{
		Conn: z.Leafs[0].ID,
		Up:   info.Bytes_acked + segmentBytes*uint64(info.Segs_out),
		Down: info.Bytes_received + segmentBytes*uint64(info.Segs_in),
	}, true
}

// tcpInfo finds the socket of a connection among this process's own.
func tcpInfo(leaf *server.LeafInfo) (*unix.TCPInfo, error) {
	ip, err := netip.ParseAddr(leaf.IP)
	if err != nil {
		return nil, fmt.Errorf("address of the hub: %w", err)
	}
	want := netip.AddrPortFrom(ip.Unmap(), uint16(leaf.Port))
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	for _, f := range files {
		fd, err := strconv.Atoi(f.Name())
		if err != nil {
			continue
		}
		peer, err := unix.Getpeername(fd)
		if err == nil && addrOf(peer) == want {
			return unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		}
	}
	return nil, fmt.Errorf("no socket is connected to %s", want)
}

func addrOf(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
