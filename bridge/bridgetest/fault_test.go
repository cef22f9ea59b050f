package bridgetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/streams"
)

// TestAPIServer: an API server that refuses, breaks off, forgets or restarts.
func TestAPIServer(t *testing.T) {
	runAll(t, []sharing{
		{"RelistsAfterExpiry", relistsAfterExpiry},
		{"SurvivesABadAPIServer", survivesABadAPIServer},
		{"SurvivesMissingRoles", survivesMissingRoles},
		{"SurvivesARestartOfTheAPIServer", survivesARestartOfTheAPIServer},
		{"RecreatesUnderOneName", recreatesUnderOneName},
	})
}

// behind a front: a bridge, a site, a pod and some ConfigMaps.
func behindFront(t *testing.T, a *api) (*world, *front, *running, *leafCopy, *corev1.Pod) {
	t.Helper()
	w := newWorld(t, a, "plant-a")
	f := newFront(t, a.config)
	b := w.startWith("one", w.hubAddr(), f.kubeconfig(a), bridge.ImpersonationConstrained)
	s := w.site("plant-a")
	s.register("a1")
	for _, name := range []string{"kept", "changed", "deleted"} {
		w.configMap(name, "1")
	}
	pod := w.podWith("web", "a1", "kept", "changed", "deleted", "created")
	w.settled("plant-a", "web", "a1")
	l := s.leaf()
	l.beat(0, "a1")
	l.equal()
	return w, f, b, l, pod
}

// A watch whose version has expired makes the bridge list again, and the list is compared
// as a set: a delete that was missed is delivered, what did not change is not published.
func relistsAfterExpiry(t *testing.T, a *api) {
	w, f, b, l, _ := behindFront(t, a)
	var blind atomic.Bool
	var expired atomic.Int32
	f.inject(func(rw http.ResponseWriter, r *http.Request) bool {
		if !blind.Load() || r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/configmaps") {
			return false
		}
		if q := r.URL.Query(); q.Get("watch") == "" || q.Get("sendInitialEvents") == "true" {
			refuse(rw, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)
			return true
		}
		expired.Add(1)
		// As the API server reports it: in the stream.
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusOK)
		gone, err := json.Marshal(metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
			Code: http.StatusGone, Reason: metav1.StatusReasonExpired, Message: "too old resource version",
		})
		if err != nil {
			t.Error(err)
		}
		_, _ = fmt.Fprintf(rw, `{"type":%q,"object":%s}`+"\n", apiwatch.Error, gone) // the client may be gone
		return true
	})
	blind.Store(true)
	f.drop()
	before := w.lastSeq()
	w.setConfigMap("changed", "2")
	w.configMap("created", "1")
	w.must(a.admin.CoreV1().ConfigMaps(w.namespace).Delete(w.ctx, "deleted", metav1.DeleteOptions{}))
	f.lists()
	eventually(t, "a watch has expired", func() bool { return expired.Load() > 0 })
	blind.Store(false)
	l.awaitKept(w.configMapRef("created"), true)
	l.awaitKept(w.configMapRef("deleted"), false)
	w.awaitDesired("plant-a", w.configMapRef("changed"), "changed", contains(`"v":"2"`))
	l.equal()
	if n := w.lastSeq() - before; n != 3 {
		t.Errorf("%d messages were published for a change, a creation and a deletion", n)
	}
	if n := b.Counters().Epochs; n > 1 {
		t.Errorf("a relist began epoch %d", n)
	}
}

// randomFaults has four of ten requests fail, in one of four ways, but those for the
// leader's lease. It returns how often each was injected.
func randomFaults(t *testing.T, f *front) func() map[string]int {
	t.Helper()
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 2))
	counts := map[string]int{"429": 0, "500": 0, "503": 0, "a broken connection": 0}
	draw := func() string {
		mu.Lock()
		defer mu.Unlock()
		what := map[int]string{0: "429", 1: "500", 2: "503", 3: "a broken connection"}[random.IntN(10)]
		if what != "" {
			counts[what]++
		}
		return what
	}
	f.inject(func(rw http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/leases/bridge") {
			return false
		}
		switch draw() {
		case "429":
			refuse(rw, http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests)
		case "500":
			refuse(rw, http.StatusInternalServerError, metav1.StatusReasonInternalError)
		case "503":
			refuse(rw, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)
		case "a broken connection":
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	})
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(counts)
	}
}

// Refusals, errors and broken connections at random: everything arrives, nothing twice.
func survivesABadAPIServer(t *testing.T, a *api) {
	w, f, b, l, pod := behindFront(t, a)
	rec := w.recorder()
	faults := randomFaults(t, f)
	for i := range 30 {
		w.setConfigMap("changed", fmt.Sprint("c", i))
		p := reported(pod, corev1.PodRunning, corev1.ConditionTrue)
		p.Status.Message = fmt.Sprint("m", i)
		l.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), p)
		l.beat(0, "a1")
		if i%5 == 0 {
			f.drop()
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.awaitDesired("plant-a", w.configMapRef("changed"), "newest", contains(`"v":"c29"`))
	eventually(t, "newest report", func() bool { l.beat(0, "a1"); return w.getPod("web").Status.Message == "m29" })
	f.inject(nil)
	l.equal()
	rec.check(t)
	for what, n := range faults() {
		if t.Logf("%s: %d", what, n); n == 0 {
			t.Errorf("%s was not injected", what)
		}
	}
	if n := b.Counters().Quarantined; n != 0 {
		t.Errorf("an API server that is not well made %d reports go to quarantine: %q", n, w.quarantined(""))
	}
}

