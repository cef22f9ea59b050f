package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
)

const (
	// surveyInterval is how often the positions of the sites are read.
	surveyInterval = 2 * time.Second
	// surveySpacing is how soon after a round another may be asked for.
	surveySpacing = 200 * time.Millisecond
)

// errHubReplaced reports that the hub's streams are not those that this bridge has
// read: its memory of them is void, and it starts again.
var errHubReplaced = errors.New("the hub's streams were replaced")

// survey keeps one durable consumer for each Site, reads how far each site is, and
// writes it to the Site's status.
type survey struct {
	hub      *hub
	clients  *clients
	watch    *watch
	publish  *publisher
	presence *presence
	log      *zap.Logger
	outage   *outage
	// poke asks for a round at once.
	poke chan struct{}

	ensured map[string]bool
}

// now asks for a round at once. It does not block.
func (s *survey) now() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// run makes rounds until ctx ends. With many sites it slows down, so that reading
// positions takes at most a tenth of the time.
func (s *survey) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.poke:
		case <-timer.C:
		}
		start := time.Now()
		err := s.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errHubReplaced) {
			return err
		}
		s.outage.report(err)
		rest := max(surveySpacing, 10*time.Since(start))
		timer.Reset(max(surveyInterval, rest))
		if !pause(ctx, rest) {
			return nil
		}
	}
}

func (s *survey) round(ctx context.Context) error {
	if err := s.sameHub(ctx); err != nil {
		return err
	}
	found := map[string]*jetstream.ConsumerInfo{}
	list := s.hub.desired.ListConsumers(ctx)
	for info := range list.Info() {
		found[info.Name] = info
	}
	if err := list.Err(); err != nil {
		return fmt.Errorf("list consumers of %s: %w", streams.Desired, err)
	}
	sites := s.publish.siteNodes()
	for name, info := range found {
		if _, ok := sites[name]; !ok && info.Config.DeliverSubject == streams.SyncSubject(name) {
			if err := streams.RemoveSite(ctx, s.hub.js, name); err != nil {
				return err
			}
			s.presence.forget(name)
			delete(s.ensured, name)
		}
	}
	var errs []error
	for site, nodes := range sites {
		if err := s.site(ctx, site, len(nodes), found[site]); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// sameHub finds out whether the streams are still those that were recovered from.
func (s *survey) sameHub(ctx context.Context) error {
	for _, w := range []struct {
		stream jetstream.Stream
		id     time.Time
	}{{s.hub.desired, s.hub.desiredID}, {s.hub.reported, s.hub.reportedID}} {
		info, err := w.stream.Info(ctx)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return errHubReplaced
		case err != nil:
			return fmt.Errorf("read stream: %w", err)
		case !info.Created.Equal(w.id):
			return errHubReplaced
		}
	}
	return nil
}

func (s *survey) site(ctx context.Context, site string, nodes int, info *jetstream.ConsumerInfo) error {
	if info == nil || !s.ensured[site] {
		if err := streams.EnsureConsumer(ctx, s.hub.js, streams.Desired, streams.SiteConsumer(site)); err != nil {
			return err
		}
		s.ensured[site] = true
		cons, err := s.hub.desired.PushConsumer(ctx, site)
		if err != nil {
			return fmt.Errorf("read consumer %s: %w", site, err)
		}
		info = cons.CachedInfo()
	}
	if err := s.publish.sweep(ctx, site, info.AckFloor.Stream); err != nil {
		return err
	}
	return s.writeStatus(ctx, site, nodes, info)
}

func (s *survey) writeStatus(ctx context.Context, site string, nodes int, info *jetstream.ConsumerInfo) error {
	o := s.watch.get(objectKey{Group: siteGroup, Resource: "sites", Name: site})
	if o == nil {
		return nil
	}
	var current v1alpha1.Site
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &current); err != nil {
		return fmt.Errorf("read site %s: %w", site, err)
	}
	status := current.Status.DeepCopy()
	connected, since, last := s.presence.of(site)
	if since.IsZero() {
		since = current.CreationTimestamp.Time
	}
	position{
		connected: connected, since: since, last: last, nodes: nodes,
		pending: int64(info.NumPending) + int64(info.NumAckPending), lastAck: info.AckFloor.Last,
	}.apply(status)
	if status.Pending == 0 {
		status.OldestPending = nil
	} else if at, err := s.oldestPending(ctx, site, info.AckFloor.Stream); err != nil {
		return err
	} else if at != nil {
		status.OldestPending = at
	}
	if equality.Semantic.DeepEqual(*status, current.Status) {
		return nil
	}
	return s.patchStatus(ctx, o, status)
}

