package reported

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/bridge/liveness"
	"github.com/petiole-io/petiole/bridge/writeback"
	"github.com/petiole-io/petiole/streams"
)

// Writer writes reports to the API server.
type Writer interface {
	// Write writes one report. It returns nil if the API server has the reported state.
	Write(ctx context.Context, r writeback.Report) error
	// Exists reports whether the object of a report exists in the API.
	Exists(r streams.Ref) bool
	// Owns reports whether the object of a report exists and is bound to a node of the site.
	Owns(site string, ref streams.Ref) bool
}

// Sites knows which Sites exist.
type Sites interface {
	SiteExists(site string) bool
}

// Config is what a Reconciler needs.
type Config struct {
	Hub      *hub.Hub
	Sites    Sites
	Liveness *liveness.Tracker
	Fence    *lease.Fence
	Writer   Writer
	// Queue holds the reports to write, on a queue of NewQueue; SiteQueue holds the sites that have
	// something to do. Each is read by Workers workers.
	Queue     workqueue.TypedRateLimitingInterface[Key]
	SiteQueue workqueue.TypedRateLimitingInterface[string]
	Workers   int
	Limits    Limits
	Counters  *Counters
	Log       *zap.Logger
	// Report is called with the result of each write, OnQuarantined for each report of a site
	// that is moved to QUARANTINE, OnSiteConnected when a report shows that a site is
	// connected. None may block.
	Report          func(error)
	OnQuarantined   func(site, reason string)
	OnSiteConnected func(site string)

	now func() time.Time
}

// countQuarantined counts a quarantined report.
func (c Config) countQuarantined(site, reason string) {
	c.Counters.Quarantined.Add(1)
	if site != "" {
		c.OnQuarantined(site, reason)
	}
}

// Counters count what happened to reports.
type Counters struct {
	// Accepted counts the reports that the API server accepted, Dropped those about objects
	// that were deleted or replaced, Quarantined those that were unreadable or refused,
	// UnknownSite the turns of sites without a Site object, Deferred the turns in which nothing
	// was read because too many reports of the site waited for the API server.
	Accepted, Dropped, Quarantined, UnknownSite, Deferred atomic.Uint64
	// Conflicts counts the writes that the API server rejected because the object had changed,
	// GCRounds the rounds that remove obsolete reports.
	Conflicts, GCRounds atomic.Uint64
}

// Reconciler writes the newest report about each object to the API server. Create it with New.
type Reconciler struct {
	reader     *reader
	dispatcher *dispatcher
}

// New returns a reconciler that has not started.
func New(cfg Config) *Reconciler {
	if cfg.now == nil {
		cfg.now = time.Now
	}
	r := &Reconciler{}
	r.reader = newReader(cfg, newReports(), newQuarantine(cfg.Hub, cfg.Log), r.NodesAlive)
	r.dispatcher = &dispatcher{Config: cfg, reports: r.reader.reports, rejected: r.reader.quarantine, obsolete: r.reader.obsolete, retain: r.reader.retain, resume: r.reader.resume}
	return r
}

// Recover reads what the sites' streams hold. It must be called once before Run.
func (r *Reconciler) Recover(ctx context.Context) error { return r.reader.recover(ctx) }

// lastFloorsWait bounds the time that Run takes after ctx ended.
const lastFloorsWait = time.Second

// Run reads and writes reports until ctx ends. Then it records what is dealt with, so that the
// next bridge does not take as new what this one has written.
func (r *Reconciler) Run(ctx context.Context) error {
	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { r.dispatcher.run(running); return nil })
	g.Go(func() error { return r.reader.run(running) })
	err := g.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFloorsWait)
	defer cancel()
	r.reader.storeFloors(last)
	return err
}

// Close shuts down the queues of a reconciler that Run was not called for.
func (r *Reconciler) Close() {
	r.reader.Queue.ShutDown()
	r.reader.SiteQueue.ShutDown()
}

// ObjectChanged schedules the reports about an object, because it changed in the API. It does
// not block, nor do the following methods.
func (r *Reconciler) ObjectChanged(o kube.Key) {
	for _, k := range r.reader.reports.ofObject(o) {
		r.reader.Queue.Add(k)
	}
}

// NodesAlive schedules the reports about nodes that are alive again: the nodes first, then
// their pods.
func (r *Reconciler) NodesAlive(site string, nodes []string) {
	keys := slices.DeleteFunc(r.reader.reports.ofSite(site), func(k Key) bool { return !slices.Contains(nodes, k.Ref.Node) })
	slices.SortFunc(keys, func(a, b Key) int { return kube.KeyOf(a.Ref).Rank() - kube.KeyOf(b.Ref).Rank() })
	for _, k := range keys {
		r.reader.Queue.Add(k)
	}
}

// NodesDead schedules the reports about the nodes themselves, whose kubelets have died.
func (r *Reconciler) NodesDead(site string, nodes []string) {
	for _, k := range r.reader.reports.ofSite(site) {
		if k.Ref.Group == "" && k.Ref.Resource == "nodes" && slices.Contains(nodes, k.Ref.Node) {
			r.reader.Queue.Add(k)
		}
	}
}

// SiteChanged schedules the reports about a site's nodes and devices, because it connected or
// disconnected.
func (r *Reconciler) SiteChanged(site string) {
	for _, k := range r.reader.reports.ofSite(site) {
		switch {
		case k.Ref.Group == "" && k.Ref.Resource == "nodes", k.Ref.Group == kube.DeviceGroup && k.Ref.Resource == "devicestatuses":
			r.reader.Queue.Add(k)
		}
	}
}

// HasReport reports whether there is a report about an object.
func (r *Reconciler) HasReport(o kube.Key) bool { return len(r.reader.reports.ofObject(o)) > 0 }
