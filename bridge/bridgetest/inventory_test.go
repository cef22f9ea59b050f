package bridgetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

// TestRepair: a site that lacks something gets it, by comparison or by a resync.
func TestRepair(t *testing.T) {
	runAll(t, []sharing{
		{"RepairsWhatASiteLost", repairsWhatASiteLost},
		{"ResyncsOnRequest", resyncsOnRequest},
		{"ResyncsASiteThatIsAway", resyncsASiteThatIsAway},
		{"ResyncsAfterRepeatedMismatch", resyncsAfterRepeatedMismatch},
		{"RestoresWhatTheHubLost", restoresWhatTheHubLost},
		{"AnswersBehindUntilTheSiteHasAll", answersBehind},
		{"RefusesForgedManifests", refusesForgedManifests},
		{"AnswersPositions", answersPositions},
	})
}

// populated is a site with a node, a pod and n ConfigMaps, all published and kept.
func populated(t *testing.T, a *api, n int) (*world, *leafCopy) {
	t.Helper()
	w, l, _ := populatedBy(t, a, n)
	return w, l
}

func populatedBy(t *testing.T, a *api, n int) (*world, *leafCopy, *running) {
	t.Helper()
	w := newWorld(t, a, "plant-a", "plant-b")
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("settings-%d", i))
		w.configMap(names[i], "1")
	}
	w.podWith("web", "a1", names...)
	w.settled("plant-a", "web", "a1")
	l := s.leaf()
	l.beat(0, "a1")
	if n := l.equal(); n != 0 {
		t.Fatalf("the site was found to differ %d times before anything happened", n)
	}
	return w, l, b
}

func repairsWhatASiteLost(t *testing.T, a *api) {
	w, l := populated(t, a, 20)
	lost, other, strange := w.configMapRef("settings-3"), w.configMapRef("settings-7"), w.configMapRef("invented")
	before := w.lastSeq()
	l.damage(func(kept map[string]inventory.Entry) {
		delete(kept, streams.DesiredSubject("plant-a", lost))
		e := kept[streams.DesiredSubject("plant-a", other)]
		e.Version = "1"
		kept[e.Subject] = e
		e.Subject, e.UID = streams.DesiredSubject("plant-a", strange), "00000000-0000-0000-0000-000000000001"
		kept[e.Subject] = e
	})
	answer := l.compare()
	if answer.State != inventory.Repairing || answer.Published != 3 {
		t.Fatalf("answer is %+v, want that 3 are repaired", answer)
	}
	eventually(t, "what was lost is back, what was invented is gone", func() bool {
		_, has := l.has(lost)
		o, _ := l.has(other)
		_, zombie := l.has(strange)
		return has && o.Version != "1" && !zombie
	})
	if n := l.equal(); n != 0 {
		t.Errorf("the site was found to differ again %d times", n)
	}
	if last := w.lastSeq(); last != before+3 {
		t.Errorf("%d messages were published for a difference of 3", last-before)
	}
	if d := l.of(strange); len(d) != 1 || d[0].uid != "00000000-0000-0000-0000-000000000001" || d[0].op != streams.OpDelete {
		t.Errorf("the invented object was dismissed by %+v", d)
	}
}

func resyncsOnRequest(t *testing.T, a *api) {
	w, l, b := populatedBy(t, a, 20)
	all := len(l.image().kept)
	before, deliveries := w.lastSeq(), len(l.of(w.configMapRef("settings-1")))
	l.damage(func(kept map[string]inventory.Entry) { clear(kept) })
	w.requestResync("plant-a", "now")
	eventually(t, "everything delivered again", func() bool { return len(l.image().kept) == all })
	eventually(t, "the site told to compare", func() bool { l.beat(0, "a1"); return l.verifies() > 0 })
	if n := l.equal(); n != 0 {
		t.Errorf("the site was found to differ %d times after a resync", n)
	}
	if last := w.lastSeq(); last != before {
		t.Errorf("a resync published %d messages", last-before)
	}
	// The next bridge knows that it was carried out.
	eventually(t, "the request in the Site's status", func() bool {
		r := w.siteStatus("plant-a").Resync
		return r != nil && r.Requested == "now"
	})
	b.stop()
	b = w.start("two")
	// Another site's requests show that the first was looked at: the second of them is
	// carried out in a later round. What the site is sent then comes behind all before.
	for i := range uint64(2) {
		w.requestResync("plant-b", fmt.Sprint(i))
		eventually(t, "another site's request carried out", func() bool {
			r := w.siteStatus("plant-b").Resync
			return r != nil && r.Requested == fmt.Sprint(i) && b.Counters().Resyncs > i
		})
	}
	w.setConfigMap("settings-2", "2")
	eventually(t, "a change that the next bridge publishes", func() bool { return len(l.of(w.configMapRef("settings-2"))) > len(l.of(w.configMapRef("settings-1"))) })
	if n := len(l.of(w.configMapRef("settings-1"))); n != deliveries+1 || b.Counters().Resyncs != 2 {
		t.Errorf("one request made %d deliveries of an object, and %d resyncs of another site's 2", n-deliveries, b.Counters().Resyncs)
	}
}

