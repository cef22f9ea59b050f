package bridgetest

import (
	"encoding/json"
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
)

const tolerationsPolicy = "petiole-tolerations"

// TestTolerations: pods of sites are not evicted while their site is away.
func TestTolerations(t *testing.T) {
	runAll(t, []sharing{
		{"PolicyAndBridgeAgree", policyAndBridgeAgree},
	})
}

// applyPolicy applies deploy/kubernetes/tolerations-policy.yaml until the test ends, and waits
// until it takes effect.
func (w *world) applyPolicy() {
	w.t.Helper()
	policies, bindings := w.admin.AdmissionregistrationV1().MutatingAdmissionPolicies(), w.admin.AdmissionregistrationV1().MutatingAdmissionPolicyBindings()
	w.t.Cleanup(func() {
		w.must(bindings.Delete(w.ctx, tolerationsPolicy, metav1.DeleteOptions{}))
		w.must(policies.Delete(w.ctx, tolerationsPolicy, metav1.DeleteOptions{}))
	})
	w.applyFile(w.t, "../../deploy/kubernetes/tolerations-policy.yaml")
	eventually(w.t, "policy in force", func() bool {
		p, err := w.admin.CoreV1().Pods(w.namespace).Create(w.ctx, podFor(v1alpha1.EdgeRoleLabel), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		w.must(err)
		return maps.Equal(evictedAfter(p), forever)
	})
}

// podFor returns a pod without a node whose nodeSelector names a label.
func podFor(label string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec:       corev1.PodSpec{NodeSelector: map[string]string{label: ""}, Containers: []corev1.Container{{Name: "c", Image: "busybox"}}},
	}
}

// evictedAfter returns the seconds of a pod's tolerations by taint, -1 for ever.
func evictedAfter(p *corev1.Pod) map[string]int64 {
	seconds := map[string]int64{}
	for _, t := range p.Spec.Tolerations {
		if t.Effect == corev1.TaintEffectNoExecute {
			seconds[t.Key] = -1
			if t.TolerationSeconds != nil {
				seconds[t.Key] = *t.TolerationSeconds
			}
		}
	}
	return seconds
}

var forever = after(-1)

// after returns the tolerations of a pod that is evicted when its site is away for so long. A node
// that is not ready is heard: the toleration of that stays the API server's.
func after(seconds int64) map[string]int64 {
	return map[string]int64{corev1.TaintNodeNotReady: 300, corev1.TaintNodeUnreachable: seconds}
}

