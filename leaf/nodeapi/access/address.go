package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// alias is the label of the address on the loopback interface. A label has at most 15 characters.
const alias = "lo:petiole"

// Listen listens on an address, which the host may get later. It adds a link-local IPv4 address to
// the loopback interface: pods reach it whatever becomes of the other addresses of the host.
func Listen(ctx context.Context, address netip.AddrPort) (net.Listener, error) {
	if err := addAddress(address.Addr()); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		failed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
		return errors.Join(failed, err)
	}}
	ln, err := config.Listen(ctx, "tcp", address.String())
	if err != nil {
		return nil, fmt.Errorf("listen for pods: %w", err)
	}
	return ln, nil
}

// addAddress adds a link-local IPv4 address to the loopback interface unless an interface has it
// already. It does nothing for any other address.
func addAddress(address netip.Addr) error {
	if !address.Is4() || !address.IsLinkLocalUnicast() {
		return nil
	}
	present, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range present {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == address {
			return nil
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer unix.Close(fd)
	host := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	for _, set := range []struct {
		request uint
		value   netip.Addr
	}{{unix.SIOCSIFADDR, address}, {unix.SIOCSIFNETMASK, host}} {
		r, err := unix.NewIfreq(alias)
		if err == nil {
			err = r.SetInet4Addr(set.value.AsSlice())
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, set.request, r)
		}
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("add %s to the loopback interface: %w: the leaf needs CAP_NET_ADMIN, or an address that the host has", address, err)
		}
		if err != nil {
			return fmt.Errorf("add %s to the loopback interface: %w", address, err)
		}
	}
	return nil
}
