package bridgetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	sitestatus "github.com/petiole-io/petiole/bridge/site"
	"github.com/petiole-io/petiole/streams"
)

// TestView runs what an operator sees.
func TestView(t *testing.T) {
	runAll(t, []sharing{
		{"DeploymentIsValid", deploymentIsValid},
		{"ShowsColumns", showsColumns},
		{"RecordsEventsOfASite", recordsEvents},
		{"WritesStatusSparingly", writesSparingly},
		{"ReservesRoomAtTheHub", reservesRoom},
		{"CountsWhatIsNotObserved", countsUnobserved},
		{"ListsTheBacklogByName", listsBacklog},
		{"AnswersPageByPage", answersPages},
		{"ResyncsByOneCommand", resyncsByCommand},
		{"ServesMetricsAndHealth", servesMetrics},
		{"DocumentsMetrics", documentsMetrics},
		{"DeletesAbandonedQuestions", deletesAbandoned},
	})
}

// present sends a heartbeat with more than a node's lease.
func (s *site) present(change func(*streams.Presence)) {
	s.t.Helper()
	now := time.Now()
	p := streams.Presence{Site: s.name, Time: now, Version: "v-test", Boot: "1", LinkSince: now, Applied: s.applied}
	change(&p)
	data, err := json.Marshal(p)
	s.must(err)
	s.must(s.nc.Publish(streams.PresenceSubject(s.name), data))
	s.must(s.nc.Flush())
}

// events are the reasons of the Events about a Site, as `kubectl describe` finds them,
// with how often each was counted.
func (w *world) events(site string) map[string]int32 {
	w.t.Helper()
	o, err := w.dynamic.Resource(sitesGVR).Get(w.ctx, site, metav1.GetOptions{})
	w.must(err)
	list, err := w.admin.CoreV1().Events(metav1.NamespaceAll).List(w.ctx, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(o.GetUID())})
	w.must(err)
	out := map[string]int32{}
	for _, e := range list.Items {
		if e.InvolvedObject.Kind != "Site" || e.InvolvedObject.Name != site || e.Source.Component != "petiole-bridge" || e.Message == "" {
			w.t.Errorf("event %+v", e)
		}
		out[e.Reason] += e.Count
	}
	return out
}

func (w *world) awaitEvent(site, reason string) {
	w.t.Helper()
	eventually(w.t, "event "+reason, func() bool { return w.events(site)[reason] > 0 })
}

// awaitCondition waits for a condition of a Site to have a reason.
func (w *world) awaitCondition(site, condition, reason string) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("condition %s of %s for the reason %s", condition, site, reason), func() bool {
		st := w.siteStatus(site)
		c := meta.FindStatusCondition(st.Conditions, condition)
		return c != nil && c.Reason == reason
	})
}

// storedAll waits until a site has acknowledged everything that it was sent.
func (w *world) storedAll(site string) { w.acknowledged(streams.Desired, site) }

// acknowledged waits until a durable consumer has nothing that is not acknowledged.
func (w *world) acknowledged(stream, consumer string) {
	w.t.Helper()
	c, err := w.js.Consumer(w.ctx, stream, consumer)
	w.must(err)
	eventually(w.t, consumer+" has acknowledged all of "+stream, func() bool {
		i, err := c.Info(w.ctx)
		return err == nil && i.NumPending == 0 && i.NumAckPending == 0
	})
}

// behind returns the number of the last messages of a site's stream that are not dealt with, as the
// bridge's bucket has it.
func (w *world) behind(site string) uint64 {
	w.t.Helper()
	s, err := w.js.Stream(w.ctx, streams.Reported(site))
	w.must(err)
	bucket, err := w.js.KeyValue(w.ctx, "bridge")
	w.must(err)
	last := s.CachedInfo().State.LastSeq
	e, err := bucket.Get(w.ctx, fmt.Sprintf("reported.%x", site))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return last
	}
	w.must(err)
	var created int64
	var seq uint64
	if _, err := fmt.Sscanf(string(e.Value()), "%d %d", &created, &seq); err != nil || created != s.CachedInfo().Created.UnixNano() || seq > last {
		w.t.Fatalf("the bucket has %q of site %s, whose stream of %d ends at %d: %v", e.Value(), site, s.CachedInfo().Created.UnixNano(), last, err)
	}
	return last - seq
}

