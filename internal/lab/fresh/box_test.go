package main

import (
	"slices"
	"testing"
)

func TestLeftoversAreWhatWasNotThereBefore(t *testing.T) {
	before := view{"mount /proc": true, "network device lo": true}
	now := view{"mount /proc": true, "network device lo": true, "mount /run/netns": true, "process 77: leaf --config x": true, "cgroup /sys/fs/cgroup/cpu/petiole-plant-a": true}
	want := []string{"cgroup /sys/fs/cgroup/cpu/petiole-plant-a", "process 77: leaf --config x"}
	if got := now.left(before); !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
}
