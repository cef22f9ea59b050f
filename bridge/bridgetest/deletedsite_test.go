package bridgetest

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	nodeutil "k8s.io/component-helpers/node/util"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
)

// TestDeletedSite: the Nodes of a deleted Site are marked and deleted, and no others; those of a
// Site that exists again in time stay.
func TestDeletedSite(t *testing.T) {
	runAll(t, []sharing{
		{"LosesItsNodes", deletedSiteLosesItsNodes},
		{"ReturnsToItsNodes", recreatedSiteKeepsItsNodes},
		{"WaitsForOtherSites", lastSiteKeepsItsNodes},
	})
}

func (w *world) deleteSite(name string) {
	w.t.Helper()
	w.must(w.dynamic.Resource(sitesGVR).Delete(w.ctx, name, metav1.DeleteOptions{}))
}

func (w *world) node(name string) *corev1.Node {
	w.t.Helper()
	n, err := w.admin.CoreV1().Nodes().Get(w.ctx, name, metav1.GetOptions{})
	w.must(err)
	return n
}

// siteDeleted reports whether a Node shows that its Site was deleted, by its taint and by its
// conditions.
func siteDeleted(n *corev1.Node) (tainted, notReady bool) {
	tainted = slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == v1alpha1.SiteDeletedTaint && t.Effect == corev1.TaintEffectNoSchedule
	})
	_, ready := nodeutil.GetNodeCondition(&n.Status, corev1.NodeReady)
	_, connected := nodeutil.GetNodeCondition(&n.Status, v1alpha1.SiteConnectedCondition)
	notReady = ready != nil && ready.Status == corev1.ConditionFalse && ready.Reason == "SiteDeleted" &&
		connected != nil && connected.Status == corev1.ConditionFalse && connected.Reason == "SiteDeleted"
	return tainted, notReady
}

// awaitMarked waits until a Node shows that its Site was deleted.
func (w *world) awaitMarked(name string) {
	w.t.Helper()
	eventually(w.t, name+" is marked", func() bool {
		tainted, notReady := siteDeleted(w.node(name))
		return tainted && notReady
	})
}

// nodeEvents returns the reasons of the Events about a Node.
func (w *world) nodeEvents(uid types.UID) (reasons []string) {
	w.t.Helper()
	events, err := w.admin.CoreV1().Events("default").List(w.ctx, metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(uid)})
	w.must(err)
	for _, e := range events.Items {
		reasons = append(reasons, e.Reason)
	}
	slices.Sort(reasons)
	return reasons
}

// deletedSiteLosesItsNodes deletes a Site while another one, and a Node that somebody has labelled
// by hand, are there. The bridge is replaced meanwhile.
func deletedSiteLosesItsNodes(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.nodeDeletionDelay = 0
	one := w.start("one")
	s, deleted := w.site("plant-a"), w.site("plant-b")
	stays := s.register("a1")
	goes := []*corev1.Node{deleted.register("b1"), deleted.register("b2")}
	w.configMap("settings", "1")
	pod := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	_, err := a.admin.CoreV1().Nodes().Create(w.ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "by-hand", Labels: map[string]string{v1alpha1.SiteLabel: "plant-b"}},
	}, metav1.CreateOptions{})
	w.must(err)

	start := time.Now()
	w.deleteSite("plant-b")
	for _, n := range goes {
		w.awaitMarked(n.Name)
	}
	t.Logf("marked %v after the Site was deleted", time.Since(start).Round(time.Millisecond))
	// A delay of 0 deletes nothing, and a heartbeat of the gateway is of no use.
	deleted.beat(0, "b1", "b2")
	one.rounds(t, "the site controller", 2, func(c bridge.Counters) uint64 { return c.SiteRounds })
	w.awaitMarked("b1")
	one.stop()

	w.nodeDeletionDelay = time.Second
	w.start("two")
	for _, n := range goes {
		eventually(t, n.Name+" is deleted", func() bool { return !w.hasNode(n.Name) })
		if got := w.nodeEvents(n.UID); !slices.Equal(got, []string{"DeletingNode", "SiteDeleted"}) {
			t.Errorf("Events about %s: %v", n.Name, got)
		}
	}
	if tainted, notReady := siteDeleted(w.node("by-hand")); tainted || notReady {
		t.Errorf("a Node that no site has reported is marked: tainted %t, not ready %t", tainted, notReady)
	}
	n := w.node("a1")
	if tainted, notReady := siteDeleted(n); tainted || notReady || n.UID != stays.UID || len(w.nodeEvents(n.UID)) != 0 {
		t.Errorf("a Node of another Site: %+v", n)
	}
	if p := w.getPod("web"); p.UID != pod.UID || p.DeletionTimestamp != nil {
		t.Errorf("a pod of another Site: %+v", p.ObjectMeta)
	}
	// The Site that comes back later registers its node again, without the mark.
	w.createSite("plant-b")
	deleted.beat(0, "b1")
	if again := deleted.register("b1"); again.UID == goes[0].UID {
		t.Error("the node is the deleted one")
	} else if tainted, _ := siteDeleted(again); tainted {
		t.Error("the node that has registered again is marked")
	}
}

