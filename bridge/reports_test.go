package bridge

import (
	"testing"

	"github.com/petiole-io/petiole/streams"
)

func TestReportsKeepTheNewest(t *testing.T) {
	r := newReports()
	k := reportKey{"plant-a", streams.Ref{Node: "n1", Resource: "pods", Namespace: "default", Name: "p"}}
	o := coreKey("pods", "default", "p")
	r.put(k, &report{seq: 7, fresh: true})
	r.put(k, &report{seq: 5, fresh: true})
	if got := r.get(k); got.seq != 7 {
		t.Errorf("an older report replaced seq 7: %+v", got)
	}
	r.settle(k, 5, true)
	if r.get(k) == nil {
		t.Error("settling an older report dropped the newer")
	}
	r.settle(k, 7, false)
	if got := r.get(k); got == nil || got.fresh {
		t.Errorf("settled report is %+v", got)
	}
	if about, of := r.about(o), r.ofSite("plant-a"); len(about) != 1 || len(of) != 1 {
		t.Errorf("about %v, of site %v", about, of)
	}
	r.settle(k, 7, true)
	if r.get(k) != nil || len(r.about(o)) > 0 || len(r.ofSite("plant-a")) > 0 {
		t.Error("a dropped report is still there")
	}
}
