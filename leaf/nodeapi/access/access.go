package access

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/petiole-io/petiole/leaf/nodeapi/identity"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

var (
	serviceAccounts     = schema.GroupResource{Resource: "serviceaccounts"}
	roles               = schema.GroupResource{Group: rbacv1.GroupName, Resource: "roles"}
	clusterRoles        = schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterroles"}
	roleBindings        = schema.GroupResource{Group: rbacv1.GroupName, Resource: "rolebindings"}
	clusterRoleBindings = schema.GroupResource{Group: rbacv1.GroupName, Resource: "clusterrolebindings"}
)

// Objects are the objects of the site. *objects.Store implements it.
type Objects interface {
	Get(gr schema.GroupResource, k objects.Key) *objects.Object
	List(gr schema.GroupResource, sel objects.Selection) ([]*objects.Object, uint64)
}

// Tokens knows which pod a token was issued to. *identity.TokenCache implements it.
type Tokens interface {
	Holder(token string) (identity.Holder, bool)
}

// Access authenticates and authorizes pods. It is safe for concurrent use.
type Access struct {
	Objects Objects
	Tokens  Tokens
	// Behind returns how far the wall clock is behind the right one. A token has expired if it has
	// by both.
	Behind func() time.Duration
}

// User is the service account of a pod.
type User struct{ Namespace, Name string }

// String returns the name of the user.
func (u User) String() string { return "system:serviceaccount:" + u.Namespace + ":" + u.Name }

func (u User) is(s rbacv1.Subject) bool {
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		return s.Namespace == u.Namespace && s.Name == u.Name
	case rbacv1.UserKind:
		return s.Name == u.String()
	case rbacv1.GroupKind:
		return slices.Contains([]string{"system:serviceaccounts", "system:serviceaccounts:" + u.Namespace, "system:authenticated"}, s.Name)
	}
	return false
}

// Authenticate returns the service account of the pod that a token was issued to. Every error is
// Unauthorized.
func (a *Access) Authenticate(token string) (User, error) {
	h, ok := a.Tokens.Holder(token)
	u := User{h.Namespace, h.ServiceAccount}
	now := time.Now()
	switch {
	case !ok:
		return u, apierrors.NewUnauthorized("the token of a pod of this node is required")
	case len(h.Audiences) > 0:
		return u, apierrors.NewUnauthorized(fmt.Sprintf("the token is for %q: the node API takes tokens without a chosen audience", h.Audiences))
	case now.After(h.Expires) && now.Add(a.Behind()).After(h.Expires):
		return u, apierrors.NewUnauthorized("the token has expired at " + h.Expires.UTC().Format(time.RFC3339))
	case a.Objects.Get(serviceAccounts, objects.Key{Namespace: u.Namespace, Name: u.Name}) == nil:
		return u, apierrors.NewUnauthorized(fmt.Sprintf("service account %s/%s does not exist at this site", u.Namespace, u.Name))
	}
	return u, nil
}

// Request is what a pod wants to do. Namespace is empty for all namespaces and for resources
// without; Name is empty for all objects.
type Request struct {
	Verb string
	schema.GroupResource
	Subresource string
	objects.Key
}

// Authorize returns nil if a role allows the request, and otherwise Forbidden, with what the API
// server says.
func (a *Access) Authorize(u User, q Request) error {
	resource := q.Resource
	if q.Subresource != "" {
		resource += "/" + q.Subresource
	}
	want := rbacv1.PolicyRule{Verbs: []string{q.Verb}, APIGroups: []string{q.Group}, Resources: []string{resource}}
	if q.Name != "" {
		want.ResourceNames = []string{q.Name}
	}
	allowed, err := a.granted(u, q.Namespace, want)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("read the roles of %s: %w", u, err))
	}
	if allowed {
		return nil
	}
	scope := "at the cluster scope"
	if q.Namespace != "" {
		scope = fmt.Sprintf("in the namespace %q", q.Namespace)
	}
	return apierrors.NewForbidden(q.GroupResource, q.Name, fmt.Errorf(
		"User %q cannot %s resource %q in API group %q %s: no role that this site has received allows it", u, q.Verb, resource, q.Group, scope))
}

// granted reports whether a binding for all namespaces, or one of the namespace, grants a rule.
func (a *Access) granted(u User, namespace string, want rbacv1.PolicyRule) (bool, error) {
	bindings, _ := a.Objects.List(clusterRoleBindings, objects.Selection{})
	if namespace != "" {
		more, _ := a.Objects.List(roleBindings, objects.Selection{Namespace: namespace})
		bindings = append(bindings, more...)
	}
	var errs []error
	for _, o := range bindings {
		rules, err := a.rules(u, o)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if ok, _ := validation.Covers(rules, []rbacv1.PolicyRule{want}); ok {
			return true, nil
		}
	}
	return false, errors.Join(errs...)
}

// rules returns the rules that a binding grants a user, none if it grants none or its role does
// not exist.
func (a *Access) rules(u User, binding *objects.Object) ([]rbacv1.PolicyRule, error) {
	// A ClusterRoleBinding has the same fields.
	var b rbacv1.RoleBinding
	if err := json.Unmarshal(binding.JSON, &b); err != nil {
		return nil, fmt.Errorf("binding %s: %w", binding.Key, err)
	}
	if !slices.ContainsFunc(b.Subjects, u.is) {
		return nil, nil
	}
	gr, k := roles, objects.Key{Namespace: binding.Namespace, Name: b.RoleRef.Name}
	if b.RoleRef.Kind == "ClusterRole" {
		gr, k.Namespace = clusterRoles, ""
	}
	o := a.Objects.Get(gr, k)
	if o == nil {
		return nil, nil
	}
	// A ClusterRole has the rules in the same field.
	var role rbacv1.Role
	if err := json.Unmarshal(o.JSON, &role); err != nil {
		return nil, fmt.Errorf("role %s: %w", k, err)
	}
	return role.Rules, nil
}
