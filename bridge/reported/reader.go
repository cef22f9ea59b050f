package reported

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/writeback"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/table"
)

const (
	// turnMessages is the number of messages that are read, and turnRemovals of those that are
	// removed, before another site has its turn.
	turnMessages = 64
	turnRemovals = 100
	// floorInterval is the time between two writes of a site's floor.
	floorInterval = time.Second
	// maxPartsWait is the age at which a report's missing parts count as lost. Parts are stored
	// before their report, or in one batch with it; only a hub that recovers from a fault can
	// find them later.
	maxPartsWait = 30 * time.Second
)

// reader reads the sites' streams into reports and queues them for writing. It processes the
// messages of one site in order, and those of several sites in parallel.
type reader struct {
	Config
	reports    *reports
	quarantine *quarantine
	table      *table.Table
	// nodesAlive is called when a report shows that nodes of a site are alive again.
	nodesAlive func(site string, nodes []string)

	mu    sync.Mutex
	sites map[string]*siteState
	// unknown holds the sites whose missing Site object has been logged.
	unknown map[string]bool
}

func newReader(cfg Config, r *reports, q *quarantine, nodesAlive func(site string, nodes []string)) *reader {
	return &reader{
		Config: cfg, reports: r, quarantine: q, nodesAlive: nodesAlive, sites: map[string]*siteState{}, unknown: map[string]bool{},
		table: table.New(table.Config{
			Conn: cfg.Hub.Conn, Domain: streams.HubDomain, Name: streams.Reported, Site: streams.ReportedSite,
			Subjects: streams.AllReported, Republished: streams.StoredPrefix, Changed: cfg.SiteQueue.Add, Log: cfg.Log,
		}),
	}
}

// recover reads the reports that are stored, so that those about existing objects are known. A
// site whose reports cannot be read does not hold up the others: it is read when it has its turn.
func (r *reader) recover(ctx context.Context) error {
	if err := r.table.List(ctx); err != nil {
		return err
	}
	if err := r.Fence.Check(); err != nil {
		return err
	}
	exists := func(site string) bool { return r.Sites.SiteExists(site) || r.table.Tail(site).Exists() }
	if err := removeKeys(ctx, r.Hub.Bucket, exists); err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(r.Workers)
	for _, site := range r.table.Sites() {
		g.Go(func() error {
			if !r.Sites.SiteExists(site) {
				return nil
			}
			if _, err := r.open(ctx, site); err != nil && ctx.Err() == nil {
				r.Log.Warn("reports of a site not read, retrying", zap.String("site", site), zap.Error(err))
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// run reads reports until ctx ends.
func (r *reader) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.table.Run(ctx) })
	g.Go(func() error { <-ctx.Done(); r.SiteQueue.ShutDown(); return nil })
	for range r.Workers {
		g.Go(func() error {
			for site, down := r.SiteQueue.Get(); !down; site, down = r.SiteQueue.Get() {
				r.serve(ctx, site)
				r.SiteQueue.Done(site)
			}
			return nil
		})
	}
	for _, site := range r.table.Sites() {
		r.SiteQueue.Add(site)
	}
	g.Go(func() error {
		tick := time.NewTicker(floorInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				r.storeFloors(ctx)
				r.Counters.GCRounds.Add(1)
			}
		}
	})
	return g.Wait()
}

// serve gives a site its turn.
func (r *reader) serve(ctx context.Context, site string) {
	more, err := r.turn(ctx, site)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, jetstream.ErrStreamNotFound):
		r.forget(site) // it is announced when there is one
	case streams.IsFull(err):
		r.Log.Warn("the reports of a site in the former stream do not fit into its own, retrying; give it more room (limits.hubBytes, spec.limits.hubStorage)", zap.String("site", site), zap.Error(err))
		r.SiteQueue.AddRateLimited(site)
	case err != nil:
		r.Log.Debug("reports of a site not read, retrying", zap.String("site", site), zap.Error(err))
		r.SiteQueue.AddRateLimited(site)
	case more:
		r.SiteQueue.Forget(site)
		r.SiteQueue.Add(site)
	default:
		r.SiteQueue.Forget(site)
	}
}

// turn reads the next messages of a site and removes some that are obsolete. It reports whether
// there is more to do at once.
func (r *reader) turn(ctx context.Context, site string) (more bool, err error) {
	if err := r.Fence.Check(); err != nil {
		return false, err
	}
	if !r.Sites.SiteExists(site) {
		r.noteUnknown(site)
		return false, nil
	}
	s, err := r.open(ctx, site)
	if err != nil {
		return false, err
	}
	cursor, incomplete := s.position()
	for _, seq := range incomplete {
		if err := r.readAgain(ctx, s, seq); err != nil {
			return false, err
		}
	}
	if r.table.Tail(site).Last > cursor {
		room := s.room(r.reports.room(site))
		if room <= 0 {
			r.Counters.Deferred.Add(1)
		} else if more, err = r.read(ctx, s, cursor+1, min(room, turnMessages)); err != nil {
			return false, err
		}
	}
	removed, err := (&garbage{r.Config, r.reports}).collect(ctx, s)
	return more || removed, err
}