// An API server that has just been started forbids everything that goes by its roles, until
// it has read them. Nothing is lost by that.
func survivesMissingRoles(t *testing.T, a *api) {
	w, f, b, l, pod := behindFront(t, a)
	var forbidden atomic.Int32
	f.inject(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet || strings.Contains(r.URL.Path, "/leases/bridge") {
			return false
		}
		forbidden.Add(1)
		refuse(rw, http.StatusForbidden, metav1.StatusReasonForbidden)
		return true
	})
	l.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), reported(pod, corev1.PodRunning, corev1.ConditionTrue))
	l.reportNode("a1", corev1.ConditionFalse)
	eventually(t, "writes forbidden", func() bool { l.beat(0, "a1"); return forbidden.Load() > 10 })
	f.inject(nil)
	eventually(t, "status of pod and node", func() bool {
		l.beat(0, "a1")
		n, err := a.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{})
		w.must(err)
		return w.getPod("web").Status.Phase == corev1.PodRunning && nodeCondition(n, corev1.NodeReady) == corev1.ConditionFalse
	})
	if n := b.Counters().Quarantined; n != 0 {
		t.Errorf("%d reports are in quarantine: %q", n, w.quarantined(""))
	}
}

// An API server that is started again, on the same storage.
func survivesARestartOfTheAPIServer(t *testing.T, _ *api) {
	c := startControlPlane(t)
	w := newWorld(t, c.api, "plant-a")
	w.lease = time.Minute
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "1")
	pod := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	l := s.leaf()
	l.beat(0, "a1")
	l.equal()
	before := w.lastSeq()
	c.stop()
	p := reported(pod, corev1.PodRunning, corev1.ConditionTrue)
	s.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), p)
	c.start()
	w.setConfigMap("settings", "2")
	seq := w.awaitDesired("plant-a", w.configMapRef("settings"), "changed", contains(`"v":"2"`))
	if seq != before+1 {
		t.Errorf("a restart of the API server published %d messages", seq-before-1)
	}
	eventually(t, "report that came meanwhile", func() bool { l.beat(0, "a1"); return w.getPod("web").Status.Phase == corev1.PodRunning })
	l.equal()
	if n := b.Counters().Epochs; n != 1 {
		t.Errorf("%d epochs", n)
	}
}

// A pod that is deleted and made again under its name while the site is away: the site
// learns of the old one's end before, or with, the new one, and of the new UID only.
func recreatesUnderOneName(t *testing.T, a *api) {
	w, _, _, l, old := behindFront(t, a)
	ref := w.podRef("web", "a1")
	l.disconnect()
	deliveries := len(l.of(ref))
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	w.must(a.admin.CoreV1().Pods(w.namespace).Delete(w.ctx, "web", now))
	again := w.podWith("web", "a1", "kept", "changed")
	eventually(t, "the new pod published", func() bool {
		m, _ := w.desired("plant-a", ref)
		return m != nil && m.UID == string(again.UID)
	})
	w.settled("plant-a", "web", "a1")
	// Reports about the old pod that arrive now concern nobody.
	l.report(streams.OpPut, ref, string(old.UID), reported(old, corev1.PodFailed, corev1.ConditionFalse))
	l.report(streams.OpDelete, ref, string(old.UID), nil)
	l.connect()
	eventually(t, "the new pod at the site", func() bool { e, _ := l.has(ref); return e.UID == string(again.UID) })
	l.equal()
	ended := false
	for _, d := range l.of(ref)[deliveries:] {
		switch {
		case d.uid == string(old.UID) && d.op != streams.OpDelete:
			t.Errorf("the old pod was delivered again: %+v", d)
		case d.uid == string(again.UID) && d.op == streams.OpDelete:
			t.Errorf("the new pod was taken away: %+v", d)
		case d.uid == string(old.UID) && ended:
			t.Errorf("the old pod ended after the new one began: %+v", d)
		}
		ended = ended || d.uid == string(again.UID)
	}
	if p := w.getPod("web"); p.UID != again.UID || p.Status.Phase == corev1.PodFailed {
		t.Errorf("reports about the old pod changed the new one: %s %s", p.UID, p.Status.Phase)
	}

	// The same with the site there, to another node, and back.
	l.register("a2")
	w.must(a.admin.CoreV1().Pods(w.namespace).Delete(w.ctx, "web", now))
	moved := w.podWith("web", "a2", "kept")
	l.awaitKept(w.podRef("web", "a2"), true)
	l.awaitKept(ref, false)
	if d := l.of(ref); d[len(d)-1].op != streams.OpDelete || d[len(d)-1].uid != string(again.UID) {
		t.Errorf("the pod on the former node ended by %+v", d[len(d)-1])
	}
	if e, _ := l.has(w.podRef("web", "a2")); e.UID != string(moved.UID) {
		t.Errorf("the pod on the other node is %+v", e)
	}
	l.equal()
}
