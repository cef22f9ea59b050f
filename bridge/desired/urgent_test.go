package desired

import (
	"testing"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/urgent"
)

// A site with a backlog of ConfigMaps gets the pod behind them at once, and then its deletion.
func TestUrgentOfABacklog(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	p.populate(6)
	ask := func(q urgent.Query) []urgent.Message {
		t.Helper()
		q.Bytes = urgent.MaxBytes
		a, err := p.Urgent(t.Context(), "plant-a", q)
		if err != nil {
			t.Fatal(err)
		}
		return a.Messages
	}
	got := ask(urgent.Query{})
	if len(got) != 1 {
		t.Fatalf("urgent are %+v, want the pod", got)
	}
	m, err := got[0].Msg("plant-a")
	if err != nil || m.Header.Get(streams.HeaderUID) != "uid-web" || m.Header.Get(streams.HeaderOp) != string(streams.OpPut) {
		t.Errorf("urgent is %+v, %v", m, err)
	}
	if more := ask(urgent.Query{After: got[0].Seq}); len(more) != 0 {
		t.Errorf("after it %+v is urgent", more)
	}
	if more := ask(urgent.Query{Position: got[0].Seq}); len(more) != 0 {
		t.Errorf("without a backlog %+v is urgent", more)
	}
	pod := kube.CoreKey("pods", "default", "web")
	p.vanish(pod)
	p.on(pod.Ref("a1"), streams.OpDelete, "uid-web")
	p.await("the deletions are published", p.idle)
	// Nothing refers to the ConfigMaps any more, so that their deletions are urgent, too; nothing else
	// is ahead.
	if more := ask(urgent.Query{}); len(more) != 0 {
		t.Errorf("%+v overtakes nothing", more)
	}
	if other, err := p.Urgent(t.Context(), "plant-b", urgent.Query{Bytes: 100}); err != nil || len(other.Messages) != 0 {
		t.Errorf("of a site that does not exist: %+v, %v", other, err)
	}
}
