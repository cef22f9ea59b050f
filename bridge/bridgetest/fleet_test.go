package bridgetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/streams"
)

// TestFleet: many sites, and one that returns after long.
func TestFleet(t *testing.T) {
	runAll(t, []sharing{
		{"DeliversToASiteThatWasAway", deliversToASiteThatWasAway},
		{"SurvivesAStormOfChanges", stormOfChanges},
		{"FleetReconnectsWithoutLists", fleetReconnects},
	})
}

// What was made and changed before a site was ever there, and while it was away, is what
// it gets; a site whose store was lost gets all of it again.
func deliversToASiteThatWasAway(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	l := s.leaf() // its first session
	eventually(t, "first object at the site", func() bool { _, ok := l.has(w.configMapRef("settings")); return ok })
	l.equal()

	l.disconnect()
	for i := range 20 {
		w.setConfigMap("settings", fmt.Sprint("away-", i))
	}
	w.configMap("new", "1")
	w.podWith("second", "a1", "new")
	w.settled("plant-a", "second", "a1")
	m, _ := w.desired("plant-a", w.configMapRef("settings"))
	before := len(l.of(w.configMapRef("settings")))
	l.connect()
	eventually(t, "newest version and new object", func() bool {
		e, _ := l.has(w.configMapRef("settings"))
		_, created := l.has(w.configMapRef("new"))
		return e.Hash == m.Hash && created
	})
	if n := len(l.of(w.configMapRef("settings"))) - before; n != 1 {
		t.Errorf("20 changes of one object made %d deliveries", n)
	}
	l.equal()

	// A gateway that was reinstalled.
	all := len(l.image().kept)
	l.disconnect()
	again := w.site("plant-a").leaf()
	eventually(t, "everything at the new gateway", func() bool { return len(again.image().kept) == all })
	again.equal()
}

// crowd is a number of sites with a pod each, in one namespace with services.
func crowd(t *testing.T, a *api, sites, services int) (*world, []*site) {
	t.Helper()
	var names []string
	for i := range sites {
		names = append(names, fmt.Sprint("plant-", i))
	}
	w := newWorld(t, a, names...)
	w.start("one")
	var all []*site
	for i, name := range names {
		s := w.site(name)
		s.register(fmt.Sprint("node-", i))
		all = append(all, s)
	}
	for i := range services {
		_, err := a.admin.CoreV1().Services(w.namespace).Create(w.ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("svc-", i)}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
		w.must(err)
	}
	w.configMap("settings", "1")
	for i := range sites {
		w.pod(fmt.Sprint("web-", i), fmt.Sprint("node-", i), "settings")
	}
	for i, name := range names {
		w.settled(name, fmt.Sprint("web-", i), fmt.Sprint("node-", i))
	}
	for _, name := range names {
		w.awaitDesired(name, streams.Ref{Resource: "services", Namespace: w.namespace, Name: fmt.Sprint("svc-", services-1)}, "published", isPut)
	}
	return w, all
}

