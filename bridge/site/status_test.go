package site

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// connectedSite returns a site without problems.
func connectedSite() observation {
	return observation{
		now: noon, created: noon.Add(-time.Hour), connected: true, since: noon.Add(-time.Minute), nodes: nodesObservation{count: 2},
		last:  streams.Presence{Time: noon, Version: "v1", Boot: "b1", Applied: 41, AppliedHub: 57},
		epoch: "1-u", term: 3, stored: 57,
	}
}

func TestStatusSaysWhatIsKnown(t *testing.T) {
	t.Parallel()
	o := connectedSite()
	o.pending, o.unobserved = 7, 3
	oldest, ack := noon.Add(-90*time.Second), noon.Add(-time.Second)
	o.oldest, o.lastAck = &oldest, &ack
	o.last.Unapplied, o.last.Quarantined, o.last.Dropped = 2, 1, 5
	o.last.Degraded = []string{streams.DegradedStore, streams.DegradedDiskFull, streams.DegradedDiskFull}
	o.sync = antientropy.State{LastCheck: noon, Outcome: inventory.Equal, Mismatches: 1, Resynced: noon, ResyncReason: "Requested", ResyncRequested: "x"}
	o.earlierMismatches = 4
	s := o.status(v1alpha1.SiteStatus{})
	if !s.Connected || s.Nodes != 2 || s.Pending != 7 || !s.OldestPending.Time.Equal(oldest) || !s.LastAck.Time.Equal(ack) || s.Stored != 57 {
		t.Errorf("stored: %+v", s)
	}
	if s.Unapplied != 2 || s.Applied != 41 || s.AppliedHub != 57 || s.Unobserved != 3 || s.Quarantined != 1 || s.Dropped != 5 || len(s.Degraded) != 2 {
		t.Errorf("applied and observed: %+v", s)
	}
	if s.Epoch != "1-u" || s.Term != 3 || s.LastCheck.Outcome != "equal" || s.Mismatches != 5 || s.Resync.Reason != "Requested" || s.Resync.Requested != "x" {
		t.Errorf("repair: %+v", s)
	}
}

func TestStatusKeepsWhatIsNotKnownAnew(t *testing.T) {
	t.Parallel()
	o := connectedSite()
	o.sync = antientropy.State{LastCheck: noon, Outcome: inventory.Equal, Resynced: noon, ResyncReason: "Requested", ResyncRequested: "x"}
	o.lastAck = &noon
	before := o.status(v1alpha1.SiteStatus{})
	// Another bridge, which has received no heartbeat yet.
	after := observation{now: noon.Add(time.Minute), created: o.created, connected: true, since: o.since, nodes: nodesObservation{count: 2}, stored: 57, epoch: "1-u", term: 4}.status(before)
	if after.Version != "v1" || after.Applied != 41 || after.LastAck == nil || after.LastCheck == nil || after.Resync.Requested != "x" || after.Resync.Time.IsZero() {
		t.Errorf("forgotten: %+v", after)
	}
	if after.Term != 4 {
		t.Errorf("term %d", after.Term)
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change                     func(*observation)
		connected, synced, healthy string
	}{
		"all well":    {func(*observation) {}, "Heard", "UpToDate", "AsExpected"},
		"silent":      {func(o *observation) { o.connected = false }, "Silent", "UpToDate", "NotHeard"},
		"never heard": {func(o *observation) { *o = observation{now: noon, created: noon} }, "NeverSeen", "UpToDate", "NotHeard"},
		"unpublished": {func(o *observation) { o.unpublished = true }, "Heard", "Unpublished", "AsExpected"},
		"pending":     {func(o *observation) { o.pending = 1 }, "Heard", "Pending", "AsExpected"},
		"unapplied":   {func(o *observation) { o.last.Unapplied = 1 }, "Heard", "Unapplied", "AsExpected"},
		"repairing": {func(o *observation) {
			o.sync = antientropy.State{LastCheck: noon, Outcome: inventory.Repairing}
		}, "Heard", "Differs", "AsExpected"},
		"disk full": {func(o *observation) { o.last.Degraded = []string{streams.DegradedDiskFull} }, "Heard", "UpToDate", "DiskFull"},
		"set aside": {func(o *observation) {
			o.last.Degraded, o.last.Details = []string{streams.DegradedSetAside}, []string{"record 7 is in SITE_QUARANTINE"}
		}, "Heard", "UpToDate", "RecordsSetAside"},
		"unreadable":  {func(o *observation) { o.last.Quarantined = 1 }, "Heard", "UpToDate", "Quarantined"},
		"two leaves":  {func(o *observation) { o.duplicate = noon.Add(-time.Minute) }, "Heard", "UpToDate", "DuplicateIdentity"},
		"one of them": {func(o *observation) { o.duplicate = noon.Add(-time.Hour) }, "Heard", "UpToDate", "AsExpected"},
	} {
		t.Run(name, func(t *testing.T) {
			o := connectedSite()
			c.change(&o)
			s := o.status(v1alpha1.SiteStatus{})
			for condition, want := range map[string]string{
				v1alpha1.ConditionConnected: c.connected, v1alpha1.ConditionSynced: c.synced, v1alpha1.ConditionHealthy: c.healthy,
			} {
				got := meta.FindStatusCondition(s.Conditions, condition)
				if got == nil || got.Reason != want {
					t.Errorf("%s is %+v, want %s", condition, got, want)
					continue
				}
				good := want == v1alpha1.ReasonHeard || want == v1alpha1.ReasonUpToDate || want == v1alpha1.ReasonAsExpected
				if (got.Status == metav1.ConditionTrue) != good {
					t.Errorf("%s for %s is %s", condition, want, got.Status)
				}
			}
		})
	}
}

