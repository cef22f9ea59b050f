package leaf

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/polltest"
)

// deployedReconnect is how long a deployed leaf waits between attempts to connect.
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
	return string(found[1])
}

// TestReturnIsFast cuts the line for a while, changes 200 objects, and heals it, again
// and again: with the deployed interval they are at the site within half a second in most
// rounds. What takes time is nats-server's wait between attempts to connect.
func TestReturnIsFast(t *testing.T) {
	const objects, rounds = 200, 7
	s, ctx := newSite(t)
	respond(t, s)
	reconnect := deployedReconnect(t)
	s.configure(t, `"100ms"`, reconnect)
	s.start(t, ctx)
	s.up(t)
	var took []time.Duration
	for round := range rounds {
		s.cut(t)
		for i := range objects {
			putDesiredAsync(t, s, fmt.Sprintf("cm-%d", i), 1000*round+i)
		}
		<-s.hub.PublishAsyncComplete()
		time.Sleep(time.Duration(round) * 170 * time.Millisecond) // the cut itself, at another time of the interval
		start := time.Now()
		s.line.Heal()
		s.up(t)
		linked := time.Since(start)
		polltest.Eventually(t, "convergence", func() bool { return backlog(t, ctx, s) == 0 })
		took = append(took, time.Since(start))
		t.Logf("linked after %s, %d objects after %s", linked.Round(time.Millisecond), objects, took[round].Round(time.Millisecond))
	}
	if !same(t, ctx, s) {
		t.Error("an object is missing at the site")
	}
	slices.Sort(took)
	if median := took[rounds/2]; median > 500*time.Millisecond {
		t.Errorf("%s in the middle of %d rounds", median, rounds)
	}
}
