package bridge

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

// release records that a report was acknowledged.
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
