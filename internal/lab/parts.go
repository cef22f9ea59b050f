package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/petiole-io/petiole/internal/lab/daemon"
	"github.com/petiole-io/petiole/internal/lab/registry"
)

// part is a daemon with the probe that tells whether it works.
type part struct {
	daemon.Daemon
	// probe returns nil if the part works.
	probe func(ctx context.Context) error
}

// The names of the parts that are not a site's.
const (
	partRegistry     = "registry"
	partControlPlane = "controlplane"
	partHub          = "hub"
	partBridge       = "bridge"
)

func (l *Lab) centralPart(name string) part {
	switch name {
	case partRegistry:
		return part{l.self(name, "registry"), func(ctx context.Context) error { return registry.Probe(ctx, ImagesAddress) }}
	case partControlPlane:
		return part{l.self(name, "controlplane"), l.controlPlaneProbe}
	case partHub:
		return part{
			daemon.Daemon{Name: name, Path: l.bin("nats-server"), Args: []string{"-c", l.hubConf()}},
			httpProbe("http://" + hubMonitor + "/healthz"),
		}
	case partBridge:
		return part{daemon.Daemon{Name: name, Path: l.bin("bridge"), Args: []string{"--config", l.bridgeConf()}}, l.bridgeProbe}
	}
	panic("no part " + name)
}

func (l *Lab) self(name string, args ...string) daemon.Daemon {
	return daemon.Daemon{Name: name, Path: l.bin("lab"), Args: args, Dir: l.root}
}

func (l *Lab) crioPart(s site) part {
	return part{
		daemon.Daemon{Name: "crio-" + s.Name, Path: l.program(s, "crio"), Args: s.crio.Args(), NetNS: s.Namespace(), CgroupProcs: s.procs},
		s.crio.Probe,
	}
}

func (l *Lab) modbusPart(s site) part {
	return part{
		daemon.Daemon{
			Name: "modbus-" + s.Name, Path: l.bin("lab"), NetNS: s.Namespace(),
			Args: []string{"modbus-slave", "--listen", "0.0.0.0:" + modbusPort, "--writes", l.ModbusWrites(s.Name)},
		},
		func(context.Context) error { return s.tcpProbe("127.0.0.1:" + modbusPort) },
	}
}

func (l *Lab) leafPart(s site) part {
	return part{
		daemon.Daemon{
			Name: "leaf-" + s.Name, Path: l.program(s, "leaf"), NetNS: s.Namespace(), CgroupProcs: s.procs,
			Args: []string{"--config", filepath.Join(s.dir, "leaf.yaml")},
		},
		func(context.Context) error { return s.tcpProbe(leafClients) },
	}
}

func (s site) tcpProbe(address string) error {
	conn, err := s.Dial(address, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

func httpProbe(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, answer.Status)
		}
		return nil
	}
}

// parts returns all daemons of the lab, in the order in which they are shown.
func (l *Lab) parts() []part {
	var all []part
	for _, name := range []string{partControlPlane, partHub, partBridge, partRegistry} {
		all = append(all, l.centralPart(name))
	}
	for _, s := range l.sites() {
		all = append(all, l.crioPart(s), l.leafPart(s), l.modbusPart(s))
	}
	return all
}

func (l *Lab) part(name string) (part, error) {
	for _, p := range l.parts() {
		if p.Name == name {
			return p, nil
		}
	}
	return part{}, fmt.Errorf("no part is named %q; lab status lists them", name)
}

// adopt finds the daemons that run without a record.
func (l *Lab) adopt() error {
	for _, p := range l.parts() {
		if _, err := l.daemons.Adopt(p.Daemon); err != nil {
			return err
		}
	}
	return nil
}

// start runs the part unless it runs already. A part whose program was built again, or
// which another version of the lab started, is restarted, so that a test never meets an
// older build.
func (l *Lab) start(p part) error {
	if _, err := os.Stat(p.Path); err != nil {
		return &PartError{Part: p.Name, Err: fmt.Errorf("not started: %w (`go tool task build` builds it)", err)}
	}
	if l.daemons.Stale(p.Daemon) {
		l.out.say("%s is of an older build", p.Name)
		if err := l.daemons.Stop(p.Name, stopGrace); err != nil {
			return &PartError{Part: p.Name, Err: err}
		}
	}
	again := l.daemons.Ended(p.Name)
	started, err := l.daemons.Start(p.Daemon)
	switch {
	case err != nil:
		return &PartError{Part: p.Name, Err: err}
	case started && again:
		l.out.say("%s had ended, started again", p.Name)
	case started:
		l.out.say("%s started", p.Name)
	}
	return nil
}

// await blocks until the part's probe succeeds. A part that ends meanwhile is an error
// with the end of its log.
func (l *Lab) await(ctx context.Context, p part) error {
	return l.awaitCondition(ctx, p.probe, p.Name)
}

// awaitCondition blocks until probe succeeds. It fails when one of the parts ends, and
// when ctx does: then with the last answer of probe and the last errors of the parts, of
// which the first is at fault.
func (l *Lab) awaitCondition(ctx context.Context, probe func(context.Context) error, parts ...string) error {
	for {
		for _, name := range parts {
			if _, running := l.daemons.PID(name); !running {
				return l.ended(name)
			}
		}
		look, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := probe(look)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return fmt.Errorf("await %s: %w", parts[0], ctx.Err())
			}
			return l.idle(fmt.Errorf("runs, but is not ready after %v: %w", readyTimeout, err), parts...)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
