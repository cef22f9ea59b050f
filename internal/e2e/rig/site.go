package rig

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// Site is one of the lab's sites, seen from all sides.
type Site struct {
	layout

	Runtime *Runtime
	// Operator is a client at the hub, with the rights of the site's operators.
	Operator *nats.Conn
	// Root is a client of the leaf's account at the site, as root of the gateway can be, and JS
	// the site's own JetStream. What it sends to the hub has the rights of the gateway.
	Root *nats.Conn
	JS   jetstream.JetStream

	rig *Rig
}

func (r *Rig) openSite(l layout) (*Site, error) {
	s := &Site{layout: l, rig: r}
	var err error
	if s.Runtime, err = OpenRuntime(l.socket()); err != nil {
		return nil, err
	}
	if s.Operator, err = r.natsContext(l.Name); err != nil {
		return nil, errors.Join(err, s.close())
	}
	// The hub lets a gateway receive answers at its own inbox only. A leaf that was killed with its
	// namespace is noticed by the pings.
	s.Root, err = r.natsContext(l.Name+"-root", nats.SetCustomDialer(dialer{s}), nats.CustomInboxPrefix("_INBOX_"+l.Name),
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2))
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	if s.JS, err = jetstream.New(s.Root); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// dialer dials from inside a site's network namespace.
type dialer struct{ site *Site }

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.site.Dial(context.Background(), network, address)
}

func (s *Site) close() error {
	for _, nc := range []*nats.Conn{s.Operator, s.Root} {
		if nc != nil {
			nc.Close()
		}
	}
	return s.Runtime.Close()
}

// Leaf returns the site's leaf process.
func (s *Site) Leaf() (Process, error) { return s.rig.Daemon(s.LeafDaemon()) }

// Kubelet returns the leaf's kubelet process.
func (s *Site) Kubelet() (Process, error) {
	leaf, err := s.Leaf()
	if err != nil {
		return Process{}, err
	}
	children, err := leaf.Children("petiole-kubelet ")
	if err != nil {
		return Process{}, err
	}
	if len(children) != 1 {
		return Process{}, fmt.Errorf("the leaf of %s has %d kubelet children, want 1: %w", s.Name, len(children), os.ErrProcessDone)
	}
	return children[0], nil
}

// Slave returns the site's Modbus slave.
func (s *Site) Slave() Slave { return Slave{site: s, addr: slaveAddr} }

// LinkBytes returns the bytes that the link has carried since it exists, both directions, with
// Ethernet headers.
func (s *Site) LinkBytes() (int64, error) { return InterfaceBytes(s.hostVeth()) }

// InterfaceBytes returns the bytes that a network device has received and sent.
func InterfaceBytes(device string) (int64, error) {
	var sum int64
	for _, counter := range []string{"rx_bytes", "tx_bytes"} {
		path := filepath.Join("/sys/class/net", device, "statistics", counter)
		data, err := os.ReadFile(path)
		if err != nil {
			return 0, fmt.Errorf("read link counter: %w", err)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read link counter %s: %w", path, err)
		}
		sum += n
	}
	return sum, nil
}

// Consumer returns the site's durable consumer on DESIRED.
func (s *Site) Consumer(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	c, err := s.rig.JS.Consumer(ctx, streams.Desired, s.Name)
	if err != nil {
		return nil, fmt.Errorf("read consumer %s: %w", s.Name, err)
	}
	return c.CachedInfo(), nil
}
