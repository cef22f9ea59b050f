package plugin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/dynamic"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

// completionTime is the timeout of a completion's requests.
const completionTime = 3 * time.Second

// session holds the flags and the output of one invocation.
type session struct {
	genericiooptions.IOStreams
	config *genericclioptions.ConfigFlags
	lease  struct{ namespace, name string }
}

func (s *session) client() (dynamic.Interface, error) {
	rc, err := s.config.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	rc.UserAgent = "kubectl-petiole"
	return dynamic.NewForConfig(rc)
}

// site returns a Site.
func (s *session) site(ctx context.Context, c dynamic.Interface, name string) (*v1alpha1.Site, error) {
	o, err := c.Resource(v1alpha1.Sites).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	var site v1alpha1.Site
	return &site, fromUnstructured(o, &site)
}

// await waits until missing returns nothing for the Site. After timeout the error has what it
// returned, and the state of the bridge.
func (s *session) await(ctx context.Context, c dynamic.Interface, name string, timeout time.Duration, missing func(*v1alpha1.Site) string) error {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		o, err := s.site(ctx, c, name)
		if err != nil {
			return err
		}
		left := missing(o)
		if left == "" {
			return nil
		}
		select {
		case <-waiting.Done():
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return fmt.Errorf("timed out waiting for site %s: %s; %s", name, left, s.leader(ctx, c))
		case <-time.After(pollInterval):
		}
	}
}

// sites returns all Sites.
func (s *session) sites(ctx context.Context, c dynamic.Interface) (*v1alpha1.SiteList, error) {
	o, err := c.Resource(v1alpha1.Sites).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	list := &v1alpha1.SiteList{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "SiteList"},
		ListMeta: metav1.ListMeta{ResourceVersion: o.GetResourceVersion()},
	}
	for i := range o.Items {
		var site v1alpha1.Site
		if err := fromUnstructured(&o.Items[i], &site); err != nil {
			return nil, err
		}
		list.Items = append(list.Items, site)
	}
	return list, nil
}

func fromUnstructured(o *unstructured.Unstructured, into any) error {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
		return fmt.Errorf("read %s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return nil
}

// leader returns a sentence about the leading bridge, or why it is unknown.
func (s *session) leader(ctx context.Context, c dynamic.Interface) string {
	leases := schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}
	o, err := c.Resource(leases).Namespace(s.lease.namespace).Get(ctx, s.lease.name, metav1.GetOptions{})
	if err != nil {
		return fmt.Sprintf("cannot find out which bridge leads: %v", err)
	}
	holder, _, err1 := unstructured.NestedString(o.Object, "spec", "holderIdentity")
	renewed, _, err2 := unstructured.NestedString(o.Object, "spec", "renewTime")
	lasts, _, err3 := unstructured.NestedInt64(o.Object, "spec", "leaseDurationSeconds")
	at, err4 := time.Parse(time.RFC3339Nano, renewed)
	if err1 != nil || err2 != nil || err3 != nil {
		return fmt.Sprintf("lease %s/%s is invalid", s.lease.namespace, s.lease.name)
	}
	if holder == "" || err4 != nil {
		return "no bridge leads"
	}
	age := time.Since(at)
	if age > time.Duration(lasts)*time.Second {
		return fmt.Sprintf("no bridge leads: the last one, %s, renewed its lease %s ago", holder, duration.HumanDuration(age))
	}
	return fmt.Sprintf("bridge %s leads, lease renewed %s ago", holder, duration.HumanDuration(age))
}

// completeSites completes the names of Sites, only in the first argument if one is true.
func (s *session) completeSites(one bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if one && len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := s.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		list, err := s.sites(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, site := range list.Items {
			names = append(names, site.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
