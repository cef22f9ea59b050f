package nodeapi

import (
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/streams"
)

func TestLargeObjectArrivesInParts(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	big := strings.Repeat("x", 300<<10)
	r.applied(l.configMap(newConfigMap("big", "u1", "10", big)))
	check := func() {
		t.Helper()
		cm, err := r.proto().CoreV1().ConfigMaps("default").Get(t.Context(), "big", metav1.GetOptions{})
		must(t, err)
		if cm.Data["key"] != big {
			t.Errorf("%d bytes, want %d", len(cm.Data["key"]), len(big))
		}
	}
	check()
	r.stop()
	r = l.start(dir)
	check()
	// Reports are stored in parts, too.
	ev := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: "default", Name: "big"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "a"}, Message: big,
	}
	_, err := r.proto().CoreV1().Events("default").Create(t.Context(), ev, metav1.CreateOptions{})
	must(t, err)
	m, _ := l.reported(streams.Ref{Node: node, Resource: "events", Namespace: "default", Name: "big"})
	if m == nil || len(m.Object) < len(big) {
		t.Error("the large event was not stored in full")
	}
}

func TestUnreadableMessageIsQuarantined(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	_, err := l.js.Publish(t.Context(), "desired.plant-a._._.configmaps.default.broken", []byte("{"))
	must(t, err)
	wrong := newConfigMap("wrong", "u9", "9", "")
	wrong.Kind = "Secret"
	l.send(streams.Ref{Resource: "configmaps", Namespace: "default", Name: "wrong"}, streams.OpPut, "u9", "9", wrong)
	dir := t.TempDir()
	r := l.start(dir)
	seq := l.configMap(newConfigMap("good", "u1", "10", "x"))
	r.applied(seq)
	if _, err := r.json().CoreV1().ConfigMaps("default").Get(t.Context(), "good", metav1.GetOptions{}); err != nil {
		t.Errorf("after the unreadable message: %v", err)
	}
	q, err := l.js.Stream(t.Context(), streams.SiteQuarantine)
	must(t, err)
	eventually(t, "two messages in quarantine", func() bool {
		info, err := q.Info(t.Context())
		return err == nil && info.State.Msgs == 2
	})
	c, err := l.js.Consumer(t.Context(), streams.SiteDesired, streams.ApplyConsumer)
	must(t, err)
	eventually(t, "everything acknowledged", func() bool {
		info, err := c.Info(t.Context())
		return err == nil && info.AckFloor.Stream == seq && info.NumAckPending == 0
	})
	if n := r.Quarantined(); n != 2 {
		t.Errorf("Quarantined = %d, want 2", n)
	}
	r.stop()
	r = l.start(dir)
	if n := r.Quarantined(); n != 2 {
		t.Errorf("Quarantined after a restart = %d, want 2", n)
	}
	if info, err := q.Info(t.Context()); err != nil || info.State.Msgs != 2 {
		t.Errorf("quarantine after a restart: %+v, %v", info, err)
	}
}

// TestFollowsAfterUnacknowledgedMessages leaves as many messages unacknowledged as the
// consumer allows, as a node API does that is killed. The next one applies new messages long
// before the consumer's AckWait has passed.
func TestFollowsAfterUnacknowledgedMessages(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	dir := t.TempDir()
	r := l.start(dir)
	r.applied(l.pod(newPod("web", "u1", "10")))
	r.stop()
	c, err := l.js.Consumer(t.Context(), streams.SiteDesired, streams.ApplyConsumer)
	must(t, err)
	limit := c.CachedInfo().Config.MaxAckPending
	for i := range limit {
		l.configMap(newConfigMap("c"+strconv.Itoa(i), "u", strconv.Itoa(11+i), "x"))
	}
	for received := 0; received < limit; {
		batch, err := c.Fetch(limit-received, jetstream.FetchMaxWait(wait))
		must(t, err)
		for range batch.Messages() {
			received++
		}
		must(t, batch.Error())
	}
	r = l.start(dir)
	r.applied(l.send(podRef("default", "web"), streams.OpDelete, "u1", "1000", nil))
	if _, err := r.json().CoreV1().Pods("default").Get(t.Context(), "web", metav1.GetOptions{}); err == nil {
		t.Error("the pod that was deleted is still served")
	}
}
