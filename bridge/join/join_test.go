package join

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams/join"
)

// TestJudge covers every decision about a request whose signatures are valid. That only one of
// several gateways gets a token, and what an answer looks like, is bridgetest's TestJoin.
func TestJudge(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	later := metav1.NewTime(now.Add(time.Minute))
	earlier := metav1.NewTime(now.Add(-time.Minute))
	open := &v1alpha1.SiteJoin{Key: "T", Expires: later}
	for _, c := range []struct {
		what     string
		spec     v1alpha1.SiteSpec
		owned    []string
		node     string
		code     join.Code
		wantNode string
		gateways []string
	}{
		{what: "the first gateway", spec: v1alpha1.SiteSpec{Join: open}, code: join.Accepted, wantNode: "host", gateways: []string{"G"}},
		{what: "it says its node", spec: v1alpha1.SiteSpec{Join: open}, node: "n", code: join.Accepted, wantNode: "n", gateways: []string{"G"}},
		{what: "no token", spec: v1alpha1.SiteSpec{}, code: join.Withdrawn},
		{what: "another token", spec: v1alpha1.SiteSpec{Join: &v1alpha1.SiteJoin{Key: "X", Expires: later}}, code: join.Withdrawn},
		{what: "expired", spec: v1alpha1.SiteSpec{Join: &v1alpha1.SiteJoin{Key: "T", Expires: earlier}}, code: join.Expired},
		{what: "expires now", spec: v1alpha1.SiteSpec{Join: &v1alpha1.SiteJoin{Key: "T", Expires: metav1.NewTime(now)}}, code: join.Expired},
		{what: "used", spec: v1alpha1.SiteSpec{Gateways: []string{"H"}, Join: &v1alpha1.SiteJoin{Key: "T", Expires: later, UsedBy: "H"}}, code: join.Used},
		{what: "used by the same", spec: v1alpha1.SiteSpec{Gateways: []string{"G"}, Join: &v1alpha1.SiteJoin{Key: "T", Expires: later, UsedBy: "G"}}, code: join.Accepted, wantNode: "host"},
		{what: "used by the same, and expired", spec: v1alpha1.SiteSpec{Gateways: []string{"G"}, Join: &v1alpha1.SiteJoin{Key: "T", Expires: earlier, UsedBy: "G"}}, code: join.Accepted, wantNode: "host"},
		{what: "used by the same, and revoked", spec: v1alpha1.SiteSpec{Gateways: []string{"H"}, Join: &v1alpha1.SiteJoin{Key: "T", Expires: later, UsedBy: "G"}}, code: join.Revoked},
		{what: "the second", spec: v1alpha1.SiteSpec{Gateways: []string{"H"}, Join: open}, code: join.Accepted, wantNode: "host", gateways: []string{"H", "G"}},
		{what: "the third", spec: v1alpha1.SiteSpec{Gateways: []string{"H", "I"}, Join: open}, code: join.TooManyGateways},
		{what: "instead of two", spec: v1alpha1.SiteSpec{Gateways: []string{"H", "I"}, Join: &v1alpha1.SiteJoin{Key: "T", Expires: later, Replace: true}}, code: join.Accepted, wantNode: "host", gateways: []string{"G"}},
		{what: "listed already", spec: v1alpha1.SiteSpec{Gateways: []string{"G", "I"}, Join: open}, code: join.Accepted, wantNode: "host", gateways: []string{"G", "I"}},
		{what: "takes over the node", spec: v1alpha1.SiteSpec{Join: open}, owned: []string{"old"}, code: join.Accepted, wantNode: "old", gateways: []string{"G"}},
		{what: "another node beside the only one", spec: v1alpha1.SiteSpec{Join: open}, owned: []string{"old"}, node: "n", code: join.NodeNotAllowed},
		{what: "the listed node", spec: v1alpha1.SiteSpec{Join: open, Nodes: &v1alpha1.SiteNodes{Names: []string{"press-1"}}}, code: join.Accepted, wantNode: "press-1", gateways: []string{"G"}},
		{what: "one of two listed nodes must be named", spec: v1alpha1.SiteSpec{Join: open, Nodes: &v1alpha1.SiteNodes{Names: []string{"a", "b"}}}, code: join.NodeNotAllowed},
		{what: "the second listed node", spec: v1alpha1.SiteSpec{Join: open, Nodes: &v1alpha1.SiteNodes{Names: []string{"a", "b"}}}, node: "b", code: join.Accepted, wantNode: "b", gateways: []string{"G"}},
		{what: "no name of a node", spec: v1alpha1.SiteSpec{Join: open}, node: "Press 1", code: join.NodeNotAllowed},
	} {
		s := v1alpha1.Site{ObjectMeta: metav1.ObjectMeta{Name: "plant-a"}, Spec: c.spec, Status: v1alpha1.SiteStatus{OwnedNodes: c.owned}}
		r := join.Received{Request: join.Request{Site: "plant-a", Token: "T", Gateway: "G", Host: "host", Node: c.node}}
		answer, gateways := judge(s, r, now)
		if answer.Code != c.code || answer.Node != c.wantNode || !slices.Equal(gateways, c.gateways) {
			t.Errorf("%s: %s, node %q, gateways %v; want %s, %q, %v (%s)", c.what, answer.Code, answer.Node, gateways, c.code, c.wantNode, c.gateways, answer.Message)
		}
		if (answer.Message == "") != (c.code == join.Accepted) {
			t.Errorf("%s: the message is %q", c.what, answer.Message)
		}
	}
}
