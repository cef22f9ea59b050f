package bridgetest

import (
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/streams"
)

// TestEpochs: a storage that moved back begins an epoch, and nothing else does.
func TestEpochs(t *testing.T) {
	runAll(t, []sharing{
		{"ObjectThatMovedBackBeginsAnEpoch", objectMovedBack},
		{"EtcdRestoredWhileRunning", etcdRestoredWhileRunning},
		{"EtcdRestoredWhileDown", etcdRestoredWhileDown},
		{"EpochSurvivesRestarts", epochSurvivesRestarts},
	})
}

// epochOf is the number of the epoch of what DESIRED holds about an object.
func (w *world) epochOf(site string, r streams.Ref) int {
	w.t.Helper()
	m, _ := w.desired(site, r)
	if m == nil {
		return 0
	}
	digits, _, _ := strings.Cut(m.Epoch, "-")
	n, err := strconv.Atoi(digits)
	w.must(err)
	return n
}

// restored runs a bridge and a site, takes a snapshot of etcd, goes on for a while, and
// returns what is needed to restore it.
func restored(t *testing.T) (*controlPlane, *world, *running, *leafCopy, string) {
	t.Helper()
	c := startControlPlane(t)
	w := newWorld(t, c.api, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	for _, name := range []string{"kept", "changed", "deleted"} {
		w.configMap(name, "1")
	}
	w.podWith("web", "a1", "kept", "changed", "deleted", "created")
	w.settled("plant-a", "web", "a1")
	for _, name := range []string{"kept", "changed", "deleted"} {
		w.awaitDesired("plant-a", w.configMapRef(name), "published", isPut)
	}
	l := s.leaf()
	l.beat(0, "a1")
	l.equal()
	b.stop()
	c.stop()
	snapshot := c.snapshot()
	c.start()

	w.lease = time.Minute // what leads goes on leading while the API server is away
	b = w.start("two")
	w.setConfigMap("changed", "2")
	w.configMap("created", "1")
	w.must(c.admin.CoreV1().ConfigMaps(w.namespace).Delete(w.ctx, "deleted", metav1.DeleteOptions{}))
	l.awaitKept(w.configMapRef("created"), true)
	l.awaitKept(w.configMapRef("deleted"), false)
	w.awaitDesired("plant-a", w.configMapRef("changed"), "changed", contains(`"v":"2"`))
	// The hub no longer knows what was deleted.
	eventually(t, "tombstone removed", func() bool {
		l.beat(0, "a1")
		m, _ := w.desired("plant-a", w.configMapRef("deleted"))
		return m == nil
	})
	return c, w, b, l, snapshot
}

func (l *leafCopy) awaitKept(r streams.Ref, want bool) {
	l.t.Helper()
	eventually(l.t, "kept or not: "+r.String(), func() bool { _, ok := l.has(r); return ok == want })
}

// converged waits until the site has what the restored API server says, under a new
// epoch.
func converged(w *world, l *leafCopy, epoch int) {
	t := w.t
	t.Helper()
	eventually(t, "a new epoch, whole", func() bool {
		return w.epochOf("plant-a", w.configMapRef("kept")) > epoch && w.epochOf("plant-a", w.configMapRef("changed")) > epoch
	})
	w.awaitDesired("plant-a", w.configMapRef("changed"), "as it was", contains(`"v":"1"`))
	l.awaitKept(w.configMapRef("deleted"), true)
	l.awaitKept(w.configMapRef("created"), false)
	ended := ""
	for _, d := range l.of(w.configMapRef("deleted")) {
		if d.op == streams.OpDelete {
			ended = d.epoch
		} else if d.epoch == ended {
			t.Errorf("what was deleted in epoch %s came back in it: %+v", ended, d)
		}
	}
	eventually(t, "the site told to compare", func() bool { l.beat(0, "a1"); return l.verifies() > 0 })
	l.equal()

	// What changes now, at versions that were used before, arrives.
	w.setConfigMap("changed", "3")
	w.awaitDesired("plant-a", w.configMapRef("changed"), "changed after the restore", contains(`"v":"3"`))
	now := w.epochOf("plant-a", w.configMapRef("changed"))
	eventually(t, "change kept", func() bool {
		e, _ := l.has(w.configMapRef("changed"))
		return strings.HasPrefix(e.Epoch, strconv.Itoa(now)+"-")
	})
	if now != epoch+1 {
		t.Errorf("epoch %d after %d: one restore is one new epoch", now, epoch)
	}
}

func etcdRestoredWhileRunning(t *testing.T, _ *api) {
	c, w, _, l, snapshot := restored(t)
	epoch := w.epochOf("plant-a", w.configMapRef("kept"))
	c.stop()
	c.restore(snapshot)
	c.start()
	converged(w, l, epoch)
}

func etcdRestoredWhileDown(t *testing.T, _ *api) {
	c, w, b, l, snapshot := restored(t)
	epoch := w.epochOf("plant-a", w.configMapRef("kept"))
	b.stop()
	c.stop()
	c.restore(snapshot)
	c.start()
	// The storage passes the versions that it had before anybody looks at it.
	w.churn(300)
	w.start("three")
	converged(w, l, epoch)
}

// churn makes the storage's version grow by n.
func (w *world) churn(n int) {
	w.t.Helper()
	for i := range n {
		cm, err := w.admin.CoreV1().ConfigMaps(w.namespace).Get(w.ctx, "churn", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			w.configMap("churn", "0")
			continue
		}
		w.must(err)
		cm.Data = map[string]string{"v": strconv.Itoa(i + 1)}
		_, err = w.admin.CoreV1().ConfigMaps(w.namespace).Update(w.ctx, cm, metav1.UpdateOptions{})
		w.must(err)
	}
}

// A restart of the bridge, of etcd or of the API server begins no epoch and publishes
// nothing; a hub that lost everything begins one.
func epochSurvivesRestarts(t *testing.T, _ *api) {
	c := startControlPlane(t)
	w := newWorld(t, c.api, "plant-a")
	b := w.start("one")
	w.site("plant-a").register("a1")
	w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	epoch, before := w.epochOf("plant-a", w.configMapRef("settings")), w.lastSeq()
	c.stop()
	c.start()
	b.stop()
	w.start("two")
	w.setConfigMap("settings", "2")
	if seq := w.awaitDesired("plant-a", w.configMapRef("settings"), "changed", contains(`"v":"2"`)); seq != before+1 {
		t.Errorf("restarts published %d messages", seq-before-1)
	}
	if n := w.epochOf("plant-a", w.configMapRef("settings")); n != epoch {
		t.Errorf("epoch %d after restarts, was %d", n, epoch)
	}
	w.must(w.js.DeleteStream(w.ctx, "KV_bridge"))
	w.must(w.js.DeleteStream(w.ctx, streams.Desired))
	eventually(t, "a new epoch at a new hub", func() bool { return w.epochOf("plant-a", w.configMapRef("settings")) == epoch+1 })
	eventually(t, "marker of the new epoch", func() bool {
		cm, err := c.admin.CoreV1().ConfigMaps("petiole-system").Get(w.ctx, "bridge-epoch", metav1.GetOptions{})
		w.must(err)
		return strings.HasPrefix(cm.Data["epoch"], strconv.Itoa(epoch+1)+"-")
	})
}

// A storage that moved back by so little that neither its version nor the marker shows
// it: the object whose version is lower than what was published of it does.
func objectMovedBack(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	w.site("plant-a").register("a1")
	w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	m, _ := w.desired("plant-a", w.configMapRef("settings"))
	epoch := w.epochOf("plant-a", w.configMapRef("settings"))
	later := *m
	later.Version, later.Hash = m.Version+"000", "later"
	_, err := streams.Put(w.ctx, w.js, streams.DesiredSubject("plant-a", m.Ref), later)
	w.must(err)
	w.setConfigMap("settings", "2")
	w.awaitDesired("plant-a", w.configMapRef("settings"), "published in a new epoch", contains(`"v":"2"`))
	if n := w.epochOf("plant-a", w.configMapRef("settings")); n != epoch+1 {
		t.Errorf("epoch %d after %d", n, epoch)
	}
	if n := b.Counters().Epochs; n != 2 {
		t.Errorf("%d epochs were begun, want the first and this one", n)
	}
}