// dealtWith waits until all reports of a site are dealt with.
func (w *world) dealtWith(site string) {
	w.t.Helper()
	eventually(w.t, "all reports of "+site+" dealt with", func() bool { return w.behind(site) == 0 })
}

func showsColumns(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	s.leaf()
	s.present(func(p *streams.Presence) {})
	eventually(t, "status of a site that has everything", func() bool {
		st := w.siteStatus("plant-a")
		return st.Nodes == 1 && st.Pending == 0 && st.LastAck != nil && st.Version == "v-test"
	})
	raw, err := a.admin.CoreV1().RESTClient().Get().AbsPath("/apis/petiole.dev/v1alpha1/sites").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(w.ctx)
	w.must(err)
	var table metav1.Table
	w.must(json.Unmarshal(raw, &table))
	var always, wide []string
	for _, c := range table.ColumnDefinitions {
		if c.Priority == 0 {
			always = append(always, c.Name)
		} else {
			wide = append(wide, c.Name)
		}
	}
	if want := []string{"Name", "Connected", "Since", "Pending", "Oldest"}; !slices.Equal(always, want) {
		t.Errorf("kubectl get sites shows %v, want %v", always, want)
	}
	if want := []string{"Nodes", "Unapplied", "Unobserved", "Last-Ack", "Quarantined", "Epoch", "Resync", "Traffic", "Version"}; !slices.Equal(wide, want) {
		t.Errorf("kubectl get sites -o wide adds %v, want %v", wide, want)
	}
	t.Logf("row: %v", table.Rows[0].Cells)
	if row := table.Rows[0].Cells; row[0] != "plant-a" || row[1] != true || row[3] != float64(0) || row[5] != float64(1) {
		t.Errorf("row is %v", row)
	}
}

func recordsEvents(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	w.awaitCondition("plant-a", v1alpha1.ConditionConnected, v1alpha1.ReasonNeverSeen)
	s.present(func(p *streams.Presence) { p.AppliedHub, p.Unapplied = 7, 3 })
	w.awaitEvent("plant-a", sitestatus.EventConnected)
	w.awaitCondition("plant-a", v1alpha1.ConditionSynced, v1alpha1.ReasonUnapplied)
	if st := w.siteStatus("plant-a"); st.AppliedHub != 7 || st.Unapplied != 3 || st.Applied != 42 || st.Boot != "1" || st.Epoch == "" || st.Term == 0 {
		t.Errorf("status %+v", st)
	}

	s.present(func(p *streams.Presence) { p.Degraded = []string{streams.DegradedDiskFull} })
	w.awaitCondition("plant-a", v1alpha1.ConditionHealthy, streams.DegradedDiskFull)
	w.awaitEvent("plant-a", sitestatus.EventDegraded)
	s.present(func(p *streams.Presence) { p.Quarantined, p.Dropped = 2, 5 })
	w.awaitCondition("plant-a", v1alpha1.ConditionHealthy, v1alpha1.ReasonQuarantined)
	for _, reason := range []string{sitestatus.EventRecovered, sitestatus.EventQuarantined, sitestatus.EventDropped} {
		w.awaitEvent("plant-a", reason)
	}

	// The same again is counted in the Event that is there.
	s.present(func(p *streams.Presence) {
		p.Quarantined, p.Dropped, p.Degraded = 2, 5, []string{streams.DegradedDiskFull}
	})
	eventually(t, "degraded again", func() bool { return w.events("plant-a")[sitestatus.EventDegraded] == 2 })
	list, err := a.admin.CoreV1().Events(metav1.NamespaceDefault).List(w.ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Site,reason=" + sitestatus.EventDegraded})
	w.must(err)
	if len(list.Items) != 1 {
		t.Errorf("%d Events of one reason within minutes, want 1", len(list.Items))
	}

	// A restarted leaf, and then the old one again: there are two.
	s.present(func(p *streams.Presence) { p.Boot = "2" })
	w.awaitEvent("plant-a", sitestatus.EventLeafStarted)
	s.present(func(p *streams.Presence) { p.Boot = "1" })
	w.awaitCondition("plant-a", v1alpha1.ConditionHealthy, v1alpha1.ReasonDuplicateIdentity)
	w.awaitEvent("plant-a", sitestatus.EventDuplicateIdentity)

	// Another bridge does not tell it again.
	before := w.events("plant-a")
	b.stop()
	w.start("two")
	term := w.siteStatus("plant-a").Term
	s.present(func(p *streams.Presence) { p.Boot = "1" })
	eventually(t, "status by the second bridge", func() bool { return w.siteStatus("plant-a").Term > term })
	s.present(func(p *streams.Presence) { p.Boot, p.Degraded = "1", []string{streams.DegradedStore} })
	eventually(t, "degraded for another reason", func() bool { return w.events("plant-a")[sitestatus.EventDegraded] == 3 })
	after := w.events("plant-a")
	delete(before, sitestatus.EventDegraded)
	delete(after, sitestatus.EventDegraded)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("events %v became %v by a change of the leader", before, after)
	}
}

