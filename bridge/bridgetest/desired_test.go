package bridgetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
)

// TestDesired: what the API server says reaches DESIRED, and nothing else does.
func TestDesired(t *testing.T) {
	runAll(t, []sharing{
		{"RegistersNodesAndPublishesTheirClosure", registersAndPublishes},
		{"PublishesOnlyRealChanges", publishesOnlyRealChanges},
		{"DeliversReadinessGates", deliversReadinessGates},
		{"DeliversWhatPodsWaitFor", deliversWhatPodsWaitFor},
		{"DeliversWhatItMissed", deliversWhatItMissed},
		{"RemovesTombstonesThatTheSiteHasStored", removesTombstones},
		{"RemovesASite", removesASite},
		{"WaitsForTheHub", waitsForTheHub},
		{"DeliversLargeObjects", largeObjects},
	})
}

func registersAndPublishes(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.start("one")
	node := w.site("plant-a").register("a1")
	if node.Labels[v1alpha1.SiteLabel] != "plant-a" || node.Labels[corev1.LabelHostname] != "a1" {
		t.Errorf("labels of the node are %v", node.Labels)
	}
	if node.Status.NodeInfo.ContainerRuntimeVersion != "cri-o://1.34.0" || len(node.Status.Addresses) != 2 {
		t.Errorf("status of the node is %+v", node.Status)
	}
	cm := w.configMap("settings", "1")
	w.configMap("foreign", "1")
	pod := w.pod("web", "a1", "settings")

	for _, r := range []streams.Ref{
		{Node: "a1", Resource: "nodes", Name: "a1"},
		{Resource: "namespaces", Name: w.namespace},
		{Resource: "serviceaccounts", Namespace: w.namespace, Name: "default"},
		{Resource: "services", Namespace: "default", Name: "kubernetes"},
		w.configMapRef("settings"), w.podRef("web", "a1"),
	} {
		w.awaitDesired("plant-a", r, "published", isPut)
	}
	m, _ := w.desired("plant-a", w.configMapRef("settings"))
	var got corev1.ConfigMap
	if err := json.Unmarshal(m.Object, &got); err != nil {
		t.Fatal(err)
	}
	system, err := a.admin.CoreV1().Namespaces().Get(w.ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	w.must(err)
	if got.Kind != "ConfigMap" || got.Data["v"] != "1" || m.UID != string(cm.UID) || m.Version != cm.ResourceVersion || !strings.HasSuffix(m.Epoch, "-"+string(system.UID)) || bytes.Contains(m.Object, []byte("managedFields")) {
		t.Errorf("published %+v: %s", m, m.Object)
	}
	w.settled("plant-a", "web", "a1")
	if _, seq := w.desired("plant-a", w.configMapRef("foreign")); seq != 0 {
		t.Error("a ConfigMap that no pod uses was published")
	}
	for _, r := range []streams.Ref{w.configMapRef("settings"), w.podRef("web", "a1"), {Node: "a1", Resource: "nodes", Name: "a1"}} {
		if _, seq := w.desired("plant-b", r); seq != 0 {
			t.Errorf("%s was published to another site", r)
		}
	}

	w.setConfigMap("settings", "2")
	w.awaitDesired("plant-a", w.configMapRef("settings"), "changed", contains(`"v":"2"`))

	// Reached only through the ConfigMap's user: gone with it.
	w.must(a.admin.CoreV1().Pods(w.namespace).Delete(w.ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	w.awaitDesired("plant-a", w.podRef("web", "a1"), "deleted", tombstoneOf(pod.UID))
	w.awaitDesired("plant-a", w.configMapRef("settings"), "taken away", tombstoneOf(cm.UID))
}

func publishesOnlyRealChanges(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "1")
	pod := w.pod("web", "a1", "settings")
	w.awaitDesired("plant-a", w.configMapRef("settings"), "published", isPut)
	w.settled("plant-a", "web", "a1")
	before := w.lastSeq()

	// The site's own echo.
	s.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), reported(pod, corev1.PodRunning, corev1.ConditionTrue))
	eventually(t, "status of the pod", func() bool { return w.getPod("web").Status.Phase == corev1.PodRunning })
	s.reportNode("a1", corev1.ConditionFalse)
	eventually(t, "status of the node", func() bool {
		n, err := a.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{})
		w.must(err)
		return nodeCondition(n, corev1.NodeReady) == corev1.ConditionFalse
	})
	// The link, as the cloud shows it.
	taint := []byte(`{"spec":{"taints":[{"key":"node.kubernetes.io/unreachable","effect":"NoExecute"}]}}`)
	_, err := a.admin.CoreV1().Nodes().Patch(w.ctx, "a1", types.MergePatchType, taint, metav1.PatchOptions{})
	w.must(err)

	w.setConfigMap("settings", "2")
	if seq := w.awaitDesired("plant-a", w.configMapRef("settings"), "changed", contains(`"v":"2"`)); seq != before+1 {
		t.Errorf("the change is message %d after %d: something else was published", seq, before)
	}

	// A start is a relist of everything.
	b.stop()
	w.start("two")
	w.setConfigMap("settings", "3")
	if seq := w.awaitDesired("plant-a", w.configMapRef("settings"), "changed", contains(`"v":"3"`)); seq != before+2 {
		t.Errorf("the change is message %d after %d: the start published something", seq, before+1)
	}
}

