package nodeapi

import (
	"testing"

	"github.com/petiole-io/petiole/streams"
)

func TestLocalDeleteIsCleanedUpAfterForwarding(t *testing.T) {
	l := newLeaf(t)
	l.pod(newPod("a", "u1", "10", terminating))
	r := l.start(t.TempDir())
	must(t, r.json().CoreV1().Pods("default").Delete(t.Context(), "a", finalDelete("u1")))
	r.applied(l.send(podRef("default", "a"), streams.OpDelete, "u1", "11", nil))
	must(t, r.janitor.round(t.Context()))
	if m, _ := l.reported(podRef("default", "a")); m == nil {
		t.Fatal("the delete was dropped before the hub had it")
	}
	cfg := streams.LocalConsumer(streams.ForwardConsumer, "test", 10)
	must(t, streams.EnsureConsumer(t.Context(), l.js, streams.SiteReported, cfg))
	cons, err := l.js.Consumer(t.Context(), streams.SiteReported, streams.ForwardConsumer)
	must(t, err)
	msg, err := cons.Next()
	must(t, err)
	must(t, msg.DoubleAck(t.Context()))
	eventually(t, "clean up", func() bool {
		must(t, r.janitor.round(t.Context()))
		m, _ := l.reported(podRef("default", "a"))
		return m == nil
	})
}
