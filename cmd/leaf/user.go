package main

import (
	"fmt"
	"path/filepath"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/petiole-io/petiole/leaf/credential"
)

var userName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

func newUserCommand() *cobra.Command {
	var dir string
	var password bool
	cmd := &cobra.Command{
		Use: "user NAME", Short: "Create the credential of a user of leaf.conf",
		Long: `Create the credential of NAME, a user of leaf.conf: DIR/NAME.conf, which leaf.conf
includes, and DIR/NAME.nk, the seed of its nkey. Existing files are kept. The files have
mode 0600.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if !userName.MatchString(name) {
				return fmt.Errorf("NAME: %q: must be lower case letters, digits and hyphens", name)
			}
			create, kind := credential.KeyUser, "its nkey, the seed beside it in "+name+".nk"
			if password {
				create, kind = credential.PasswordUser, "its password"
			}
			if err := create(dir, name); err != nil {
				return exitError{1, err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", filepath.Join(dir, name+".conf"), kind)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "/etc/petiole/users", "`folder` of the credentials")
	cmd.Flags().BoolVar(&password, "password", false, "a password instead of an nkey, for programs that use MQTT")
	return cmd
}
