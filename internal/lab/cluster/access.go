package cluster

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/leaf/credential"
)

// WriteCredentials creates, beside each seed of a gateway or an operator that the Site lists, the
// credentials for the hub, from the JWT in the status of the Site. Without the JWT it returns an
// error with the AccountReady condition of the Site.
func WriteCredentials(ctx context.Context, client dynamic.Interface, name string, seeds ...string) error {
	object, err := client.Resource(v1alpha1.Sites).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	var site v1alpha1.Site
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &site); err != nil {
		return fmt.Errorf("read site %s: %w", name, err)
	}
	for _, seed := range seeds {
		public, err := credential.Seed(seed)
		if err != nil {
			return err
		}
		token, err := tokenOf(&site, public)
		if err != nil {
			return err
		}
		if _, err := credential.Credentials(seed, token); err != nil {
			return err
		}
	}
	return nil
}

// tokenOf returns the JWT of a public key in the status of a Site.
func tokenOf(site *v1alpha1.Site, public string) (string, error) {
	if access := site.Status.Access; access != nil {
		for _, u := range slices.Concat(access.Gateways, access.Operators) {
			if u.Key == public {
				return u.JWT, nil
			}
		}
	}
	why := "the bridge has not looked at the site"
	if c := meta.FindStatusCondition(site.Status.Conditions, v1alpha1.ConditionAccountReady); c != nil {
		why = fmt.Sprintf("AccountReady is %s: %s: %s", c.Status, c.Reason, c.Message)
	}
	return "", fmt.Errorf("site %s has no JWT of %s: %s", site.Name, public, why)
}
