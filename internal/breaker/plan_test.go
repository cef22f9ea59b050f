package breaker

import (
	"slices"
	"testing"
	"time"
)

// TestThePlanFollowsFromTheSeed: the same seed gives the same faults on the same targets
// at the same times, another seed others.
func TestThePlanFollowsFromTheSeed(t *testing.T) {
	plan := func(seed uint64) []action {
		d := newDeck(seed, catalog())
		return append(d.round(30, 8, time.Minute), d.round(30, 8, time.Minute)...)
	}
	same := func(a, b action) bool {
		return a.kind.name == b.kind.name && a.target == b.target && a.at == b.at && a.lasts == b.lasts && a.dice == b.dice
	}
	if !slices.EqualFunc(plan(1), plan(1), same) {
		t.Error("one seed gives two plans")
	}
	if slices.EqualFunc(plan(1), plan(2), same) {
		t.Error("two seeds give one plan")
	}
}

// TestEveryKindIsDealt: one deck holds each kind as often as it weighs and once among its
// first cards, and every action is within the bounds of its kind.
func TestEveryKindIsDealt(t *testing.T) {
	kinds, cards := catalog(), 0
	for _, k := range kinds {
		cards += k.weight
	}
	dealt := map[string]int{}
	for _, a := range newDeck(3, kinds).round(cards, 5, time.Minute) {
		dealt[a.kind.name]++
		if a.lasts < a.kind.min || a.lasts > a.kind.max || a.target < 0 || a.target >= a.kind.targets(5) || a.at >= time.Minute {
			t.Errorf("%s is dealt for %s after %s to target %d", a.kind.name, a.lasts, a.at, a.target)
		}
	}
	first := map[*fault]bool{}
	for d := newDeck(3, kinds); len(first) < len(kinds); {
		k := d.draw()
		if first[k] {
			t.Fatalf("%s is dealt again before every kind has been", k.name)
		}
		first[k] = true
	}
	for _, k := range kinds {
		if dealt[k.name] != k.weight {
			t.Errorf("%s is dealt %d times, weighs %d", k.name, dealt[k.name], k.weight)
		}
	}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  int
	}{
		{nil, len(catalog())},
		{[]string{"hub-kill"}, 1},
		{[]string{"link-*"}, 9},
		{[]string{"link-*", "-link-slow"}, 8},
		{[]string{"-etcd-restored"}, len(catalog()) - 1},
	} {
		if got, err := selectFaults(catalog(), c.names); err != nil || len(got) != c.want {
			t.Errorf("choose(%q) gives %d kinds, %v; want %d", c.names, len(got), err, c.want)
		}
	}
	if _, err := selectFaults(catalog(), []string{"earthquake"}); err == nil {
		t.Error("a fault that does not exist is chosen")
	}
}