// The shipped policy gives a pod the tolerations that the bridge would give it, when it is
// created: its generation stays 1. It leaves pods alone that are for no site, and the bridge
// sets the tolerations of those that get a site's node nevertheless.
func policyAndBridgeAgree(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("one")
	w.site("plant-a").register("a1")
	w.applyPolicy()
	sitesOnly, err := a.admin.CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: map[string]string{"petiole.dev/edge": "true"}},
	}, metav1.CreateOptions{})
	w.must(err)
	_, err = a.admin.CoreV1().ServiceAccounts(sitesOnly.Name).Create(w.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	w.must(err)

	affinity := func(terms ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.NodeSelector = nil
			var s corev1.NodeSelector
			for _, key := range terms {
				s.NodeSelectorTerms = append(s.NodeSelectorTerms, corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpExists}}})
			}
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &s}}
		}
	}
	annotated := func(duration string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AutonomyAnnotation: duration} }
	}
	tests := []struct {
		name, selector string
		change         func(*corev1.Pod)
		created, bound map[string]int64
		generation     int64
	}{
		{"site", v1alpha1.SiteLabel, nil, forever, forever, 1},
		{"edge", v1alpha1.EdgeRoleLabel, nil, forever, forever, 1},
		{"affinity", "", affinity(v1alpha1.SiteLabel, v1alpha1.EdgeRoleLabel), forever, forever, 1},
		{"duration", v1alpha1.EdgeRoleLabel, annotated("1m0.5s"), after(61), after(61), 1},
		{"zero", v1alpha1.EdgeRoleLabel, annotated("0"), forever, forever, 1},
		{"own-seconds", v1alpha1.EdgeRoleLabel, func(p *corev1.Pod) {
			sixty := int64(60)
			p.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}, {
				Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &sixty,
			}}
		}, forever, forever, 1},
		// The policy does not see that these are for a site, or cannot read the duration.
		{"other-affinity", "", affinity(v1alpha1.SiteLabel, "zone"), after(300), forever, 2},
		{"hostname", corev1.LabelHostname, nil, after(300), forever, 2},
		{"invalid", v1alpha1.EdgeRoleLabel, annotated("soon"), after(300), forever, 2},
		{"negative", v1alpha1.EdgeRoleLabel, annotated("-5m"), forever, forever, 1},
		{"namespace", corev1.LabelHostname, nil, forever, forever, 1},
	}
	bound := map[string]corev1client.PodInterface{}
	for _, tt := range tests {
		namespace := w.namespace
		if tt.name == "namespace" {
			namespace = sitesOnly.Name
		}
		p := podFor(tt.selector)
		p.Name = tt.name
		if tt.selector == "" {
			p.Spec.NodeSelector = nil
		}
		if tt.change != nil {
			tt.change(p)
		}
		pods := a.admin.CoreV1().Pods(namespace)
		created, err := pods.Create(w.ctx, p, metav1.CreateOptions{})
		w.must(err)
		if got := evictedAfter(created); !maps.Equal(got, tt.created) {
			t.Errorf("%s: created with %v, want %v", tt.name, got, tt.created)
		}
		w.must(pods.Bind(w.ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: "a1"}}, metav1.CreateOptions{}))
		ref := streams.Ref{Node: "a1", Resource: "pods", Namespace: namespace, Name: p.Name}
		w.awaitDesired("plant-a", ref, "with its tolerations", func(m *streams.Message) bool {
			var p corev1.Pod
			w.must(json.Unmarshal(m.Object, &p))
			return maps.Equal(evictedAfter(&p), tt.bound)
		})
		bound[tt.name] = pods
	}

	// The bridge handles pods in order: it has looked at those above when it changes this one.
	last := w.pod("last", "a1", "settings")
	w.settled("plant-a", last.Name, "a1")
	for _, tt := range tests {
		p, err := bound[tt.name].Get(w.ctx, tt.name, metav1.GetOptions{})
		w.must(err)
		if p.Generation != tt.generation {
			t.Errorf("%s: generation %d, want %d", tt.name, p.Generation, tt.generation)
		}
	}

	// An update that replaces the tolerations changes the generation once: the API server adds its
	// default of 300 seconds, and the policy restores the value of before in the same request.
	for name, want := range map[string]map[string]int64{"site": forever, "duration": after(61), "namespace": forever} {
		p, err := bound[name].Get(w.ctx, name, metav1.GetOptions{})
		w.must(err)
		p.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
		p, err = bound[name].Update(w.ctx, p, metav1.UpdateOptions{})
		w.must(err)
		if got := evictedAfter(p); !maps.Equal(got, want) || p.Generation != 2 {
			t.Errorf("%s: updated to %v, generation %d; want %v, 2", name, got, p.Generation, want)
		}
	}

	// The node's annotation is known only when the pod has a node.
	patch := []byte(`{"metadata":{"annotations":{"petiole.dev/autonomy-duration":"10m"}}}`)
	_, err = a.admin.CoreV1().Nodes().Patch(w.ctx, "a1", types.MergePatchType, patch, metav1.PatchOptions{})
	w.must(err)
	eventually(t, "duration of the node", func() bool { return maps.Equal(evictedAfter(w.getPod("site")), after(600)) })
	if p := w.getPod("duration"); !maps.Equal(evictedAfter(p), after(61)) {
		t.Errorf("the pod's own duration is %v", evictedAfter(p))
	}
}
