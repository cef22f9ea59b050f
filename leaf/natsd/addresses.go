package natsd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/durable"
)

const (
	// lookupTimeout bounds a lookup of a name whose last good address is known.
	lookupTimeout = 5 * time.Second
	// behindProxy is the address of each name when an HTTP proxy looks it up: nats-server 2.15.2
	// insists on one, and does not use it (docs/upstream.md, 24). It is nobody's (RFC 5737).
	behindProxy = "192.0.2.1"
)

// hubAddresses looks up the names of the hub. It remembers the last address of each name at which the hub
// was reached, and returns it if the name cannot be looked up, and every other time while the hub is not
// reached at the address that DNS gives. The certificate is compared with the name in any case. Use
// openAddresses. It is safe for concurrent use.
type hubAddresses struct {
	// file keeps the last addresses; "": they are forgotten with the process.
	file string
	log  *zap.Logger
	// proxied is set if all connections to the hub go by HTTP proxies, which look up the names.
	proxied atomic.Bool
	// conn is the connection that was noted last.
	conn atomic.Uint64

	mu    sync.Mutex
	hosts map[string]*hubHost
}

// hubHost is a name of the hub.
type hubHost struct {
	// last is the last good address, stored the one in the file.
	last, stored string
	// answer is what DNS returned last.
	answer []string
	// tried is the address of an attempt that has not led to a connection, "" if there is none.
	tried string
	// fallback is set while the last good address is tried.
	fallback bool
}

// openAddresses reads the addresses of earlier processes. Without them it begins with none.
func openAddresses(file string, log *zap.Logger) *hubAddresses {
	a := &hubAddresses{file: file, log: log, hosts: map[string]*hubHost{}}
	if file == "" {
		return a
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return a
	}
	known := map[string]netip.Addr{}
	if err == nil {
		err = json.Unmarshal(data, &known)
	}
	if err != nil {
		log.Warn("last addresses of the hub are unknown", zap.String("file", file), zap.Error(err))
		return a
	}
	for name, ip := range known {
		a.hosts[name] = &hubHost{last: ip.String(), stored: ip.String()}
	}
	return a
}

// LookupHost returns one address of a name.
func (a *hubAddresses) LookupHost(ctx context.Context, name string) ([]string, error) {
	if a.proxied.Load() {
		return []string{behindProxy}, nil
	}
	name = strings.ToLower(name)
	if a.lastOf(name) != "" {
		bounded, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		ctx = bounded
	}
	ips, err := net.DefaultResolver.LookupHost(ctx, name)
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.hosts[name]
	if h == nil {
		h = &hubHost{}
		a.hosts[name] = h
	}
	ip, ok := h.choose(ips)
	if !ok {
		return nil, err
	}
	if fallback := !slices.Contains(ips, ip); fallback && !h.fallback {
		a.log.Warn("the hub is not reached at an address that DNS gives; its last good address is tried too", zap.String("host", name),
			zap.String("address", ip), zap.Strings("dns", ips), zap.Error(err))
		h.fallback = true
	}
	return []string{ip}, nil
}

// choose returns the address of the next attempt, after DNS has returned ips, none if it failed. It
// returns false if there is none.
func (h *hubHost) choose(ips []string) (ip string, ok bool) {
	switch {
	case len(ips) == 0:
		ip = h.last
	case h.last != "" && h.tried != "" && h.tried != h.last && !slices.Contains(ips, h.last):
		ip = h.last
	default:
		ip = ips[rand.IntN(len(ips))]
	}
	if len(ips) > 0 {
		h.answer = ips
	}
	h.tried = ip
	return ip, ip != ""
}

func (a *hubAddresses) lastOf(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if h := a.hosts[name]; h != nil {
		return h.last
	}
	return ""
}

// connected notes that the hub was reached: its certificate has been verified by now. conn is the id
// of the connection.
func (a *hubAddresses) connected(conn uint64, address string) {
	if a.conn.Swap(conn) == conn {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	unsaved := false
	for name, h := range a.hosts {
		if h.tried == "" || !sameAddress(h.tried, address) {
			continue
		}
		if h.fallback {
			a.log.Info("the hub is reached", zap.String("host", name), zap.String("address", h.tried))
		}
		h.last, h.tried, h.fallback = h.tried, "", false
		// A name with several addresses does not cost a write with each connection.
		if h.stored == "" || h.stored != h.last && !slices.Contains(h.answer, h.stored) {
			unsaved = true
		}
	}
	if unsaved && a.file != "" {
		if err := a.save(); err != nil {
			a.log.Warn("last address of the hub not stored", zap.Error(err))
		}
	}
}

// save writes the last addresses to the file.
func (a *hubAddresses) save() error {
	known := map[string]string{}
	for name, h := range a.hosts {
		if h.last != "" {
			known[name] = h.last
		}
	}
	data, err := json.Marshal(known)
	if err != nil {
		return fmt.Errorf("encode addresses: %w", err)
	}
	if err := durable.WriteFile(a.file, data, 0o600); err != nil {
		return err
	}
	for name, ip := range known {
		a.hosts[name].stored = ip
	}
	return nil
}

// sameAddress reports whether two IP addresses are the same, however they are written.
func sameAddress(a, b string) bool {
	x, err := netip.ParseAddr(a)
	if err != nil {
		return false
	}
	y, err := netip.ParseAddr(b)
	return err == nil && x.Unmap() == y.Unmap()
}

// allProxied reports whether all remotes are reached by HTTP proxies.
func allProxied(remotes []*server.RemoteLeafOpts) bool {
	return len(remotes) > 0 && !slices.ContainsFunc(remotes, func(r *server.RemoteLeafOpts) bool { return r.Proxy.URL == "" })
}

// setResolver has a server look up its hubs with a. nats-server 2.15.2 has a field for that, which is
// not exported (docs/upstream.md, 25).
func setResolver(opts *server.Options, a *hubAddresses) error {
	field, value := reflect.ValueOf(&opts.LeafNode).Elem().FieldByName("resolver"), reflect.ValueOf(a)
	if !field.IsValid() || !value.Type().AssignableTo(field.Type()) {
		return errors.New("this version of nats-server has no resolver of leaf connections")
	}
	reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Elem().Set(value)
	return nil
}
