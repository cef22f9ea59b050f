package bridge

import (
	"sync"

	"github.com/petiole-io/petiole/streams"
)

// siteUnacked is how many reports one site may always have unacknowledged.
const minSiteUnacked = 20

// unacked counts, for each site, the reports that the hub has delivered and that are not
// acknowledged. The hub delivers streams.MaxUnacked of them, of all sites together, so
// that each site has a share of these. It does no I/O and is safe for concurrent use.
type ackWindow struct {
	mu    sync.Mutex
	sites map[uint64]string
	count map[string]int
}

func newAckWindow() *ackWindow {
	return &ackWindow{sites: map[uint64]string{}, count: map[string]int{}}
}

// hold counts the report with that sequence, and returns false if its site has its share:
// maxWaiting, less when others hold so many that few are left, but never less than
// siteUnacked. A report that is delivered again is counted once.
func (u *ackWindow) acquire(site string, seq uint64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.sites[seq]; ok {
		return true
	}
	if u.count[site] >= max(minSiteUnacked, min(maxWaiting, streams.MaxUnacked-len(u.sites))) {
		return false
	}
	u.sites[seq] = site
	u.count[site]++
	return true
}

// free notes that a report was acknowledged.
func (u *ackWindow) release(seq uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	site, ok := u.sites[seq]
	if !ok {
		return
	}
	delete(u.sites, seq)
	if u.count[site]--; u.count[site] == 0 {
		delete(u.count, site)
	}
}
