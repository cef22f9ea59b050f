package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/streams"
)

// errMoved reports that DESIRED holds something else on a subject than this bridge
// published last. The entry has been read anew; the caller tries again.
var errMoved = errors.New("desired stream was changed by another writer")

// publisher makes DESIRED equal to what each site needs. Changes of objects come in
// through changed, one worker applies them to the closure, and several workers publish
// sites: one site by one worker at a time, what a pod needs before the pod.
type publisher struct {
	hub   *hub
	watch *watch
	epoch string
	log   *zap.Logger
	count *counters

	objects workqueue.TypedRateLimitingInterface[objectKey]
	queue   workqueue.TypedRateLimitingInterface[string]

	mu        sync.Mutex
	closure   *closure
	published *published
	dirty     map[string]*dirtySite
}

type dirtySite struct {
	recompute bool
	keys      keySet
}

func newPublisher(w *watch, count *counters, log *zap.Logger) *publisher {
	return &publisher{
		watch: w, log: log, count: count, closure: newClosure(), published: newPublished(), dirty: map[string]*dirtySite{},
		objects: workqueue.NewTypedRateLimitingQueue(retryDelays[objectKey](publishRetry)),
		queue:   workqueue.NewTypedRateLimitingQueue(retryDelays[string](publishRetry)),
	}
}

// changed notes that an object is to be looked at.
func (p *publisher) changed(k objectKey) { p.objects.Add(k) }

// start takes over the objects that exist and what DESIRED held, and marks every site.
func (p *publisher) start(h *hub, epoch string, was *published) {
	p.hub, p.epoch = h, epoch
	for _, k := range p.watch.keys() {
		p.observe(k)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = was
	for site := range p.closure.sites {
		p.mark(site).recompute = true
	}
	for site, objects := range was.sites {
		d := p.mark(site)
		for k := range objects {
			d.keys[k] = struct{}{}
		}
	}
}

// run publishes until ctx ends.
func (p *publisher) run(ctx context.Context, workers int) {
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		p.objects.ShutDown()
		p.queue.ShutDown()
	})
	wg.Go(func() {
		for k, down := p.objects.Get(); !down; k, down = p.objects.Get() {
			p.observe(k)
			p.objects.Done(k)
		}
	})
	for range workers {
		wg.Go(func() {
			for site, down := p.queue.Get(); !down; site, down = p.queue.Get() {
				p.work(ctx, site)
				p.queue.Done(site)
			}
		})
	}
	wg.Wait()
}

func (p *publisher) work(ctx context.Context, site string) {
	err := p.publishSite(ctx, site)
	switch {
	case err == nil:
		p.queue.Forget(site)
	case ctx.Err() != nil:
	default:
		if p.queue.NumRequeues(site) == 0 && !errors.Is(err, errMoved) {
			p.log.Warn("publish interrupted, trying again", zap.String("site", site), zap.Error(err))
		}
		p.queue.AddRateLimited(site)
	}
}

