package writeback

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/kube"
)

type nodeCache map[string]bool

func (c nodeCache) Get(k kube.Key) *unstructured.Unstructured {
	if k.Resource == "nodes" && c[k.Name] {
		return &unstructured.Unstructured{Object: map[string]any{}}
	}
	return nil
}

type siteOf map[string]string

func (s siteOf) SiteExists(site string) bool { return site == "plant-a" }
func (s siteOf) NodesOf(string) []string     { return nil }
func (s siteOf) BoundTo([]string) []kube.Key { return nil }
func (s siteOf) SiteOf(node string) string   { return s[node] }

// A device that no site operates is named with the cause; one that a site operates, or that
// others may operate, is left alone.
func TestUnplacedDevices(t *testing.T) {
	p := NewPlacement(PlacementConfig{Config: Config{
		Cache: nodeCache{"a1": true, "edge": true, "lost": true}, Sites: siteOf{"a1": "plant-a", "lost": "plant-gone"},
	}})
	ours := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"extensions": map[string]any{"reason": "Online"}}}}
	theirs := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"state": "online"}}}
	for _, c := range []struct {
		node   string
		status *unstructured.Unstructured
		want   string // empty: left alone
	}{
		{"a1", ours, ""},
		{"a1", nil, ""},
		{"", nil, "is empty"},
		{"nobody", nil, "does not exist"},
		{"nobody", ours, "does not exist"},
		{"lost", nil, "which does not exist"},
		{"edge", ours, "has no label"},
		{"edge", nil, ""},
		{"edge", theirs, ""},
	} {
		got := p.unplaced(c.node, c.status)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("node %q, status %v: %q, want %q", c.node, c.status, got, c.want)
		}
	}
}
