package liveness

import (
	"testing"
	"time"
)

func TestTwoLeavesOfOneName(t *testing.T) {
	t.Parallel()
	b := NewDuplicateDetector()
	at := time.Unix(1_000_000, 0)
	beat := func(boot string, after time.Duration) {
		at = at.Add(after)
		b.Heartbeat("plant-a", boot, at)
	}
	// Any number of restarts is one leaf.
	for _, boot := range []string{"1", "1", "2", "3", "3"} {
		beat(boot, 5*time.Second)
	}
	if d := b.LastSeen("plant-a"); !d.IsZero() {
		t.Fatalf("restarts are taken for two leaves at %v", d)
	}
	beat("4", 5*time.Second)
	if !b.LastSeen("plant-a").IsZero() {
		t.Fatal("one change of the boot is taken for two leaves")
	}
	beat("3", 5*time.Second)
	if !b.LastSeen("plant-a").Equal(at) {
		t.Fatalf("two boots alternate and were seen at %v", b.LastSeen("plant-a"))
	}
	b.Retain(func(string) bool { return false })
	beat("5", time.Second)
	beat("6", time.Second)
	beat("5", 2*time.Minute)
	if !b.LastSeen("plant-a").IsZero() {
		t.Error("a boot that returns after minutes is taken for two leaves")
	}
}
