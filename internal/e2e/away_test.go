package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// awayFor is how long the other side stays away: long enough for many attempts.
const awayFor = 15 * time.Second

// maxRepeats is how often one message may be in a log while something is away and
// comes back: when it goes, and when it is back, of each of a few connections.
const maxRepeats = 3

// TestAwayAtStart starts each side while the other is away: it waits, says so without
// repeating itself, and works when the other comes.
func TestAwayAtStart(t *testing.T) {
	site := lab.Sites[0]
	t.Run("leaf without hub", func(t *testing.T) {
		p := &plant{site: site, ns: newNamespace(t, "awayleaf")}
		p.cut(t)
		mark := logMark(t, site.LeafDaemon())
		must(t, lab.Restart(t.Context(), site.LeafDaemon()))
		stayAway(t, func() error { _, err := site.Leaf(); return err })
		must(t, lab.Heal(t.Context(), site))
		worksAgain(t, site, p.ns)
		quiet(t, mark)
	})
	t.Run("bridge without hub", func(t *testing.T) {
		ns := newNamespace(t, "awayhub")
		testBridgeWithout(t, site, ns, rig.HubDaemon)
	})
	t.Run("bridge without API server", func(t *testing.T) {
		ns := newNamespace(t, "awayapi")
		testBridgeWithout(t, site, ns, rig.ControlPlaneDaemon)
	})
}

func testBridgeWithout(t *testing.T, site *rig.Site, ns, daemon string) {
	other := got[rig.Process](t)(lab.Daemon(daemon))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if _, err := lab.Daemon(daemon); errors.Is(err, os.ErrProcessDone) {
			if err := lab.Restart(ctx, daemon); err != nil {
				t.Error(err)
			}
		}
	})
	must(t, other.Kill(t.Context()))
	mark := logMark(t, rig.BridgeDaemon)
	must(t, lab.Restart(t.Context(), rig.BridgeDaemon))
	stayAway(t, func() error { _, err := lab.Daemon(rig.BridgeDaemon); return err })
	must(t, lab.Restart(t.Context(), daemon))
	worksAgain(t, site, ns)
	quiet(t, mark)
}

// stayAway observes for a while that the waiting process lives.
func stayAway(t *testing.T, alive func() error) {
	t.Helper()
	until := time.Now().Add(awayFor)
	eventually(t, awayFor+10*time.Second, "the other side has been away long enough", func(context.Context) error {
		if err := alive(); err != nil {
			return fmt.Errorf("%w: %w", rig.ErrNever, err)
		}
		if time.Now().Before(until) {
			return errors.New("not yet")
		}
		return nil
	})
}

// worksAgain makes a pod and waits for it.
func worksAgain(t *testing.T, site *rig.Site, ns string) {
	t.Helper()
	start := time.Now()
	eventually(t, 2*time.Minute, "the API takes a pod", func(ctx context.Context) error {
		_, err := lab.Kube.CoreV1().Pods(ns).Create(ctx, sleeperPod(site, "again", false), metav1.CreateOptions{})
		return err
	})
	eventually(t, 2*time.Minute, "it is Ready", allReady(ns, "", 1))
	t.Logf("MEASURED other side back → a new pod is Ready: %s", time.Since(start).Round(time.Millisecond))
}

// mark is a place in a daemon's log.
type mark struct {
	file   string
	offset int64
}

func logMark(t *testing.T, daemon string) mark {
	t.Helper()
	info, err := os.Stat(lab.Log(daemon))
	must(t, err)
	return mark{lab.Log(daemon), info.Size()}
}

// quiet fails the test when a warning or error repeats in the log since m: one line for
// each change of state is right, one for each attempt is not. The kubelet's lines, which
// are upstream's, are in the same file and not JSON.
func quiet(t *testing.T, m mark) {
	t.Helper()
	f, err := os.Open(m.file)
	must(t, err)
	defer f.Close()
	_, err = f.Seek(m.offset, io.SeekStart)
	must(t, err)
	data, err := io.ReadAll(f)
	must(t, err)
	count, sample := map[string]int{}, map[string]string{}
	for line := range strings.Lines(string(data)) {
		var entry struct {
			Level  string `json:"level"`
			Logger string `json:"logger"`
			Msg    string `json:"msg"`
			What   string `json:"what"`
			Stream string `json:"stream"`
		}
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Level != "warn" && entry.Level != "error" {
			continue
		}
		key := entry.Logger + " " + entry.Msg + " " + entry.What + " " + entry.Stream
		count[key]++
		sample[key] = line
	}
	for key, n := range count {
		t.Logf("%d × %s", n, strings.TrimSpace(sample[key]))
		if n > maxRepeats {
			t.Errorf("%q is %d times in %s, want at most %d", key, n, m.file, maxRepeats)
		}
	}
}
