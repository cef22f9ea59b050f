package leaf

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/polltest"
)

// deployedReconnect is how long a deployed leaf waits between attempts to connect. A site that
// returns waits for half of it in the middle.
func deployedReconnect(t *testing.T) string {
	t.Helper()
	conf, err := os.ReadFile("../deploy/leaf/leaf.conf.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`reconnect: ("[^"]+")`).FindSubmatch(conf)
	if found == nil {
		t.Fatal("the deployed configuration names no reconnect interval")
	}
	if d, err := time.ParseDuration(strings.Trim(string(found[1]), `"`)); err != nil || d > 400*time.Millisecond {
		t.Errorf("a deployed leaf waits for %s between attempts to connect (%v)", found[1], err)
	}
	return string(found[1])
}

// TestReturnIsFast cuts the line for a while, changes 200 objects, and heals it, again and again,
// with the deployed interval between attempts to connect. In most rounds they are at the site
// soon after the line is up: it takes a few times as long as 200 changes on a line that is up,
// in the same round.
func TestReturnIsFast(t *testing.T) {
	const objects, rounds, times = 200, 7, 3
	s, ctx := newSite(t)
	respond(t, s)
	s.configure(t, `"100ms"`, deployedReconnect(t))
	s.start(t, ctx)
	s.up(t)
	change := func(round int) {
		for i := range objects {
			putDesiredAsync(t, s, fmt.Sprintf("cm-%d", i), 1000*round+i)
		}
		<-s.hub.PublishAsyncComplete()
	}
	arrive := func() time.Duration {
		start := time.Now()
		polltest.Eventually(t, "convergence", func() bool { return backlog(t, ctx, s) == 0 })
		return time.Since(start)
	}
	var ratios []float64
	for round := range rounds {
		start := time.Now()
		change(2 * round)
		arrive()
		connected := time.Since(start)
		s.cut(t)
		change(2*round + 1)
		time.Sleep(time.Duration(round) * 170 * time.Millisecond) // the cut itself, at another time of the interval
		start = time.Now()
		s.line.Heal()
		s.up(t)
		linked := time.Since(start)
		returned := arrive()
		ratios = append(ratios, float64(returned)/float64(connected))
		t.Logf("linked after %s, %d objects %s later; on a line that is up %s", linked.Round(time.Millisecond), objects, returned.Round(time.Millisecond), connected.Round(time.Millisecond))
	}
	if !same(t, ctx, s) {
		t.Error("an object is missing at the site")
	}
	slices.Sort(ratios)
	if median := ratios[rounds/2]; median > times {
		t.Errorf("a return takes %.1f times as long as changes on a line that is up, in the middle of %d rounds", median, rounds)
	}
}
