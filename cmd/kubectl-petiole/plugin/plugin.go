// Package plugin is a kubectl plugin that shows the state, the backlog and the traffic of sites and
// requests full resyncs, and creates and revokes sites.
//
// It talks to the API server alone, with the user's kubeconfig and rights; the bridge
// answers through objects there (Site and Backlog), wherever it runs. It shows names and
// never contents. deploy/kubernetes/rbac.yaml has the roles that it needs,
// petiole-viewer, petiole-operator and petiole-admin. cmd/kubectl-petiole calls it.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/petiole-io/petiole/internal/version"
)

// completer is the program name under which kubectl runs a plugin for shell completion: a
// link to the plugin.
const completer = "kubectl_complete-petiole"

// Run runs the command under a program name, and returns an exit code like kubectl: 0, or 1
// after printing an error. It returns early when ctx ends.
func Run(ctx context.Context, name string, args []string, std genericiooptions.IOStreams) int {
	if name == completer {
		args = append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	cmd := newCommand(std)
	cmd.SetArgs(args)
	cmd.SetIn(std.In)
	cmd.SetOut(std.Out)
	cmd.SetErr(std.ErrOut)
	if err := cmd.ExecuteContext(ctx); err != nil {
		explain(std.ErrOut, err)
		return 1
	}
	return 0
}

func newCommand(std genericiooptions.IOStreams) *cobra.Command {
	s := &session{IOStreams: std, config: genericclioptions.NewConfigFlags(true)}
	cmd := &cobra.Command{
		Use:   "kubectl-petiole",
		Short: "Show the state of sites, create and revoke them, request full resyncs",
		Annotations: map[string]string{
			cobra.CommandDisplayNameAnnotation: "kubectl petiole",
		},
		Version:      version.String(),
		SilenceUsage: true, SilenceErrors: true,
	}
	flags := cmd.PersistentFlags()
	s.config.AddFlags(flags)
	flags.StringVar(&s.lease.namespace, "bridge-namespace", "petiole-system", "Namespace of the Lease that bridges compete for")
	flags.StringVar(&s.lease.name, "bridge-lease", "bridge", "Name of that Lease")
	cmd.AddCommand(newBacklogCommand(s), newStatusCommand(s), newResyncCommand(s), newSiteCommand(s), newTrafficCommand(s), newVersionCommand(s))
	return cmd
}

func newVersionCommand(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this plugin", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) { fmt.Fprintln(s.Out, version.String()) },
	}
}

// explain prints an error in the format of kubectl.
func explain(w io.Writer, err error) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		fmt.Fprintf(w, "error: %v\n", err)
		return
	}
	if reason := status.Status().Reason; reason != "" {
		fmt.Fprintf(w, "Error from server (%s): %v\n", reason, err)
		return
	}
	fmt.Fprintf(w, "Error from server: %v\n", err)
}
