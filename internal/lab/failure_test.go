package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/lab/daemon"
)

// newLab is a lab in an empty folder, where nothing runs.
func newLab(t *testing.T) *Lab {
	dir := t.TempDir()
	return &Lab{
		root: dir, dir: dir, out: newProgress(io.Discard), lock: filepath.Join(dir, "lock"),
		daemons: daemon.Set{RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "log")},
	}
}

// TestAPartThatEnds: a part that ends while it is awaited is named at once, with what it
// said last, and not with what it said at an earlier start.
func TestAPartThatEnds(t *testing.T) {
	l := newLab(t)
	p := part{
		daemon.Daemon{Name: "modbus-plant-b", Path: "/bin/sh", Args: []string{"-c", `echo "old news"`, l.dir}},
		func(context.Context) error { return errors.New("connection refused") },
	}
	await := func() error {
		t.Helper()
		if err := l.start(p); err != nil {
			t.Fatal(err)
		}
		return l.await(t.Context(), p)
	}
	if err := await(); err == nil || !strings.Contains(err.Error(), "old news") {
		t.Fatalf("error %v", err)
	}
	p.Args = []string{"-c", `for i in $(seq 30); do echo "line $i"; done; echo "ModuleNotFoundError: No module named 'serial'"; exit 1`, l.dir}
	err := await()
	var failed *PartError
	if !errors.As(err, &failed) || failed.Part != "modbus-plant-b" || !errors.Is(err, errEnded) {
		t.Fatalf("error %v", err)
	}
	text := err.Error()
	for _, want := range []string{"modbus-plant-b: ended by itself", l.daemons.LogFile("modbus-plant-b"), "line 30", "No module named 'serial'"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	for _, unwanted := range []string{"old news", "line 1\n"} {
		if strings.Contains(text, unwanted) {
			t.Errorf("%q is in:\n%s", unwanted, text)
		}
	}
	if err := l.daemons.Kill(p.Name); err != nil {
		t.Error(err)
	}
}

// TestAPartThatIsNotBuilt: what is missing, and what builds it.
func TestAPartThatIsNotBuilt(t *testing.T) {
	l := newLab(t)
	err := l.start(part{Daemon: daemon.Daemon{Name: "hub", Path: l.bin("nats-server")}})
	for _, want := range []string{"hub", l.bin("nats-server"), "go tool task build"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestLastErrors(t *testing.T) {
	lines := []string{
		`I1126 01:00:00.000001 1 kubelet.go:1] "Starting"`,
		`E1126 01:00:01.000001 1 kubelet.go:2] "Container runtime network not ready" networkReady="NetworkReady=false"`,
		`E1126 01:00:02.000001 1 kubelet.go:2] "Container runtime network not ready" networkReady="NetworkReady=false"`,
		`W1126 01:00:02.000002 1 genericapiserver.go:798] Skipping API apps/v1beta1 because it has no resources.`,
		`{"level":"warn","ts":"2026-11-26T01:49:43Z","caller":"txn/util.go:93","msg":"apply request took too long"}`,
		`{"level":"info","msg":"started"}`,
		`{"level":"error","msg":"connect to hub","error":"connection refused"}`,
		`time="2026-11-26" level=info msg="Got pod network"`,
		`time="2026-11-26" level=error msg="no CNI configuration"`,
		`[7] 2026/11/26 [INF] Listening`,
		`[7] 2026/11/26 [ERR] Error trying to connect as leafnode`,
		`ModuleNotFoundError: No module named 'serial'`,
		`I1126 01:00:03.000001 1 kubelet.go:1] "The end"`,
	}
	want := []string{lines[2], lines[6], lines[8], lines[10], lines[11]}
	if got := lastErrors(lines); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	calm := make([]string, 20)
	for i := range calm {
		calm[i] = fmt.Sprint("line ", i)
	}
	if got := lastErrors(calm); len(got) != 8 || got[7] != "line 19" {
		t.Errorf("without errors: %q", got)
	}
	if got := onlyErrors(calm); len(got) != 0 {
		t.Errorf("last errors of a log without any: %q", got)
	}
	if got := lastErrors(nil); len(got) != 0 {
		t.Errorf("of an empty log: %q", got)
	}
}

func TestStartError(t *testing.T) {
	err := error(&StartError{
		Failed: []error{
			&PartError{Part: "modbus-plant-b", Err: errEnded, Logs: []LogEnd{{File: "/x/modbus-plant-b.log", Lines: []string{"one", "two"}}}},
			&PartError{Part: "leaf-plant-a", Err: errors.New("no node"), Logs: []LogEnd{{File: "/x/leaf-plant-a.log"}}},
		},
		Running: []string{"hub", "bridge"},
	})
	want := `the lab is only partly up

modbus-plant-b: ended by itself
  /x/modbus-plant-b.log ends with:
    one
    two

leaf-plant-a: no node
  /x/leaf-plant-a.log has no lines since the start

These parts keep running: hub bridge`
	if err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
	if !errors.Is(err, errEnded) {
		t.Error("the causes are lost")
	}
}

// TestInterruptedStart: an interruption is one line, whatever it cut off.
func TestInterruptedStart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := failures{l: newLab(t)}
	for range 3 {
		f.note(fmt.Errorf("await hub: %w", ctx.Err()))
	}
	err := f.result(ctx)
	if got := err.Error(); got != "the lab is only partly up\n\ninterrupted" {
		t.Errorf("got: %s", got)
	}
	if !errors.Is(err, context.Canceled) {
		t.Error("not known as an interruption")
	}
}

func TestVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		states []string
		idle   []string
		want   error
		text   string
	}{
		"all":       {[]string{"ready", "runs"}, nil, nil, ""},
		"none":      {[]string{"not started", "not started"}, nil, ErrNotUp, "nothing runs"},
		"one ended": {[]string{"ready", "ended", "ready"}, nil, ErrPartlyUp, "2 of 3 parts work; these do not: part1 (ended); `go tool task lab`"},
		"not begun": {[]string{"ready", "not started"}, nil, ErrPartlyUp, "1 of 2 parts work; these do not: part1 (not started)"},
		"all ended": {[]string{"ended", "ended"}, nil, ErrPartlyUp, "0 of 2"},
		"node":      {[]string{"ready"}, []string{"node a-1 (Ready: not registered)"}, ErrPartlyUp, "node a-1 (Ready: not registered)"},
		"idle":      {[]string{"ready", "not ready"}, nil, ErrPartlyUp, "part1 (not ready)"},
	} {
		t.Run(name, func(t *testing.T) {
			var states []partState
			for i, s := range c.states {
				states = append(states, partState{name: fmt.Sprint("part", i), state: s})
			}
			err := verdict(states, c.idle)
			if !errors.Is(err, c.want) || (err != nil && !strings.Contains(err.Error(), c.text)) {
				t.Errorf("verdict %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

func TestFailedConditions(t *testing.T) {
	site := &v1alpha1.Site{ObjectMeta: metav1.ObjectMeta{Name: "plant-a"}}
	if got := failedConditions(site); got != "; the bridge has not written the status of site plant-a" {
		t.Errorf("without status: %q", got)
	}
	site.Status.Conditions = []metav1.Condition{
		{Type: "Connected", Status: "False", Reason: "Silent", Message: "not heard since 01:00"},
		{Type: "Healthy", Status: "True"},
	}
	if got := failedConditions(site); got != "; site plant-a: Connected is False: Silent: not heard since 01:00" {
		t.Errorf("cut off: %q", got)
	}
	site.Status.Conditions[0].Status = "True"
	if got := failedConditions(site); got != "" {
		t.Errorf("in order: %q", got)
	}
}

func TestListening(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:107E 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:107E 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 20 4 30 10 -1
   2: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000000000000000 100 0 0 10 0
`
	if got := listening(table, 4222); len(got) != 1 || got[0] != "socket:[4711]" {
		t.Errorf("4222: %q", got)
	}
	if got := listening(table, 80); len(got) != 0 {
		t.Errorf("80: %q", got)
	}
}

// TestLockEndsWithItsContext: who waits for another command can be interrupted.
func TestLockEndsWithItsContext(t *testing.T) {
	l := newLab(t)
	release, err := l.Lock(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := release(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := l.Lock(ctx, true); err == nil || !strings.Contains(err.Error(), "wait for another lab command") {
		t.Errorf("error %v", err)
	}
}
