package site

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

// Specs reads from the cache what the accounts of Sites are made from. It implements
// accounts.Sites.
type Specs struct {
	Cache Cache
	// Names returns the names of all Sites.
	Names func() []string
}

// SiteNames implements accounts.Sites.
func (s Specs) SiteNames() []string { return s.Names() }

// SiteSpec implements accounts.Sites.
func (s Specs) SiteSpec(name string) (accounts.Site, map[string]string, bool) {
	o := s.Cache.Get(kube.Key{Group: kube.SiteGroup, Resource: "sites", Name: name})
	if o == nil {
		return accounts.Site{}, nil, false
	}
	var site v1alpha1.Site
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &site); err != nil {
		// The definition of the resource does not allow it. Who may connect is unknown: nobody.
		return accounts.Site{Name: name}, nil, true
	}
	tokens := map[string]string{}
	if a := site.Status.Access; a != nil {
		for _, u := range append(a.Gateways, a.Operators...) {
			tokens[u.Key] = u.JWT
		}
		if a.Join != nil {
			tokens[a.Join.Key] = a.Join.JWT
		}
	}
	spec := accounts.Site{Name: name, Gateways: site.Spec.Gateways, Operators: site.Spec.Operators}
	if j := site.Spec.Join; j != nil {
		spec.Join = &accounts.JoinToken{Key: j.Key, Expires: j.Expires.Time}
	}
	return spec, tokens, true
}

// applyAccess copies the state of the site's accounts, if there is one.
func applyAccess(s *v1alpha1.SiteStatus, access accounts.State, known bool, now time.Time) {
	s.Access = nil
	if !known {
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionAccountReady)
		return
	}
	if access.Account != "" {
		s.Access = &v1alpha1.SiteAccess{Account: access.Account, Gateways: siteUsers(access.Gateways), Operators: siteUsers(access.Operators)}
		if u := access.Join; u != nil {
			s.Access.Join = &v1alpha1.SiteJoinAccess{Key: u.Key, JWT: u.Token, URL: access.Entry.URL, Authorities: access.Entry.Authorities}
		}
	}
	c := accountCondition(access)
	c.LastTransitionTime = *wireTime(now)
	meta.SetStatusCondition(&s.Conditions, c)
}

func siteUsers(users []accounts.User) []v1alpha1.SiteUser {
	var out []v1alpha1.SiteUser
	for _, u := range users {
		out = append(out, v1alpha1.SiteUser{Key: u.Key, JWT: u.Token})
	}
	return out
}

func accountCondition(s accounts.State) metav1.Condition {
	const t = v1alpha1.ConditionAccountReady
	switch s.Outcome {
	case accounts.Stored:
		return condition(t, metav1.ConditionTrue, v1alpha1.ReasonAccountStored, "the hub has the site's account")
	case accounts.Revoked:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonNoGateway, "spec.gateways lists no gateway: nobody may connect")
	case accounts.Invalid:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonInvalidKey, s.Message)
	case accounts.NotConfigured:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonNotConfigured, s.Message)
	case accounts.Refused:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonHubRefuses, s.Message)
	}
	return condition(t, metav1.ConditionFalse, v1alpha1.ReasonHubUnavailable, s.Message)
}
