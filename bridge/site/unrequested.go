package site

import (
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// requestWait is how long deliveries may wait for a connected site without a request for them. A
	// leaf makes the next request when it has stored what it got.
	requestWait = 10 * time.Second
	// requestRepeatMax is the longest time until a leaf is told again.
	requestRepeatMax = 5 * time.Minute
)

// unrequested finds sites for which deliveries wait that their leaves have not requested. A leaf whose
// request was ended without a word finds that out by the missing heartbeats of the hub's consumer, in
// minutes. It is not safe for concurrent use.
type unrequested struct {
	sites map[string]unrequestedSite
}

// unrequestedSite is a site whose deliveries wait without a request.
type unrequestedSite struct {
	stored uint64 // the sequence up to which it has stored everything
	due    time.Time
	repeat time.Duration
}

// tell reports whether a site has to be told now that deliveries wait for it. It is called in each
// round with the site's consumer.
func (u *unrequested) tell(site string, connected bool, info *jetstream.ConsumerInfo, now time.Time) bool {
	s, known := u.sites[site]
	stored := info.AckFloor.Stream
	switch {
	case !connected || info.NumPending == 0 || info.NumAckPending > 0 || info.NumWaiting > 0:
		delete(u.sites, site)
		return false
	case !known || s.stored != stored:
		u.sites[site] = unrequestedSite{stored: stored, due: now.Add(requestWait), repeat: requestWait}
		return false
	case now.Before(s.due):
		return false
	}
	s.repeat = min(2*s.repeat, requestRepeatMax)
	s.due = now.Add(s.repeat)
	u.sites[site] = s
	return true
}

// retain forgets the sites that no longer exist.
func (u *unrequested) retain(exists func(site string) bool) {
	maps.DeleteFunc(u.sites, func(site string, _ unrequestedSite) bool { return !exists(site) })
}
