package bridgetest

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
)

// site acts for a site, with the site's own credentials at the hub.
type site struct {
	*world
	name    string
	nc      *nats.Conn
	applied uint64
}

func (w *world) site(name string) *site { return &site{w, name, w.hub.Connect(w.t, name), 42} }

// beat sends a heartbeat in which the nodes have renewed age ago.
func (s *site) beat(age time.Duration, nodes ...string) {
	s.t.Helper()
	now := time.Now()
	p := streams.Presence{Site: s.name, Time: now, Version: "v-test", Boot: "1", LinkSince: now, Applied: s.applied}
	for _, n := range nodes {
		p.Nodes = append(p.Nodes, streams.NodePresence{Name: n, Renewed: now.Add(-age)})
	}
	data, err := json.Marshal(p)
	s.must(err)
	s.must(s.nc.Publish(streams.PresenceSubject(s.name), data))
	s.must(s.nc.Flush())
}

// report publishes an object as the site's forwarder does, and waits until the hub has
// stored it.
func (s *site) report(op streams.Op, r streams.Ref, uid string, o any) {
	s.t.Helper()
	m := streams.Message{Ref: r, Op: op, UID: uid}
	if o != nil {
		data, err := json.Marshal(o)
		s.must(err)
		m.Object = data
	}
	s.send(m.Encode(streams.ReportedSubject(s.name, r)))
}

func (s *site) send(m *nats.Msg) {
	s.t.Helper()
	eventually(s.t, "stored report "+m.Subject, func() bool {
		reply, err := s.nc.RequestMsg(m, 2*time.Second)
		if err != nil {
			return false // the stream may not be there yet
		}
		var ack struct {
			Domain string          `json:"domain"`
			Error  json.RawMessage `json:"error"`
		}
		return json.Unmarshal(reply.Data, &ack) == nil && ack.Domain == streams.HubDomain && ack.Error == nil
	})
}

// register reports a node that is ready, and waits until the API has it.
func (s *site) register(name string) *corev1.Node {
	s.t.Helper()
	s.publishNode(streams.OpCreate, name, corev1.ConditionTrue)
	var node *corev1.Node
	eventually(s.t, "node "+name+" ready in the API", func() bool {
		var err error
		node, err = s.admin.CoreV1().Nodes().Get(s.ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false
		}
		s.must(err)
		return nodeCondition(node, corev1.NodeReady) == corev1.ConditionTrue && node.Labels[v1alpha1.EdgeRoleLabel] == "" && hasLabel(node, v1alpha1.EdgeRoleLabel)
	})
	return node
}

// reportNode reports a node's status as a kubelet does after it has registered.
func (s *site) reportNode(name string, ready corev1.ConditionStatus) {
	s.t.Helper()
	s.publishNode(streams.OpPut, name, ready)
}

func (s *site) publishNode(op streams.Op, name string, ready corev1.ConditionStatus) {
	s.t.Helper()
	now := metav1.Now()
	s.report(op, streams.Ref{Node: name, Resource: "nodes", Name: name}, "", corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelArchStable: "amd64", v1alpha1.SiteLabel: "forged", v1alpha1.EdgeRoleLabel: "forged",
		}},
		Status: corev1.NodeStatus{
			Capacity:   corev1.ResourceList{},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.1.0.1"}, {Type: corev1.NodeHostName, Address: name}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now}},
			NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1.37.2", ContainerRuntimeVersion: "cri-o://1.34.0"},
		},
	})
}

func nodeCondition(n *corev1.Node, t corev1.NodeConditionType) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

func hasLabel(n *corev1.Node, l string) bool { _, ok := n.Labels[l]; return ok }
