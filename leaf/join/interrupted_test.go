package join_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/join"
	"github.com/petiole-io/petiole/leaf/join/jointest"
	wire "github.com/petiole-io/petiole/streams/join"
)

// childEnv has the test's process be `leaf join` of the machine that it describes.
const childEnv = "PETIOLE_TEST_JOIN"

// child is a join in a process of its own.
type child struct{ Root, ConfigDir, DataDir, UnitDir, Metrics, URL, Token string }

// runChild joins, and ends the process.
func runChild(description string) {
	var c child
	err := json.Unmarshal([]byte(description), &c)
	if err == nil {
		m := join.Machine{
			Root: c.Root, ConfigDir: c.ConfigDir, DataDir: c.DataDir, UnitDir: c.UnitDir, Metrics: c.Metrics,
			Executable: "/usr/bin/leaf", Hostname: "gw-1", Now: time.Now,
		}
		err = join.Run(context.Background(), m, join.Options{
			URL: c.URL, Token: c.Token, IgnorePreflight: []string{"Disk"}, NoStart: true, Timeout: time.Minute,
			Progress: func(string, ...any) {},
		})
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}

// killedAnywhere: a join that is killed after any of its files was written is completed by the same
// command, with the same key, and leaves nothing else.
func killedAnywhere(t *testing.T, c *cloud, m *jointest.Machine) {
	var mu sync.Mutex
	var gateways []string
	accept := c.answer
	c.answer = func(r wire.Received) wire.Answer {
		mu.Lock()
		gateways = append(gateways, r.Gateway)
		mu.Unlock()
		return accept(r)
	}
	o := m.Options(c.url(), c.token(time.Hour))
	o.NoStart = true
	description, err := json.Marshal(child{m.Root, m.ConfigDir, m.DataDir, m.UnitDir, m.Metrics, o.URL, o.Token})
	must(t, err)
	// In the order in which they are written. One that a kill did not stop in time is there afterwards,
	// so each run gets further than the one before it.
	for _, name := range []string{"join.reserve", "join.json", "join.nk", "leaf.conf", "ca.crt", "leaf.yaml", "link.creds", "link.nk"} {
		path := filepath.Join(m.ConfigDir, name)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		var output strings.Builder
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env, cmd.Stderr = append(os.Environ(), childEnv+"="+string(description)), &output
		must(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for written := false; !written; {
			select {
			case err := <-ended:
				if err != nil {
					t.Fatalf("the join ended without %s: %v: %s", name, err, output.String())
				}
				written = true // all of it, before this process had its turn
			case <-time.After(200 * time.Microsecond):
				if _, err := os.Stat(path); err == nil {
					written = true
					must(t, cmd.Process.Signal(syscall.SIGKILL))
					<-ended
				}
			}
		}
		t.Logf("killed after %s was written: %v", name, files(t, m))
		if _, err := os.Stat(filepath.Join(m.UnitDir, "petiole-leaf.service")); err == nil {
			t.Error("there is a unit before the gateway has joined")
		}
	}
	up(t, m)
	o.NoStart = false
	must(t, join.Run(t.Context(), m.Machine, o))
	complete(t, m)
	mu.Lock()
	defer mu.Unlock()
	if slices.Sort(gateways); len(slices.Compact(gateways)) != 1 {
		t.Errorf("the gateway asked with the keys %v", gateways)
	}
}

// twoAtOnce runs two commands on one machine: one joins, and the other fails because of the first.
func twoAtOnce(t *testing.T, c *cloud, m *jointest.Machine) {
	up(t, m)
	o := m.Options(c.url(), c.token(time.Hour))
	accept := c.answer
	c.answer = func(r wire.Received) wire.Answer {
		for _, again := range []error{
			join.Run(t.Context(), m.Machine, o),
			join.Reset(t.Context(), m.Machine, false, o.Progress),
		} {
			if !errors.Is(again, join.ErrBusy) || !strings.Contains(again.Error(), "wait until it has ended") {
				t.Errorf("a second command: %v", again)
			}
		}
		return accept(r)
	}
	must(t, join.Run(t.Context(), m.Machine, o))
	complete(t, m)
}

// noBridge: the hub is up, and nobody answers there.
func noBridge(t *testing.T, c *cloud, m *jointest.Machine) {
	silent := &cloud{t: t, hub: c.hub, site: "plant-silent"}
	o := m.Options(silent.url(), silent.token(time.Hour))
	o.Timeout = 3 * time.Second
	var err error
	polltest.Eventually(t, "the bridge was asked", func() bool {
		err = join.Run(t.Context(), m.Machine, o)
		return err == nil || errors.Is(err, join.ErrUndecided)
	})
	failed(t, err, "no bridge answers", "kubectl petiole status", "same command again")
	if left := files(t, m); !slices.Equal(left, []string{"join.json", "join.nk"}) {
		t.Errorf("files %v, want the key and the state alone", left)
	}
	up(t, m)
	newBridge(silent)
	o.Timeout = time.Minute
	must(t, join.Run(t.Context(), m.Machine, o))
	complete(t, m)
}

// clockAhead: with a clock that is years ahead every token looks expired, and the error says so.
func clockAhead(t *testing.T, c *cloud, m *jointest.Machine) {
	m.Now = func() time.Time { return time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC) }
	nothing(t, m, join.Run(t.Context(), m.Machine, m.Options(c.url(), c.token(time.Hour))), "expired", "2099-01-01T00:00:00Z", "set the clock", "site rejoin")
}

// pastedToken: line ends and spaces do no harm, which terminals and mails put into a long token.
func pastedToken(t *testing.T, c *cloud, m *jointest.Machine) {
	token := c.token(time.Hour)
	o := m.Options(c.url(), " "+token[:80]+"\n"+token[80:160]+" "+token[160:]+"\r\n")
	o.NoStart = true
	must(t, join.Run(t.Context(), m.Machine, o))
}
