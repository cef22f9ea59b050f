package bridgetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
)

// TestSiteNames: a site registers the nodes that its Site allows, and no others.
func TestSiteNames(t *testing.T) {
	runAll(t, []sharing{
		{"OneNodeByDefault", oneNodeByDefault},
		{"NameStaysAfterDelete", nameStaysAfterDelete},
		{"CloudSetsLabelsAndTaints", cloudSetsLabels},
		{"EarlierSiteKeepsTheName", earlierSiteKeepsTheName},
		{"EarlierNodesAreRecorded", earlierNodesAreRecorded},
		{"DeletedSiteHasNothing", deletedSiteHasNothing},
		{"DefinitionRefusesNonsense", definitionRefusesNonsense},
	})
}

// setNodes replaces spec.nodes of a Site; "null" removes it.
func (w *world) setNodes(site, nodes string) {
	w.t.Helper()
	_, err := w.dynamic.Resource(sitesGVR).Patch(w.ctx, site, types.MergePatchType, []byte(`{"spec":{"nodes":null}}`), metav1.PatchOptions{})
	w.must(err)
	_, err = w.dynamic.Resource(sitesGVR).Patch(w.ctx, site, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"nodes":%s}}`, nodes), metav1.PatchOptions{})
	w.must(err)
}

func (w *world) condition(site, t string) metav1.Condition {
	w.t.Helper()
	if c := meta.FindStatusCondition(w.siteStatus(site).Conditions, t); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// awaitRefused waits until a condition of the Site, and an Event about it, name the reason and
// the object.
func (w *world) awaitRefused(site, condition, reason, object string) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("condition %s of %s is False because of %s: %s", condition, site, object, reason), func() bool {
		c := w.condition(site, condition)
		return c.Status == metav1.ConditionFalse && c.Reason == reason && strings.Contains(c.Message, object)
	})
	eventually(w.t, fmt.Sprintf("Event %s about %s: %s", reason, site, object), func() bool {
		events, err := w.admin.CoreV1().Events("default").List(w.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + site})
		w.must(err)
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Reason == reason && strings.Contains(e.Message, object) })
	})
}

func (w *world) hasNode(name string) bool {
	w.t.Helper()
	_, err := w.admin.CoreV1().Nodes().Get(w.ctx, name, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		w.must(err)
	}
	return err == nil
}

// measure prints and bounds how long a site's report takes to the API while another attacks.
func (s *site) measure(what, pod string, phases ...corev1.PodPhase) {
	s.t.Helper()
	p := s.getPod(pod)
	var longest time.Duration
	for _, phase := range phases {
		start := time.Now()
		s.report(streams.OpPut, s.podRef(pod, p.Spec.NodeName), string(p.UID), reported(p, phase, corev1.ConditionFalse))
		eventually(s.t, "report of "+pod, func() bool { return s.getPod(pod).Status.Phase == phase })
		longest = max(longest, time.Since(start))
	}
	s.t.Logf("%s: report of %s in the API within %v", what, s.name, longest.Round(time.Millisecond))
	if longest > 10*time.Second {
		s.t.Errorf("%s: report of %s took %v", what, s.name, longest)
	}
}

// oneNodeByDefault: a Site without spec.nodes has the node that registers first.
func oneNodeByDefault(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.setNodes("plant-b", "null")
	b := w.start("one")
	s, thief := w.site("plant-a"), w.site("plant-b")
	s.register("a1")
	w.configMap("settings", "1")
	w.pod("web", "a1", "settings")
	w.settled("plant-a", "web", "a1")
	thief.register("b1")
	eventually(t, "b1 is recorded", func() bool { return slices.Equal(w.siteStatus("plant-b").OwnedNodes, []string{"b1"}) })
	for _, name := range []string{"b2", "control-plane-3", "a2"} {
		thief.publishNode(streams.OpCreate, name, corev1.ConditionTrue)
	}
	for _, name := range []string{"b2", "control-plane-3", "a2"} {
		w.awaitRefused("plant-b", v1alpha1.ConditionNodesAccepted, v1alpha1.ReasonNameNotAllowed, name)
		if w.hasNode(name) {
			t.Errorf("node %s is registered", name)
		}
	}
	for i := range 150 {
		thief.publishNode(streams.OpCreate, fmt.Sprint("b", 100+i), corev1.ConditionTrue)
	}
	s.measure("150 registrations", "web", corev1.PodRunning, corev1.PodPending, corev1.PodRunning)
	eventually(t, "all refused", func() bool { return b.Counters().Quarantined >= 153 })
	nodes, err := a.admin.CoreV1().Nodes().List(w.ctx, metav1.ListOptions{})
	w.must(err)
	if len(nodes.Items) != 2 {
		t.Errorf("there are %d nodes, want a1 and b1", len(nodes.Items))
	}
	if c := w.condition("plant-a", v1alpha1.ConditionNodesAccepted); c.Status != metav1.ConditionTrue {
		t.Errorf("plant-a: %+v", c)
	}
	// The operator allows another one.
	w.setNodes("plant-b", `{"names":["b1","b2"]}`)
	eventually(t, "b2 is reserved", func() bool { return slices.Contains(w.siteStatus("plant-b").OwnedNodes, "b2") })
	thief.register("b2")
}

// nameStaysAfterDelete: nobody else registers the name of a node that was deleted, and a
// restarted bridge knows it, too.
func nameStaysAfterDelete(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.setNodes("plant-b", `{"pattern":"a*","max":10}`) // as wide as an operator may be careless
	one := w.start("one")
	s, thief := w.site("plant-a"), w.site("plant-b")
	s.register("a1")
	one.stop()
	w.must(a.admin.CoreV1().Nodes().Delete(w.ctx, "a1", metav1.DeleteOptions{}))
	w.start("two")
	thief.publishNode(streams.OpCreate, "a1", corev1.ConditionTrue)
	w.awaitRefused("plant-b", v1alpha1.ConditionNodesAccepted, v1alpha1.ReasonNameTaken, "a1")
	// Its own site may have registered it again, from the last report.
	n, err := a.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{})
	if err == nil && n.Labels[v1alpha1.SiteLabel] != "plant-a" {
		t.Fatalf("site %q has registered a1", n.Labels[v1alpha1.SiteLabel])
	}
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	s.beat(0, "a1")
	if n := s.register("a1"); n.Labels[v1alpha1.SiteLabel] != "plant-a" {
		t.Errorf("a1 belongs to %q", n.Labels[v1alpha1.SiteLabel])
	}
}

// cloudSetsLabels: labels and taints of spec.nodes are on the node from the beginning, and a
// gateway can neither change them nor add others.
func cloudSetsLabels(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.setNodes("plant-a", `{"names":["a1"],"labels":{"env":"test","topology.kubernetes.io/zone":"hall-3"},"taints":[{"key":"edge","value":"yes","effect":"NoSchedule"}]}`)
	w.start("one")
	s := w.site("plant-a")
	forged := func(op streams.Op) {
		now := metav1.Now()
		s.report(op, streams.Ref{Node: "a1", Resource: "nodes", Name: "a1"}, "", corev1.Node{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
			ObjectMeta: metav1.ObjectMeta{Name: "a1", Labels: map[string]string{
				corev1.LabelHostname: "a1", "env": "prod", "gpu": "true", corev1.LabelTopologyZone: "hall-1", "node-role.kubernetes.io/control-plane": "",
			}, Annotations: map[string]string{"flannel.alpha.coreos.com/public-ip": "10.0.0.1", "volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now}}},
		})
	}
	check := func() {
		t.Helper()
		eventually(t, "labels and taints of the Site", func() bool {
			n, err := a.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{})
			if err != nil {
				return false
			}
			tainted := slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.ToString() == "edge=yes:NoSchedule" })
			if !tainted {
				t.Fatalf("the node is without its taint: %+v", n.Spec.Taints)
			}
			if hasLabel(n, "gpu") || n.Labels["env"] == "prod" || n.Labels[corev1.LabelTopologyZone] == "hall-1" || hasLabel(n, "node-role.kubernetes.io/control-plane") {
				t.Fatalf("the gateway set labels: %v", n.Labels)
			}
			if n.Annotations["flannel.alpha.coreos.com/public-ip"] != "" || n.Annotations["volumes.kubernetes.io/controller-managed-attach-detach"] != "true" {
				t.Fatalf("annotations, of which the gateway sets those of a kubelet: %v", n.Annotations)
			}
			return n.Labels["env"] == "test" && n.Labels[corev1.LabelTopologyZone] == "hall-3" && hasLabel(n, v1alpha1.EdgeRoleLabel)
		})
	}
	forged(streams.OpCreate)
	check()
	s.beat(0, "a1")
	forged(streams.OpPut)
	// A change of the Site reaches the node without a report.
	_, err := w.dynamic.Resource(sitesGVR).Patch(w.ctx, "plant-a", types.MergePatchType, []byte(`{"spec":{"nodes":{"labels":{"hall":"3"}}}}`), metav1.PatchOptions{})
	w.must(err)
	eventually(t, "new label", func() bool {
		n, err := a.admin.CoreV1().Nodes().Get(w.ctx, "a1", metav1.GetOptions{})
		w.must(err)
		return n.Labels["hall"] == "3"
	})
	check()
}

// earlierSiteKeepsTheName: of two Sites that list one name, the later gets a condition.
func earlierSiteKeepsTheName(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.start("one")
	w.setNodes("plant-a", `{"names":["a1"]}`)
	eventually(t, "a1 is reserved", func() bool { return slices.Equal(w.siteStatus("plant-a").OwnedNodes, []string{"a1"}) })
	w.setNodes("plant-b", `{"names":["a1","b1"]}`)
	w.awaitRefused("plant-b", v1alpha1.ConditionNodesAccepted, v1alpha1.ReasonNameTaken, "a1")
	thief := w.site("plant-b")
	thief.publishNode(streams.OpCreate, "a1", corev1.ConditionTrue)
	thief.register("b1")
	if w.hasNode("a1") {
		t.Error("the later Site has the node")
	}
	if got := w.siteStatus("plant-b").OwnedNodes; !slices.Equal(got, []string{"b1"}) {
		t.Errorf("plant-b has %v", got)
	}
	w.site("plant-a").register("a1")
	// The name is free when the Site that has it no longer lists it and its node is deleted.
	w.setNodes("plant-a", `{"names":["a2"]}`)
	eventually(t, "the bridge knows the change", func() bool { return slices.Equal(w.siteStatus("plant-a").OwnedNodes, []string{"a1", "a2"}) })
	w.must(a.admin.CoreV1().Nodes().Delete(w.ctx, "a1", metav1.DeleteOptions{}))
	// The bridge waits a while for a deleted node that is alive to register again.
	for deleted := time.Now(); !slices.Equal(w.siteStatus("plant-b").OwnedNodes, []string{"a1", "b1"}); time.Sleep(100 * time.Millisecond) {
		if time.Since(deleted) > 30*time.Second+patience {
			t.Fatalf("plant-b has %v", w.siteStatus("plant-b").OwnedNodes)
		}
	}
}

// earlierNodesAreRecorded: a Site from before spec.nodes goes on with the nodes that it has.
func earlierNodesAreRecorded(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.setNodes("plant-a", "null")
	for _, name := range []string{"a1", "a2", "a3"} {
		_, err := a.admin.CoreV1().Nodes().Create(w.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.SiteLabel: "plant-a"}}}, metav1.CreateOptions{})
		w.must(err)
	}
	w.start("one")
	eventually(t, "nodes are recorded", func() bool { return slices.Equal(w.siteStatus("plant-a").OwnedNodes, []string{"a1", "a2", "a3"}) })
	s := w.site("plant-a")
	for _, name := range []string{"a1", "a2", "a3"} {
		s.register(name)
	}
	s.publishNode(streams.OpCreate, "a4", corev1.ConditionTrue)
	w.awaitRefused("plant-a", v1alpha1.ConditionNodesAccepted, v1alpha1.ReasonNameNotAllowed, "a4")
	w.must(a.admin.CoreV1().Nodes().Delete(w.ctx, "a2", metav1.DeleteOptions{}))
	s.beat(0, "a1", "a2", "a3")
	s.register("a2")
}

// deletedSiteHasNothing: a deleted Site gets no tokens, writes nothing, and its names are free.
func deletedSiteHasNothing(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.start("one")
	thief := w.site("plant-b")
	thief.register("b1")
	w.configMap("settings", "1")
	pod := w.pod("web", "b1", "settings")
	w.settled("plant-b", "web", "b1")
	ask := func(lifetime int64) (answer streams.TokenAnswer) {
		q := streams.TokenQuery{Node: "b1", Namespace: w.namespace, ServiceAccount: "default", TokenRequest: authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: &lifetime, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web", UID: pod.UID},
		}}}
		data, err := json.Marshal(q)
		w.must(err)
		m, err := thief.nc.Request(streams.RequestSubject("plant-b", streams.RequestToken), data, patience)
		w.must(err)
		w.must(json.Unmarshal(m.Data, &answer))
		return answer
	}
	const year = 365 * 24 * time.Hour
	got := ask(int64(10 * year / time.Second))
	if got.TokenRequest == nil {
		t.Fatalf("token refused: %+v", got.Status)
	}
	if left := time.Until(got.TokenRequest.Status.ExpirationTimestamp.Time); left > year {
		t.Errorf("a token lives for %v", left)
	}
	start := time.Now()
	w.must(w.dynamic.Resource(sitesGVR).Delete(w.ctx, "plant-b", metav1.DeleteOptions{}))
	eventually(t, "no tokens", func() bool { return ask(3600).Status != nil })
	t.Logf("no tokens %v after the Site was deleted", time.Since(start).Round(time.Millisecond))
	if s := ask(3600).Status; s == nil || s.Reason != metav1.StatusReasonForbidden || !strings.Contains(s.Message, "plant-b") {
		t.Errorf("answer is %+v", s)
	}
	w.must(a.admin.CoreV1().Nodes().Delete(w.ctx, "b1", metav1.DeleteOptions{}))
	w.setNodes("plant-a", `{"names":["b1"]}`)
	eventually(t, "the name is free", func() bool { return slices.Equal(w.siteStatus("plant-a").OwnedNodes, []string{"b1"}) })
}

// definitionRefusesNonsense: kubectl apply names the field.
func definitionRefusesNonsense(t *testing.T, a *api) {
	w := newWorld(t, a)
	for field, nodes := range map[string]map[string]any{
		"spec.nodes.pattern":                 {"pattern": "*", "max": int64(3)},
		"spec.nodes.max":                     {"names": []any{"a1", "a2"}, "max": int64(1)},
		"spec.nodes.names[0]":                {"names": []any{"a\n1"}},
		"spec.nodes.names[1]":                {"names": []any{"a1", "a1"}},
		"spec.nodes.labels":                  {"labels": map[string]any{"petiole.dev/site": "plant-b"}},
		"spec.nodes.labels.a":                {"labels": map[string]any{"a": "not a label"}},
		"spec.nodes.taints[0].effect":        {"taints": []any{map[string]any{"key": "k", "effect": "Nothing"}}},
		"spec.nodes.podCIDRs[0]":             {"podCIDRs": []any{"10.88.0.0"}},
		"spec.nodes.pattern: Invalid value":  {"pattern": "gw-*"},
		"spec.nodes.max: Invalid value":      {"max": int64(2)},
		"a key is not a label key":           {"labels": map[string]any{"not a key": "v"}},
		"should be less than or equal to 10": {"pattern": "gw-*", "max": int64(5000)},
	} {
		err := w.createSiteWith("nonsense", nodes)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), field) {
			t.Errorf("spec.nodes %v: %v, want an error that names %s", nodes, err, field)
		}
	}
	w.must(w.createSiteWith("sense", map[string]any{
		"names": []any{"gw-1", "gw-2"}, "pattern": "press-*", "max": int64(10), "labels": map[string]any{"example.com/hall": "3"},
		"taints": []any{map[string]any{"key": "edge", "effect": "NoExecute"}}, "podCIDRs": []any{"10.88.0.0/24", "fd00::/64"},
	}))
}
