package bridge

import (
	"slices"
	"testing"
	"time"

	"github.com/petiole-io/petiole/streams"
)

func TestPresence(t *testing.T) {
	t.Parallel()
	p, at := newLiveness(), time.Unix(1_000_000, 0)
	clock := time.Unix(500, 0) // the site's clock differs
	beat := func(ages ...time.Duration) streams.Presence {
		b := streams.Presence{Site: "plant-a", Time: clock}
		for i, age := range ages {
			b.Nodes = append(b.Nodes, streams.NodePresence{Name: []string{"n1", "n2"}[i], Renewed: clock.Add(-age)})
		}
		return b
	}

	alive, woken, connected := p.heartbeat("plant-a", beat(5*time.Second, 41*time.Second), at)
	if !connected || !slices.Equal(alive, []string{"n1"}) || !slices.Equal(woken, []string{"n1"}) {
		t.Fatalf("first heartbeat: alive %v, woken %v, connected %v", alive, woken, connected)
	}
	if ok, _ := p.alive("plant-a", "n2", at); ok {
		t.Error("a node whose kubelet is silent is alive")
	}

	at = at.Add(10 * time.Second)
	alive, woken, connected = p.heartbeat("plant-a", beat(time.Second, time.Second), at)
	if connected || !slices.Equal(alive, []string{"n1", "n2"}) || !slices.Equal(woken, []string{"n2"}) {
		t.Fatalf("second heartbeat: alive %v, woken %v, connected %v", alive, woken, connected)
	}
	if silent := p.expire(at.Add(streams.PresenceTimeout - 1)); len(silent) > 0 {
		t.Errorf("%v expired too early", silent)
	}

	gone := at.Add(streams.PresenceTimeout)
	if silent := p.expire(gone); !slices.Equal(silent, []string{"plant-a"}) {
		t.Fatalf("expired %v", silent)
	}
	if c, since, _ := p.state("plant-a"); c || !since.Equal(gone) {
		t.Errorf("connected %v since %v", c, since)
	}
	if ok, _ := p.alive("plant-a", "n1", gone); ok {
		t.Error("a node of a silent site is alive")
	}

	if woken, connected := p.report("plant-a", "n1", gone.Add(-time.Hour), gone); woken || connected {
		t.Error("an hour-old report connects the site")
	}
	if woken, connected := p.report("plant-a", "n1", gone.Add(time.Hour), gone); !woken || !connected {
		t.Error("a report of now does not connect the site")
	}
	if silent := p.expire(gone.Add(streams.PresenceTimeout)); len(silent) != 1 {
		t.Error("a report from the future keeps the site connected")
	}
}

func TestPresenceOfAnEarlierBridge(t *testing.T) {
	t.Parallel()
	p, at := newLiveness(), time.Unix(1_000_000, 0)
	since := at.Add(-time.Hour)
	p.restore("up", true, since, at)
	p.restore("down", false, since, at)
	if c, s, _ := p.state("up"); !c || !s.Equal(since) {
		t.Errorf("up: connected %v since %v", c, s)
	}
	if ok, _ := p.alive("up", "n1", at); ok {
		t.Error("a node that this bridge has not heard is alive")
	}
	if _, _, connected := p.heartbeat("up", streams.Presence{Time: at}, at); connected {
		t.Error("the site was connected all the time")
	}
	if silent := p.expire(at.Add(streams.PresenceTimeout)); !slices.Equal(silent, []string{"up"}) {
		t.Errorf("expired %v", silent)
	}
}
