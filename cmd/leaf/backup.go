package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/internal/version"
	"github.com/petiole-io/petiole/leaf"
	"github.com/petiole-io/petiole/leaf/backup"
	"github.com/petiole-io/petiole/leaf/join"
	"github.com/petiole-io/petiole/leaf/natsd"
)

func newBackupCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "Write what this gateway cannot get again to a file",
		Long: `Write the gateway's configuration, keys and tokens, and the store with the records and reports
that the hub does not have yet, to FILE, with mode 0600. The file contains the gateway's key and
the Secrets of its pods: keep it as a secret, and on another machine.

The leaf is stopped meanwhile, if systemd runs it; its pods go on. Otherwise stop it yourself.`,
		Example: "  leaf backup /mnt/usb/plant-a.backup",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			source, err := backupSource(config)
			if err != nil {
				return exitError{1, err}
			}
			m, err := join.Host()
			if err != nil {
				return exitError{1, err}
			}
			progress := func(format string, args ...any) { fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...) }
			err = m.Paused(cmd.Context(), progress, func(ctx context.Context) error { return backup.Create(ctx, source, args[0]) })
			if err != nil {
				return exitError{1, err}
			}
			progress("%s is a backup of node %s of site %s", args[0], source.Node, source.Site)
			return nil
		},
	}
	cmd.Flags().StringVar(&config, "config", "/etc/petiole/leaf.yaml", "configuration `file` of the leaf")
	return cmd
}

// backupSource returns what the leaf of a configuration has.
func backupSource(config string) (backup.Source, error) {
	cfg := leaf.DefaultConfig()
	if err := configfile.Load(config, &cfg); err != nil {
		return backup.Source{}, err
	}
	if err := cfg.Validate(); err != nil {
		return backup.Source{}, err
	}
	if cfg.NATS.ConfigFile == "" {
		return backup.Source{}, errors.New("the streams of this site are in a nats-server of its own (nats.url), whose store leaf backup cannot read: use 'nats account backup' there")
	}
	store, err := natsd.StoreDir(cfg.NATS.ConfigFile)
	if err != nil {
		return backup.Source{}, err
	}
	if config, err = filepath.Abs(config); err != nil {
		return backup.Source{}, err
	}
	return backup.Source{
		Site: cfg.Site, Node: cfg.Node, ConfigDir: filepath.Dir(config), DataDir: filepath.Clean(cfg.DataDir), StoreDir: filepath.Clean(store),
		Version: version.String(), Created: time.Now().UTC().Truncate(time.Second),
		Except: []string{cfg.Storage.Encryption.KeyFile, cfg.Storage.Encryption.PreviousKeyFile},
	}, nil
}

func newRestoreCommand() *cobra.Command {
	return &cobra.Command{
		Use: "restore FILE", Short: "Restore a backup of 'leaf backup' on a machine that takes the gateway's place",
		Long: `Restore what 'leaf backup' has written, on a machine that has no leaf. The hub gets the records and
reports that it does not have, once, however old the backup is; the objects of the site come from
the hub, and are used when they were compared.

Then start the leaf if the gateway's key is still in the Site. If it is not, join again with a token of
'kubectl petiole site rejoin SITE --only', which also ends the old gateway.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			source, err := backup.Restore(cmd.Context(), args[0])
			if err != nil {
				return exitError{1, err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), `node %s of site %s is restored as it was at %s.
Start it with: systemctl enable --now petiole-leaf
or, if the Site does not list its key any longer: leaf join URL TOKEN, with what 'kubectl petiole site rejoin %s --only' prints
`, source.Node, source.Site, source.Created.Format(time.RFC3339), source.Site)
			return nil
		},
	}
}
