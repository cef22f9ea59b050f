package liveness

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPresence(t *testing.T) {
	t.Parallel()
	p, at := NewTracker(), time.Unix(1_000_000, 0)
	clock := time.Unix(500, 0) // the site's clock differs
	beat := func(ages ...time.Duration) streams.Presence {
		b := streams.Presence{Site: "plant-a", Time: clock}
		for i, age := range ages {
			b.Nodes = append(b.Nodes, streams.NodePresence{Name: []string{"n1", "n2"}[i], Renewed: clock.Add(-age)})
		}
		return b
	}

	alive, woken, connected := p.Heartbeat("plant-a", beat(5*time.Second, 41*time.Second), at)
	if !connected || !slices.Equal(alive, []string{"n1"}) || !slices.Equal(woken, []string{"n1"}) {
		t.Fatalf("first heartbeat: alive %v, woken %v, connected %v", alive, woken, connected)
	}
	if ok, _ := p.Alive("plant-a", "n2", at); ok {
		t.Error("a node whose kubelet is silent is alive")
	}

	at = at.Add(10 * time.Second)
	alive, woken, connected = p.Heartbeat("plant-a", beat(time.Second, time.Second), at)
	if connected || !slices.Equal(alive, []string{"n1", "n2"}) || !slices.Equal(woken, []string{"n2"}) {
		t.Fatalf("second heartbeat: alive %v, woken %v, connected %v", alive, woken, connected)
	}
	if silent := p.Expire(at.Add(streams.PresenceTimeout - 1)); len(silent) > 0 {
		t.Errorf("%v expired too early", silent)
	}

	gone := at.Add(streams.PresenceTimeout)
	if silent := p.Expire(gone); !slices.Equal(silent, []string{"plant-a"}) {
		t.Fatalf("expired %v", silent)
	}
	if c, since, _ := p.State("plant-a"); c || !since.Equal(gone) {
		t.Errorf("connected %v since %v", c, since)
	}
	if ok, _ := p.Alive("plant-a", "n1", gone); ok {
		t.Error("a node of a silent site is alive")
	}

	if woken, connected := p.Report("plant-a", "n1", gone.Add(-time.Hour), gone); woken || connected {
		t.Error("an hour-old report connects the site")
	}
	if woken, connected := p.Report("plant-a", "n1", gone.Add(time.Hour), gone); !woken || !connected {
		t.Error("a report of now does not connect the site")
	}
	if silent := p.Expire(gone.Add(streams.PresenceTimeout)); len(silent) != 1 {
		t.Error("a report from the future keeps the site connected")
	}
}

func TestPresenceOfAnEarlierBridge(t *testing.T) {
	t.Parallel()
	p, at := NewTracker(), time.Unix(1_000_000, 0)
	since := at.Add(-time.Hour)
	p.Restore("up", true, since, at)
	p.Restore("down", false, since, at)
	if c, s, _ := p.State("up"); !c || !s.Equal(since) {
		t.Errorf("up: connected %v since %v", c, s)
	}
	if ok, _ := p.Alive("up", "n1", at); ok {
		t.Error("a node that this bridge has not heard is alive")
	}
	if _, _, connected := p.Heartbeat("up", streams.Presence{Time: at}, at); connected {
		t.Error("the site was connected all the time")
	}
	if silent := p.Expire(at.Add(streams.PresenceTimeout)); !slices.Equal(silent, []string{"up"}) {
		t.Errorf("expired %v", silent)
	}
}

func TestPresenceIsBounded(t *testing.T) {
	t.Parallel()
	p, at := NewTracker(), time.Unix(1_000_000, 0)
	for i := range 20 {
		b := streams.Presence{Time: at}
		for j := range 500 {
			b.Nodes = append(b.Nodes, streams.NodePresence{Name: strings.Repeat("x", i) + string(rune('a'+j)), Renewed: at})
		}
		p.Heartbeat("plant-a", b, at)
		p.Report("plant-a", strings.Repeat("y", i+1), at, at)
	}
	if n := len(p.sites["plant-a"].nodeLastSeen); n != streams.MaxSiteNodes {
		t.Errorf("%d nodes are known, want %d", n, streams.MaxSiteNodes)
	}
}

