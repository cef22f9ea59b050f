package reported

import (
	"sync"

	"github.com/petiole-io/petiole/streams"
)

// minSiteUnacked is the number of unacknowledged reports that each site can always have.
const minSiteUnacked = 20

// ackWindow counts the unacknowledged reports of each site. The hub delivers at most
// streams.MaxUnacked reports of all sites without acknowledgement; each site gets a share of
// that window. It does no I/O and is safe for concurrent use.
type ackWindow struct {
	mu    sync.Mutex
	sites map[uint64]string
	count map[string]int
}

func newAckWindow() *ackWindow {
	return &ackWindow{sites: map[uint64]string{}, count: map[string]int{}}
}

// acquire counts a report. It returns false if the site has used up its share: maxWaiting,
// less when the window is nearly full, but at least minSiteUnacked. A redelivered report
// counts once.
func (w *ackWindow) acquire(site string, seq uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.sites[seq]; ok {
		return true
	}
	if w.count[site] >= max(minSiteUnacked, min(maxWaiting, streams.MaxUnacked-len(w.sites))) {
		return false
	}
	w.sites[seq] = site
	w.count[site]++
	return true
}

// release records that a report was acknowledged.
func (w *ackWindow) release(seq uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	site, ok := w.sites[seq]
	if !ok {
		return
	}
	delete(w.sites, seq)
	if w.count[site]--; w.count[site] == 0 {
		delete(w.count, site)
	}
}
