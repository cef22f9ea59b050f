package desired

import (
	"errors"
	"testing"
	"time"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams/inventory"
)

// TestQueriesAreCheckedOutsideTheLock: a query of a site is checked while another one holds the
// lock of all sites, so that a large one delays nobody.
func TestQueriesAreCheckedOutsideTheLock(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	foreign := inventory.Entry{Subject: "desired.plant-b._._.configmaps.default.c", UID: "u", Version: "1"}
	p.Reconciler.mu.Lock()
	defer p.Reconciler.mu.Unlock()
	answer := make(chan error, 1)
	go func() {
		_, _, err := p.Compare("plant-a", inventory.Query{Of: []int{foreign.Bucket()}, Entries: []inventory.Entry{foreign}})
		answer <- err
	}()
	select {
	case err := <-answer:
		if !errors.Is(err, inventory.ErrQuery) {
			t.Errorf("the query is answered: %v", err)
		}
	case <-time.After(polltest.Limit):
		t.Error("the query waits for the lock")
	}
}
