package world

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"

	"github.com/petiole-io/petiole/internal/lab/network"
)

// Link is the link between a site and the hub with its faults. Only one fault
// is active at a time.
type Link struct {
	net     network.Network
	site    network.Site
	address netip.Addr

	mu    sync.Mutex
	rules bool
	slow  bool
}

func newLink(n network.Network, s network.Site) *Link {
	return &Link{net: n, site: s, address: n.SiteAddress(s)}
}

// Down takes the device down: both ends see it.
func (l *Link) Down() error { return l.net.Cut(l.site) }

// Silent drops every packet in both directions; both ends look healthy.
func (l *Link) Silent() error { return l.filter("drop", "drop") }

// Reset answers every packet with a TCP reset, at both ends.
func (l *Link) Reset() error {
	return l.filter("meta l4proto tcp reject with tcp reset", "meta l4proto tcp reject with tcp reset")
}

// DropFromSite drops what the site sends and lets through what the hub sends.
func (l *Link) DropFromSite() error { return l.filter("drop", "") }

// DropToSite drops what the hub sends and lets through what the site sends.
func (l *Link) DropToSite() error { return l.filter("", "drop") }

// Lose drops a share of the packets, in percent, in both directions.
func (l *Link) Lose(percent int) error {
	rule := fmt.Sprintf("numgen random mod 100 < %d drop", percent)
	return l.filter(rule, rule)
}

// Slow limits both directions to a rate such as "64kbit".
func (l *Link) Slow(rate string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slow = true
	return l.net.Limit(l.site, rate)
}

// Carried returns the number of bytes that went to the site since Slow.
func (l *Link) Carried() (int64, error) {
	out, err := exec.Command("tc", "-s", "-j", "qdisc", "show", "dev", l.host(), "root").Output()
	var limits []struct {
		Kind  string `json:"kind"`
		Bytes int64  `json:"bytes"`
	}
	if err == nil {
		err = json.Unmarshal(out, &limits)
	}
	if err == nil && (len(limits) != 1 || limits[0].Kind != "tbf") {
		err = fmt.Errorf("no rate limit: %s", out)
	}
	if err != nil {
		return 0, fmt.Errorf("read what the link of %s has carried: %w", l.site.Name, err)
	}
	return limits[0].Bytes, nil
}

// Unblock ends every fault but the rate limit.
func (l *Link) Unblock() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unblock()
}

// Heal ends every fault.
func (l *Link) Heal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	if l.slow {
		errs = append(errs, l.net.Unlimit(l.site))
		l.slow = false
	}
	return errors.Join(append(errs, l.unblock())...)
}

func (l *Link) unblock() error {
	var err error
	if l.rules {
		err = command("nft", "delete", "table", "ip", l.table())
		l.rules = false
	}
	return errors.Join(err, l.net.Heal(l.site))
}

// filter applies one rule to packets from the site and one to packets to it.
func (l *Link) filter(from, to string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := func(match, rule string) string {
		if rule == "" {
			return ""
		}
		return match + " " + l.address.String() + " " + rule
	}
	var b strings.Builder
	if l.rules {
		fmt.Fprintf(&b, "delete table ip %s\n", l.table())
	}
	fmt.Fprintf(&b, "table ip %s {\nchain in {\ntype filter hook input priority -200;\n%s\n}\nchain out {\ntype filter hook output priority -200;\n%s\n}\n}\n",
		l.table(), line("ip saddr", from), line("ip daddr", to))
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("filter the link of %s: %w: %s", l.site.Name, err, strings.TrimSpace(string(out)))
	}
	l.rules = true
	return nil
}

func (l *Link) table() string { return fmt.Sprintf("petiole_breaker_%d", l.site.Number) }

func (l *Link) host() string { return fmt.Sprintf("%s-%d", l.net.Device, l.site.Number) }

// DeleteFilter deletes the filter, also that of an earlier process.
func (l *Link) DeleteFilter() error {
	if exec.Command("nft", "list", "table", "ip", l.table()).Run() != nil {
		return nil
	}
	return command("nft", "delete", "table", "ip", l.table())
}
