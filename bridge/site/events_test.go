package site

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
)

func TestEventsTellWhatHappened(t *testing.T) {
	t.Parallel()
	silent := func(o *observation) { o.connected, o.since = false, noon }
	for name, c := range map[string]struct {
		before, after func(*observation)
		want          []string
	}{
		"nothing":      {nil, nil, nil},
		"disconnected": {nil, silent, []string{EventDisconnected}},
		"connected": {
			func(o *observation) { o.connected, o.since = false, noon.Add(-3*time.Minute) },
			func(o *observation) { o.since = noon },
			[]string{EventConnected},
		},
		"leaf started":  {nil, func(o *observation) { o.last.Boot = "b2" }, []string{EventLeafStarted}},
		"mismatch":      {nil, func(o *observation) { o.sync.Mismatches = 1 }, []string{EventManifestMismatch}},
		"resync":        {nil, func(o *observation) { o.sync.Resynced, o.sync.ResyncReason = noon, "Requested" }, []string{EventResync}},
		"epoch":         {nil, func(o *observation) { o.epoch = "2-u" }, []string{EventNewEpoch}},
		"quarantine":    {func(o *observation) { o.last.Quarantined = 2 }, func(o *observation) { o.last.Quarantined = 5 }, []string{EventQuarantined}},
		"no quarantine": {func(o *observation) { o.last.Quarantined = 2 }, nil, nil},
		"dropped":       {nil, func(o *observation) { o.last.Dropped = 10 }, []string{EventDropped}},
		"degraded":      {nil, func(o *observation) { o.last.Degraded = []string{streams.DegradedDiskFull} }, []string{EventDegraded}},
		"kubelet": {nil, func(o *observation) {
			o.last.Degraded, o.last.Details = []string{streams.DegradedKubelet}, []string{"the kubelet exits again and again, the last time with exit status 1: swap"}
		}, []string{EventDegraded}},
		"recovered":  {func(o *observation) { o.last.Degraded = []string{streams.DegradedDiskFull} }, nil, []string{EventRecovered}},
		"two leaves": {nil, func(o *observation) { o.duplicate, o.last.Boot = noon, "b2" }, []string{EventDuplicateIdentity}},
		"still two":  {func(o *observation) { o.duplicate = noon }, func(o *observation) { o.duplicate, o.last.Boot = noon, "b2" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			was, is := connectedSite(), connectedSite()
			if c.before != nil {
				c.before(&was)
			}
			if c.after != nil {
				c.after(&is)
			}
			before := was.status(v1alpha1.SiteStatus{})
			var got []string
			for _, e := range eventsOf(before, is.status(before)) {
				got = append(got, e.reason)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("events %v, want %v", got, c.want)
			}
		})
	}
}

func TestEventSaysWhatTheKubeletSaid(t *testing.T) {
	t.Parallel()
	was, is := connectedSite(), connectedSite()
	is.last.Degraded, is.last.Details = []string{streams.DegradedKubelet}, []string{"the kubelet exits: no swap; please"}
	before := was.status(v1alpha1.SiteStatus{})
	e := eventsOf(before, is.status(before))
	if want := "the leaf reports: KubeletFailing; the kubelet exits: no swap; please"; len(e) != 1 || e[0].message != want {
		t.Errorf("events %+v, want %q", e, want)
	}
}

func TestEventsSayHowLongASiteWasAway(t *testing.T) {
	t.Parallel()
	was, is := connectedSite(), connectedSite()
	was.connected, was.since, is.since = false, noon.Add(-3*time.Minute), noon
	before := was.status(v1alpha1.SiteStatus{})
	e := eventsOf(before, is.status(before))
	if len(e) != 1 || !strings.Contains(e[0].message, "3m") {
		t.Errorf("events %+v", e)
	}
	// A new Site.
	e = eventsOf(v1alpha1.SiteStatus{}, connectedSite().status(v1alpha1.SiteStatus{}))
	if len(e) != 1 || e[0].reason != EventConnected || !strings.Contains(e[0].message, "first") {
		t.Errorf("events of a new site %+v", e)
	}
}
