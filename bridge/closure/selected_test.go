package closure

import (
	"fmt"
	"slices"
	"testing"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/kube/kubetest"
)

func selecting(t *testing.T, c *Index, site, resources string) []string {
	t.Helper()
	return see(t, c, "sites.petiole.dev "+site, "spec: {resources: "+resources+"}")
}

// TestSelectedResources: a site gets what its Site selects, with the definition, and no other site
// does.
func TestSelectedResources(t *testing.T) {
	t.Parallel()
	c := twoSites(t)
	c.Recompute("plant-a")
	before := ids(wantedOf(c, "plant-a"))
	if got := selecting(t, c, "plant-a", `[{group: example.com, resource: widgets, namespaces: [default], selector: {matchLabels: {site: a}}}]`); !slices.Equal(got, []string{"plant-a"}) {
		t.Errorf("a selection affects %v", got)
	}
	for id, labels := range map[string]string{
		"widgets.example.com default/w1": "site: a", "widgets.example.com default/w2": "site: b",
		"widgets.example.com other/w3": "site: a", "gadgets.example.com default/g1": "site: a",
	} {
		see(t, c, id, "metadata: {labels: {"+labels+"}}")
	}
	c.Recompute("plant-a")
	c.Recompute("plant-b")
	want := append(slices.Clone(before), "customresourcedefinitions.apiextensions.k8s.io widgets.example.com", "widgets.example.com default/w1")
	slices.Sort(want)
	if got := ids(wantedOf(c, "plant-a")); !slices.Equal(got, want) {
		t.Errorf("plant-a gets\n%v, want\n%v", got, want)
	}
	for _, k := range wantedOf(c, "plant-b") {
		if k.Group == "example.com" || k.Group == kube.ExtensionsGroup {
			t.Errorf("plant-b gets %v", k)
		}
	}
	// Labels that come and go are a change of the closure, all else is none.
	if got := see(t, c, "widgets.example.com default/w1", "{metadata: {labels: {site: a}}, spec: {size: 2}}"); got != nil {
		t.Errorf("a change of content affects %v", got)
	}
	if got := see(t, c, "widgets.example.com default/w1", "metadata: {labels: {site: b}}"); !slices.Equal(got, []string{"plant-a"}) {
		t.Errorf("a change of labels affects %v", got)
	}
	if _, dropped := c.Recompute("plant-a"); !slices.Equal(ids(dropped), []string{"widgets.example.com default/w1"}) {
		t.Errorf("dropped: %v", ids(dropped))
	}
	selecting(t, c, "plant-a", `[]`)
	c.Recompute("plant-a")
	if got := ids(wantedOf(c, "plant-a")); !slices.Equal(got, before) {
		t.Errorf("without a selection plant-a gets\n%v, want\n%v", got, before)
	}
}

// TestSelectionReachesNoOtherKind: what the bridge watches for other reasons is not selected.
func TestSelectionReachesNoOtherKind(t *testing.T) {
	t.Parallel()
	c := twoSites(t)
	see(t, c, "secrets default/s", "metadata: {labels: {site: a}}")
	see(t, c, "roles.rbac.authorization.k8s.io default/r", "")
	see(t, c, "devices.devices.kubeedge.io default/d", "")
	c.Recompute("plant-a")
	before := ids(wantedOf(c, "plant-a"))
	selecting(t, c, "plant-a", `[{group: "", resource: secrets}, {group: rbac.authorization.k8s.io, resource: roles}, {group: devices.kubeedge.io, resource: devices}]`)
	c.Recompute("plant-a")
	if got := ids(wantedOf(c, "plant-a")); !slices.Equal(got, before) {
		t.Errorf("plant-a gets\n%v, want\n%v", got, before)
	}
}

// TestTooManySelected: the oldest are selected, and a new object takes no other's place.
func TestTooManySelected(t *testing.T) {
	t.Parallel()
	c := twoSites(t)
	selecting(t, c, "plant-a", `[{group: example.com, resource: widgets}, {group: example.com, resource: gadgets}]`)
	for i := range maxSelected - 1 {
		see(t, c, fmt.Sprintf("widgets.example.com default/w%d", i), `metadata: {creationTimestamp: "2026-01-02T00:00:00Z"}`)
	}
	see(t, c, "gadgets.example.com default/young", `metadata: {creationTimestamp: "2026-01-03T00:00:00Z"}`)
	see(t, c, "gadgets.example.com default/zold", `metadata: {creationTimestamp: "2026-01-01T00:00:00Z"}`)
	c.Recompute("plant-a")
	if counts, limit := c.Matched("plant-a"); !slices.Equal(counts, []int{maxSelected - 1, 2}) || limit != maxSelected {
		t.Errorf("matched are %v of at most %d", counts, limit)
	}
	for name, want := range map[string]bool{"default/zold": true, "default/young": false} {
		k, _ := kubetest.Object(t, "gadgets.example.com "+name, "")
		if _, got := c.Node("plant-a", k); got != want {
			t.Errorf("plant-a gets %s: %v, want %v", name, got, want)
		}
	}
}

func wantedOf(c *Index, site string) []kube.Key {
	var keys []kube.Key
	for k := range c.wanted[site] {
		keys = append(keys, k)
	}
	return keys
}
