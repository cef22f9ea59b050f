package desired

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

const (
	// listInterval is the time between two lists of the sites' streams, which show those that
	// somebody deleted and how full each is. 16,000 streams take the hub 4.4 s.
	listInterval = time.Minute
	// roomRetry is the time after which a site that has no streams is tried again.
	roomRetry = 10 * time.Second
)

// siteStreams creates the streams of each site, as far as there is room.
type siteStreams struct {
	reconciler *Reconciler
	room       hub.Room
	// existing are the sites that have streams, known the results of ensure, used the fraction of
	// a site's room that its fullest stream had when they were listed.
	existing map[string]bool
	known    map[string]siteStream
	used     map[string]streams.Usage
	listed   time.Time
}

// siteStream is the result of ensure for a site.
type siteStream struct {
	limits streams.SiteLimits
	// problem is the reason for which it has no streams with these limits, which are tried again
	// at retry.
	problem error
	retry   time.Time
}

func newSiteStreams(r *Reconciler, room hub.Room) *siteStreams {
	return &siteStreams{reconciler: r, room: room, existing: map[string]bool{}, known: map[string]siteStream{}}
}

// list forgets the sites that no longer exist, and lists the streams when it is time: those of
// deleted sites are removed, and those that are missing are created again.
func (s *siteStreams) list(ctx context.Context, sites map[string][]string) error {
	for site := range s.known {
		if _, ok := sites[site]; !ok {
			s.forget(site)
		}
	}
	if time.Since(s.listed) < listInterval {
		return nil
	}
	usage, err := streams.SiteUsage(ctx, s.reconciler.hub.JS)
	if err != nil {
		return err
	}
	s.listed, s.used = time.Now(), usage
	clear(s.existing)
	for site, u := range usage {
		if _, ok := sites[site]; !ok {
			s.reconciler.retire(site)
		} else if u.Streams == len(streams.SiteStreams(site, streams.SiteLimits{})) {
			s.existing[site] = true
		}
	}
	for site, k := range s.known {
		if k.problem == nil && !s.existing[site] {
			s.forget(site)
		}
	}
	return nil
}

// forget has the streams of a site created again.
func (s *siteStreams) forget(site string) {
	delete(s.known, site)
	delete(s.existing, site)
}

// ensure creates or updates the streams of a site. A site for which there is no room is no error
// of the round: StorageProblem has it.
func (s *siteStreams) ensure(ctx context.Context, site string) error {
	limits := s.room.Limits(s.reconciler.objects.Get(kube.Key{Group: kube.SiteGroup, Resource: "sites", Name: site}))
	was, ok := s.known[site]
	if ok && was.limits == limits && (was.problem == nil || time.Now().Before(was.retry)) {
		return nil
	}
	var err error
	if s.room.MaxSites > 0 && !s.existing[site] && len(s.existing) >= s.room.MaxSites {
		err = s.room.TooMany()
	} else if err = streams.Ensure(ctx, s.reconciler.hub.JS, streams.SiteStreams(site, limits)); err == nil {
		s.existing[site] = true
	}
	noRoom := hub.IsNoRoom(err)
	if noRoom {
		err = fmt.Errorf("the hub cannot reserve %d bytes: raise max_file_store, or lower limits.hubBytes of the bridge or spec.limits.hubStorage of Sites: %w", limits.Bytes, err)
	}
	s.known[site] = siteStream{limits, err, time.Now().Add(roomRetry)}
	if !noRoom && !errors.Is(err, hub.ErrTooManySites) {
		return err
	}
	if was.problem == nil {
		s.reconciler.log.Warn("site has no streams for its reports, others are served", zap.String("site", site), zap.Error(err))
	}
	return nil
}
