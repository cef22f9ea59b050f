package site

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

const (
	// backlogLife is the age at which a Backlog is deleted, answered or not.
	backlogLife = time.Minute
	// backlogWait is the timeout for the hub.
	backlogWait = 5 * time.Second
)

// BacklogsConfig is what Backlogs need.
type BacklogsConfig struct {
	Hub    *hub.Hub
	Client dynamic.Interface
	// SiteExists reports whether a Site with that name exists.
	SiteExists func(site string) bool
	// Queue holds the names of the Backlogs to answer.
	Queue workqueue.TypedRateLimitingInterface[string]
	// Report is called with the result of each answer, ReportWatch with that of each request
	// of the watch.
	Report      func(error)
	ReportWatch func(part string, err error)
}

// Backlogs answers Backlog objects with the objects that a site has not stored. It reads
// headers from the hub, one Backlog at a time.
type Backlogs struct {
	cfg BacklogsConfig

	// requests holds the known Backlogs by name; only the worker uses it.
	requests map[string]backlogRequest
}

// NewBacklogs returns a reader of backlogs that has not started.
func NewBacklogs(cfg BacklogsConfig) *Backlogs {
	return &Backlogs{cfg: cfg, requests: map[string]backlogRequest{}}
}

// Close shuts down the queue of a reader that Run was not called for.
func (b *Backlogs) Close() { b.cfg.Queue.ShutDown() }

// backlogRequest is a Backlog and when this bridge first saw it, by its own clock.
type backlogRequest struct {
	uid types.UID
	at  time.Time
}

// Run answers Backlogs until ctx ends.
func (b *Backlogs) Run(ctx context.Context) error {
	informer, err := kube.NewInformer(b.cfg.Client, v1alpha1.Backlogs, kube.Requests{Answered: func() {}, Report: b.cfg.ReportWatch})
	if err != nil {
		return err
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if o, ok := obj.(*unstructured.Unstructured); ok {
				b.cfg.Queue.Add(o.GetName())
			}
		},
	}); err != nil {
		return fmt.Errorf("prepare watch of backlogs: %w", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { informer.RunWithContext(ctx) })
	wg.Go(func() {
		<-ctx.Done()
		b.cfg.Queue.ShutDown()
	})
	wg.Go(func() {
		for name, down := b.cfg.Queue.Get(); !down; name, down = b.cfg.Queue.Get() {
			b.process(ctx, informer, name)
			b.cfg.Queue.Done(name)
		}
	})
	wg.Wait()
	return nil
}

// process answers a Backlog, or deletes it if it has expired.
func (b *Backlogs) process(ctx context.Context, informer cache.SharedIndexInformer, name string) {
	obj, found, err := informer.GetStore().GetByKey(name)
	o, ok := obj.(*unstructured.Unstructured)
	if err != nil || !found || !ok {
		b.cfg.Queue.Forget(name)
		delete(b.requests, name)
		return
	}
	left := b.remaining(o, time.Now())
	if left <= 0 {
		err = b.remove(ctx, o)
	} else {
		err = b.answer(ctx, o)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		b.cfg.Report(err)
		b.cfg.Queue.AddRateLimited(name)
	default:
		b.cfg.Report(nil)
		b.cfg.Queue.Forget(name)
		if left > 0 {
			b.cfg.Queue.AddAfter(name, left+time.Second)
		} else {
			delete(b.requests, name)
		}
	}
}

// remaining returns the time until a Backlog expires. It counts from when this bridge first
// saw it, because the API server's clock may differ.
func (b *Backlogs) remaining(o *unstructured.Unstructured, now time.Time) time.Duration {
	q := b.requests[o.GetName()]
	if q.uid != o.GetUID() {
		q = backlogRequest{o.GetUID(), now}
		b.requests[o.GetName()] = q
	}
	return backlogLife - now.Sub(q.at)
}

func (b *Backlogs) remove(ctx context.Context, o *unstructured.Unstructured) error {
	uid := o.GetUID()
	err := b.cfg.Client.Resource(v1alpha1.Backlogs).Delete(ctx, o.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete backlog %s: %w", o.GetName(), err)
	}
	return nil
}

// answer writes the status of a Backlog that has none yet.
func (b *Backlogs) answer(ctx context.Context, o *unstructured.Unstructured) error {
	var q v1alpha1.Backlog
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &q); err != nil {
		return fmt.Errorf("read backlog %s: %w", o.GetName(), err)
	}
	if q.Status.Time != nil {
		return nil
	}
	var status v1alpha1.BacklogStatus
	if b.cfg.SiteExists(q.Spec.Site) {
		wait, cancel := context.WithTimeout(ctx, backlogWait)
		defer cancel()
		var err error
		if status, err = b.list(wait, q.Spec); err != nil {
			status = v1alpha1.BacklogStatus{Error: err.Error()}
		}
	} else {
		status.Error = fmt.Sprintf("there is no Site %s", q.Spec.Site)
	}
	if ctx.Err() != nil {
		return nil
	}
	status.Time = wireTime(time.Now())
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": o.GetUID()}, "status": status})
	if err != nil {
		return fmt.Errorf("encode backlog %s: %w", o.GetName(), err)
	}
	_, err = b.cfg.Client.Resource(v1alpha1.Backlogs).Patch(ctx, o.GetName(), types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("answer backlog %s: %w", o.GetName(), err)
	}
	return nil
}

