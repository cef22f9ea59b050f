// Command historian writes the telemetry of all sites to PostgreSQL. It is an example of a
// consumer: it uses the hub's streams as any program in any language can, and shows what such a
// program has to do so that its database has each sample once, and says where some are missing.
//
// It reads each stream TELEMETRY_<site> from the position in the database, which moves in the transaction
// that stores the records: each is stored once, whatever ends in between, and several historians may run.
// A gateway may store a record at the hub twice; then its key is known. A record that is missing has a
// row in the table gaps: those that the gateway has reported, and those that the hub removed before
// they were read. `nats consumer report TELEMETRY_<site>` shows how many records wait.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		os.Exit(1)
	}
}

type options struct {
	server, creds, authority, database, consumer string
}

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "historian", Short: "Write the telemetry of all sites to PostgreSQL", Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.server, "server", "tls://127.0.0.1:4222", "`URL` of the hub")
	f.StringVar(&o.creds, "creds", "", "credentials `file` for the hub, admin.creds")
	f.StringVar(&o.authority, "tlsca", "", "certificate authority of the hub (`file`; default the system's)")
	f.StringVar(&o.database, "database", "", "connection string of the database; the default is in PGHOST, PGUSER and so on")
	f.StringVar(&o.consumer, "consumer", "historian", "prefix of the names of its consumers")
	return cmd
}

func run(ctx context.Context, o options) error {
	logConfig := zap.NewProductionConfig()
	logConfig.DisableStacktrace = true
	log, err := logConfig.Build()
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	pool, err := pgxpool.New(ctx, o.database)
	if err != nil {
		return fmt.Errorf("--database: %w", err)
	}
	defer pool.Close()
	db := database{pool}
	if err := db.createTables(ctx); err != nil {
		return err
	}
	opts := []nats.Option{nats.Name("historian"), nats.MaxReconnects(-1)}
	if o.creds != "" {
		opts = append(opts, nats.UserCredentials(o.creds))
	}
	if o.authority != "" {
		opts = append(opts, nats.RootCAs(o.authority))
	}
	nc, err := nats.Connect(o.server, opts...)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", o.server, err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	h := &historian{js: js, store: db, consumer: o.consumer, lookEvery: 10 * time.Second, log: log}
	return h.run(ctx)
}
