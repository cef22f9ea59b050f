package bounds

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestProblems(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	p := NewProblems(func() time.Time { return now })
	if _, _, present := p.Present("plant-a", "Nodes"); present {
		t.Error("a problem before one occurred")
	}
	for i := range 1000 {
		p.Add("plant-a", "Nodes", "Taken", fmt.Sprint("n", i), fmt.Sprintf("node n%d is taken", i))
	}
	p.Add("plant-a", "Limits", "Size", "x", "x is too large")
	reason, message, present := p.Present("plant-a", "Nodes")
	if !present || reason != "Taken" || message != "node n0 is taken; node n1 is taken; node n2 is taken; and others" {
		t.Errorf("%q %q %v", reason, message, present)
	}
	if _, _, present := p.Present("plant-b", "Nodes"); present {
		t.Error("another site has the problem")
	}
	p.Solved("plant-a", "Limits", "x")
	if _, _, present := p.Present("plant-a", "Limits"); present {
		t.Error("a solved problem remains")
	}
	p.Solved("plant-a", "Nodes", "n1")
	if _, message, _ := p.Present("plant-a", "Nodes"); strings.Contains(message, "n1 ") {
		t.Errorf("n1 is solved: %q", message)
	}
	now = now.Add(problemAge)
	if _, _, present := p.Present("plant-a", "Nodes"); present {
		t.Error("an old problem remains")
	}
	p.Add("plant-a", "Nodes", "Taken", "n7", "node n7 is taken")
	if _, message, _ := p.Present("plant-a", "Nodes"); message != "node n7 is taken" {
		t.Errorf("after an old problem: %q", message)
	}
	p.Retain(func(string) bool { return false })
	if len(p.sites) != 0 {
		t.Error("a deleted site is remembered")
	}
}
