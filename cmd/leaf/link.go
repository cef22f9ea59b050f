package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/petiole-io/petiole/leaf/credential"
)

func newLinkCommand() *cobra.Command {
	var dir string
	var token bool
	cmd := &cobra.Command{
		Use: "link", Short: "Create the gateway's key for the hub, or its credentials",
		Long: `Create the key of this gateway for a hub in operator mode, DIR/link.nk, and print its
public key, which belongs into the gateways of the Site. The private key never leaves the
gateway. With --jwt read from standard input the JWT that the Site has for the key then
(kubectl petiole site jwt), and create DIR/link.creds, which leaf.conf names. The files
have mode 0600, and an existing key is kept.`,
		Example: `  leaf link
  leaf link --jwt < plant-a.jwt`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !token {
				public, err := credential.Link(dir)
				if err != nil {
					return exitError{1, err}
				}
				fmt.Fprintln(cmd.OutOrStdout(), public)
				return nil
			}
			data, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 64<<10))
			if err != nil {
				return exitError{1, fmt.Errorf("read the JWT: %w", err)}
			}
			path, err := credential.LinkCredentials(dir, string(data))
			if err != nil {
				return exitError{1, err}
			}
			fmt.Fprintln(cmd.OutOrStdout(), path)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "/etc/petiole", "`folder` of the key and the credentials")
	cmd.Flags().BoolVar(&token, "jwt", false, "read the JWT from standard input and create the credentials")
	return cmd
}