// A condition that the kubelet does not own is desired state: it is delivered, and a report
// from before it does not erase it.
func deliversReadinessGates(t *testing.T, a *api) {
	const gate = "example.com/load-balancer"
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "1")
	pod := w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	s.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), reported(pod, corev1.PodRunning, corev1.ConditionTrue))
	eventually(t, "status of the pod", func() bool { return w.getPod("web").Status.Phase == corev1.PodRunning })
	set := func(status corev1.ConditionStatus) {
		t.Helper()
		patch := fmt.Appendf(nil, `{"status":{"conditions":[{"type":%q,"status":%q}]}}`, gate, status)
		_, err := a.admin.CoreV1().Pods(w.namespace).Patch(w.ctx, "web", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		w.must(err)
	}
	delivered := func(status corev1.ConditionStatus) func(*streams.Message) bool {
		return func(m *streams.Message) bool {
			var p corev1.Pod
			w.must(json.Unmarshal(m.Object, &p))
			return podCondition(&p, gate) == status
		}
	}
	set(corev1.ConditionFalse)
	w.awaitDesired("plant-a", w.podRef("web", "a1"), "with its condition", delivered(corev1.ConditionFalse))
	set(corev1.ConditionTrue)
	w.awaitDesired("plant-a", w.podRef("web", "a1"), "with its condition changed", delivered(corev1.ConditionTrue))

	accepted := b.Counters().Accepted
	s.report(streams.OpPut, w.podRef("web", "a1"), string(pod.UID), reported(pod, corev1.PodRunning, corev1.ConditionFalse))
	eventually(t, "report handled", func() bool { return b.Counters().Accepted > accepted })
	if p := w.getPod("web"); podCondition(p, gate) != corev1.ConditionTrue || podCondition(p, corev1.PodReady) != corev1.ConditionFalse {
		t.Errorf("after a report without the condition: %+v", p.Status.Conditions)
	}
}

func deliversWhatItMissed(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	b := w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	s.register("a2")
	gone, again := w.configMap("gone", "1"), w.configMap("again", "1")
	deleted, moved := w.pod("deleted", "a1", "gone"), w.pod("moved", "a1", "again")
	w.pod("stays", "a1", "again")
	for _, name := range []string{"gone", "again"} {
		w.awaitDesired("plant-a", w.configMapRef(name), "published", isPut)
	}
	w.settled("plant-a", "deleted", "a1")
	w.settled("plant-a", "moved", "a1")
	b.stop()

	at0 := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	w.must(a.admin.CoreV1().Pods(w.namespace).Delete(w.ctx, "deleted", at0))
	w.must(a.admin.CoreV1().Pods(w.namespace).Delete(w.ctx, "moved", at0))
	w.must(a.admin.CoreV1().ConfigMaps(w.namespace).Delete(w.ctx, "gone", at0))
	w.must(a.admin.CoreV1().ConfigMaps(w.namespace).Delete(w.ctx, "again", at0))
	second := w.configMap("again", "1")
	w.pod("moved", "a2", "again")

	w.start("two")
	w.awaitDesired("plant-a", w.podRef("deleted", "a1"), "deleted", tombstoneOf(deleted.UID))
	w.awaitDesired("plant-a", w.configMapRef("gone"), "deleted", tombstoneOf(gone.UID))
	w.awaitDesired("plant-a", w.podRef("moved", "a1"), "deleted where it was", tombstoneOf(moved.UID))
	w.awaitDesired("plant-a", w.podRef("moved", "a2"), "published where it is", isPut)
	w.awaitDesired("plant-a", w.configMapRef("again"), "recreated", func(m *streams.Message) bool {
		return isPut(m) && m.UID == string(second.UID) && m.UID != string(again.UID)
	})
}

