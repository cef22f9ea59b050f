package names

import (
	"fmt"
	"slices"
	"strings"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

// Refusal says why a Site cannot have a node name. It is an error.
type Refusal struct {
	// Node is the name, Reason one of the reasons of ConditionNodesAccepted.
	Node, Reason string
	// Rule names the rule and what the operator can do.
	Rule string
}

// Error implements error.
func (r *Refusal) Error() string { return fmt.Sprintf("node %s: %s", r.Node, r.Rule) }

// Allowed reports whether a Site's spec allows a name, with as many names as it has. A nil spec
// is that of a Site without SiteSpec.Nodes. It is a pure function.
func Allowed(spec *v1alpha1.SiteNodes, owned []string, node string) *Refusal {
	if spec == nil {
		spec = &v1alpha1.SiteNodes{}
	}
	has := slices.Contains(owned, node)
	if len(spec.Names) == 0 && spec.Pattern == "" {
		if has || len(owned) == 0 {
			return nil
		}
		return &Refusal{node, v1alpha1.ReasonNameNotAllowed, fmt.Sprintf("the Site has the node %s, and spec.nodes allows no others; list the name in spec.nodes.names", strings.Join(shorten(owned), ", "))}
	}
	switch {
	case !slices.Contains(spec.Names, node) && !matches(spec.Pattern, node):
		return &Refusal{node, v1alpha1.ReasonNameNotAllowed, "spec.nodes of the Site does not allow the name"}
	case !has && len(owned) >= maxNames(spec):
		return &Refusal{node, v1alpha1.ReasonTooManyNodes, fmt.Sprintf("the Site has %d names, as many as spec.nodes allows", len(owned))}
	}
	return nil
}

// shorten returns the first names of a long list.
func shorten(names []string) []string {
	const few = 3
	if len(names) <= few {
		return names
	}
	return append(slices.Clone(names[:few]), "…")
}

// matches reports whether a name begins with what is before the asterisk of a pattern.
func matches(pattern, node string) bool {
	prefix, ok := strings.CutSuffix(pattern, "*")
	return ok && prefix != "" && strings.HasPrefix(node, prefix)
}

func maxNames(spec *v1alpha1.SiteNodes) int {
	if spec.Max > 0 {
		return int(spec.Max)
	}
	return len(spec.Names)
}

// situation is what the names of a Site depend on.
type situation struct {
	spec *v1alpha1.SiteNodes
	// owned are the names recorded in the Site's status, present those of its Nodes.
	owned, present []string
	// revoked is true if no gateway may connect for the Site any longer.
	revoked bool
	// free returns nil if no other Site has or precedes in wanting the name, and no Node of that
	// name is without a site or another's.
	free func(node string) *Refusal
}

// plan returns the names that a Site has from now on, sorted, and those of SiteNodes.Names that
// it cannot have. A revoked Site keeps the names of its Nodes, and those that SiteNodes.Names lists.
// It is a pure function.
func plan(s situation) (owned []string, refused []*Refusal) {
	for _, n := range s.owned {
		if slices.Contains(s.present, n) || !s.revoked && Allowed(s.spec, s.owned, n) == nil {
			owned = append(owned, n)
		}
	}
	add := func(n string) {
		if slices.Contains(owned, n) {
			return
		}
		if r := s.free(n); r != nil {
			refused = append(refused, r)
		} else {
			owned = append(owned, n)
		}
	}
	for _, n := range s.present {
		add(n)
	}
	if s.spec != nil {
		for _, n := range s.spec.Names {
			add(n)
		}
	}
	slices.Sort(owned)
	return slices.Compact(owned), refused
}
