package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/petiole-io/petiole/bridge/accounts"
)

func newHubCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "hub", Short: "Prepare a hub", Args: cobra.NoArgs}
	var dir, store string
	create := &cobra.Command{
		Use: "init", Short: "Create the keys and the accounts of a new hub in operator mode",
		Long: `Create the keys and the accounts of a new hub in operator mode, in the folder --dir:
operator.conf, which hub.conf includes, the keys of the operator, and the credentials of
the bridge and of the administrators. The files have mode 0600. Existing files are never
replaced. docs/install.md says who needs which.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := accounts.WriteHub(dir, store); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Created. Move %s to a safe place offline, and include %s in hub.conf.\n",
				filepath.Join(dir, accounts.OperatorKeyFile), filepath.Join(dir, accounts.OperatorConf))
			return nil
		},
	}
	create.Flags().StringVar(&dir, "dir", "/etc/petiole/hub", "`folder` of the files")
	create.Flags().StringVar(&store, "accounts", "/var/lib/nats/accounts", "`folder` in which the hub keeps the accounts")
	cmd.AddCommand(create)
	return cmd
}