func removesTombstones(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	s := w.site("plant-a")
	s.register("a1")
	cm := w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	eventually(t, "backlog in the Site's status", func() bool {
		st := w.siteStatus("plant-a")
		return st.Pending > 0 && st.OldestPending != nil && st.Nodes == 1
	})

	w.must(a.admin.CoreV1().Pods(w.namespace).Delete(w.ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	w.awaitDesired("plant-a", w.configMapRef("settings"), "taken away", tombstoneOf(cm.UID))

	ops := acknowledge(t, w, "plant-a")
	eventually(t, "tombstone at the site", func() bool {
		op, _ := ops.Load(streams.DesiredSubject("plant-a", w.configMapRef("settings")))
		return op == string(streams.OpDelete)
	})
	eventually(t, "tombstone removed at the hub", func() bool {
		m, _ := w.desired("plant-a", w.configMapRef("settings"))
		return m == nil
	})
	s.beat(0, "a1")
	eventually(t, "Site without backlog", func() bool {
		st := w.siteStatus("plant-a")
		return st.Connected && st.Pending == 0 && st.OldestPending == nil && st.LastAck != nil && st.Applied == 42 && st.Version == "v-test"
	})

	// What was removed can come back.
	w.pod("web", "a1", "settings")
	w.awaitDesired("plant-a", w.configMapRef("settings"), "published again", isPut)
}

// acknowledge takes everything for a site, as its leaf does once it has it on disk, and
// returns the last operation by subject.
func acknowledge(t *testing.T, w *world, site string) *sync.Map {
	t.Helper()
	var ops sync.Map
	nc := w.hub.Connect(t, site)
	natstest.Pull(t, nc, site, func(m *nats.Msg) {
		if m.Reply != "" {
			ops.Store(m.Subject, m.Header.Get(streams.HeaderOp))
			if err := nc.Publish(m.Reply, []byte("+ACK")); err != nil {
				t.Error(err)
			}
		}
	})
	return &ops
}

func removesASite(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.start("one")
	w.site("plant-a").register("a1")
	w.site("plant-b").register("b1")
	node := func(site, name string) bool {
		m, _ := w.desired(site, streams.Ref{Node: name, Resource: "nodes", Name: name})
		return m != nil
	}
	hasConsumer := func(site string) bool {
		_, err := w.js.Consumer(w.ctx, streams.Desired, site)
		return err == nil
	}
	eventually(t, "both sites served", func() bool {
		return node("plant-a", "a1") && node("plant-b", "b1") && hasConsumer("plant-a") && hasConsumer("plant-b")
	})
	w.must(w.js.DeleteConsumer(w.ctx, streams.Desired, "plant-b"))
	eventually(t, "consumer made again", func() bool { return hasConsumer("plant-b") })

	w.must(w.dynamic.Resource(sitesGVR).Delete(w.ctx, "plant-a", metav1.DeleteOptions{}))
	eventually(t, "plant-a gone from the hub", func() bool { return !node("plant-a", "a1") && !hasConsumer("plant-a") })
	if !node("plant-b", "b1") || !hasConsumer("plant-b") {
		t.Error("plant-b went with it")
	}
}

func waitsForTheHub(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	hub, apiServer := natstest.NewLine(t, w.hubAddr()), natstest.NewLine(t, a.addr)
	hub.Cut()
	apiServer.Cut()
	w.startWith("one", hub.Addr(), a.through(t, apiServer.Addr()), bridge.ImpersonationConstrained)
	apiServer.Heal()
	eventually(t, "a leader", func() bool {
		l, err := a.admin.CoordinationV1().Leases("petiole-system").Get(w.ctx, "bridge", metav1.GetOptions{})
		return err == nil && l.Spec.HolderIdentity != nil && *l.Spec.HolderIdentity == "one"
	})
	hub.Heal()
	s := w.site("plant-a")
	s.register("a1")
	node := streams.Ref{Node: "a1", Resource: "nodes", Name: "a1"}
	w.awaitDesired("plant-a", node, "published", isPut)

	hub.Cut()
	w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	hub.Heal()
	w.awaitDesired("plant-a", w.configMapRef("settings"), "published after the cut", isPut)
	s.reportNode("a1", corev1.ConditionFalse)
	eventually(t, "report taken in after the cut", func() bool {
		n, err := a.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{})
		w.must(err)
		return nodeCondition(n, corev1.NodeReady) == corev1.ConditionFalse
	})

	// A hub that lost its disk.
	w.must(w.js.DeleteStream(w.ctx, streams.Desired))
	eventually(t, "everything published to the new stream", func() bool {
		n, _ := w.desired("plant-a", node)
		c, _ := w.desired("plant-a", w.configMapRef("settings"))
		return n != nil && c != nil
	})
}

func largeObjects(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	w.site("plant-a").register("a1")
	// Escapes make it larger on the wire than the API server's limit and max_payload.
	big := strings.Repeat("<", 900_000)
	cm := w.configMap("big", big)
	w.pod("web", "a1", "big")
	w.awaitDesired("plant-a", w.configMapRef("big"), "published", func(m *streams.Message) bool {
		var got corev1.ConfigMap
		return isPut(m) && json.Unmarshal(m.Object, &got) == nil && got.Data["v"] == big
	})
	w.must(a.admin.CoreV1().Pods(w.namespace).Delete(w.ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	w.awaitDesired("plant-a", w.configMapRef("big"), "taken away", tombstoneOf(cm.UID))
	s, err := w.js.Stream(w.ctx, streams.Desired)
	w.must(err)
	eventually(t, "parts purged", func() bool {
		info, err := s.Info(w.ctx, jetstream.WithSubjectFilter(streams.DesiredSubject("plant-a", w.configMapRef("big"))+".>"))
		w.must(err)
		return len(info.State.Subjects) == 0
	})
}
