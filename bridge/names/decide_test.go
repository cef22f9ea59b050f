package names

import (
	"slices"
	"testing"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

func TestAllowed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what  string
		spec  *v1alpha1.SiteNodes
		owned []string
		node  string
		want  string
	}{
		{"first node of a Site without spec.nodes", nil, nil, "a1", ""},
		{"second node of it", nil, []string{"a1"}, "a2", v1alpha1.ReasonNameNotAllowed},
		{"the first again", nil, []string{"a1"}, "a1", ""},
		{"only labels in spec.nodes", &v1alpha1.SiteNodes{Labels: map[string]string{"a": "b"}}, nil, "a1", ""},
		{"listed", &v1alpha1.SiteNodes{Names: []string{"a1", "a2"}}, []string{"a1"}, "a2", ""},
		{"not listed", &v1alpha1.SiteNodes{Names: []string{"a1"}}, nil, "control-plane-3", v1alpha1.ReasonNameNotAllowed},
		{"matches", &v1alpha1.SiteNodes{Pattern: "a-*", Max: 2}, []string{"a-1"}, "a-2", ""},
		{"too many", &v1alpha1.SiteNodes{Pattern: "a-*", Max: 1}, []string{"a-1"}, "a-2", v1alpha1.ReasonTooManyNodes},
		{"has it already", &v1alpha1.SiteNodes{Pattern: "a-*", Max: 1}, []string{"a-1", "a-2"}, "a-2", ""},
		{"listed besides a pattern", &v1alpha1.SiteNodes{Names: []string{"gw"}, Pattern: "a-*", Max: 2}, []string{"a-1"}, "gw", ""},
		{"an asterisk alone matches nothing", &v1alpha1.SiteNodes{Pattern: "*", Max: 9}, nil, "a-1", v1alpha1.ReasonNameNotAllowed},
		{"the prefix alone", &v1alpha1.SiteNodes{Pattern: "a-*", Max: 2}, nil, "b-a-1", v1alpha1.ReasonNameNotAllowed},
	} {
		got := ""
		if r := Allowed(c.spec, c.owned, c.node); r != nil {
			got = r.Reason
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	taken := func(node string) *Refusal {
		if node == "taken" {
			return &Refusal{Node: node, Reason: v1alpha1.ReasonNameTaken}
		}
		return nil
	}
	for _, c := range []struct {
		what          string
		in            situation
		want, refused []string
	}{
		{"a Site from before: the nodes that it has", situation{present: []string{"a2", "a1"}}, []string{"a1", "a2"}, nil},
		{"a deleted node's name stays", situation{owned: []string{"a1", "a2"}, present: []string{"a2"}}, []string{"a1", "a2"}, nil},
		{"listed names are reserved", situation{spec: &v1alpha1.SiteNodes{Names: []string{"b", "taken"}}}, []string{"b"}, []string{"taken"}},
		{
			"a name that is no longer allowed stays while its node exists",
			situation{spec: &v1alpha1.SiteNodes{Names: []string{"b"}}, owned: []string{"a1", "a2"}, present: []string{"a2"}},
			[]string{"a2", "b"},
			nil,
		},
		{
			"names of a pattern stay",
			situation{spec: &v1alpha1.SiteNodes{Pattern: "a*", Max: 1}, owned: []string{"a1", "a2"}},
			[]string{"a1", "a2"},
			nil,
		},
		{
			"a revoked Site keeps the names of its Nodes and those that it lists",
			situation{spec: &v1alpha1.SiteNodes{Names: []string{"b"}, Pattern: "a*", Max: 9}, owned: []string{"a1", "a2", "b"}, present: []string{"a2"}, revoked: true},
			[]string{"a2", "b"},
			nil,
		},
		{"a revoked Site without spec.nodes", situation{owned: []string{"a1"}, revoked: true}, nil, nil},
		{"a node of another Site's name", situation{owned: []string{"a1"}, present: []string{"taken"}}, []string{"a1"}, []string{"taken"}},
	} {
		c.in.free = taken
		got, refused := plan(c.in)
		var names []string
		for _, r := range refused {
			names = append(names, r.Node)
		}
		if !slices.Equal(got, c.want) || !slices.Equal(names, c.refused) {
			t.Errorf("%s: %v, refused %v; want %v, %v", c.what, got, names, c.want, c.refused)
		}
	}
}