// list lists the messages of DESIRED that a site has not acknowledged.
func (b *Backlogs) list(ctx context.Context, q v1alpha1.BacklogSpec) (v1alpha1.BacklogStatus, error) {
	var status v1alpha1.BacklogStatus
	consumer, err := b.cfg.Hub.Desired.Consumer(ctx, q.Site)
	if err != nil {
		return status, fmt.Errorf("read consumer %s: %w", q.Site, err)
	}
	info := consumer.CachedInfo()
	status.Pending = int64(info.NumPending) + int64(info.NumAckPending)
	after := max(uint64(q.After), info.AckFloor.Stream)
	limit := int(q.Limit)
	if limit == 0 {
		limit = v1alpha1.BacklogLimit
	}
	last, more, err := readHeaders(ctx, b.cfg.Hub, streams.DesiredFilter(q.Site), after+1, limit, func(msg jetstream.Msg, seq uint64, at time.Time) {
		if object, ok := pendingObject(msg, seq, at); ok {
			status.Items = append(status.Items, object)
		}
	})
	if err != nil {
		return status, fmt.Errorf("read backlog of %s: %w", q.Site, err)
	}
	if more {
		status.Next = int64(last)
	}
	return status, nil
}

// pendingObject returns the object of a message by its headers. It returns false for a part of
// a large object and for a subject that does not belong to the protocol.
func pendingObject(msg jetstream.Msg, seq uint64, at time.Time) (v1alpha1.PendingObject, bool) {
	if streams.IsPart(msg.Subject()) {
		return v1alpha1.PendingObject{}, false
	}
	_, ref, err := streams.ParseDesired(msg.Subject())
	if err != nil {
		return v1alpha1.PendingObject{}, false
	}
	change := streams.OpPut
	if streams.Op(msg.Headers().Get(streams.HeaderOp)) == streams.OpDelete {
		change = streams.OpDelete
	}
	// Without the body, this header has its length.
	size, err := strconv.ParseInt(msg.Headers().Get(nats.MsgSize), 10, 64)
	if err != nil {
		size = int64(len(msg.Data()))
	}
	return v1alpha1.PendingObject{
		Group: ref.Group, Resource: ref.Resource, Namespace: ref.Namespace, Name: ref.Name, Node: ref.Node,
		Change: string(change), Published: *wireTime(at), Bytes: size, Sequence: int64(seq),
	}, true
}

// readHeaders calls handle for up to limit messages of DESIRED, from a sequence on. It returns
// the last sequence read and whether there are more.
func readHeaders(ctx context.Context, h *hub.Hub, filter string, from uint64, limit int, handle func(msg jetstream.Msg, seq uint64, at time.Time)) (last uint64, more bool, err error) {
	consumer, err := h.JS.CreateConsumer(ctx, streams.Desired, jetstream.ConsumerConfig{
		Description: "reads a backlog", FilterSubject: filter, HeadersOnly: true,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return 0, false, err
	}
	defer func() {
		// It would expire by itself, but until then it would be listed among the sites'
		// consumers.
		_ = h.JS.DeleteConsumer(context.WithoutCancel(ctx), streams.Desired, consumer.CachedInfo().Name)
	}()
	left := consumer.CachedInfo().NumPending
	if left == 0 {
		return 0, false, nil
	}
	batch, err := consumer.Fetch(int(min(left, uint64(limit))), jetstream.FetchMaxWait(backlogWait/2))
	if err != nil {
		return 0, false, err
	}
	for msg := range batch.Messages() {
		meta, err := msg.Metadata()
		if err != nil {
			return 0, false, err
		}
		handle(msg, meta.Sequence.Stream, meta.Timestamp)
		last, left = meta.Sequence.Stream, meta.NumPending
	}
	if err := batch.Error(); err != nil && !errors.Is(err, jetstream.ErrNoMessages) {
		return 0, false, err
	}
	if last > 0 {
		return last, left > 0, nil
	}
	return 0, false, confirmEmpty(ctx, consumer)
}

// confirmEmpty returns nil if a consumer that received nothing has nothing pending: the
// messages may have been removed meanwhile.
func confirmEmpty(ctx context.Context, consumer jetstream.Consumer) error {
	now, err := consumer.Info(ctx)
	if err != nil {
		return err
	}
	if now.NumPending > 0 {
		return errHubSentNothing
	}
	return nil
}

// errHubSentNothing reports that the hub sent none of its pending messages.
var errHubSentNothing = errors.New("the hub did not send its pending messages, try again")
