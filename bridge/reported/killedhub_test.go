package reported

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/streams"
)

// shown records the messages of the pods' statuses that an API server was sent.
type shown struct {
	mu   sync.Mutex
	sent []string
}

func (s *shown) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	var pod corev1.Pod
	if r.Method == http.MethodPatch && json.NewDecoder(r.Body).Decode(&pod) == nil {
		s.mu.Lock()
		s.sent = append(s.sent, pod.Status.Message)
		s.mu.Unlock()
	}
	accepts(rw, r)
}

func (s *shown) messages() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sent)
}

// newest returns the sequence of what the stream of plant-a has on a subject, 0 for nothing.
func (w *writing) newest(ref streams.Ref) uint64 {
	w.t.Helper()
	m, err := w.hub.LastMessage(w.t.Context(), streams.Reported("plant-a"), streams.ReportedSubject("plant-a", ref))
	if err != nil {
		w.t.Fatal(err)
	}
	if m == nil {
		return 0
	}
	return m.Seq
}

// replace gives the pod another UID.
func (w *writing) replace(uid types.UID) {
	k := kube.CoreKey("pods", "default", "web")
	w.cluster.set(k, map[string]any{"spec": map[string]any{"nodeName": "a1"}})
	w.cluster.mu.Lock()
	w.cluster.all[k].SetUID(uid)
	w.cluster.mu.Unlock()
	w.ObjectChanged(k)
}

// killed returns the reconciler of the next bridge, after the hub was killed.
func (w *writing) killed() *writing {
	w.t.Helper()
	w.server.Kill(w.t)
	w.server.Start(w.t)
	w.connect()
	return w.successor()
}

// A hub that is killed brings back what a report that was removed had superseded. It is not
// written when its object is there again, such as after a restore of etcd.
func TestKilledHubBringsNoOlderStateBack(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(w *writing){
		"after another pod had the name": func(w *writing) { w.replace("uid-other") },
		"after the site had deleted the pod": func(w *writing) {
			w.report(streams.Message{Ref: podOf("web"), Op: streams.OpDelete, UID: "uid-web"}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := &shown{}
			w := startWriting(t, api.ServeHTTP)
			w.cluster.addSite("plant-a", "a1", "db")
			if err := w.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			stop := w.start()
			for _, message := range []string{"first", "second"} {
				w.say(message)
				w.await(message+" written", func() bool { return slices.Contains(api.messages(), message) })
			}
			remove(w)
			w.sayOf("db", "up") // the last report of a site stays
			w.await("removed", func() bool { return w.newest(podOf("web")) == 0 })
			stop()

			w = w.killed()
			if w.newest(podOf("web")) == 0 {
				t.Fatal("the hub has brought nothing back: nothing is tested")
			}
			w.replace("uid-web")
			if err := w.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			if w.HasReport(kube.KeyOf(podOf("web"))) {
				t.Error("what the hub has brought back counts")
			}
			w.start()
			w.sayOf("db", "again") // the node is alive
			w.await("written", func() bool { return slices.Contains(api.messages(), "again") })
			w.say("third")
			w.await("third written", func() bool { return slices.Contains(api.messages(), "third") })
			if got := slices.DeleteFunc(api.messages(), func(m string) bool { return m == "up" || m == "again" || m == "" }); !slices.Equal(got, []string{"first", "second", "third"}) {
				t.Errorf("the API has shown %q", got)
			}
		})
	}
}

// A device that was bound to another node has no older status when it is back: a killed hub may
// have brought it to the stream again.
func TestKilledHubBringsNoStatusOfAMovedDeviceBack(t *testing.T) {
	t.Parallel()
	w := startWriting(t, accepts)
	ref := streams.Ref{Node: "a1", Group: kube.DeviceGroup, Resource: "devicestatuses", Namespace: "default", Name: "pump"}
	bind := func(node string) {
		k := kube.Key{Group: kube.DeviceGroup, Resource: "devices", Namespace: "default", Name: "pump"}
		w.cluster.set(k, map[string]any{"spec": map[string]any{"nodeName": node}})
		w.ObjectChanged(kube.KeyOf(ref))
	}
	bind("a1")
	if err := w.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop := w.start()
	for i, state := range []string{"cold", "hot"} {
		w.report(streams.Message{Ref: ref, Op: streams.OpPut, UID: "uid-pump"}, map[string]any{"metadata": map[string]any{"name": "pump"}, "status": map[string]any{"state": state}})
		w.await(state+" written", func() bool { return w.count.Accepted.Load() == uint64(i+1) })
	}
	bind("elsewhere")
	w.say("the last report of a site stays")
	w.await("removed", func() bool { return w.newest(ref) == 0 })
	stop()

	w = w.killed()
	if w.newest(ref) == 0 {
		t.Fatal("the hub has brought nothing back: nothing is tested")
	}
	bind("a1")
	if err := w.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.HasReport(kube.KeyOf(ref)) {
		t.Error("the older status counts")
	}
}

