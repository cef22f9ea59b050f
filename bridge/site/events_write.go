package site

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	// seriesWindow is the time within which repetitions are counted in one Event.
	seriesWindow = 10 * time.Minute
	// eventsWaiting is the maximum number of Events that wait for the API server; the oldest
	// are dropped.
	eventsWaiting = 1000
)

// siteEvents writes Events about Sites. They are in the namespace default, as for all
// cluster-scoped objects. It retries while the API server is unavailable. It is not safe for
// concurrent use.
type eventWriter struct {
	client   kubernetes.Interface
	identity string
	log      *zap.Logger

	waiting []pendingEvent
	series  map[seriesKey]writtenEvent
	serial  int
	// dropping is true if the last Event was rejected.
	dropping bool
}

// pendingEvent is an Event that has not been written, with its name in the API.
type pendingEvent struct {
	name string
	site corev1.ObjectReference
	at   time.Time
	event
}

// seriesKey identifies the repetitions counted in one Event, which shows the last message.
type seriesKey struct {
	uid    types.UID
	reason string
}

// writtenEvent is an Event in the API.
type writtenEvent struct {
	name  string
	count int32
	last  time.Time
}

func newEventWriter(client kubernetes.Interface, identity string, log *zap.Logger) *eventWriter {
	return &eventWriter{client: client, identity: identity, log: log, series: map[seriesKey]writtenEvent{}}
}

// add queues Events about a site; flush writes them.
func (e *eventWriter) add(site *unstructured.Unstructured, at time.Time, events []event) {
	ref := corev1.ObjectReference{
		APIVersion: site.GetAPIVersion(), Kind: site.GetKind(), Name: site.GetName(), UID: site.GetUID(), ResourceVersion: site.GetResourceVersion(),
	}
	for _, ev := range events {
		e.serial++
		name := fmt.Sprintf("%s.%x.%x", site.GetName(), at.UnixNano(), e.serial)
		e.waiting = append(e.waiting, pendingEvent{name, ref, at, ev})
	}
	if n := len(e.waiting) - eventsWaiting; n > 0 {
		e.log.Warn("events about sites dropped, the API server does not take them", zap.Int("count", n))
		e.waiting = e.waiting[n:]
	}
}

// flush writes the queued Events in order, up to the first that fails. It drops Events that a
// quota or an admission policy rejects, so that they do not block the others.
func (e *eventWriter) flush(ctx context.Context) error {
	for len(e.waiting) > 0 {
		err := e.write(ctx, e.waiting[0])
		refused := refusedForGood(err)
		if err != nil && !refused {
			return fmt.Errorf("write event about site %s: %w", e.waiting[0].site.Name, err)
		}
		if refused && !e.dropping {
			e.log.Warn("events about sites dropped until the API server accepts one", zap.String("site", e.waiting[0].site.Name), zap.Error(err))
		}
		e.dropping = refused
		e.waiting = e.waiting[1:]
	}
	e.waiting = nil
	for k, w := range e.series {
		if time.Since(w.last) > seriesWindow {
			delete(e.series, k)
		}
	}
	return nil
}

func (e *eventWriter) write(ctx context.Context, h pendingEvent) error {
	k := seriesKey{h.site.UID, h.reason}
	at := metav1.NewTime(h.at)
	events := e.client.CoreV1().Events(metav1.NamespaceDefault)
	if w, ok := e.series[k]; ok && h.at.Sub(w.last) <= seriesWindow {
		patch, err := json.Marshal(map[string]any{"count": w.count + 1, "lastTimestamp": at, "message": h.message})
		if err != nil {
			return err
		}
		_, err = events.Patch(ctx, w.name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err == nil {
			e.series[k] = writtenEvent{w.name, w.count + 1, h.at}
			return nil
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	_, err := events.Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: h.name, Namespace: metav1.NamespaceDefault},
		InvolvedObject: h.site, Type: h.kind, Reason: h.reason, Message: h.message, Count: 1,
		FirstTimestamp: at, LastTimestamp: at,
		Source: corev1.EventSource{Component: "petiole-bridge", Host: e.identity}, ReportingController: "petiole.dev/bridge", ReportingInstance: e.identity,
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	e.series[k] = writtenEvent{h.name, 1, h.at}
	return nil
}

// refusedForGood reports whether the API server would reject a retry as well: a client error
// that does not depend on the time or on the object's version.
func refusedForGood(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	switch code := status.Status().Code; code {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return false
	default:
		return code >= 400 && code < 500
	}
}
