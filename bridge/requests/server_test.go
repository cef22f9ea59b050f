package requests

import (
	"testing"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A site's requests occupy a bounded number of places in the queue and leave room for others.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	l := &verbQueue{Handler: Handler{PerSite: 3}, queue: make(chan request, 5), waiting: map[string]int{}}
	enter := func(site string) bool { return l.add(request{site, &nats.Msg{}}) }
	for i := range 5 {
		if got, want := enter("greedy"), i < 3; got != want {
			t.Errorf("request %d of a greedy site: %v, want %v", i, got, want)
		}
	}
	if !enter("other") || !enter("third") {
		t.Error("no room for other sites")
	}
	if enter("fourth") {
		t.Error("the queue is not bounded")
	}
	l.done((<-l.queue).site)
	if !enter("greedy") || len(l.waiting) != 3 {
		t.Errorf("after an answer: waiting %v", l.waiting)
	}
	for range 5 {
		l.done((<-l.queue).site)
	}
	if len(l.waiting) != 0 {
		t.Errorf("sites that wait for nothing are remembered: %v", l.waiting)
	}
}