// A change of many objects that concerns many sites: every site gets each once, and the
// leases of the nodes are renewed meanwhile.
func stormOfChanges(t *testing.T, a *api) {
	const sites, services = 20, 200
	w, all := crowd(t, a, sites, services)
	before := w.lastSeq()
	beats := map[string]time.Time{}
	renewed := func(node string) time.Time {
		l, err := a.admin.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(w.ctx, node, metav1.GetOptions{})
		if err != nil {
			return time.Time{}
		}
		return l.Spec.RenewTime.Time
	}
	start := time.Now()
	for i := range services {
		patch := []byte(`{"metadata":{"labels":{"storm":"yes"}}}`)
		_, err := a.admin.CoreV1().Services(w.namespace).Patch(w.ctx, fmt.Sprint("svc-", i), types.MergePatchType, patch, metav1.PatchOptions{})
		w.must(err)
		if i == services/2 {
			for j, s := range all {
				node := fmt.Sprint("node-", j)
				beats[node] = time.Now()
				s.beat(0, node)
			}
		}
	}
	changed := time.Since(start)
	d, err := w.js.Stream(w.ctx, streams.Desired)
	w.must(err)
	eventually(t, "each change published to each site", func() bool {
		info, err := d.Info(w.ctx, jetstream.WithSubjectFilter("none"))
		w.must(err)
		return info.State.LastSeq >= before+sites*services
	})
	t.Logf("%d changes in %v were published to %d sites after %v", services, changed.Round(time.Millisecond), sites, time.Since(start).Round(time.Millisecond))
	for node, at := range beats {
		eventually(t, "lease of "+node+" renewed in the storm", func() bool { return renewed(node).After(at.Add(-time.Second)) })
	}
	for _, s := range all[:3] {
		s.leaf().equal()
	}
	if last := w.lastSeq(); last != before+sites*services {
		t.Errorf("%d messages were published, want %d", last-before, sites*services)
	}
}

// fleet is a leaf at each of the sites, which has a node with a pod.
func (w *world) fleet(names []string, node func(int) string) []*leafCopy {
	w.t.Helper()
	var fleet []*leafCopy
	for i, name := range names {
		s := w.site(name)
		s.publishNode(streams.OpCreate, node(i), corev1.ConditionTrue)
		w.pod(fmt.Sprint("web-", i), node(i), "settings")
	}
	for i, name := range names {
		w.awaitDesired(name, w.podRef(fmt.Sprint("web-", i), node(i)), "published", isPut)
		w.awaitDesired(name, w.configMapRef("settings"), "published", isPut)
		w.settled(name, fmt.Sprint("web-", i), node(i))
		fleet = append(fleet, w.site(name).leaf())
	}
	return fleet
}

// A fleet that comes back after an outage of the hub's link costs what changed: no list
// or watch at the API server, and one message for each object that changed.
func fleetReconnects(t *testing.T, a *api) {
	const sites, changed = 200, 10
	var names []string
	for i := range sites {
		names = append(names, fmt.Sprint("fleet-", i))
	}
	w := newWorld(t, a, names...)
	f := newFront(t, a.config)
	w.startWith("one", w.hubAddr(), f.kubeconfig(a), bridge.ImpersonationConstrained)
	w.configMap("settings", "1")
	node := func(i int) string { return fmt.Sprint("node-", i) }
	fleet := w.fleet(names, node)
	delivered := func() (n int) {
		for _, l := range fleet {
			l.mu.Lock()
			n += len(l.history)
			l.mu.Unlock()
		}
		return n
	}
	for _, l := range fleet {
		l.equal()
		l.disconnect()
	}
	for i := range changed {
		w.setConfigMap("settings", fmt.Sprint("away-", i))
	}
	for _, name := range names {
		w.awaitDesired(name, w.configMapRef("settings"), "newest", contains(fmt.Sprintf(`"v":"away-%d"`, changed-1)))
	}
	before := delivered()
	f.lists()
	start := time.Now()
	for i, l := range fleet {
		l.connect()
		l.beat(0, node(i))
	}
	for _, l := range fleet {
		want, _ := w.desired(l.name, w.configMapRef("settings"))
		eventually(t, "newest version at "+l.name, func() bool { e, _ := l.has(w.configMapRef("settings")); return e.Hash == want.Hash })
		l.equal()
	}
	lists, watches := f.lists()
	t.Logf("%d sites are back and equal after %v, with %d deliveries, %d lists and %d watches", sites, time.Since(start).Round(time.Millisecond), delivered()-before, lists, watches)
	if lists > 0 || watches > 0 {
		t.Errorf("%d lists and %d watches for a reconnect", lists, watches)
	}
	// What is under way when a session resets its consumer is delivered once more.
	if n := delivered() - before; n < sites || n > 2*sites {
		t.Errorf("%d deliveries for one changed object at each of %d sites", n, sites)
	}
}
