package site

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestUnrequested: a connected site is told, at growing intervals, while deliveries wait for it without
// a request; one that has a request, works on deliveries or makes progress is not.
func TestUnrequested(t *testing.T) {
	t.Parallel()
	consumer := func(pending uint64, open, unacknowledged int, stored uint64) *jetstream.ConsumerInfo {
		return &jetstream.ConsumerInfo{NumPending: pending, NumWaiting: open, NumAckPending: unacknowledged, AckFloor: jetstream.SequenceInfo{Stream: stored}}
	}
	forgotten := consumer(3, 0, 0, 7)
	type round struct {
		at        time.Duration
		connected bool
		info      *jetstream.ConsumerInfo
		want      bool
	}
	for name, rounds := range map[string][]round{
		"forgotten":    {{0, true, forgotten, false}, {9 * time.Second, true, forgotten, false}, {10 * time.Second, true, forgotten, true}, {29 * time.Second, true, forgotten, false}, {30 * time.Second, true, forgotten, true}, {69 * time.Second, true, forgotten, false}, {70 * time.Second, true, forgotten, true}},
		"requested":    {{0, true, forgotten, false}, {5 * time.Second, true, consumer(3, 1, 0, 7), false}, {12 * time.Second, true, forgotten, false}},
		"at work":      {{0, true, forgotten, false}, {12 * time.Second, true, consumer(3, 0, 2, 7), false}},
		"progress":     {{0, true, forgotten, false}, {12 * time.Second, true, consumer(3, 0, 0, 8), false}, {22 * time.Second, true, consumer(3, 0, 0, 8), true}},
		"nothing left": {{0, true, forgotten, false}, {12 * time.Second, true, consumer(0, 0, 0, 7), false}},
		"cut off":      {{0, true, forgotten, false}, {12 * time.Second, false, forgotten, false}, {14 * time.Second, true, forgotten, false}},
	} {
		u := unrequested{sites: map[string]unrequestedSite{}}
		for _, r := range rounds {
			if got := u.tell("plant-a", r.connected, r.info, noon.Add(r.at)); got != r.want {
				t.Errorf("%s, after %s: told %v, want %v", name, r.at, got, r.want)
			}
		}
	}
	u := unrequested{sites: map[string]unrequestedSite{}}
	u.tell("plant-a", true, forgotten, noon)
	u.retain(func(string) bool { return false })
	if len(u.sites) != 0 {
		t.Error("a site that is deleted is remembered")
	}
}
