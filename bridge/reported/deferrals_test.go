package reported

import (
	"net/http"
	"strconv"
	"sync"
	"testing"
)

// Reports of one site that are deferred at the same time are all recorded: the bucket has the
// lowest sequence, even if a key was removed meanwhile.
func TestDeferredKeepsTheFirst(t *testing.T) {
	t.Parallel()
	w := startWriting(t, func(rw http.ResponseWriter, _ *http.Request) { forbid(rw) })
	w.start()
	ctx := t.Context()
	for round := range 20 {
		site := "s" + strconv.Itoa(round)
		var wg sync.WaitGroup
		for seq := uint64(10); seq < 20; seq++ {
			wg.Go(func() {
				if err := w.consumer.deferrals.record(ctx, site, seq, true); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		e, err := w.hub.Bucket.Get(ctx, deferredKey(site))
		if err != nil || string(e.Value()) != "10" {
			t.Fatalf("the bucket has %v, %v; want 10", e, err)
		}
	}
	// A successor finds a lower sequence and keeps it.
	delete(w.consumer.deferrals.sites, "s0")
	if err := w.consumer.deferrals.record(ctx, "s0", 15, true); err != nil {
		t.Fatal(err)
	}
	e, err := w.hub.Bucket.Get(ctx, deferredKey("s0"))
	if err != nil || string(e.Value()) != "10" || w.consumer.deferrals.sites["s0"].from != 10 {
		t.Errorf("after another bridge's 10 the bucket has %s, %v", e.Value(), err)
	}
}
