// Package network builds the lab's network: a bridge device where the hub listens, and
// per site a network namespace that is joined to it by one veth pair, the link that can
// be cut.
//
// A site has no default route: it reaches what listens on the bridge's address, and
// not the API server, which listens on the host's loopback. Everything is done with
// ip(8) and nft(8), is idempotent, and needs root on Linux.
package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Network is the lab's bridge.
type Network struct {
	// Device is the bridge's name, Prefix its network; the bridge has the first
	// address.
	Device string
	Prefix netip.Prefix
	// Cloud is another address of the host, to which no site has a route; optional.
	Cloud netip.Addr
}

// Site is the site's end of its link.
type Site struct {
	Name string
	// Number is unique and at least 1.
	Number int
}

// State is the state of a link.
type State string

const (
	// Up means that packets pass.
	Up State = "up"
	// Cut means that the host's end of the veth pair is down.
	Cut State = "cut"
	// Silent means that packets are dropped and both ends look healthy.
	Silent State = "cut (silent)"
	// Absent means that there is no link.
	Absent State = "absent"
)

// Address returns the host's address on the bridge.
func (n Network) Address() netip.Addr { return n.Prefix.Masked().Addr().Next() }

// SiteAddress returns the site's address: .11 for site 1 and so on.
func (n Network) SiteAddress(s Site) netip.Addr {
	b := n.Prefix.Masked().Addr().As4()
	b[3] = byte(10 + s.Number)
	return netip.AddrFrom4(b)
}

// Namespace returns the file of the site's network namespace.
func (s Site) Namespace() string { return "/run/netns/" + s.namespace() }

func (s Site) namespace() string { return "petiole-" + s.Name }

// veth returns the name of the host's end. Device names have 15 characters at most.
func (n Network) veth(s Site) string { return fmt.Sprintf("%s-%d", n.Device, s.Number) }

func (s Site) table() string { return fmt.Sprintf("petiole_cut_%d", s.Number) }

// CreateBridge creates the bridge if it does not exist, and brings it up.
func (n Network) CreateBridge() error {
	if !deviceExists(n.Device) {
		if err := ip("link", "add", n.Device, "type", "bridge"); err != nil {
			return err
		}
	}
	if err := ip("addr", "replace", fmt.Sprintf("%s/%d", n.Address(), n.Prefix.Bits()), "dev", n.Device); err != nil {
		return err
	}
	if n.Cloud.IsValid() {
		if err := ip("addr", "replace", n.Cloud.String()+"/32", "dev", n.Device); err != nil {
			return err
		}
	}
	return ip("link", "set", n.Device, "up")
}

// CreateSite creates the parts of the site's namespace and link that are missing, also where a
// killed command left some of them. A link that exists keeps its state.
func (n Network) CreateSite(s Site) error {
	ns := s.namespace()
	if !isNamespace(s.Namespace()) {
		if err := n.DeleteSite(s); err != nil {
			return err
		}
		if err := ip("netns", "add", ns); err != nil {
			return err
		}
	}
	if !deviceExists(n.veth(s)) {
		// One request: a pair whose end is not up would be taken for a cut link.
		if err := ip("link", "add", n.veth(s), "up", "master", n.Device, "type", "veth", "peer", "name", "uplink", "netns", ns); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"-n", ns, "link", "set", "lo", "up"},
		{"-n", ns, "addr", "replace", fmt.Sprintf("%s/%d", n.SiteAddress(s), n.Prefix.Bits()), "dev", "uplink"},
		{"-n", ns, "link", "set", "uplink", "up"},
		{"link", "set", n.veth(s), "master", n.Device},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return nil
}

// Cut takes the site's link down.
func (n Network) Cut(s Site) error { return ip("link", "set", n.veth(s), "down") }

// CutSilently drops every packet between the host and the site, in both directions,
// and leaves the devices up.
func (n Network) CutSilently(s Site) error {
	rules := fmt.Sprintf(`table ip %[1]s {
  chain in { type filter hook input priority -200; ip saddr %[2]s drop; }
  chain out { type filter hook output priority -200; ip daddr %[2]s drop; }
}`, s.table(), n.SiteAddress(s))
	if n.State(s) == Silent {
		return nil
	}
	return run(rules, "nft", "-f", "-")
}

// Heal undoes Cut and CutSilently.
func (n Network) Heal(s Site) error {
	if n.State(s) == Silent {
		if err := run("", "nft", "delete", "table", "ip", s.table()); err != nil {
			return err
		}
	}
	return ip("link", "set", n.veth(s), "up")
}

// State returns the present state of the site's link.
func (n Network) State(s Site) State {
	flags, err := os.ReadFile("/sys/class/net/" + n.veth(s) + "/flags")
	if err != nil {
		return Absent
	}
	var f uint
	if _, err := fmt.Sscanf(strings.TrimSpace(string(flags)), "0x%x", &f); err == nil && f&1 == 0 {
		return Cut
	}
	if exec.Command("nft", "list", "table", "ip", s.table()).Run() == nil {
		return Silent
	}
	return Up
}

// DeleteSite deletes the site's namespace, and with it the link.
func (n Network) DeleteSite(s Site) error {
	var errs []error
	if n.State(s) == Silent {
		errs = append(errs, run("", "nft", "delete", "table", "ip", s.table()))
	}
	errs = append(errs, deleteDevice(n.veth(s)))
	switch {
	case isNamespace(s.Namespace()):
		errs = append(errs, ip("netns", "del", s.namespace()))
	case exists(s.Namespace()): // the empty file of an `ip netns add` that was killed
		errs = append(errs, os.Remove(s.Namespace()))
	}
	return errors.Join(errs...)
}

// DeleteBridge deletes the bridge if it exists.
func (n Network) DeleteBridge() error { return deleteDevice(n.Device) }

// deleteDevice deletes a device if it exists. The kernel deletes one of its own accord, a moment
// later, when the namespace of its peer ends: then deleteDevice waits until it is gone.
func deleteDevice(name string) error {
	if !deviceExists(name) {
		return nil
	}
	err := ip("link", "del", name)
	for range 200 {
		if err == nil || !deviceExists(name) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// DeleteDevice deletes a device inside the site if it exists.
func (s Site) DeleteDevice(name string) error {
	if exec.Command("ip", "-n", s.namespace(), "link", "show", name).Run() != nil {
		return nil
	}
	return ip("-n", s.namespace(), "link", "del", name)
}

// isNamespace reports whether a namespace is mounted at path.
func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

func deviceExists(name string) bool { return exists("/sys/class/net/" + name) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func ip(args ...string) error { return run("", "ip", args...) }

func run(stdin, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
