package closure

import (
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/petiole-io/petiole/bridge/kube"
)

// The groups of service accounts (pkg/apiserver/pkg/authentication/serviceaccount and
// pkg/authentication/user of k8s.io/apiserver).
const (
	serviceAccountPrefix = "system:serviceaccount:"
	allServiceAccounts   = "system:serviceaccounts"
	inNamespacePrefix    = allServiceAccounts + ":"
	allAuthenticated     = "system:authenticated"
)

// bootstrapLabel is on the roles and bindings that Kubernetes creates itself.
const bootstrapLabel = "kubernetes.io/bootstrapping"

// bindingDependencies returns the subjects of a binding, and its role. A binding that grants
// nothing to a service account has no dependencies: no site needs it. Nor does one need what
// Kubernetes itself grants to everybody: discovery, which a node API serves to every pod.
func bindingDependencies(k kube.Key, o *unstructured.Unstructured) (Dependencies, error) {
	// A ClusterRoleBinding has the same fields.
	var b rbacv1.RoleBinding
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &b); err != nil {
		return Dependencies{}, fmt.Errorf("read %s: %w", k.Ref(""), err)
	}
	var f Dependencies
	for _, s := range b.Subjects {
		subject, ok := subjectOf(s)
		if subject.Name == "" && o.GetLabels()[bootstrapLabel] != "" {
			continue
		}
		if ok && !slices.Contains(f.Subjects, subject) {
			f.Subjects = append(f.Subjects, subject)
		}
	}
	if len(f.Subjects) == 0 {
		return Dependencies{}, nil
	}
	switch b.RoleRef.Kind {
	case "ClusterRole":
		f.Refs = []kube.Key{{Group: kube.RBACGroup, Resource: "clusterroles", Name: b.RoleRef.Name}}
	case "Role":
		f.Refs = []kube.Key{{Group: kube.RBACGroup, Resource: "roles", Namespace: k.Namespace, Name: b.RoleRef.Name}}
	}
	return f, nil
}

// subjectOf returns false for a subject that is no service account and contains none.
func subjectOf(s rbacv1.Subject) (Subject, bool) {
	switch {
	case s.Kind == rbacv1.ServiceAccountKind && s.Namespace != "" && s.Name != "":
		return Subject{s.Namespace, s.Name}, true
	case s.Kind == rbacv1.UserKind && strings.HasPrefix(s.Name, serviceAccountPrefix):
		namespace, name, ok := strings.Cut(strings.TrimPrefix(s.Name, serviceAccountPrefix), ":")
		return Subject{namespace, name}, ok && namespace != "" && name != ""
	case s.Kind == rbacv1.GroupKind && strings.HasPrefix(s.Name, inNamespacePrefix):
		namespace := strings.TrimPrefix(s.Name, inNamespacePrefix)
		return Subject{Namespace: namespace}, namespace != ""
	case s.Kind == rbacv1.GroupKind && (s.Name == allServiceAccounts || s.Name == allAuthenticated):
		return Subject{}, true
	}
	return Subject{}, false
}

// subjects returns a service account and the groups that it is in.
func subjects(serviceAccount kube.Key) []Subject {
	return []Subject{{serviceAccount.Namespace, serviceAccount.Name}, {Namespace: serviceAccount.Namespace}, {}}
}

// granted calls add with the sites that need one of the service accounts of a subject.
func (x *Index) granted(s Subject, add func(map[string]struct{})) {
	switch {
	case s.Name != "":
		add(x.wantedBy[kube.CoreKey("serviceaccounts", s.Namespace, s.Name)])
	case s.Namespace != "":
		// A site that needs a service account needs its namespace, too.
		add(x.wantedBy[kube.CoreKey("namespaces", "", s.Namespace)])
	default:
		for site := range x.wanted {
			add(map[string]struct{}{site: {}})
		}
	}
}