// read reads the next messages of a site. It reports whether there may be more.
func (r *reader) read(ctx context.Context, s *siteState, from uint64, n int) (more bool, err error) {
	msgs, err := r.table.Read(ctx, s.name, from, n)
	if err != nil {
		return false, err
	}
	for _, m := range msgs {
		if r.reports.room(s.name) <= 0 {
			break // a report with parts is larger than what was read of it
		}
		if _, _, err := streams.ParsePart(m.Subject); err == nil {
			s.checkParts(r.now().Add(orphanWait))
			s.advance(m.Seq, false)
			continue
		}
		incomplete, err := r.process(ctx, s, &m)
		if err != nil {
			return false, err
		}
		s.advance(m.Seq, incomplete)
	}
	return len(msgs) > 0, nil
}

// readAgain reads a report whose parts were missing.
func (r *reader) readAgain(ctx context.Context, s *siteState, seq uint64) error {
	msgs, err := r.table.Read(ctx, s.name, seq, 1)
	if err != nil {
		return err
	}
	incomplete := false
	if len(msgs) == 1 && msgs[0].Seq == seq {
		if incomplete, err = r.process(ctx, s, &msgs[0]); err != nil {
			return err
		}
	}
	s.advance(seq, incomplete)
	return nil
}

// open returns the state of a site. If its stream is another one, or was not open, it reads what
// the stream holds.
func (r *reader) open(ctx context.Context, site string) (*siteState, error) {
	generation := r.table.Tail(site).Generation
	r.mu.Lock()
	s := r.sites[site]
	r.mu.Unlock()
	if s != nil && s.generation == generation {
		return s, nil
	}
	stream, err := r.Hub.JS.Stream(ctx, streams.Reported(site))
	if err != nil {
		return nil, fmt.Errorf("open reports of site %s: %w", site, err)
	}
	info := stream.CachedInfo()
	if s != nil && s.created.Equal(info.Created) {
		s.generation = generation
		return s, nil
	}
	r.reports.forget(site)
	s = &siteState{name: site, stream: stream, created: info.Created, generation: generation}
	if s.floor, err = loadFloor(ctx, r.Hub.Bucket, site, info.Created, info.State.LastSeq); err != nil {
		return nil, err
	}
	if s.live, err = loadLiveSet(ctx, r.Hub.Bucket, site, info.Created, info.State.LastSeq); err != nil {
		return nil, err
	}
	if err := (&former{r.Config}).move(ctx, s); err != nil {
		return nil, err
	}
	if info, err = stream.Info(ctx); err != nil {
		return nil, fmt.Errorf("read reports of site %s: %w", site, err)
	}
	if err := (&loader{r, newestDeviceReports{}}).load(ctx, s, info.State.LastSeq); err != nil {
		return nil, err
	}
	s.cursor = s.floor.seq
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.unknown, site)
	r.sites[site] = s
	return s, nil
}

// forget forgets a site without a stream.
func (r *reader) forget(site string) {
	r.table.Forget(site)
	r.reports.forget(site)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sites, site)
}

// noteUnknown counts a turn of a site without a Site object, and logs the first.
func (r *reader) noteUnknown(site string) {
	r.Counters.UnknownSite.Add(1)
	r.mu.Lock()
	known := r.unknown[site]
	r.unknown[site] = true
	delete(r.sites, site)
	r.mu.Unlock()
	if r.reports.forget(site); !known {
		r.Log.Warn("reports of a site without a Site object are not written back", zap.String("site", site))
	}
}

// state returns the state of a site, nil if its stream is not open.
func (r *reader) state(site string) *siteState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sites[site]
}

// obsolete schedules the removal of a report.
func (r *reader) obsolete(k Key, seq uint64) {
	if s := r.state(k.Site); s != nil {
		s.discard(obsolete{seq, holdsStates(k.Ref)})
	}
}

// retain takes note that a report stays in its stream although it is not written.
func (r *reader) retain(k Key, seq uint64) {
	if s := r.state(k.Site); s != nil {
		s.retain(k.Ref, seq)
	}
}

// resume continues to read a site's reports if there is room for them again.
func (r *reader) resume(site string) {
	if s := r.state(site); s != nil && s.resume(r.reports.room(site)) {
		r.SiteQueue.Add(site)
	}
}

// storeFloors stores the floors that have risen, and gives a turn to the sites that have work.
func (r *reader) storeFloors(ctx context.Context) {
	r.mu.Lock()
	all := make([]*siteState, 0, len(r.sites))
	for _, s := range r.sites {
		all = append(all, s)
	}
	for site := range r.unknown {
		if r.Sites.SiteExists(site) {
			delete(r.unknown, site)
			r.SiteQueue.Add(site)
		}
	}
	r.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(r.Workers)
	for _, s := range all {
		g.Go(func() error { r.storeFloor(ctx, s); return nil })
	}
	_ = g.Wait() // storeFloor logs
}