func FuzzPresence(f *testing.F) {
	data, err := json.Marshal(streams.Presence{Site: "s", Time: time.Unix(1, 0), Nodes: []streams.NodePresence{{Name: "n", Renewed: time.Unix(1, 0)}}, Degraded: []string{"DiskFull"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"nodes":[` + strings.Repeat("{},", 2000) + `{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := streams.DecodePresence(data)
		if err != nil {
			return
		}
		if len(b.Nodes) > streams.MaxSiteNodes+16 || len(b.Degraded) > streams.MaxDegraded {
			t.Fatalf("%d bytes became %d nodes", len(data), len(b.Nodes))
		}
		NewTracker().Heartbeat("s", b, time.Unix(1, 0))
	})
}

// TestDead: a node is dead when its site is heard and its kubelet is not.
func TestDead(t *testing.T) {
	t.Parallel()
	p, at := NewTracker(), time.Unix(1_000_000, 0)
	linked := at.Add(-time.Hour)
	beat := func(linkSince time.Time, ages ...time.Duration) {
		b := streams.Presence{Site: "plant-a", Time: at, LinkSince: linkSince}
		for _, age := range ages {
			b.Nodes = append(b.Nodes, streams.NodePresence{Name: "n1", Renewed: at.Add(-age)})
		}
		p.Heartbeat("plant-a", b, at)
	}
	want := func(when string, want bool) {
		t.Helper()
		if got := p.Dead("plant-a", "n1", at); got != want {
			t.Errorf("%s: dead %v, want %v", when, got, want)
		}
		if alive, _ := p.Alive("plant-a", "n1", at); alive && want {
			t.Errorf("%s: dead and alive", when)
		}
	}
	want("no heartbeat yet", false)
	beat(linked, time.Second)
	want("alive", false)
	at = at.Add(10 * time.Second)
	beat(linked, nodeLeaseDuration-1)
	want("silent for almost the duration of a lease", false)
	at = at.Add(10 * time.Second)
	beat(linked, nodeLeaseDuration)
	want("silent for the duration of a lease", true)
	p.Expire(at.Add(streams.PresenceTimeout))
	want("the site is not heard either", false)
	at = at.Add(time.Hour)
	beat(at.Add(1 - registerTime))
	want("the gateway has just started", false)
	at = at.Add(10 * time.Second)
	beat(at.Add(-registerTime))
	want("no kubelet since the gateway started", true)
	beat(at.Add(-registerTime), 0)
	want("it registers", false)
}

// TestQuietSites has a site that sends a heartbeat every two minutes: it and its node are alive in
// between, its leases must be renewed without heartbeats, and it is disconnected after five minutes.
// No site can count as connected for longer than twelve and a half.
func TestQuietSites(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_800_000_000, 0)
	for interval, want := range map[int64]time.Duration{
		0: 25 * time.Second, -5: 25 * time.Second, 10: 25 * time.Second, 120: 5 * time.Minute,
		3600: 12*time.Minute + 30*time.Second, 1 << 62: 12*time.Minute + 30*time.Second,
	} {
		tr := NewTracker()
		tr.Heartbeat("plant-a", streams.Presence{Time: start, Interval: interval, Nodes: []streams.NodePresence{{Name: "n1", Renewed: start}}}, start)
		before, after := start.Add(want-time.Second), start.Add(want)
		if ok, _ := tr.Alive("plant-a", "n1", before); !ok || len(tr.Expire(before)) > 0 {
			t.Errorf("interval %d: not alive before %s", interval, want)
		}
		if quiet := tr.Quiet(before)["plant-a"]; (len(quiet) == 1) != (want > streams.PresenceTimeout) {
			t.Errorf("interval %d: leases of %v are renewed without heartbeats", interval, quiet)
		}
		if ok, _ := tr.Alive("plant-a", "n1", after); ok || len(tr.Expire(after)) != 1 || len(tr.Quiet(after)) > 0 || len(tr.Connected()) > 0 {
			t.Errorf("interval %d: alive after %s", interval, want)
		}
	}
}
