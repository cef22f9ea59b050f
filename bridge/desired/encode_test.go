package desired

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/bridge/kube/kubetest"
)

func TestBodyTellsAChangeFromARepetition(t *testing.T) {
	t.Parallel()
	const node = `
apiVersion: v1
kind: Node
metadata: {uid: u1, resourceVersion: "1", generation: 1, managedFields: [{manager: m}], labels: {a: b}}
spec: {podCIDR: 10.0.0.0/24}
status: {phase: Running}
`
	tests := []struct {
		name, id, was, is string
		same              bool
	}{
		{"status of a node", "nodes n", node, strings.Replace(node, "Running", "Gone", 1), true},
		{"resource version and generation", "nodes n", node, strings.NewReplacer(`"1"`, `"2"`, "generation: 1", "generation: 2").Replace(node), true},
		{"managed fields", "nodes n", node, strings.Replace(node, "manager: m", "manager: o", 1), true},
		{"label", "nodes n", node, strings.Replace(node, "a: b", "a: c", 1), false},
		{"UID", "nodes n", node, strings.Replace(node, "u1", "u2", 1), false},
		{"data", "configmaps d/c", `data: {k: v1}`, `data: {k: v2}`, false},
		{"claim becomes bound", "persistentvolumeclaims d/c", `status: {phase: Pending}`, `status: {phase: Bound}`, false},
		{"readiness gate", "pods d/p", `status: {conditions: [{type: Ready, status: "False"}]}`, `status: {conditions: [{type: Ready, status: "False"}, {type: example.com/lb, status: "True"}]}`, false},
		{"state of a readiness gate", "pods d/p", `status: {conditions: [{type: example.com/lb, status: "False"}]}`, `status: {conditions: [{type: example.com/lb, status: "True"}]}`, false},
		{"probe time of a readiness gate", "pods d/p", `status: {conditions: [{type: g, status: "True", lastProbeTime: t1}]}`, `status: {conditions: [{type: g, status: "True", lastProbeTime: t2}]}`, true},
		{"kubelet's conditions", "pods d/p", `status: {phase: Pending, conditions: [{type: Ready, status: "False"}]}`, `status: {phase: Running, conditions: [{type: Ready, status: "True"}, {type: PodResizePending, status: "True"}]}`, true},
		{"disruption", "pods d/p", `status: {phase: Running}`, `status: {phase: Failed, conditions: [{type: DisruptionTarget, status: "True"}]}`, true},
		{"generated claim", "pods d/p", `status: {phase: Pending}`, `status: {phase: Pending, resourceClaimStatuses: [{name: gpu, resourceClaimName: p-gpu-x}]}`, false},
		{"attached volume", "nodes n", `status: {volumesInUse: [a]}`, `status: {volumesInUse: [a], volumesAttached: [{name: a, devicePath: /dev/a}]}`, false},
		{"status of a custom resource", "widgets.example.com d/w", `status: {ready: false}`, `status: {ready: true}`, false},
		{"time of an endpoint's change", "endpointslices.discovery.k8s.io d/s", `metadata: {annotations: {endpoints.kubernetes.io/last-change-trigger-time: a}}`, `metadata: {annotations: {endpoints.kubernetes.io/last-change-trigger-time: b}}`, true},
		{"service gets an address", "services d/s", `status: {loadBalancer: {}}`, `status: {loadBalancer: {ingress: [{ip: 10.0.0.1}]}}`, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := hashOf(t, tt.id, tt.was) == hashOf(t, tt.id, tt.is); got != tt.same {
				t.Errorf("same digest: %v, want %v", got, tt.same)
			}
		})
	}
}

func TestBodyOfANodeHasNoTaintsOfTheLink(t *testing.T) {
	t.Parallel()
	const tainted = `
metadata: {uid: u, managedFields: [{manager: m}]}
spec: {taints: [{key: node.kubernetes.io/unreachable, effect: NoExecute}, {key: dedicated, effect: NoSchedule}, {key: node.kubernetes.io/not-ready, effect: NoSchedule}]}
`
	k, o := kubetest.Object(t, "nodes n", tainted)
	before, err := json.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	data, hash, err := encodeObject(k, o)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(data); strings.Contains(s, "unreachable") || strings.Contains(s, "not-ready") || strings.Contains(s, "managedFields") || !strings.Contains(s, "dedicated") {
		t.Errorf("body is %s", s)
	}
	if want := hashOf(t, "nodes n", `
metadata: {uid: u}
spec: {taints: [{key: dedicated, effect: NoSchedule}]}
`); hash != want {
		t.Error("the taints of the link change the digest")
	}
	after, err := json.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("body changed its argument to %s", after)
	}
}

func hashOf(t *testing.T, id, doc string) string {
	t.Helper()
	k, o := kubetest.Object(t, id, doc)
	_, hash, err := encodeObject(k, o)
	if err != nil {
		t.Fatal(err)
	}
	return hash
}