// requestResync asks for one as an operator does.
func (w *world) requestResync(site, value string) {
	w.t.Helper()
	patch := []byte(`{"metadata":{"annotations":{"` + v1alpha1.ResyncAnnotation + `":"` + value + `"}}}`)
	_, err := w.dynamic.Resource(sitesGVR).Patch(w.ctx, site, types.MergePatchType, patch, metav1.PatchOptions{})
	w.must(err)
}

// A site that is away is resynced as well: it gets everything when it comes back.
func resyncsASiteThatIsAway(t *testing.T, a *api) {
	w, l := populated(t, a, 5)
	all := l.image()
	l.disconnect()
	w.requestResync("plant-a", "away")
	eventually(t, "the backlog is everything", func() bool {
		c, err := w.js.Consumer(w.ctx, streams.Desired, "plant-a")
		w.must(err)
		i := c.CachedInfo()
		return int(i.NumPending)+i.NumAckPending >= len(all.kept)
	})
	l.damage(func(kept map[string]inventory.Entry) { clear(kept) })
	l.connect()
	eventually(t, "everything delivered", func() bool { return len(l.image().kept) == len(all.kept) })
	l.equal()
}

// A site that goes on differing although what differed was published again is told to
// resync fully.
func resyncsAfterRepeatedMismatch(t *testing.T, a *api) {
	w, l := populated(t, a, 10)
	lost := w.configMapRef("settings-2")
	other := w.configMapRef("settings-5")
	deliveries := len(l.of(other))
	for range 2 {
		eventually(t, "mismatch", func() bool {
			l.damage(func(kept map[string]inventory.Entry) { delete(kept, streams.DesiredSubject("plant-a", lost)) })
			return l.compare().State == inventory.Repairing
		})
		time.Sleep(2500 * time.Millisecond) // repairs of one site keep a distance
	}
	eventually(t, "an object that did not differ delivered again", func() bool { return len(l.of(other)) > deliveries })
	eventually(t, "the site told to compare", func() bool { l.beat(0, "a1"); return l.verifies() > 0 })
	l.equal()
}

// What an operator, or a bug, took away from DESIRED itself is found by the comparison
// and published again.
func restoresWhatTheHubLost(t *testing.T, a *api) {
	w, l := populated(t, a, 5)
	lost := w.configMapRef("settings-1")
	s, err := w.js.Stream(w.ctx, streams.Desired)
	w.must(err)
	w.must(s.Purge(w.ctx, jetstream.WithPurgeSubject(streams.DesiredSubject("plant-a", lost))))
	l.damage(func(kept map[string]inventory.Entry) { delete(kept, streams.DesiredSubject("plant-a", lost)) })
	eventually(t, "published again", func() bool {
		l.compare()
		_, ok := l.has(lost)
		return ok
	})
	l.equal()
}

func answersBehind(t *testing.T, a *api) {
	w, l := populated(t, a, 3)
	at := l.image()
	l.disconnect()
	w.setConfigMap("settings-1", "2")
	w.awaitDesired("plant-a", w.configMapRef("settings-1"), "changed", contains(`"v":"2"`))
	if answer := l.compare(); answer.State != inventory.Behind {
		t.Errorf("a site that has not got all is answered %+v", answer)
	}
	q := inventory.Query{HubPosition: streams.HubPosition{Seq: at.position + 100, Identity: "another"}, Digest: "x"}
	if answer := l.ask(q); answer.State != inventory.Behind {
		t.Errorf("a site of another stream is answered %+v", answer)
	}
	l.connect()
	l.equal()
}