func TestStorageCondition(t *testing.T) {
	t.Parallel()
	noRoom := fmt.Errorf("ensure stream: %w", &jetstream.APIError{Code: 500, ErrorCode: streams.CodeNoRoom, Description: "insufficient storage resources available"})
	for want, problem := range map[string]error{
		v1alpha1.ReasonReserved: nil, v1alpha1.ReasonTooManySites: hub.Room{MaxSites: 2}.TooMany(),
		v1alpha1.ReasonNoRoom: noRoom, v1alpha1.ReasonStreamsFailed: errors.New("overlaps"),
	} {
		c := storageCondition(problem, noon)
		if c.Reason != want || (c.Status == metav1.ConditionTrue) != (problem == nil) || problem != nil && c.Message != problem.Error() || c.Message == "" {
			t.Errorf("for %v: %+v, want %s", problem, c, want)
		}
	}
}

func TestStatusIsWrittenWhenItIsDue(t *testing.T) {
	t.Parallel()
	served := connectedSite().status(v1alpha1.SiteStatus{})
	moved, pending, checked := *served.DeepCopy(), *served.DeepCopy(), *served.DeepCopy()
	moved.LastAck, moved.Stored, moved.AppliedHub, moved.TelemetryPending = wireTime(noon.Add(time.Hour)), 99, 99, 99
	pending.Pending = 1
	checked.LastCheck = &v1alpha1.SiteCheck{Time: *wireTime(noon), Outcome: "equal"}
	again := *checked.DeepCopy()
	again.LastCheck.Time = *wireTime(noon.Add(time.Hour))
	for name, c := range map[string]struct {
		served, is v1alpha1.SiteStatus
		after      time.Duration
		want       bool
	}{
		"nothing changed":                   {served, served, time.Hour, false},
		"changed":                           {served, pending, 2 * time.Second, true},
		"changed again at once":             {served, pending, 1900 * time.Millisecond, false},
		"moving numbers":                    {served, moved, 9 * time.Second, false},
		"moving numbers after a while":      {served, moved, 10 * time.Second, true},
		"first comparison":                  {served, checked, 2 * time.Second, true},
		"another comparison, same outcome":  {checked, again, 9 * time.Second, false},
		"another comparison, after a while": {checked, again, 10 * time.Second, true},
	} {
		if got := statusDue(c.served, c.is, noon, noon.Add(c.after)); got != c.want {
			t.Errorf("%s: due %v after %v", name, got, c.after)
		}
	}
	if !statusDue(served, pending, time.Time{}, noon) {
		t.Error("the first write is not due")
	}
}

func TestObserved(t *testing.T) {
	t.Parallel()
	pod := func(generation, observed int64) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"generation": generation}, "status": map[string]any{"observedGeneration": observed},
		}}
	}
	for _, c := range []struct {
		pod  *unstructured.Unstructured
		want bool
	}{{pod(2, 2), true}, {pod(2, 1), false}, {pod(0, 0), true}, {&unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"generation": int64(1)}}}, false}} {
		if got := podObserved(c.pod); got != c.want {
			t.Errorf("podObserved(%v) = %v", c.pod.Object, got)
		}
	}
	device := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"properties": []any{
		map[string]any{"name": "setpoint", "desired": map[string]any{"value": "42"}},
		map[string]any{"name": "level"},
		map[string]any{"name": "mode", "desired": map[string]any{"value": ""}},
	}}}}
	status := func(value, ack string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"twins": []any{
			map[string]any{"propertyName": "level"},
			map[string]any{"propertyName": "setpoint", "observedDesired": map[string]any{"value": value, "metadata": map[string]any{"ack": ack}}},
		}}}}
	}
	for _, c := range []struct {
		status *unstructured.Unstructured
		want   bool
	}{
		{status("42", "applied"), true},
		{status("42", "rejected"), true},
		{status("42", "pending"), false},
		{status("41", "applied"), false},
		{&unstructured.Unstructured{Object: map[string]any{}}, false},
		{nil, false},
	} {
		if got := deviceObserved(device, c.status); got != c.want {
			t.Errorf("deviceObserved(%v) = %v", c.status, got)
		}
	}
}