// oldestPending is when the first object that the site has not stored was published.
func (s *survey) oldestPending(ctx context.Context, site string, floor uint64) (*metav1.Time, error) {
	msg, err := s.hub.desired.GetMsg(ctx, floor+1, jetstream.WithGetMsgSubject(streams.DesiredFilter(site)))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read oldest pending of site %s: %w", site, err)
	}
	return wireTime(msg.Time), nil
}

// patchStatus writes what differs from the object as it is served: a field that is not
// there yet is written even when its value is zero.
func (s *survey) patchStatus(ctx context.Context, o *unstructured.Unstructured, status *v1alpha1.SiteStatus) error {
	site := o.GetName()
	was, err := json.Marshal(map[string]any{"status": o.Object["status"]})
	if err != nil {
		return fmt.Errorf("encode status of site %s: %w", site, err)
	}
	is, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": o.GetUID()}, "status": status})
	if err != nil {
		return fmt.Errorf("encode status of site %s: %w", site, err)
	}
	patch, err := mergePatch(was, is)
	if err != nil {
		return fmt.Errorf("compare status of site %s: %w", site, err)
	}
	gvr := v1alpha1.GroupVersion.WithResource("sites")
	_, err = s.clients.dynamic.Resource(gvr).Patch(ctx, site, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // deleted or recreated; its own event follows
	}
	if err != nil {
		return fmt.Errorf("write status of site %s: %w", site, err)
	}
	return nil
}

// position is what the bridge knows of a site at one moment.
type position struct {
	connected bool
	since     time.Time
	last      streams.Presence
	nodes     int
	pending   int64
	lastAck   *time.Time
}

// apply makes a status say it. What only the leaf knows stays as it was until the leaf
// is heard.
func (p position) apply(status *v1alpha1.SiteStatus) {
	status.Connected, status.Since, status.Nodes, status.Pending = p.connected, wireTime(p.since), int32(p.nodes), p.pending
	if p.lastAck != nil {
		status.LastAck = wireTime(*p.lastAck)
	}
	if !p.last.Time.IsZero() {
		status.Version, status.Applied, status.Quarantined = p.last.Version, int64(p.last.Applied), int64(p.last.Quarantined)
	}
	c := metav1.Condition{Type: v1alpha1.ConditionConnected, Status: metav1.ConditionTrue, Reason: "Heard", Message: "the leaf sends heartbeats", LastTransitionTime: *status.Since}
	if !p.connected {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, "Silent", "no heartbeat of the leaf arrives"
	}
	meta.SetStatusCondition(&status.Conditions, c)
}

// wireTime is a time as the API carries it: whole seconds.
func wireTime(t time.Time) *metav1.Time {
	m := metav1.NewTime(t.Truncate(time.Second).Local())
	return &m
}

// siteStatusOf reads what an earlier bridge wrote.
func siteStatusOf(o *unstructured.Unstructured) (connected bool, since time.Time) {
	var site v1alpha1.Site
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &site); err != nil || site.Status.Since == nil {
		return false, time.Time{}
	}
	return site.Status.Connected, site.Status.Since.Time
}