// A site cannot make the bridge touch another's subjects, or take memory, by what it
// claims to have.
func refusesForgedManifests(t *testing.T, a *api) {
	w, l := populated(t, a, 3)
	before := w.lastSeq()
	at := l.image()
	foreign := inventory.Entry{Subject: streams.DesiredSubject("plant-b", w.configMapRef("settings-1")), UID: "x"}
	base := inventory.Query{HubPosition: streams.HubPosition{Seq: at.position, Identity: at.identity}, Digest: "x"}
	for name, change := range map[string]func(*inventory.Query){
		"another site's entry": func(q *inventory.Query) {
			q.Of, q.Entries = []int{foreign.Bucket()}, []inventory.Entry{foreign}
		},
		"an entry of no bucket":    func(q *inventory.Query) { q.Entries = []inventory.Entry{foreign} },
		"a bucket that is not one": func(q *inventory.Query) { q.Of = []int{300} },
		"short buckets":            func(q *inventory.Query) { q.Buckets = []byte{1} },
		"a subject of no object": func(q *inventory.Query) {
			e := inventory.Entry{Subject: "desired.plant-a.>"}
			q.Of, q.Entries = []int{e.Bucket()}, []inventory.Entry{e}
		},
	} {
		q := base
		change(&q)
		if answer := l.ask(q); answer.Error == "" || answer.State != inventory.Behind {
			t.Errorf("%s: answered %+v", name, answer)
		}
	}
	for name, data := range map[string]string{
		"no JSON": "{", "a number": "7", "many empty entries": `{"of":[1],"entries":[` + strings.Repeat("{},", 50_000) + `{}]}`,
		"many buckets": `{"of":[` + strings.Repeat("1,", 100_000) + `1]}`,
	} {
		if answer := l.askRaw([]byte(data)); answer.Error == "" {
			t.Errorf("%s: answered %+v", name, answer)
		}
	}
	m, err := l.nc.Request(streams.RequestSubject("plant-a", "gold"), nil, patience)
	w.must(err)
	if !strings.Contains(string(m.Data), `"error":"no such request`) {
		t.Errorf("an unknown request is answered %s", m.Data)
	}
	if _, err := l.nc.Request(streams.RequestSubject("plant-b", inventory.Request), nil, time.Second); err == nil {
		t.Error("a site can ask in another's name")
	}
	if last := w.lastSeq(); last != before {
		t.Errorf("forged manifests made the bridge publish %d messages", last-before)
	}
	l.equal()
}

func answersPositions(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	position := func(data string) streams.PositionAnswer {
		var p streams.PositionAnswer
		s.request(streams.RequestPosition, data, &p)
		return p
	}
	at := func(seq uint64) streams.SitePosition { return streams.SitePosition{Incarnation: 1234567890, Seq: seq} }
	for i, id := range []streams.ForwardID{
		{Site: "plant-a", Stream: streams.SiteTelemetry, SitePosition: at(7)}, {Site: "plant-a", Stream: streams.SiteTelemetry, SitePosition: at(8)},
	} {
		m := nats.NewMsg(streams.TelemetrySubject("plant-a", "sample", "default", fmt.Sprint("pump-", i)))
		m.Header.Set(jetstream.MsgIDHeader, id.String())
		s.send(m)
		if p := position(`{"stream":"SITE_TELEMETRY"}`); p.ID != id.String() || p.Error != "" {
			t.Errorf("position is %+v, want %s", p, id)
		}
	}
	id := streams.ForwardID{Site: "plant-a", Stream: streams.SiteReported, SitePosition: at(9)}
	event := streams.Message{Ref: streams.Ref{Node: "a1", Resource: "events", Namespace: w.namespace, Name: "e"}, Op: streams.OpCreate, Object: []byte(`{"metadata":{"name":"e"}}`)}
	m := event.Encode(streams.ReportedSubject("plant-a", event.Ref))
	m.Header.Set(jetstream.MsgIDHeader, id.String())
	s.send(m)
	if p := position(`{"stream":"SITE_REPORTED"}`); p.ID != id.String() {
		t.Errorf("position is %+v, want %s", p, id)
	}
	for _, bad := range []string{`{"stream":"DESIRED"}`, `{`, `{"stream":"`} {
		if p := position(bad); p.Error == "" {
			t.Errorf("query %s is answered %+v", bad, p)
		}
	}
	// A site that has sent nothing has no position, as soon as it has its streams.
	other := w.site("plant-b")
	eventually(t, "the position of a new site", func() bool {
		var p streams.PositionAnswer
		other.request(streams.RequestPosition, `{"stream":"SITE_TELEMETRY"}`, &p)
		if p.ID != "" {
			t.Fatalf("position of a new site is %+v", p)
		}
		return p.Error == ""
	})
}

// podWith makes a pod that is bound to the node and mounts the ConfigMaps.
func (w *world) podWith(name, node string, configMaps ...string) *corev1.Pod {
	w.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
	}
	for _, c := range configMaps {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: c}},
		}})
	}
	p, err := w.admin.CoreV1().Pods(w.namespace).Create(w.ctx, p, metav1.CreateOptions{})
	w.must(err)
	return p
}
