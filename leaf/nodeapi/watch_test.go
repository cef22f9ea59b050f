package nodeapi

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/petiole-io/petiole/streams"
)

// events collects the events of a watch.
type events struct {
	mu  sync.Mutex
	all []watch.Event
}

func collect(t *testing.T, w watch.Interface) *events {
	e := &events{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ev := range w.ResultChan() {
			e.mu.Lock()
			e.all = append(e.all, ev)
			e.mu.Unlock()
		}
	}()
	t.Cleanup(func() { w.Stop(); <-done })
	return e
}

// kinds returns the events as TYPE/name/uid.
func (e *events) kinds() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, ev := range e.all {
		if acc, ok := ev.Object.(metav1.ObjectMetaAccessor); ok && ev.Type != watch.Bookmark {
			m := acc.GetObjectMeta()
			out = append(out, fmt.Sprintf("%s/%s/%s", ev.Type, m.GetName(), m.GetUID()))
			continue
		}
		out = append(out, string(ev.Type))
	}
	return strings.Join(out, " ")
}

func TestStreamingListEndsWithBookmark(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	l.pod(newPod("b", "u2", "11"))
	r := l.start(t.TempDir())
	encodings(t, r, func(t *testing.T, c kubernetes.Interface) {
		yes := true
		w, err := c.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{
			SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
			AllowWatchBookmarks: true, FieldSelector: "spec.nodeName=" + node,
		})
		must(t, err)
		got := collect(t, w)
		eventually(t, "initial events and bookmark", func() bool { return got.kinds() == "ADDED/a/u1 ADDED/b/u2 BOOKMARK" })
		got.mu.Lock()
		m := got.all[2].Object.(*corev1.Pod)
		got.mu.Unlock()
		if m.Annotations[metav1.InitialEventsAnnotationKey] != "true" || m.ResourceVersion == "" {
			t.Errorf("bookmark = %+v", m.ObjectMeta)
		}
	})
}

func TestInformersFollow(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.configMap(newConfigMap("before", "u1", "10", "x"))
	r := l.start(t.TempDir())
	encodings(t, r, func(t *testing.T, c kubernetes.Interface) {
		stop, cancel := context.WithCancel(t.Context())
		f := informers.NewSharedInformerFactory(c, 0)
		inf := f.Core().V1().ConfigMaps().Informer()
		f.Start(stop.Done())
		defer f.Shutdown()
		defer cancel()
		if !cache.WaitForCacheSync(stop.Done(), inf.HasSynced) {
			t.Fatal("no sync")
		}
		name := "after-" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
		value := func(want string) func() bool {
			return func() bool {
				o, ok, _ := inf.GetStore().GetByKey("default/" + name)
				return ok == (want != "") && (!ok || o.(*corev1.ConfigMap).Data["key"] == want)
			}
		}
		l.configMap(newConfigMap(name, "n", "20", "one"))
		eventually(t, "added", value("one"))
		l.configMap(newConfigMap(name, "n", "21", "two"))
		eventually(t, "modified", value("two"))
		l.send(streams.Ref{Resource: "configmaps", Namespace: "default", Name: name}, streams.OpDelete, "n", "22", nil)
		eventually(t, "deleted", value(""))
		if _, ok, _ := inf.GetStore().GetByKey("default/before"); !ok {
			t.Error("the object from before is missing")
		}
	})
}

func TestWatchFromUnknownVersionIsExpired(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	dir := t.TempDir()
	r := l.start(dir)
	pods, err := r.json().CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	old := pods.ResourceVersion
	r.stop()
	r = l.start(dir)
	for _, rv := range []string{old, "1", "99999999999999999"} {
		_, err := r.proto().CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: rv})
		if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			t.Errorf("watch from %s: %v, want expired", rv, err)
		}
	}
	again, err := r.json().CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	if again.ResourceVersion <= old {
		t.Errorf("version %s after a restart, %s before", again.ResourceVersion, old)
	}
}

func TestWatchResumesWithinHistory(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	r := l.start(t.TempDir())
	c := r.json()
	list, err := c.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	// One at a time: the stream keeps the last message of a subject only.
	r.applied(l.configMap(newConfigMap("a", "u1", "10", "1")))
	r.applied(l.configMap(newConfigMap("a", "u1", "11", "2")))
	w, err := c.CoreV1().ConfigMaps("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	must(t, err)
	got := collect(t, w)
	eventually(t, "both events", func() bool { return got.kinds() == "ADDED/a/u1 MODIFIED/a/u1" })
	for i := range 300 { // more than the history holds
		l.configMap(newConfigMap(fmt.Sprint("n", i), fmt.Sprint("n", i), fmt.Sprint(100+i), ""))
	}
	r.applied(l.configMap(newConfigMap("b", "u2", "1000", "")))
	if _, err := c.CoreV1().ConfigMaps("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion}); !apierrors.IsResourceExpired(err) {
		t.Errorf("watch from before the history: %v, want expired", err)
	}
}

func TestWatchEndsWithItsTimeAndABookmark(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	r := l.start(t.TempDir())
	one := int64(1)
	w, err := r.proto().CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{TimeoutSeconds: &one, AllowWatchBookmarks: true})
	must(t, err)
	defer w.Stop()
	var last watch.EventType
	end := time.After(wait)
	for {
		select {
		case ev, ok := <-w.ResultChan():
			if !ok {
				if last != watch.Bookmark {
					t.Errorf("last event is %q, want a bookmark", last)
				}
				return
			}
			last = ev.Type
		case <-end:
			t.Fatal("the watch did not end")
		}
	}
}

func TestSelectorTransitions(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	r := l.start(t.TempDir())
	w, err := r.json().CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{LabelSelector: "color=red"})
	must(t, err)
	got := collect(t, w)
	color := func(c string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Labels = map[string]string{"color": c} }
	}
	r.applied(l.pod(newPod("a", "u1", "10", color("blue"))))
	r.applied(l.pod(newPod("a", "u1", "11", color("red"))))
	r.applied(l.pod(newPod("a", "u1", "12", color("red"), func(p *corev1.Pod) { p.Spec.Priority = new(int32) })))
	r.applied(l.pod(newPod("a", "u1", "13", color("blue"))))
	eventually(t, "transitions", func() bool { return got.kinds() == "ADDED/a/u1 MODIFIED/a/u1 DELETED/a/u1" })
}

func TestQuietWatchOutlivesTheWriteDeadline(t *testing.T) {
	defer func(d time.Duration) { writeTimeout = d }(writeTimeout)
	writeTimeout = 200 * time.Millisecond
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10"))
	r := l.start(t.TempDir())
	defer r.stop()
	w, err := r.proto().CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	must(t, err)
	got := collect(t, w)
	quiet := time.After(3 * writeTimeout)
	eventually(t, "initial event", func() bool { return got.kinds() == "ADDED/a/u1" })
	<-quiet
	l.pod(newPod("b", "u2", "11"))
	eventually(t, "event after a pause", func() bool { return got.kinds() == "ADDED/a/u1 ADDED/b/u2" })
}
