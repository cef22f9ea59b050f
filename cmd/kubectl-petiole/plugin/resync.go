package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

func newResyncCommand(s *session) *cobra.Command {
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "resync SITE...",
		Short: "Request a full resync of sites",
		Long: `Request a full resync: the sites receive all their objects again and compare them
afterwards. Pods and devices that are up to date are not restarted. A disconnected site
does it when it reconnects. Requires permission to patch sites.petiole.dev.`,
		Example: `  # Request a resync and return at once
  kubectl petiole resync plant-a

  # Wait until the site has received everything and the comparison found no difference
  kubectl petiole resync plant-a --wait`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: s.completeSites(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			var errs []error
			for _, site := range args {
				errs = append(errs, s.resync(cmd.Context(), c, site, wait, timeout))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "Wait until the resync is complete")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "How long to wait")
	return cmd
}

func (s *session) resync(ctx context.Context, c dynamic.Interface, site string, wait bool, timeout time.Duration) error {
	value := time.Now().UTC().Format(time.RFC3339Nano)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{v1alpha1.ResyncAnnotation: value}}})
	if err != nil {
		return err
	}
	if _, err := c.Resource(v1alpha1.Sites).Patch(ctx, site, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	if !wait {
		_, err := fmt.Fprintf(s.Out, "site.petiole.dev/%s resync requested\n", site)
		return err
	}
	if err := s.await(ctx, c, site, timeout, func(o *v1alpha1.Site) string { return missing(&o.Status, value) }); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, "site.petiole.dev/%s resynced\n", site)
	return err
}

// missing returns what the resync that the annotation's value requested still waits for,
// empty if it is complete: the site has everything, and a later comparison found no
// difference.
func missing(st *v1alpha1.SiteStatus, value string) string {
	var left []string
	add := func(is bool, what string) {
		if is {
			left = append(left, what)
		}
	}
	done := st.Resync != nil && st.Resync.Requested == value
	add(!st.Connected, "the site is not connected")
	add(!done, "the bridge has not started it")
	if done {
		add(st.Pending > 0, fmt.Sprintf("%d objects are pending", st.Pending))
		add(st.LastCheck == nil || st.LastCheck.Time.Before(&st.Resync.Time) || st.LastCheck.Outcome != "equal", "no comparison has found it equal yet")
	}
	return strings.Join(left, ", ")
}
