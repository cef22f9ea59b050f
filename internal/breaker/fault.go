package breaker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// fault is one kind of fault.
type fault struct {
	name string
	// weight is the number of its cards in a deck.
	weight int
	// min and max bound its duration.
	min, max time.Duration
	// targets returns the number of targets in a world with so many sites.
	targets func(sites int) int
	// locks names the parts that may have no other fault at the same time.
	locks func(a action) []string
	// inject injects the fault and returns the function that heals it, nil if none is needed.
	inject func(ctx context.Context, r *run, a action) (heal func(context.Context) error, err error)
}

func perSite(sites int) int { return sites }
func two(int) int           { return 2 }
func one(int) int           { return 1 }

func locksLink(a action) []string { return []string{fmt.Sprintf("link %d", a.target)} }
func locksLeaf(a action) []string { return []string{fmt.Sprintf("leaf %d", a.target)} }
func locksSite(a action) []string { return append(locksLink(a), locksLeaf(a)...) }

// locksDelivery excludes all other faults that would keep a site from converging.
func locksDelivery(a action) []string {
	return append(locksSite(a), "hub", "bridges", "api", "proxy 0", "proxy 1")
}

func locksProxy(a action) []string { return []string{fmt.Sprintf("proxy %d", a.target)} }
func locksBridges(action) []string {
	return []string{"bridges"}
}
func locksFull(action) []string { return []string{"full"} }
func locksHub(action) []string  { return []string{"hub"} }
func locksAPI(action) []string  { return []string{"api", "proxy 0", "proxy 1"} }
func locksNothing(action) []string {
	return nil
}

// catalog returns every kind of fault.
func catalog() []*fault {
	s := time.Second
	return []*fault{
		{"leaf-kill", 3, 0, 8 * s, perSite, locksLeaf, killLeaf},
		{"leaf-pause", 2, 2 * s, 20 * s, perSite, locksLeaf, pauseLeaf},
		{"bridge-kill", 2, 0, 10 * s, two, locksBridges, killBridge},
		{"bridge-pause", 2, 3 * s, 40 * s, two, locksBridges, pauseBridge},
		{"bridges-kill", 1, 0, 10 * s, one, locksBridges, killBridges},
		{"kubelet-kill", 1, 0, 0, one, locksFull, killKubelet},
		{"hub-kill", 2, 0, 8 * s, one, locksHub, killHub},
		{"hub-pause", 1, 2 * s, 15 * s, one, locksHub, pauseHub},

		{"link-down", 2, 1 * s, 30 * s, perSite, locksLink, linkFault((*linkOf).Down, true)},
		{"link-reset", 2, 1 * s, 15 * s, perSite, locksLink, linkFault((*linkOf).Reset, true)},
		{"link-silent", 3, 1 * s, 70 * s, perSite, locksLink, linkFault((*linkOf).Silent, true)},
		{"link-mute", 2, 2 * s, 40 * s, perSite, locksLink, linkFault((*linkOf).DropFromSite, true)},
		{"link-deaf", 2, 2 * s, 40 * s, perSite, locksLink, linkFault((*linkOf).DropToSite, false)},
		{"link-flap", 2, 5 * s, 20 * s, perSite, locksLink, flap},
		{"link-slow", 1, 10 * s, 40 * s, perSite, locksLink, linkFault(slow64, false)},
		{"link-backlog", 1, 20 * s, 40 * s, perSite, locksDelivery, reconnectSlow},
		{"link-loss", 1, 10 * s, 30 * s, perSite, locksLink, linkFault(lose20, false)},

		{"desired-deleted", 1, 0, 0, one, locksHub, deleteDesired},
		{"consumer-deleted", 2, 0, 0, perSite, locksHub, deleteConsumer},

		{"power-cut", 3, 0, 5 * s, perSite, locksLeaf, cutPower},
		{"disk-rollback", 2, 3 * s, 20 * s, perSite, locksLeaf, rollBack},
		{"store-truncated", 1, 0, 2 * s, perSite, locksLeaf, truncateStore},
		{"store-flipped", 1, 0, 2 * s, perSite, locksLeaf, flipStore},
		{"disk-full", 2, 3 * s, 15 * s, perSite, locksLeaf, fillDisk},

		{"api-kill", 1, 0, 5 * s, one, locksAPI, killAPI},
		{"api-expired", 1, 3 * s, 6 * s, one, locksAPI, expireAPI},
		{"api-throttled", 1, 3 * s, 20 * s, two, locksProxy, throttleAPI},
		{"api-errors", 1, 3 * s, 20 * s, two, locksProxy, failAPI},
		{"api-cut", 1, 3 * s, 25 * s, two, locksProxy, cutAPI},
		{"etcd-restored", 1, 5 * s, 20 * s, one, locksAPI, restoreAPI},

		{"clock-leaf", 2, 3 * s, 20 * s, perSite, locksLeaf, shiftLeaf},
		{"clock-bridge", 1, 3 * s, 20 * s, two, locksBridges, shiftBridge},
		{"clone", 1, 5 * s, 20 * s, perSite, locksSite, startClone},

		{"poison-desired", 2, 0, 0, perSite, locksNothing, poisonDesired},
		{"poison-report", 2, 0, 0, perSite, locksNothing, poisonReport},
		{"oversized", 2, 0, 0, perSite, func(a action) []string { return []string{fmt.Sprintf("big %d", a.target)} }, oversize},
	}
}

// selectFaults selects faults by name: all if names is empty, a name that ends in * by its
// beginning, one that begins with - to leave it out.
func selectFaults(all []*fault, names []string) ([]*fault, error) {
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
