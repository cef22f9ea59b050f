package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// maxRepeats bounds how often one message may be in a log while something is away and
// comes back: when it goes, and when it is back, of each of a few connections.
const maxRepeats = 3

const (
	// awayAttempts is the number of attempts of a leaf to reach the hub before the hub comes:
	// so many that a line for each attempt would be seen.
	awayAttempts = 4 * (maxRepeats + 1)
	// awayFor is the time that the other side of a bridge stays away: long enough for many
	// attempts, which nothing counts.
	awayFor = 15 * time.Second
)

// TestAwayAtStart starts each side while the other is away: it waits, says so without
// repeating itself, and works when the other comes.
func TestAwayAtStart(t *testing.T) {
	site := lab.Sites[0]
	t.Run("leaf without hub", func(t *testing.T) {
		p := &plant{site: site, ns: newNamespace(t, "awayleaf")}
		p.cut(t)
		mark := logMark(t, site.LeafDaemon())
		must(t, lab.Restart(t.Context(), site.LeafDaemon()))
		stayAway(t, func() error { _, err := site.Leaf(); return err }, func() error {
			n, err := loggedAttempts(mark)
			if err == nil && n < awayAttempts {
				err = fmt.Errorf("%d of %d attempts", n, awayAttempts)
			}
			return err
		})
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
	until := time.Now().Add(awayFor)
	stayAway(t, func() error { _, err := lab.Daemon(rig.BridgeDaemon); return err }, func() error {
		if time.Now().Before(until) {
			return errors.New("not yet")
		}
		return nil
	})
	must(t, lab.Restart(t.Context(), daemon))
	worksAgain(t, site, ns)
	quiet(t, mark)
}

// stayAway waits until the waiting process, which must live, has waited for long enough.
func stayAway(t *testing.T, alive, longEnough func() error) {
	t.Helper()
	took := eventually(t, 3*time.Minute, "the other side has been away long enough", func(context.Context) error {
		if err := alive(); err != nil {
			return fmt.Errorf("%w: %w", rig.ErrNever, err)
		}
		return longEnough()
	})
	t.Logf("away for %s", took.Round(time.Millisecond))
}

// attemptLine matches nats-server's message about a failed attempt; the leaf logs the 1st,
// 2nd, 4th, 8th and so on.
var attemptLine = regexp.MustCompile(`Error trying to connect as leafnode to remote server .*\(attempt (\d+)\)`)

// loggedAttempts returns the number of attempts to reach the hub in a leaf's log since m.
func loggedAttempts(m mark) (int64, error) {
	data, err := m.read()
	if err != nil {
		return 0, err
	}
	most := int64(0)
	for _, found := range attemptLine.FindAllSubmatch(data, -1) {
		n, err := strconv.ParseInt(string(found[1]), 10, 64)
		if err != nil {
			return 0, err
		}
		most = max(most, n)
	}
	return most, nil
}

// worksAgain creates a pod and waits for it.
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

// read returns what was logged since.
func (m mark) read() ([]byte, error) {
	f, err := os.Open(m.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(m.offset, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// quiet fails the test when a warning or error repeats in the log since m: one line for
// each change of state is right, one for each attempt is not, but for the 1st, 2nd, 4th and
// so on of nats-server's. The kubelet's lines, which
// are upstream's, are in the same file and not JSON.
func quiet(t *testing.T, m mark) {
	t.Helper()
	data := got[[]byte](t)(m.read())
	count, sample, attempts := map[string]int{}, map[string]string{}, map[string]bool{}
	for line := range strings.Lines(string(data)) {
		var entry struct {
			Level     string `json:"level"`
			Logger    string `json:"logger"`
			Msg       string `json:"msg"`
			Part      string `json:"part"`
			Operation string `json:"operation"`
			Stream    string `json:"stream"`
		}
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Level != "warn" && entry.Level != "error" {
			continue
		}
		// The attempts of one kind are one message, whatever their number and their error.
		text, _, numbered := strings.Cut(entry.Msg, "(attempt ")
		key := entry.Logger + " " + text + " " + entry.Part + " " + entry.Operation + " " + entry.Stream
		if numbered {
			attempts[key] = true
		}
		count[key]++
		sample[key] = line
	}
	for key, n := range count {
		t.Logf("%d × %s", n, strings.TrimSpace(sample[key]))
		limit := maxRepeats
		if attempts[key] {
			limit += bits.Len64(uint64(got[int64](t)(loggedAttempts(m))))
		}
		if n > limit {
			t.Errorf("%q is %d times in %s, want at most %d", key, n, m.file, limit)
		}
	}
}
