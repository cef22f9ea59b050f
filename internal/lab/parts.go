package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/petiole-io/petiole/internal/lab/daemon"
	"github.com/petiole-io/petiole/internal/lab/host"
)

// part is a daemon and how one sees that it does its work.
type part struct {
	daemon.Daemon
	// probe is one look; nil when a running process is all there is to see.
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
		return part{l.self(name, "registry"), httpProbe("http://" + ImagesAddress + "/v2/")}
	case partControlPlane:
		return part{l.self(name, "controlplane"), nil}
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
		daemon.Daemon{Name: "crio-" + s.Name, Path: l.bin("crio"), Args: s.crio.Args(), NetNS: s.Namespace()},
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
			Name: "leaf-" + s.Name, Path: l.bin("leaf"), NetNS: s.Namespace(),
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

// start runs the part, unless it runs already. One whose program was built anew is
// restarted, so that a test never meets an older build.
func (l *Lab) start(p part) error {
	if _, err := os.Stat(p.Path); err != nil {
		return fmt.Errorf("start %s: %w (run `go tool task build`)", p.Name, err)
	}
	if l.daemons.Stale(p.Name) {
		l.out.say("%s is of an older build", p.Name)
		if err := l.daemons.Stop(p.Name, stopGrace); err != nil {
			return err
		}
	}
	started, err := l.daemons.Start(p.Daemon)
	if err != nil {
		return err
	}
	if started {
		l.out.say("%s started", p.Name)
	}
	return nil
}

// await blocks until the part's probe succeeds. A part that ends meanwhile is an error
// with the end of its log.
func (l *Lab) await(ctx context.Context, p part) error {
	return l.awaitCondition(ctx, p.Name, p.probe)
}

func (l *Lab) awaitCondition(ctx context.Context, name string, probe func(context.Context) error) error {
	for {
		if _, running := l.daemons.PID(name); !running {
			return fmt.Errorf("%s ended; the end of %s:\n%s", name, l.daemons.LogFile(name), tail(l.daemons.LogFile(name), 15))
		}
		if probe == nil {
			return nil
		}
		look, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := probe(look)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("await %s: %w (last look: %w); see %s", name, ctx.Err(), err, l.daemons.LogFile(name))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// checkPorts reports the addresses of the host that something else occupies, before
// anything is started.
func (l *Lab) checkPorts() error {
	var taken []string
	for address, owner := range map[string]string{
		hubClients: partHub, hubMonitor: partHub,
		fmt.Sprintf("127.0.0.1:%d", APIPort): partControlPlane, fmt.Sprintf("127.0.0.1:%d", EtcdPort): partControlPlane,
		fmt.Sprintf("127.0.0.1:%d", EtcdPeerPort): partControlPlane,
	} {
		if _, running := l.daemons.PID(owner); running {
			continue
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			taken = append(taken, fmt.Sprintf("%s (for the %s): %v", address, owner, err))
			continue
		}
		listener.Close()
	}
	if len(taken) > 0 {
		return fmt.Errorf("%w; something else listens at:\n  - %s", host.ErrUnfit, strings.Join(taken, "\n  - "))
	}
	return nil
}

func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
