package breaker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// fault is one kind of thing that goes wrong.
type fault struct {
	name string
	// weight is how often it is in a deck.
	weight int
	// min and max bound how long it lasts.
	min, max time.Duration
	// targets is how many targets there are in a world with so many sites.
	targets func(sites int) int
	// holds names what may have no other fault at the same time.
	holds func(a action) []string
	// inject breaks something and returns what undoes it, nil when nothing must be.
	inject func(ctx context.Context, r *run, a action) (heal func(context.Context) error, err error)
}

func perSite(sites int) int { return sites }
func two(int) int           { return 2 }
func one(int) int           { return 1 }

func holdsLink(a action) []string { return []string{fmt.Sprintf("link %d", a.target)} }
func holdsLeaf(a action) []string { return []string{fmt.Sprintf("leaf %d", a.target)} }
func holdsSite(a action) []string { return append(holdsLink(a), holdsLeaf(a)...) }

// holdsDelivery holds up what would keep a site from getting what the API wants.
func holdsDelivery(a action) []string {
	return append(holdsSite(a), "hub", "bridges", "api", "gate 0", "gate 1")
}

func holdsGate(a action) []string { return []string{fmt.Sprintf("gate %d", a.target)} }
func holdsBridges(action) []string {
	return []string{"bridges"}
}
func holdsFull(action) []string { return []string{"full"} }
func holdsHub(action) []string  { return []string{"hub"} }
func holdsAPI(action) []string  { return []string{"api", "gate 0", "gate 1"} }
func holdsNothing(action) []string {
	return nil
}

// catalog is every kind of fault, by name.
func catalog() []*fault {
	s := time.Second
	return []*fault{
		{"leaf-kill", 3, 0, 8 * s, perSite, holdsLeaf, killLeaf},
		{"leaf-pause", 2, 2 * s, 20 * s, perSite, holdsLeaf, pauseLeaf},
		{"bridge-kill", 2, 0, 10 * s, two, holdsBridges, killBridge},
		{"bridge-pause", 2, 3 * s, 40 * s, two, holdsBridges, pauseBridge},
		{"bridges-kill", 1, 0, 10 * s, one, holdsBridges, killBridges},
		{"kubelet-kill", 1, 0, 0, one, holdsFull, killKubelet},
		{"hub-kill", 2, 0, 8 * s, one, holdsHub, killHub},
		{"hub-pause", 1, 2 * s, 15 * s, one, holdsHub, pauseHub},

		{"link-down", 2, 1 * s, 30 * s, perSite, holdsLink, linkFault((*linkOf).Down, true)},
		{"link-reset", 2, 1 * s, 15 * s, perSite, holdsLink, linkFault((*linkOf).Reset, true)},
		{"link-silent", 3, 1 * s, 70 * s, perSite, holdsLink, linkFault((*linkOf).Silent, true)},
		{"link-mute", 2, 2 * s, 40 * s, perSite, holdsLink, linkFault((*linkOf).Mute, true)},
		{"link-deaf", 2, 2 * s, 40 * s, perSite, holdsLink, linkFault((*linkOf).Deafen, false)},
		{"link-flap", 2, 5 * s, 20 * s, perSite, holdsLink, flap},
		{"link-slow", 1, 10 * s, 40 * s, perSite, holdsLink, linkFault(slow64, false)},
		{"link-backlog", 1, 20 * s, 40 * s, perSite, holdsDelivery, comeBackSlow},
		{"link-loss", 1, 10 * s, 30 * s, perSite, holdsLink, linkFault(lose20, false)},

		{"desired-deleted", 1, 0, 0, one, holdsHub, deleteDesired},
		{"consumer-deleted", 2, 0, 0, perSite, holdsHub, deleteConsumer},

		{"power-cut", 3, 0, 5 * s, perSite, holdsLeaf, cutPower},
		{"disk-rollback", 2, 3 * s, 20 * s, perSite, holdsLeaf, rollBack},
		{"store-truncated", 1, 0, 2 * s, perSite, holdsLeaf, truncateStore},
		{"store-flipped", 1, 0, 2 * s, perSite, holdsLeaf, flipStore},
		{"disk-full", 2, 3 * s, 15 * s, perSite, holdsLeaf, fillDisk},

		{"api-kill", 1, 0, 5 * s, one, holdsAPI, killAPI},
		{"api-expired", 1, 3 * s, 6 * s, one, holdsAPI, expireAPI},
		{"api-throttled", 1, 3 * s, 20 * s, two, holdsGate, throttleAPI},
		{"api-errors", 1, 3 * s, 20 * s, two, holdsGate, breakAPI},
		{"api-cut", 1, 3 * s, 25 * s, two, holdsGate, cutAPI},
		{"etcd-restored", 1, 5 * s, 20 * s, one, holdsAPI, restoreAPI},

		{"clock-leaf", 2, 3 * s, 20 * s, perSite, holdsLeaf, shiftLeaf},
		{"clock-bridge", 1, 3 * s, 20 * s, two, holdsBridges, shiftBridge},
		{"twin", 1, 5 * s, 20 * s, perSite, holdsSite, startTwin},

		{"poison-desired", 2, 0, 0, perSite, holdsNothing, poisonDesired},
		{"poison-report", 2, 0, 0, perSite, holdsNothing, poisonReport},
		{"oversized", 2, 0, 0, perSite, func(a action) []string { return []string{fmt.Sprintf("big %d", a.target)} }, oversize},
	}
}

// choose selects faults by name: all when names is empty, a name that ends in * by its
// beginning, one that begins with - to leave it out.
func choose(all []*fault, names []string) ([]*fault, error) {
	matches := func(f *fault, pattern string) bool {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
			return strings.HasPrefix(f.name, prefix)
		}
		return f.name == pattern
	}
	var want, without []string
	for _, n := range names {
		if rest, ok := strings.CutPrefix(n, "-"); ok {
			without = append(without, rest)
		} else {
			want = append(want, n)
		}
	}
	for _, n := range append(slices.Clone(want), without...) {
		if !slices.ContainsFunc(all, func(f *fault) bool { return matches(f, n) }) {
			return nil, fmt.Errorf("no fault is named %q", n)
		}
	}
	var chosen []*fault
	for _, f := range all {
		in := len(want) == 0 || slices.ContainsFunc(want, func(n string) bool { return matches(f, n) })
		if in && !slices.ContainsFunc(without, func(n string) bool { return matches(f, n) }) {
			chosen = append(chosen, f)
		}
	}
	return chosen, nil
}