// What counts is kept by the next bridge: the state before a message that was quarantined, and a
// state that the API server has refused.
func TestStatesThatCountAreKept(t *testing.T) {
	t.Parallel()
	var refuse atomic.Bool
	w := startWriting(t, func(rw http.ResponseWriter, r *http.Request) {
		if refuse.Load() && strings.Contains(r.URL.Path, "/pods/db/") {
			statusError(rw, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
			return
		}
		accepts(rw, r)
	})
	w.cluster.addSite("plant-a", "a1", "db")
	w.cluster.addSite("plant-a", "a1", "gone")
	if err := w.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop := w.start()
	for _, pod := range []string{"gone", "db", "web"} {
		w.sayOf(pod, "up")
	}
	w.await("written", func() bool { return w.count.Accepted.Load() == 3 })
	refuse.Store(true)
	w.sayOf("db", "refused")
	w.await("refused", func() bool { return w.count.Quarantined.Load() == 1 })
	refused, web := w.newest(podOf("db")), w.newest(podOf("web"))
	poison := nats.NewMsg(streams.ReportedSubject("plant-a", podOf("web")))
	poison.Header.Set(streams.HeaderOp, "no operation")
	w.send(poison)
	w.report(streams.Message{Ref: podOf("gone"), Op: streams.OpDelete, UID: "uid-gone"}, nil)
	w.report(streams.Message{Ref: podOf("last"), Op: streams.OpDelete, UID: "uid-last"}, nil) // the last report of a site stays
	w.await("removed", func() bool { return w.newest(podOf("web")) == 0 && w.newest(podOf("gone")) == 0 })
	stop()

	w = w.killed()
	if err := w.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	for pod, want := range map[string]uint64{"web": web, "db": refused, "gone": 0} {
		var got uint64
		if r := w.reader.reports.get(Key{"plant-a", podOf(pod)}); r != nil {
			got = r.seq
		}
		if got != want {
			t.Errorf("the next bridge has report %d of pod %s, want %d", got, pod, want)
		}
	}
}

func TestLiveSet(t *testing.T) {
	t.Parallel()
	created := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		kept := rapid.SliceOfNDistinct(rapid.Uint64Range(1, 1000), 0, 50, rapid.ID).Draw(t, "kept")
		slices.Sort(kept)
		l := liveSet{last: rapid.Uint64Range(1, 1000).Draw(t, "last"), kept: kept}
		value := l.encode(created)
		of, got, ok := decodeLiveSet(value)
		if !ok || of != created.UnixNano() || got.last != l.last || !slices.Equal(got.kept, kept) {
			t.Fatalf("%v becomes %v, %v", l, got, ok)
		}
		for seq := range uint64(1002) {
			if want := seq <= l.last && !slices.Contains(kept, seq); got.lacks(seq) != want {
				t.Fatalf("%v lacks %d: %t", l, seq, !want)
			}
		}
		if _, _, ok := decodeLiveSet(value[:rapid.IntRange(0, 9).Draw(t, "length")]); ok {
			t.Fatal("a part of the value is read as a live set")
		}
	})
	if (liveSet{}).lacks(1) {
		t.Error("without a live set a state does not count")
	}
}

// Only the bridge that leads writes the live set, and not over one that it has not read. That of
// another stream, or of one with more messages, is none.
func TestLiveSetIsFenced(t *testing.T) {
	t.Parallel()
	w := startWriting(t, accepts)
	ctx, bucket, created, set := t.Context(), w.hub.Bucket, time.Now(), liveSet{last: 7, kept: []uint64{3}}
	if _, err := (liveSet{}).store(ctx, bucket, lease.NewFence(time.Now), "plant-a", created, set); !errors.Is(err, lease.ErrNotLeading) {
		t.Errorf("written by a bridge that does not lead: %v", err)
	}
	first, err := (liveSet{}).store(ctx, bucket, leadingFence(), "plant-a", created, set)
	if err != nil {
		t.Fatal(err)
	}
	for _, had := range []liveSet{{}, {revision: first.revision + 1}} {
		if _, err := had.store(ctx, bucket, leadingFence(), "plant-a", created, set); !isConflict(err) {
			t.Errorf("written over revision %d: %v", first.revision, err)
		}
	}
	for _, test := range []struct {
		of    time.Time
		last  uint64
		lacks bool
	}{{created, 7, true}, {created, 9, true}, {created, 6, false}, {created.Add(time.Second), 9, false}} {
		l, err := loadLiveSet(ctx, bucket, "plant-a", test.of, test.last)
		if err != nil || l.lacks(2) != test.lacks || l.revision != first.revision {
			t.Errorf("of the stream of %v that ends at %d: %+v, %v", test.of, test.last, l, err)
		}
	}
}
