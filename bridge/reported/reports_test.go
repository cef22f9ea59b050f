package reported

import (
	"fmt"
	"testing"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

func TestReportsKeepTheNewest(t *testing.T) {
	t.Parallel()
	r := newReports()
	k := Key{"plant-a", streams.Ref{Node: "n1", Resource: "pods", Namespace: "default", Name: "p"}}
	o := kube.CoreKey("pods", "default", "p")
	r.put(k, &report{seq: 7, pending: true})
	r.put(k, &report{seq: 5, pending: true})
	if got := r.get(k); got.seq != 7 {
		t.Errorf("an older report replaced seq 7: %+v", got)
	}
	r.resolve(k, 5, true)
	if r.get(k) == nil {
		t.Error("settling an older report dropped the newer")
	}
	r.resolve(k, 7, false)
	if got := r.get(k); got == nil || got.pending {
		t.Errorf("settled report is %+v", got)
	}
	if about, of := r.ofObject(o), r.ofSite("plant-a"); len(about) != 1 || len(of) != 1 {
		t.Errorf("about %v, of site %v", about, of)
	}
	r.resolve(k, 7, true)
	if r.get(k) != nil || len(r.ofObject(o)) > 0 || len(r.ofSite("plant-a")) > 0 {
		t.Error("a dropped report is still there")
	}
}

// A device that was bound to several nodes in turn has a report for each: only the newest
// counts, whichever node the device is bound to now.
func TestNewestReportOfADevice(t *testing.T) {
	t.Parallel()
	of := func(site, node string) Key {
		return Key{site, streams.Ref{Node: node, Group: kube.DeviceGroup, Resource: "devicestatuses", Namespace: "n", Name: "pump"}}
	}
	said := func(seq uint64, uid string) *report {
		return &report{seq: seq, msg: streams.Message{UID: uid}}
	}
	n := newestDeviceReports{}
	for _, step := range []struct {
		key  Key
		r    *report
		over uint64
	}{
		{of("a", "a1"), said(1, "u"), 0},
		{of("a", "a2"), said(5, "u"), 1},
		{of("a", "a2"), said(6, "u"), 0},
		{of("a", "a1"), said(7, "other"), 0},
		{of("b", "b1"), said(8, "u"), 0},
		{of("a", "a1"), said(9, "u"), 6},
		{Key{"a", streams.Ref{Node: "a1", Resource: "pods", Namespace: "n", Name: "pump"}}, said(10, "u"), 0},
	} {
		var over uint64
		if was := n.add(step.key, step.r); was != nil {
			over = was.seq
		}
		if over != step.over {
			t.Errorf("report %d overtakes %d, want %d", step.r.seq, over, step.over)
		}
	}
}

// A limited number of a site's reports waits for the API server; a newer report of an object
// replaces the older one.
func TestWaitingReportsAreCounted(t *testing.T) {
	t.Parallel()
	r := newReports()
	k := func(name string) Key {
		return Key{"plant-a", streams.Ref{Node: "n", Resource: "pods", Namespace: "d", Name: name}}
	}
	r.put(k("a"), &report{seq: 1, pending: true})
	r.put(k("a"), &report{seq: 2, pending: true})
	r.put(k("b"), &report{seq: 3, pending: true})
	r.put(k("old"), &report{seq: 4})
	if n := maxWaiting - r.room("plant-a"); n != 2 {
		t.Errorf("%d wait, want 2", n)
	}
	if n := r.firstWaiting("plant-a"); n != 2 {
		t.Errorf("the first that waits is %d, want 2", n)
	}
	r.waitForNode(k("a"), 1)
	r.waitForNode(k("a"), 2)
	r.waitForNode(k("a"), 2)
	r.resolve(k("b"), 3, true)
	if n := maxWaiting - r.room("plant-a"); n != 0 || len(r.waiting) != 0 {
		t.Errorf("%d wait, want none: %v", n, r.waiting)
	}
	if n := r.firstWaiting("plant-a"); n != 0 {
		t.Errorf("the first that waits is %d, want none", n)
	}
	r.put(k("a"), &report{seq: 5, pending: true})
	if n := maxWaiting - r.room("plant-a"); n != 1 {
		t.Errorf("%d wait after a parked report was replaced, want 1", n)
	}
	r.forget("plant-a")
	if r.get(k("a")) != nil || r.room("plant-a") != maxWaiting || r.firstWaiting("plant-a") != 0 {
		t.Error("reports of a forgotten site are left")
	}
}

// The states of a site's objects take a bounded amount of memory, and so do its reports that wait.
func TestReportsTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	r := newReports()
	const size = 256 << 10
	seq := uint64(0)
	put := func(site, name string, op streams.Op, bytes int, pending bool) bool {
		seq++
		k := Key{site, streams.Ref{Node: "n", Resource: "pods", Namespace: "d", Name: name}}
		return r.put(k, &report{seq: seq, pending: pending, msg: streams.Message{Ref: k.Ref, Op: op, Object: make([]byte, bytes)}})
	}
	for n := range maxStateBytes / size {
		if !put("plant-b", fmt.Sprint("p", n), streams.OpPut, size, false) {
			t.Fatalf("state %d is refused", n)
		}
	}
	if put("plant-b", "more", streams.OpPut, 1, false) || r.get(Key{"plant-b", streams.Ref{Node: "n", Resource: "pods", Namespace: "d", Name: "more"}}) != nil {
		t.Error("more state than a site may have")
	}
	if put("plant-b", "p0", streams.OpPut, size+1, false) {
		t.Error("a larger state of an object")
	}
	if !put("plant-b", "p0", streams.OpPut, size, false) || !put("plant-b", "p1", streams.OpPut, size-1, false) || !put("plant-b", "p2", streams.OpDelete, size, false) {
		t.Error("a state that is as large as before or smaller, or a deletion, is refused")
	}
	if !put("plant-a", "p", streams.OpPut, size, false) {
		t.Error("another site's state is refused")
	}
	if !put("plant-b", "more", streams.OpPut, size, false) {
		t.Error("refused though there is room again")
	}
	if r.forget("plant-b"); r.stateBytes["plant-b"] != 0 || r.stateBytes["plant-a"] != size {
		t.Errorf("%d and %d bytes are counted", r.stateBytes["plant-b"], r.stateBytes["plant-a"])
	}
	for n := 0; r.room("plant-c") > 0; n++ {
		put("plant-c", fmt.Sprint("p", n), streams.OpPut, size, true)
	}
	if n := len(r.waiting["plant-c"]); n != maxWaitingBytes/size {
		t.Errorf("%d of %d bytes wait, want %d", n, size, maxWaitingBytes/size)
	}
}
