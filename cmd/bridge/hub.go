package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/deploy"
)

// hubConf is the hub's configuration, in the folder of operator.conf.
const hubConf = "hub.conf"

func newHubCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "hub", Short: "Prepare a hub", Args: cobra.NoArgs}
	var dir, data, store, webSocket string
	create := &cobra.Command{
		Use: "init", Short: "Create the configuration, the keys and the accounts of a new hub in operator mode",
		Long: `Create the configuration, the keys and the accounts of a new hub in operator mode, in the
folder --dir: hub.conf and operator.conf for nats-server, the keys of the operator, and the
credentials of the bridge and of the administrators. The files have mode 0600. Existing files
are never replaced. The hub's certificate and its key belong there as hub.crt and hub.key.
docs/install.md says who needs which file, and how large a hub must be.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := renderHub(dir, data, store, webSocket)
			if err != nil {
				return err
			}
			path := filepath.Join(dir, hubConf)
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s: %w: choose another folder", path, accounts.ErrExists)
			}
			if err := accounts.WriteHub(dir, filepath.Join(data, "accounts")); err != nil {
				return err
			}
			if err := os.WriteFile(path, conf, 0o600); err != nil {
				return fmt.Errorf("write %s: %w", path, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Created. Move %s to a safe place offline, put hub.crt and hub.key into %s, and start: nats-server -c %s\n",
				filepath.Join(dir, accounts.OperatorKeyFile), dir, path)
			return nil
		},
	}
	create.Flags().StringVar(&dir, "dir", "/etc/petiole/hub", "`folder` of the files")
	create.Flags().StringVar(&data, "data", "/var/lib/nats", "`folder` in which the hub keeps its streams and accounts")
	create.Flags().StringVar(&store, "max-file-store", "3GB", "`room` that streams may take of the disk; docs/install.md, Room at the hub")
	create.Flags().StringVar(&webSocket, "websocket", "", "`address` where gateways connect by wss://, such as 0.0.0.0:443; empty: nowhere")
	cmd.AddCommand(create, newHubRotateCommand())
	return cmd
}

func newHubRotateCommand() *cobra.Command {
	var dir string
	var finish bool
	cmd := &cobra.Command{
		Use: "rotate [FILE...]", Short: "Replace keys and credentials of a hub in operator mode",
		Long: `Replace keys and credentials that 'bridge hub init' has created in the folder --dir:
` + strings.Join(accounts.Rotatable(), ", ") + `.
The former ones stay valid, as FILE.previous, so that no site and no bridge is cut. Restart the
hub, give the new files to the bridge and to administrators, restart the bridge, wait until all
Sites are AccountReady, and run it with --finish: it ends the validity of the former ones. Restart
the hub once more. Run it where the hub runs, with the offline keys copied back into the folder:
operator.nk for operator-signing.nk, and fabric-signing.nk or system-signing.nk for credentials.

A new sites.nk is for the bridge alone, and --finish leaves it out unless it is named: each gateway
needs the new JWT from its Site before. docs/security.md has the steps.`,
		Example: "  bridge hub rotate bridge.creds accounts.creds operator-signing.nk\n  bridge hub rotate --finish\n  bridge hub rotate sites.nk\n  bridge hub rotate --finish sites.nk",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !finish && len(args) == 0 {
				return errors.New("name the files to replace, or use --finish")
			}
			rotate := accounts.Rotate
			if finish {
				rotate = accounts.FinishRotation
			}
			if err := rotate(dir, args...); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), nextStep(finish, args))
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "/etc/petiole/hub", "`folder` of the files")
	cmd.Flags().BoolVar(&finish, "finish", false, "end the validity of what was replaced")
	return cmd
}

// nextStep returns what to do after a rotation of files was begun or finished.
func nextStep(finish bool, files []string) string {
	var steps []string
	if !slices.Equal(files, []string{accounts.SiteKeyFile}) {
		step := "Replaced. Restart nats-server; give the new files to the bridge and to administrators and restart the bridge; when all Sites are AccountReady: bridge hub rotate --finish"
		if finish {
			step = "The former ones have ended. Restart nats-server, and move the offline keys back"
		}
		steps = append(steps, step)
	}
	if slices.Contains(files, accounts.SiteKeyFile) {
		step := "Give the new sites.nk to the bridge and restart it. Then each gateway needs its new JWT: kubectl petiole site jwt SITE | ssh GATEWAY leaf link --jwt, and a restart of its leaf; when all have it: bridge hub rotate --finish sites.nk"
		if finish {
			step = "Give sites.nk, which has changed, to the bridge and restart it: it refuses gateways that have the former JWT from then on"
		}
		steps = append(steps, step)
	}
	return strings.Join(steps, "\n")
}

// renderHub returns the hub's configuration, which listens on all addresses with TLS.
func renderHub(dir, data, maxStore, webSocket string) ([]byte, error) {
	t, err := template.New(hubConf).Parse(deploy.HubConf)
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", hubConf, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, map[string]any{
		"Listen": "0.0.0.0:4222", "LeafListen": "0.0.0.0:7422", "WebSocket": webSocket, "Monitor": "127.0.0.1:8222", "ClientTLS": true,
		"CertFile": filepath.Join(dir, "hub.crt"), "KeyFile": filepath.Join(dir, "hub.key"), "Store": filepath.Join(data, "jetstream"),
		"MaxFileStore": maxStore, "MaxBatches": 800, "Operator": accounts.OperatorConf, "Sites": nil,
	}); err != nil {
		return nil, fmt.Errorf("render %s: %w", hubConf, err)
	}
	return b.Bytes(), nil
}
