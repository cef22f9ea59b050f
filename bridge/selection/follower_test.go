package selection

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/kube/kubetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeCache has fixed objects and records what it follows.
type fakeCache struct {
	objects  map[kube.Key]*unstructured.Unstructured
	followed []schema.GroupVersionResource
	problems map[schema.GroupResource]error
}

func (c *fakeCache) Get(k kube.Key) *unstructured.Unstructured { return c.objects[k] }

func (c *fakeCache) Follow(r []schema.GroupVersionResource) error { c.followed = r; return nil }

func (c *fakeCache) Problem(gr schema.GroupResource) error { return c.problems[gr] }

func (c *fakeCache) add(t *testing.T, id, body string) {
	t.Helper()
	k, o := kubetest.Object(t, id, body)
	c.objects[k] = o
}

const widgets = `
spec: {group: example.com, names: {plural: widgets}, versions: [{name: v1, served: true}]}
status: {conditions: [{type: Established, status: "True"}]}`

func selected(groups ...string) v1alpha1.SiteSpec {
	var spec v1alpha1.SiteSpec
	for _, g := range groups {
		resource, group, _ := strings.Cut(g, ".")
		spec.Resources = append(spec.Resources, v1alpha1.SiteResource{Group: group, Resource: resource})
	}
	return spec
}

func newFollower(t *testing.T, counts ...int) (*Follower, *fakeCache) {
	t.Helper()
	c := &fakeCache{objects: map[kube.Key]*unstructured.Unstructured{}, problems: map[schema.GroupResource]error{}}
	c.add(t, "customresourcedefinitions.apiextensions.k8s.io widgets.example.com", widgets)
	c.add(t, "customresourcedefinitions.apiextensions.k8s.io slow.example.com", `spec: {group: example.com, names: {plural: slow}, versions: [{name: v1, served: true}]}`)
	return New(Config{
		Cache: c, Sites: func() []string { return []string{"plant-a", "plant-b", "plant-c"} },
		Matched: func(string) ([]int, int) { return counts, 10 }, Log: zaptest.NewLogger(t),
	}), c
}

// TestFollows: a resource is watched once, if it is a custom one that the API server serves.
func TestFollows(t *testing.T) {
	t.Parallel()
	f, c := newFollower(t)
	c.add(t, "sites.petiole.dev plant-a", `spec: {resources: [{group: example.com, resource: widgets}, {group: apps, resource: deployments}]}`)
	c.add(t, "sites.petiole.dev plant-b", `spec: {resources: [{group: example.com, resource: widgets}, {group: example.com, resource: slow}]}`)
	f.Decide()
	if want := []schema.GroupVersionResource{{Group: "example.com", Version: "v1", Resource: "widgets"}}; !slices.Equal(c.followed, want) {
		t.Errorf("it follows %v, want %v", c.followed, want)
	}
}

// TestChanged: a Site whose status alone changes is nothing to decide about.
func TestChanged(t *testing.T) {
	t.Parallel()
	f, c := newFollower(t)
	c.add(t, "sites.petiole.dev plant-a", "")
	c.objects[kube.SiteKey("plant-a")].SetGeneration(1)
	due := func() bool {
		select {
		case <-f.due:
			return true
		default:
			return false
		}
	}
	for i, step := range []struct {
		change func()
		key    kube.Key
		want   bool
	}{
		{func() {}, kube.SiteKey("plant-a"), true},
		{func() {}, kube.SiteKey("plant-a"), false},
		{func() { c.objects[kube.SiteKey("plant-a")].SetGeneration(2) }, kube.SiteKey("plant-a"), true},
		{func() {}, kube.DefinitionKey(schema.GroupResource{Group: "example.com", Resource: "widgets"}), true},
		{func() {}, kube.CoreKey("pods", "default", "p"), false},
		{func() { delete(c.objects, kube.SiteKey("plant-a")) }, kube.SiteKey("plant-a"), true},
	} {
		step.change()
		f.Changed(step.key)
		if got := due(); got != step.want {
			t.Errorf("step %d: due is %v, want %v", i, got, step.want)
		}
	}
}

func TestCondition(t *testing.T) {
	t.Parallel()
	forbidden := apierrors.NewForbidden(schema.GroupResource{Group: "example.com", Resource: "widgets"}, "", errors.New("no role"))
	for name, test := range map[string]struct {
		spec     v1alpha1.SiteSpec
		counts   []int
		problem  error
		reason   string
		messages []string
	}{
		"all is well":   {selected("widgets.example.com"), []int{10}, nil, v1alpha1.ReasonAsExpected, nil},
		"no such":       {selected("widgets.example.com", "gadgets.example.com"), nil, nil, v1alpha1.ReasonResourceNotFound, []string{"spec.resources[1] (gadgets.example.com)", "no CustomResourceDefinition"}},
		"not served":    {selected("slow.example.com"), nil, nil, v1alpha1.ReasonResourceNotFound, []string{"spec.resources[0] (slow.example.com)", "does not serve"}},
		"built in":      {selected("deployments.apps"), nil, nil, v1alpha1.ReasonResourceNotFound, []string{"only custom resources"}},
		"roles":         {selected("roles.rbac.authorization.k8s.io"), nil, nil, v1alpha1.ReasonResourceNotSelectable, nil},
		"secrets":       {selected("secrets"), nil, nil, v1alpha1.ReasonResourceNotSelectable, nil},
		"devices":       {selected("devices.devices.kubeedge.io"), nil, nil, v1alpha1.ReasonResourceNotSelectable, nil},
		"backlogs":      {selected("backlogs.petiole.dev"), nil, nil, v1alpha1.ReasonResourceNotSelectable, nil},
		"definitions":   {selected("customresourcedefinitions.apiextensions.k8s.io"), nil, nil, v1alpha1.ReasonResourceNotSelectable, nil},
		"forbidden":     {selected("widgets.example.com"), nil, forbidden, v1alpha1.ReasonResourceForbidden, []string{"the bridge may not read it", "no role"}},
		"unavailable":   {selected("widgets.example.com"), nil, errors.New("conversion webhook"), v1alpha1.ReasonResourceUnavailable, []string{"conversion webhook"}},
		"too many":      {selected("widgets.example.com"), []int{11}, nil, v1alpha1.ReasonTooManyObjects, []string{"spec.resources[0]", "11 objects", "oldest 10"}},
		"two problems":  {selected("roles.rbac.authorization.k8s.io", "x.example.com"), nil, nil, v1alpha1.ReasonResourceNotSelectable, []string{"spec.resources[0]", "; spec.resources[1]"}},
		"what was left": {selected("widgets.example.com", "widgets.example.com"), []int{9, 2}, nil, v1alpha1.ReasonTooManyObjects, []string{"spec.resources[1]", "2 objects", "oldest 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, c := newFollower(t, test.counts...)
			c.problems[schema.GroupResource{Group: "example.com", Resource: "widgets"}] = test.problem
			got, selects := f.Condition("plant-a", test.spec)
			if wantStatus := test.reason == v1alpha1.ReasonAsExpected; !selects || got.Reason != test.reason || (got.Status == metav1.ConditionTrue) != wantStatus {
				t.Errorf("the condition is %+v, want reason %s", got, test.reason)
			}
			for _, m := range test.messages {
				if !strings.Contains(got.Message, m) {
					t.Errorf("the message %q does not have %q", got.Message, m)
				}
			}
		})
	}
	f, _ := newFollower(t)
	if _, selects := f.Condition("plant-a", v1alpha1.SiteSpec{}); selects {
		t.Error("a Site without a selection has a condition")
	}
}