func (r *reader) storeFloor(ctx context.Context, s *siteState) {
	if !r.Sites.SiteExists(s.name) {
		r.SiteQueue.Add(s.name)
		return
	}
	s.mu.Lock()
	had := s.floor
	s.mu.Unlock()
	// The reports are looked at before the cursor: a report that is read meanwhile is beyond it.
	if seq := r.dealtWith(s); seq > had.seq {
		next, err := had.store(ctx, r.Hub.Bucket, r.Fence, s.name, s.created, seq)
		if isConflict(err) {
			// Another bridge has written it: what that one had dealt with is dealt with.
			if f, known := loadFloor(ctx, r.Hub.Bucket, s.name, s.created, seq); known == nil {
				f.seq = had.seq
				next = f
			}
		}
		if err != nil && ctx.Err() == nil {
			r.Log.Debug("progress of a site's reports not stored, retrying", zap.String("site", s.name), zap.Error(err))
		}
		s.mu.Lock()
		s.floor = next
		s.mu.Unlock()
	}
	if s.work(r.now()) {
		r.SiteQueue.Add(s.name)
	}
}

// dealtWith returns the sequence up to which a site's reports are dealt with.
func (r *reader) dealtWith(s *siteState) uint64 {
	cursor := s.dealtWith(0)
	return min(cursor, s.dealtWith(r.reports.firstWaiting(s.name)))
}

func isWrongRevision(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// process handles one report of a site. It reports whether parts of it are missing.
func (r *reader) process(ctx context.Context, s *siteState, d *table.Message) (incomplete bool, err error) {
	m, err := loadReport(ctx, s.stream, d)
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, streams.ErrSuperseded) {
		err = r.checkMissingParts(ctx, s, d, err)
	}
	switch {
	case errors.Is(err, streams.ErrSuperseded):
		return false, nil
	case errors.Is(err, errAwaited):
		return true, nil
	case errors.Is(err, errIncomplete), errors.Is(err, streams.ErrUndecodable):
		return false, r.reject(ctx, s, d, err)
	case err != nil:
		return false, err
	}
	if r.Limits.dropEvent(s.name, m) {
		s.discard(obsoleteMessage(d))
		return false, nil
	}
	if !r.accept(s.name, m, d) {
		return false, r.reject(ctx, s, d, r.Limits.refuseState(s.name, m.Ref))
	}
	s.supersede(m.Ref)
	return false, nil
}

var (
	// errAwaited marks a report whose missing parts are awaited, errIncomplete one whose parts
	// are lost.
	errAwaited    = errors.New("parts are awaited")
	errIncomplete = errors.New("incomplete")
)

// checkMissingParts decides about a report whose parts were not found. It returns
// streams.ErrSuperseded if there is a newer report, errAwaited while the parts may still be found,
// and then errIncomplete if the hub's leader does not have them either (a replica may lag).
func (r *reader) checkMissingParts(ctx context.Context, s *siteState, d *table.Message, err error) error {
	stream := streams.Reported(s.name)
	newest, known := r.Hub.LastMessage(ctx, stream, d.Subject)
	if known != nil {
		return known
	}
	if newest == nil || newest.Seq != d.Seq {
		return streams.ErrSuperseded
	}
	if r.now().Sub(d.Time) < maxPartsWait {
		return errAwaited
	}
	complete, known := hasParts(ctx, r.Hub, stream, newest)
	switch {
	case known != nil:
		return known
	case complete:
		return errAwaited
	}
	return fmt.Errorf("%w: %s, %v after the report was stored", errIncomplete, strings.TrimSuffix(err.Error(), "\n"), maxPartsWait)
}

// accept queues a report to be written. It returns false if the site cannot have it.
func (r *reader) accept(site string, m streams.Message, d *table.Message) bool {
	// Names that no node can have would take the places of the site's nodes.
	if m.Ref.Group == "" && (m.Ref.Resource == "nodes" || m.Ref.Resource == "pods") && writeback.CheckRef(m.Ref) == nil {
		nowAlive, connected := r.Liveness.Report(site, m.Ref.Node, storedAt(d), time.Now())
		if connected {
			r.Log.Info("site connected", zap.String("site", site))
			r.OnSiteConnected(site)
		}
		if nowAlive {
			r.nodesAlive(site, []string{m.Ref.Node})
		}
	}
	k := Key{site, m.Ref}
	if !r.reports.put(k, &report{seq: d.Seq, msg: m, stored: storedAt(d), pending: true}) {
		return false
	}
	r.Queue.Add(k)
	return true
}

// reject moves an unreadable message to QUARANTINE and schedules its removal.
func (r *reader) reject(ctx context.Context, s *siteState, d *table.Message, reason error) error {
	if err := r.quarantine.store(ctx, s.name, &nats.Msg{Subject: d.Subject, Header: d.Header, Data: d.Data}, reason); err != nil {
		return err
	}
	r.Log.Warn("report quarantined", zap.String("subject", d.Subject), zap.Uint64("seq", d.Seq), zap.Error(reason))
	why := reasonUndecodable
	switch {
	case errors.Is(reason, errIncomplete):
		why = reasonIncomplete
	case errors.Is(reason, kube.ErrRefused):
		why = reasonRefused
	}
	r.countQuarantined(s.name, why)
	s.discard(obsoleteMessage(d))
	return nil
}
