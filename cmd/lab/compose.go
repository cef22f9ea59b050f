package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/petiole-io/petiole/internal/lab"
	"github.com/petiole-io/petiole/internal/lab/compose"
)

// applyTimeout bounds the wait for an API server that has just been started.
const applyTimeout = 3 * time.Minute

func composeCommands() *cobra.Command {
	cloud := compose.Cloud{APIPort: lab.APIPort}
	cmd := &cobra.Command{Use: "compose", Short: "Prepare the lab in Docker Compose (docs/compose.md)", Args: cobra.NoArgs}
	cmd.PersistentFlags().StringVar(&cloud.Dir, "dir", "/var/lib/petiole", "folder of credentials and configuration")
	cmd.PersistentFlags().StringVar(&cloud.Assets, "assets", "/usr/share/petiole", "folder that holds deploy/ of the repository")
	cmd.PersistentFlags().StringVar(&cloud.HubData, "hub-data", "/var/lib/nats", "folder of the hub's streams and accounts, in the hub")
	cmd.AddCommand(composeInit(&cloud), composeApply(&cloud), composeInvite(&cloud), composeKubeconfig(&cloud))
	return cmd
}

func composeInit(cloud *compose.Cloud) *cobra.Command {
	return &cobra.Command{
		Use: "init", Short: "Create the credentials and the configuration of the parts in the cloud", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return cloud.Init() },
	}
}

func composeApply(cloud *compose.Cloud) *cobra.Command {
	return &cobra.Command{
		Use: "apply", Short: "Wait for the API server, and apply the manifests of an installation", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), applyTimeout)
			defer cancel()
			return cloud.Apply(ctx)
		},
	}
}

func composeInvite(cloud *compose.Cloud) *cobra.Command {
	var plugin, token, scraper string
	cmd := &cobra.Command{
		Use: "invite", Short: "Create the site, a join token for its gateway, and the credentials of its metrics", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cloud.ShareMetrics(filepath.Dir(token), scraper); err != nil {
				return err
			}
			return cloud.Invite(cmd.Context(), plugin, token)
		},
	}
	cmd.Flags().StringVar(&plugin, "plugin", "/usr/bin/kubectl-petiole", "kubectl plugin")
	cmd.Flags().StringVar(&token, "token", "/var/lib/join/token", "file that the gateway reads the join token from, and beside it how it serves its metrics")
	cmd.Flags().StringVar(&scraper, "scraper", "/var/lib/scraper", "folder that Prometheus reads its credentials from")
	return cmd
}

func composeKubeconfig(cloud *compose.Cloud) *cobra.Command {
	var server string
	cmd := &cobra.Command{
		Use: "kubeconfig", Short: "Print the administrator's kubeconfig", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			data, err := cloud.Kubeconfig(server)
			if err != nil {
				return err
			}
			_, err = os.Stdout.Write(data)
			return err
		},
	}
	cmd.Flags().StringVar(&server, "server", os.Getenv("PETIOLE_SERVER"), "URL of the API server; default the environment's PETIOLE_SERVER")
	return cmd
}
