package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/internal/lab/cluster"
)

const (
	policyName = "petiole-conformance"
	// suiteLabel is on each namespace of upstream's suite.
	suiteLabel = "e2e-run"
	// edgeLabel marks namespaces whose pods are for sites.
	edgeLabel = "petiole.dev/edge"
)

// undoList is what restores the cluster, in the order in which it was changed.
type undoList []func(context.Context) error

func (u undoList) run(ctx context.Context) error {
	var errs []error
	for _, undo := range u {
		errs = append(errs, undo(ctx))
	}
	return errors.Join(errs...)
}

// prepare makes the node the only one that takes pods, and marks the namespaces of the suite as
// those of sites. The function that it returns undoes both.
func (s *suite) prepare(ctx context.Context) (undo func(context.Context) error, err error) {
	cfg, err := cluster.Config(s.lab.Kubeconfig())
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("create client: %w", err)
	}
	var all undoList
	for _, change := range []func(context.Context, kubernetes.Interface) (undoList, error){s.cordonOthers, markNamespaces} {
		some, err := change(ctx, client)
		all = append(all, some...)
		if err != nil {
			return nil, errors.Join(err, all.run(context.WithoutCancel(ctx)))
		}
	}
	return all.run, nil
}

// cordonOthers cordons all nodes but the one that is judged.
func (s *suite) cordonOthers(ctx context.Context, client kubernetes.Interface) (undoList, error) {
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var undo undoList
	var names []string
	found := false
	for _, n := range nodes.Items {
		names = append(names, n.Name)
		if n.Name == s.node {
			found = true
		} else if !n.Spec.Unschedulable {
			if err := cordon(ctx, client, n.Name, true); err != nil {
				return undo, err
			}
			undo = append(undo, func(ctx context.Context) error { return cordon(ctx, client, n.Name, false) })
		}
	}
	if !found {
		return undo, fmt.Errorf("node %s is not in the cluster, which has %s", s.node, strings.Join(names, ", "))
	}
	return undo, nil
}

func cordon(ctx context.Context, client kubernetes.Interface, node string, on bool) error {
	patch := fmt.Sprintf(`{"spec":{"unschedulable":%t}}`, on)
	if _, err := client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("set unschedulable of node %s to %t: %w", node, on, err)
	}
	return nil
}

// markNamespaces installs a policy that gives the namespaces of the suite the label by which the
// API server knows that their pods are for sites (deploy/kubernetes/tolerations-policy.yaml). It
// returns when the policy is in force.
func markNamespaces(ctx context.Context, client kubernetes.Interface) (undoList, error) {
	policies, bindings := client.AdmissionregistrationV1().MutatingAdmissionPolicies(), client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings()
	policy := &admissionv1.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: policyName},
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			MatchConstraints: &admissionv1.MatchResources{
				ObjectSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: suiteLabel, Operator: metav1.LabelSelectorOpExists}}},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"namespaces"}},
				}}},
			},
			Mutations: []admissionv1.Mutation{{
				PatchType: admissionv1.PatchTypeJSONPatch,
				JSONPatch: &admissionv1.JSONPatch{
					Expression: `[JSONPatch{op: "add", path: "/metadata/labels/` + strings.ReplaceAll(edgeLabel, "/", "~1") + `", value: "true"}]`,
				},
			}},
		},
	}
	undo := undoList{
		func(ctx context.Context) error { return bindings.Delete(ctx, policyName, metav1.DeleteOptions{}) },
		func(ctx context.Context) error { return policies.Delete(ctx, policyName, metav1.DeleteOptions{}) },
	}
	if _, err := policies.Create(ctx, policy, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create policy %s: %w", policyName, err)
	}
	binding := &admissionv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: policyName},
		Spec:       admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: policyName},
	}
	if _, err := bindings.Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return undo[1:], fmt.Errorf("create binding %s: %w", policyName, err)
	}
	try := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: policyName + "-", Labels: map[string]string{suiteLabel: "try"}}}
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		ns, err := client.CoreV1().Namespaces().Create(ctx, try, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return false, err
		}
		return ns.Labels[edgeLabel] == "true", nil
	})
	if err != nil {
		return undo, fmt.Errorf("await policy %s: %w", policyName, err)
	}
	return undo, nil
}
