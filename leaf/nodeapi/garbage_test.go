package nodeapi

import (
	"os"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/streams"
)

// forward acknowledges the messages of SITE_REPORTED, as the forwarder does.
func (l *leaf) forward() {
	l.t.Helper()
	cfg := streams.LocalConsumer(streams.ForwardConsumer, "test", 10)
	must(l.t, streams.EnsureConsumer(l.t.Context(), l.js, streams.SiteReported, cfg))
	cons, err := l.js.Consumer(l.t.Context(), streams.SiteReported, streams.ForwardConsumer)
	must(l.t, err)
	for n := cons.CachedInfo().NumPending; n > 0; n-- {
		msg, err := cons.Next()
		must(l.t, err)
		must(l.t, msg.DoubleAck(l.t.Context()))
	}
}

// cleaned waits until SITE_REPORTED has no message about the pod.
func (r *running) cleaned() {
	r.leaf.t.Helper()
	eventually(r.leaf.t, "clean up", func() bool {
		must(r.leaf.t, r.local.Collect(r.leaf.t.Context()))
		m, _ := r.leaf.reported(podRef("default", "a"))
		return m == nil
	})
}

// shows reports whether clients see the pod.
func (r *running) shows() bool {
	r.leaf.t.Helper()
	_, err := r.json().CoreV1().Pods("default").Get(r.leaf.t.Context(), "a", metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		r.leaf.t.Fatal(err)
	}
	return err == nil
}

func TestLocalDeleteIsCleanedUpAfterForwarding(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10", terminating))
	r := l.start(t.TempDir())
	must(t, r.json().CoreV1().Pods("default").Delete(t.Context(), "a", finalDelete("u1")))
	r.applied(l.send(podRef("default", "a"), streams.OpDelete, "u1", "11", nil))
	must(t, r.local.Collect(t.Context()))
	if m, _ := l.reported(podRef("default", "a")); m == nil {
		t.Fatal("the delete was dropped before the hub had it")
	}
	l.forward()
	r.cleaned()
}

// TestEndOfAPodIsReportedAgain ends a pod that exists again after a restore of etcd: its end is
// reported again for each desired message, and after a start.
func TestEndOfAPodIsReportedAgain(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	ref := podRef("default", "a")
	l.pod(newPod("a", "u1", "10", terminating))
	dir := t.TempDir()
	r := l.start(dir)
	must(t, r.json().CoreV1().Pods("default").Delete(t.Context(), "a", finalDelete("u1")))
	last := uint64(0)
	reports := func(what string, want bool) {
		t.Helper()
		must(t, r.local.Collect(t.Context()))
		m, seq := l.reported(ref)
		if m == nil || m.Op != streams.OpDelete || m.UID != "u1" {
			t.Fatalf("%s: reported = %+v", what, m)
		}
		if (seq > last) != want {
			t.Errorf("%s: the end is reported at %d after %d", what, seq, last)
		}
		last = seq
	}
	reports("the kubelet's delete", true)
	reports("nothing new", false)
	l.forward()
	r.applied(l.sendIn("e2", ref, streams.OpPut, "u1", "5", newPod("a", "u1", "5")))
	reports("wanted in a new epoch", true)
	if m, _ := l.reported(ref); m.Version != "5" {
		t.Errorf("the end is of version %q, want that of the new epoch", m.Version)
	}
	reports("wanted, and answered", false)
	if r.shows() {
		t.Error("the pod came back")
	}
	r.applied(l.sendIn("e2", ref, streams.OpPut, "u1", "6", newPod("a", "u1", "6", terminating)))
	reports("deleted again", true)
	r.stop()
	r = l.start(dir)
	reports("after a start", true)
	reports("and only once", false)
	r.applied(l.sendIn("e2", ref, streams.OpDelete, "u1", "7", nil))
	reports("taken away", false)
	l.forward()
	r.cleaned()
	// Its end is no longer known.
	r.applied(l.sendIn("e3", ref, streams.OpPut, "u1", "5", newPod("a", "u1", "5")))
	must(t, r.local.Collect(t.Context()))
	if m, _ := l.reported(ref); m != nil || !r.shows() {
		t.Errorf("a pod whose end is forgotten does not run; reported = %+v", m)
	}
}

// TestMessagesBackAfterAKillAreRemoved removes the last report of a pod and leaves the server's
// files as a kill does. An older report is back and has no effect.
func TestMessagesBackAfterAKillAreRemoved(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	l := newLeafIn(t, store)
	l.pod(newPod("a", "u1", "10"))
	l.pod(newPod("b", "u2", "11"))
	dir := t.TempDir()
	r := l.start(dir)
	c := r.proto()
	for name, uid := range map[string]string{"a": "u1", "b": "u2"} { // b keeps the block
		pod, err := c.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		must(t, err)
		_, err = patchStatus(t, c, pod, uid, running1)
		must(t, err)
	}
	r.applied(l.pod(newPod("a", "u1", "12", terminating)))
	must(t, c.CoreV1().Pods("default").Delete(t.Context(), "a", finalDelete("u1")))
	r.applied(l.send(podRef("default", "a"), streams.OpDelete, "u1", "13", nil))
	l.forward()
	r.cleaned()

	copied := t.TempDir()
	must(t, os.CopyFS(copied, os.DirFS(store)))
	l = newLeafIn(t, copied)
	if m, _ := l.reported(podRef("default", "a")); m == nil || m.Op != streams.OpPut {
		t.Fatalf("after the kill %+v is reported: the test has proved nothing", m)
	}
	r = l.start(dir)
	if r.shows() {
		t.Error("the pod came back")
	}
	// The kill may have lost acknowledgements: everything is forwarded again.
	must(t, l.js.DeleteConsumer(t.Context(), streams.SiteReported, streams.ForwardConsumer))
	l.forward()
	r.cleaned()
}
