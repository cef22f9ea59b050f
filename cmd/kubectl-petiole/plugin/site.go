package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/retry"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

// accountTimeout is how long the commands wait for the bridge.
const accountTimeout = 30 * time.Second

var (
	nodesResource = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	podsResource  = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
)

func newSiteCommand(s *session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "site", Short: "Create and revoke sites, and replace their gateways", Args: cobra.NoArgs,
		Long: `Create and revoke sites, and replace their gateways, at a hub in operator mode. create and
rejoin print a join token, with which one gateway connects (leaf join); the gateway creates
its key itself and keeps the private part. Requires the role petiole-admin.`,
	}
	cmd.AddCommand(newSiteCreateCommand(s), newSiteRejoinCommand(s), newSiteRevokeCommand(s), newSiteJWTCommand(s))
	return cmd
}

func newSiteCreateCommand(s *session) *cobra.Command {
	var gateway, description string
	var nodes []string
	var token tokenFlags
	cmd := &cobra.Command{
		Use: "create SITE", Short: "Create a site, and print a join token for its gateway",
		Long: `Create a site, and print the command that lets one gateway join it: a token that is good
once and for a limited time. Of the token the API server has the public key only. With
--gateway no token is made: the gateway with that key may connect.`,
		Example: `  kubectl petiole site create plant-a
  kubectl petiole site create plant-a --node gw-7 --print-token | ssh gw-7 sudo leaf join tls://hub.example.com:7422 -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			spec := map[string]any{}
			if gateway != "" {
				spec["gateways"] = []any{gateway}
			}
			if description != "" {
				spec["description"] = description
			}
			if len(nodes) > 0 {
				spec["nodes"] = map[string]any{"names": stringsToAny(nodes)}
			}
			var secret joinSecret
			if gateway == "" {
				if secret, err = newJoinSecret(token, false); err != nil {
					return err
				}
				spec["join"] = secret.spec
			}
			o := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": v1alpha1.GroupVersion.String(), "kind": "Site", "metadata": map[string]any{"name": args[0]}, "spec": spec,
			}}
			switch _, err := c.Resource(v1alpha1.Sites).Create(cmd.Context(), o, metav1.CreateOptions{}); {
			case apierrors.IsAlreadyExists(err):
				return fmt.Errorf("%w; 'kubectl petiole site rejoin %s' makes a join token for a site that exists", err, args[0])
			case err != nil:
				return err
			case gateway != "":
				_, err := fmt.Fprintf(s.Out, "site.petiole.dev/%s created\n", args[0])
				return err
			}
			if _, err := fmt.Fprintf(s.ErrOut, "site.petiole.dev/%s created\n", args[0]); err != nil {
				return err
			}
			return s.printToken(cmd.Context(), c, args[0], secret, token)
		},
	}
	token.add(cmd)
	cmd.Flags().StringSliceVar(&nodes, "node", nil, "`Name` of a node that the site may register; repeatable. Default: the first that registers")
	cmd.Flags().StringVar(&gateway, "gateway", "", "Public `key` of the gateway that may connect, as leaf link prints it")
	cmd.Flags().StringVar(&description, "description", "", "Free text")
	return cmd
}

func newSiteRejoinCommand(s *session) *cobra.Command {
	var only bool
	var token tokenFlags
	cmd := &cobra.Command{
		Use: "rejoin SITE [KEY]", Short: "Let another gateway connect",
		Long: `Print a join token for another gateway of a site: one that replaces the present one, or one
that was revoked. The new gateway takes over the node of the site, with its pods and devices.
It connects beside the present one, which loses its connection when the new one has joined
if --only is given. An earlier token of the site is no longer good.

With the public key KEY of the new gateway no token is made. Repeat the command with --only
when the new one is connected: the old one loses its connection at once.`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: s.completeSites(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			if len(args) == 2 {
				return s.rejoin(cmd.Context(), c, args[0], args[1], only)
			}
			secret, err := newJoinSecret(token, only)
			if err != nil {
				return err
			}
			secret.spec["usedBy"] = nil // of an earlier token
			if err := patchSite(cmd.Context(), c, args[0], map[string]any{}, map[string]any{"join": secret.spec}); err != nil {
				return err
			}
			return s.printToken(cmd.Context(), c, args[0], secret, token)
		},
	}
	token.add(cmd)
	cmd.Flags().BoolVar(&only, "only", false, "No other gateway may connect any longer")
	return cmd
}

func (s *session) rejoin(ctx context.Context, c dynamic.Interface, name, key string, only bool) error {
	var gateways []string
	// The bridge writes the status of the Site meanwhile.
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		site, err := s.site(ctx, c, name)
		if err != nil {
			return err
		}
		gateways = []string{key}
		if !only {
			gateways = append(slices.DeleteFunc(slices.Clone(site.Spec.Gateways), func(k string) bool { return k == key }), key)
		}
		return patchSite(ctx, c, name, map[string]any{"resourceVersion": site.ResourceVersion}, map[string]any{"gateways": gateways})
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, "site.petiole.dev/%s lets these gateways connect: %s\n", name, strings.Join(gateways, ", "))
	return err
}

func newSiteRevokeCommand(s *session) *cobra.Command {
	var keepNodes bool
	cmd := &cobra.Command{
		Use: "revoke SITE...", Short: "Revoke sites: nobody may connect for them",
		Long: `Revoke sites: their gateways and operators lose their connections at once and may not connect
again, and the Nodes of the sites and their pods are deleted, with which the tokens of the
pods end and the names are free, except those in spec.nodes.names. Containers at the sites
run on. The gateways keep the data that they have: change the Secrets of their pods. site
rejoin lets a gateway in again.`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: s.completeSites(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			var errs []error
			for _, site := range args {
				errs = append(errs, s.revoke(cmd.Context(), c, site, keepNodes))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&keepNodes, "keep-nodes", false, "Do not delete the Nodes of the sites and their pods")
	return cmd
}

func (s *session) revoke(ctx context.Context, c dynamic.Interface, name string, keepNodes bool) error {
	if err := patchSite(ctx, c, name, map[string]any{}, map[string]any{"gateways": nil, "operators": nil, "join": nil}); err != nil {
		return err
	}
	// The nodes are deleted whether or not the bridge has answered: their tokens end with them.
	waitErr := s.awaitAccount(ctx, c, name, func(o *v1alpha1.Site) bool {
		ready := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionAccountReady)
		return ready != nil && ready.Reason == v1alpha1.ReasonNoGateway && (o.Status.Access == nil || len(o.Status.Access.Gateways) == 0 && o.Status.Access.Join == nil)
	})
	if !keepNodes {
		if err := deleteNodes(ctx, c, name); err != nil {
			return errors.Join(waitErr, err)
		}
	}
	if waitErr != nil {
		return waitErr
	}
	_, err := fmt.Fprintf(s.Out, "site.petiole.dev/%s revoked\n", name)
	return err
}

// deleteNodes deletes the Nodes of a site, and their pods, with which the tokens of the pods end.
// Kubernetes would delete the pods by itself 40 s later.
func deleteNodes(ctx context.Context, c dynamic.Interface, site string) error {
	selector := metav1.ListOptions{LabelSelector: v1alpha1.SiteLabel + "=" + site}
	nodes, err := c.Resource(nodesResource).List(ctx, selector)
	if err != nil {
		return err
	}
	if err := c.Resource(nodesResource).DeleteCollection(ctx, metav1.DeleteOptions{}, selector); err != nil {
		return err
	}
	var errs []error
	now := int64(0)
	for _, n := range nodes.Items {
		pods, err := c.Resource(podsResource).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + n.GetName()})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, p := range pods.Items {
			uid := p.GetUID()
			err := c.Resource(podsResource).Namespace(p.GetNamespace()).Delete(ctx, p.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid}})
			if !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // is gone, or another one has its name
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func newSiteJWTCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "jwt SITE [KEY]", Short: "Print the JWT of a gateway or an operator",
		Long: `Print what a gateway or an operator with the public key KEY presents to the hub, by default
the last gateway of the Site. It is no secret: it is of no use without the private key.`,
		Example:           "  kubectl petiole site jwt plant-a | ssh plant-a leaf link --jwt",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: s.completeSites(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			token := ""
			err = s.awaitAccount(cmd.Context(), c, args[0], func(o *v1alpha1.Site) bool {
				key := ""
				if len(args) > 1 {
					key = args[1]
				} else if n := len(o.Spec.Gateways); n > 0 {
					key = o.Spec.Gateways[n-1]
				}
				token = tokenOf(o, key)
				return token != ""
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.Out, token)
			return err
		},
	}
}

// tokenOf returns the JWT of a key in a Site's status, empty if there is none.
func tokenOf(o *v1alpha1.Site, key string) string {
	if o.Status.Access == nil {
		return ""
	}
	for _, u := range slices.Concat(o.Status.Access.Gateways, o.Status.Access.Operators) {
		if u.Key == key {
			return u.JWT
		}
	}
	return ""
}

// patchSite changes fields of the spec. metadata may hold the resource version that it must have.
func patchSite(ctx context.Context, c dynamic.Interface, name string, metadata, spec map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": metadata, "spec": spec})
	if err != nil {
		return err
	}
	_, err = c.Resource(v1alpha1.Sites).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// awaitAccount waits until done returns true for the Site. After accountTimeout the error has the
// reason and message of its condition AccountReady.
func (s *session) awaitAccount(ctx context.Context, c dynamic.Interface, name string, done func(*v1alpha1.Site) bool) error {
	return s.await(ctx, c, name, accountTimeout, func(o *v1alpha1.Site) string {
		if done(o) {
			return ""
		}
		if ready := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionAccountReady); ready != nil {
			return fmt.Sprintf("AccountReady is %s (%s): %s", ready.Status, ready.Reason, ready.Message)
		}
		return "the bridge has not looked at it"
	})
}