// observe takes an object as it is now into the closure and marks the sites that its
// change concerns.
func (p *publisher) observe(k objectKey) {
	o := p.watch.get(k)
	var f facts
	if o != nil {
		var err error
		if f, err = factsOf(k, o); err != nil {
			p.log.Error("object not understood, its references are not followed", zap.Stringer("object", k.ref("")), zap.Error(err))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var sites []string
	if o != nil {
		sites = p.closure.set(k, f)
	} else {
		sites = p.closure.remove(k)
	}
	for _, s := range sites {
		p.mark(s).recompute = true
	}
	for _, s := range p.closure.sitesWanting(k) {
		p.mark(s).keys[k] = struct{}{}
	}
}

// mark returns the list of what is to be done for a site, and sees to it that it is
// done. The caller holds the lock.
func (p *publisher) mark(site string) *dirtySite {
	p.queue.Add(site)
	return p.list(site)
}

func (p *publisher) list(site string) *dirtySite {
	d := p.dirty[site]
	if d == nil {
		d = &dirtySite{keys: keySet{}}
		p.dirty[site] = d
	}
	return d
}

// remember keeps what could not be done; the caller sees to it that it is tried again.
func (p *publisher) remember(site string, left []task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.list(site)
	for _, t := range left {
		d.keys[t.key] = struct{}{}
	}
}

// task is one object to bring up to date at a site.
type task struct {
	key    objectKey
	node   string
	wanted bool
}

// plan takes what is marked for a site and orders it. known is false when there is no
// such Site.
func (p *publisher) plan(site string) (tasks []task, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.dirty[site]
	delete(p.dirty, site)
	if !p.closure.sites[site] {
		p.closure.recompute(site)
		return nil, false
	}
	if d == nil {
		return nil, true
	}
	if d.recompute {
		changed, dropped := p.closure.recompute(site)
		for _, k := range append(changed, dropped...) {
			d.keys[k] = struct{}{}
		}
	}
	for k := range d.keys {
		node, wanted := p.closure.node(site, k)
		tasks = append(tasks, task{k, node, wanted})
	}
	slices.SortFunc(tasks, func(a, b task) int {
		return cmp.Or(cmp.Compare(a.key.rank(), b.key.rank()), strings.Compare(a.key.Namespace, b.key.Namespace), strings.Compare(a.key.Name, b.key.Name))
	})
	return tasks, true
}

func (p *publisher) publishSite(ctx context.Context, site string) error {
	tasks, known := p.plan(site)
	if !known {
		return p.removeSite(ctx, site)
	}
	for i, t := range tasks {
		if err := p.publishObject(ctx, site, t); err != nil {
			p.remember(site, tasks[i:])
			return err
		}
	}
	return nil
}

// removeSite takes away what is left of a site without a Site object.
func (p *publisher) removeSite(ctx context.Context, site string) error {
	p.mu.Lock()
	left := len(p.published.sites[site])
	p.mu.Unlock()
	if left == 0 {
		return nil
	}
	if err := streams.RemoveSite(ctx, p.hub.js, site); err != nil {
		return err
	}
	p.mu.Lock()
	p.published.removeSite(site)
	p.mu.Unlock()
	p.log.Info("site removed", zap.String("site", site))
	return nil
}

// publishObject makes DESIRED hold the object as it is now, or a tombstone.
func (p *publisher) publishObject(ctx context.Context, site string, t task) error {
	p.mu.Lock()
	entries := maps.Clone(p.published.of(site, t.key))
	p.mu.Unlock()

	o := p.watch.get(t.key)
	subject := ""
	if t.wanted && o != nil {
		subject = streams.DesiredSubject(site, t.key.ref(t.node))
	}
	for _, e := range entries {
		if e.subject == subject || e.op == streams.OpDelete {
			continue
		}
		if err := p.tombstone(ctx, site, t.key, e); err != nil {
			return err
		}
	}
	if subject == "" {
		return nil
	}
	return p.publishBody(ctx, site, t, o, entries[subject])
}

func (p *publisher) publishBody(ctx context.Context, site string, t task, o *unstructured.Unstructured, was entry) error {
	data, hash, err := body(t.key, o)
	if err != nil {
		return err
	}
	uid := string(o.GetUID())
	if was.op == streams.OpPut && was.uid == uid && was.hash == hash && was.epoch == p.epoch {
		return nil
	}
	subject := streams.DesiredSubject(site, t.key.ref(t.node))
	m := streams.Message{
		Ref: t.key.ref(t.node), Op: streams.OpPut, UID: uid, Version: o.GetResourceVersion(), Epoch: p.epoch, Hash: hash, Object: data,
	}
	seq, err := p.put(ctx, site, t.key, subject, m, was.seq)
	if err != nil {
		return err
	}
	p.record(site, t.key, entry{
		subject: subject, op: m.Op, uid: uid, version: m.Version, epoch: m.Epoch, hash: hash, seq: seq,
		parts: was.parts || int64(len(data)) > p.hub.nc.MaxPayload()/2,
	})
	p.count.published.Add(1)
	return nil
}

func (p *publisher) tombstone(ctx context.Context, site string, k objectKey, was entry) error {
	_, ref, err := streams.ParseDesired(was.subject)
	if err != nil {
		return err
	}
	m := streams.Message{Ref: ref, Op: streams.OpDelete, UID: was.uid, Version: was.version, Epoch: p.epoch}
	seq, err := p.put(ctx, site, k, was.subject, m, was.seq)
	if err != nil {
		return err
	}
	if was.parts {
		if err := p.hub.desired.Purge(ctx, jetstream.WithPurgeSubject(was.subject+".>")); err != nil {
			return fmt.Errorf("purge parts of %s: %w", ref, err)
		}
	}
	p.record(site, k, entry{subject: was.subject, op: streams.OpDelete, uid: was.uid, version: was.version, epoch: p.epoch, seq: seq})
	p.count.tombstones.Add(1)
	return nil
}

// put stores m if the subject still holds what this bridge knows of, so that a former
// leader that wakes up late changes nothing.
func (p *publisher) put(ctx context.Context, site string, k objectKey, subject string, m streams.Message, last uint64) (uint64, error) {
	seq, err := streams.Put(ctx, p.hub.js, subject, m, jetstream.WithExpectLastSequencePerSubject(last))
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence && api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequenceConstant {
		return seq, err
	}
	msg, gerr := p.hub.desired.GetLastMsgForSubject(ctx, subject)
	switch {
	case errors.Is(gerr, jetstream.ErrMsgNotFound):
		p.mu.Lock()
		p.published.remove(site, k, subject)
		p.mu.Unlock()
	case gerr != nil:
		return 0, fmt.Errorf("read %s: %w", subject, gerr)
	default:
		p.record(site, k, entryOf(subject, msg.Header, msg.Sequence))
	}
	return 0, fmt.Errorf("%s: %w", m.Ref, errMoved)
}

func (p *publisher) record(site string, k objectKey, e entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published.put(site, k, e)
}

// sweep removes the tombstones that the site has stored: its acknowledgement floor
// has passed them.
func (p *publisher) sweep(ctx context.Context, site string, floor uint64) error {
	p.mu.Lock()
	passed := p.published.passed(site, floor)
	p.mu.Unlock()
	for k, entries := range passed {
		for _, e := range entries {
			if err := p.hub.desired.DeleteMsg(ctx, e.seq); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
				return fmt.Errorf("remove tombstone of %s: %w", k.ref(""), err)
			}
			p.mu.Lock()
			if now := p.published.of(site, k)[e.subject]; now.seq == e.seq {
				p.published.remove(site, k, e.subject)
			}
			p.mu.Unlock()
		}
	}
	return nil
}

// siteNodes are the nodes of every Site there is.
func (p *publisher) siteNodes() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string][]string, len(p.closure.sites))
	for s := range p.closure.sites {
		out[s] = p.closure.nodes(s)
	}
	return out
}

// siteExists says whether there is a Site of that name.
func (p *publisher) siteExists(site string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closure.sites[site]
}

// podsOn are the pods bound to a node.
func (p *publisher) podsOn(node string) []objectKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pods []objectKey
	for k := range p.closure.bound[node] {
		if k.Resource == "pods" {
			pods = append(pods, k)
		}
	}
	return pods
}
