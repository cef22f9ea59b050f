package services

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// definition is a custom resource, which the reader may read, too.
const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.services.example.com}
spec:
  group: services.example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, shortNames: [wi]}
  versions:
    - name: v1
      served: true
      storage: true
      additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
      schema:
        openAPIV3Schema:
          type: object
          properties: {spec: {type: object, properties: {size: {type: integer}}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: widgets}
rules: [{apiGroups: [services.example.com], resources: [widgets], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: widgets}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: widgets}
subjects: [{kind: ServiceAccount, name: reader, namespace: services-e2e}]
`

// bridgeRole is what an operator grants to the bridge, so that Sites can select the resource.
const bridgeRole = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: services-e2e-bridge-widgets}
rules: [{apiGroups: [services.example.com], resources: [widgets], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: services-e2e-bridge-widgets}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: services-e2e-bridge-widgets}
subjects: [{kind: ServiceAccount, name: bridge, namespace: petiole-system}]
`

func widget(name, site string, size int) string {
	return fmt.Sprintf("apiVersion: services.example.com/v1\nkind: Widget\nmetadata: {name: %s, labels: {site: %s}}\nspec: {size: %d}\n", name, site, size)
}

// TestSelectedResources: a Site selects objects of a custom resource; kubectl on the gateway and a pod
// read them, also without the link and after a reboot without it; they go with their deletion, and
// with the selection.
func TestSelectedResources(t *testing.T) {
	site := lab.Sites[0]
	apply(t)
	applyText(t, definition)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		patchSite(ctx, t, site, "null")
		for _, object := range []string{"crd/widgets.services.example.com", "clusterrole/services-e2e-bridge-widgets", "clusterrolebinding/services-e2e-bridge-widgets"} {
			_, err := lab.Output(ctx, "kubectl", "delete", "--ignore-not-found", object)
			must(t, err)
		}
	})
	eventually(t, "widgets are created", func(ctx context.Context) error {
		return kubectlApply(ctx, widget("a1", "a", 7)+"---\n"+widget("b1", "b", 9))
	})

	patchSite(t.Context(), t, site, `[{"group":"services.example.com","resource":"gadgets"},{"group":"rbac.authorization.k8s.io","resource":"roles"}]`)
	conditionIs(t, site, v1alpha1.ReasonResourceNotFound, "spec.resources[0] (gadgets.services.example.com)", "spec.resources[1] (roles.rbac.authorization.k8s.io)")
	patchSite(t.Context(), t, site, `[{"group":"services.example.com","resource":"widgets","selector":{"matchLabels":{"site":"a"}}}]`)
	conditionIs(t, site, v1alpha1.ReasonResourceForbidden, "spec.resources[0] (widgets.services.example.com)", "system:serviceaccount:petiole-system:bridge")
	applyText(t, bridgeRole)
	conditionIs(t, site, v1alpha1.ReasonAsExpected)

	eventually(t, "the pods are ready", func(ctx context.Context) error { return ready(ctx, site.Node) })
	read := func(when string, want ...string) {
		t.Helper()
		eventually(t, when+": kubectl on the gateway shows them", func(ctx context.Context) error {
			out, err := atSite(ctx, site, "get", "wi")
			return shows(out, err, append(want, "SIZE"))
		})
		eventually(t, when+": a pod reads them", func(ctx context.Context) error {
			out, err := inClient(ctx, site, "kubectl", "get", "widgets.services.example.com")
			return shows(out, err, want)
		})
	}
	read("with the link", "a1", "7")
	must(t, lab.Cut(t.Context(), site))
	t.Cleanup(func() { must(t, lab.Heal(context.WithoutCancel(t.Context()), site)) })
	must(t, kubectlApply(t.Context(), widget("a2", "a", 8)))
	_, err := lab.Output(t.Context(), "kubectl", "-n", namespace, "delete", "widget", "a1")
	must(t, err)
	must(t, lab.Reboot(t.Context(), site))
	read("after a reboot while it is cut", "a1", "7")
	must(t, lab.Heal(t.Context(), site))
	read("with the link again", "a2", "8")

	patchSite(t.Context(), t, site, "null")
	eventually(t, "the resource goes with the selection", func(ctx context.Context) error {
		out, err := atSite(ctx, site, "get", "--raw", "/apis/services.example.com/v1/widgets")
		if err == nil || !strings.Contains(err.Error(), "NotFound") {
			return fmt.Errorf("it is served: %s, %w", out, err)
		}
		return nil
	})
	eventually(t, "the condition goes with the selection", func(ctx context.Context) error {
		var now v1alpha1.Site
		siteObject(ctx, t, site, &now)
		if c := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionResourcesSelected); c != nil {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
}

// shows returns nil if a table has one row, with these words.
func shows(out string, err error, want []string) error {
	if err != nil {
		return err
	}
	if rows := strings.Count(strings.TrimSpace(out), "\n"); rows != 1 {
		return fmt.Errorf("%d rows: %s", rows, out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			return fmt.Errorf("no %q in %s", w, out)
		}
	}
	return nil
}

func applyText(t *testing.T, text string) {
	t.Helper()
	eventually(t, "the objects are accepted", func(ctx context.Context) error { return kubectlApply(ctx, text) })
}

// patchSite sets spec.resources of a Site.
func patchSite(ctx context.Context, t *testing.T, site *rig.Site, resources string) {
	t.Helper()
	patch := []byte(`{"spec":{"resources":` + resources + `}}`)
	_, err := lab.Dynamic.Resource(v1alpha1.Sites).Patch(ctx, site.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	must(t, err)
}

func siteObject(ctx context.Context, t *testing.T, site *rig.Site, into *v1alpha1.Site) {
	t.Helper()
	o, err := lab.Dynamic.Resource(v1alpha1.Sites).Get(ctx, site.Name, metav1.GetOptions{})
	must(t, err)
	must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into))
}

// conditionIs waits until the condition about the selection has a reason and these words.
func conditionIs(t *testing.T, site *rig.Site, reason string, words ...string) {
	t.Helper()
	eventually(t, "the condition's reason is "+reason, func(ctx context.Context) error {
		var now v1alpha1.Site
		siteObject(ctx, t, site, &now)
		c := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionResourcesSelected)
		if c == nil || c.Reason != reason || (c.Status == metav1.ConditionTrue) != (reason == v1alpha1.ReasonAsExpected) {
			return fmt.Errorf("the condition is %+v", c)
		}
		for _, w := range words {
			if !strings.Contains(c.Message, w) {
				return fmt.Errorf("no %q in %s", w, c.Message)
			}
		}
		return nil
	})
}