// writesSparingly: what moves all the time does not become a write of the API each time.
func writesSparingly(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	s := w.site("plant-a")
	w.awaitCondition("plant-a", v1alpha1.ConditionConnected, v1alpha1.ReasonNeverSeen)
	s.present(func(*streams.Presence) {})
	w.awaitCondition("plant-a", v1alpha1.ConditionConnected, v1alpha1.ReasonHeard)
	watch, err := w.dynamic.Resource(sitesGVR).Watch(w.ctx, metav1.ListOptions{})
	w.must(err)
	defer watch.Stop()
	const span = 9 * time.Second
	started, beats := time.Now(), 0
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	versions := map[string]bool{}
	for time.Since(started) < span {
		select {
		case e := <-watch.ResultChan():
			if o, ok := e.Object.(*unstructured.Unstructured); ok && e.Type == "MODIFIED" {
				versions[o.GetResourceVersion()] = true
			}
		case <-tick.C:
			beats++
			s.applied++
			s.present(func(p *streams.Presence) { p.TelemetryPending = s.applied })
		}
	}
	if n := len(versions); n > 2 {
		t.Errorf("%d writes in %v for %d heartbeats that say only what moves all the time", n, span, beats)
	}
	// What matters is written at once, and then every 2 seconds at most.
	clear(versions)
	started = time.Now()
	for time.Since(started) < span {
		select {
		case e := <-watch.ResultChan():
			if o, ok := e.Object.(*unstructured.Unstructured); ok && e.Type == "MODIFIED" {
				versions[o.GetResourceVersion()] = true
			}
		case <-tick.C:
			s.applied++
			s.present(func(p *streams.Presence) { p.Unapplied = s.applied })
		}
	}
	if n := len(versions); n < 2 || n > 1+int(span/(2*time.Second)) {
		t.Errorf("%d writes in %v of a number that matters", n, span)
	}
}

func countsUnobserved(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	eventually(t, "a pod that is not observed", func() bool { return w.siteStatus("plant-a").Unobserved == 1 })
	s.beat(0, "a1")
	current := w.getPod("web")
	pod := reported(current, corev1.PodRunning, corev1.ConditionTrue)
	pod.Status.ObservedGeneration = current.Generation
	s.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), pod)
	eventually(t, "everything observed", func() bool { return w.siteStatus("plant-a").Unobserved == 0 })
}