// recreatedSiteKeepsItsNodes deletes a Site and creates it again: in the same moment, and when
// its node is marked.
func recreatedSiteKeepsItsNodes(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.nodeDeletionDelay = 3 * time.Second
	w.start("one")
	s, other := w.site("plant-a"), w.site("plant-b")
	node := s.register("a1")
	_, err := a.admin.CoreV1().Nodes().Patch(w.ctx, "a1", types.MergePatchType, []byte(`{"spec":{"taints":[{"key":"dedicated","value":"press","effect":"NoSchedule"}]}}`), metav1.PatchOptions{})
	w.must(err)
	other.register("b1")
	for _, waits := range []bool{false, true} {
		w.deleteSite("plant-a")
		deleted := time.Now()
		if waits {
			w.awaitMarked("a1")
		}
		w.createSite("plant-a")
		var said time.Time
		eventually(t, "a1 is ready again", func() bool {
			// What the streams of the deleted Site have is removed with them, so that a leaf says it again.
			if time.Since(said) > time.Second {
				s.beat(0, "a1")
				s.publishNode(streams.OpPut, "a1", corev1.ConditionTrue)
				said = time.Now()
			}
			n := w.node("a1")
			tainted, _ := siteDeleted(n)
			_, ready := nodeutil.GetNodeCondition(&n.Status, corev1.NodeReady)
			_, connected := nodeutil.GetNodeCondition(&n.Status, v1alpha1.SiteConnectedCondition)
			return !tainted && ready.Status == corev1.ConditionTrue && connected.Status == corev1.ConditionTrue
		})
		// The delay has passed since the Site was deleted.
		eventually(t, "the delay has passed", func() bool { return time.Since(deleted) > w.nodeDeletionDelay+time.Second })
		n := w.node("a1")
		if n.UID != node.UID {
			t.Fatalf("a1 was deleted (waited for its mark: %t)", waits)
		}
		if !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "dedicated" }) {
			t.Errorf("the taint of a user is gone: %+v", n.Spec.Taints)
		}
	}
}

// lastSiteKeepsItsNodes: without any Site nothing is deleted, because the definition of Sites may
// be on its way to being replaced; nodes go when there has been another Site for the delay.
func lastSiteKeepsItsNodes(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.nodeDeletionDelay = time.Second
	b := w.start("one")
	node := w.site("plant-a").register("a1")
	w.deleteSite("plant-a")
	w.awaitMarked("a1")
	b.rounds(t, "the site controller", 3, func(c bridge.Counters) uint64 { return c.SiteRounds })
	if w.node("a1").UID != node.UID {
		t.Fatal("a1 was deleted with the last Site")
	}
	w.createSite("plant-b")
	eventually(t, "a1 is deleted", func() bool { return !w.hasNode("a1") })
}
