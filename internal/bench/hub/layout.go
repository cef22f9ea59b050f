package hub

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// The bounds of a site's own streams.
const (
	reportedBytes  = 32 << 20
	telemetryBytes = 32 << 20
)

// layout says which streams hold what sites publish.
type layout struct {
	name string
	// reported and telemetry are the numbers of streams; 0: one for each site.
	reported, telemetry int
	// republish has each stream of reports announce what it stores.
	republish bool
}

var layouts = []layout{
	{name: "shared", reported: 1, telemetry: 1},
	{name: "sharded", reported: 16, telemetry: 16},
	{name: "mixed", telemetry: 1},
	{name: "own"},
	{name: "own+republish", republish: true},
}

func siteName(i int) string { return fmt.Sprintf("site-%05d", i) }

// streams returns the configuration of all streams for n sites.
func (l layout) streams(n int) []jetstream.StreamConfig {
	var all []jetstream.StreamConfig
	for _, kind := range []struct {
		name, subject string
		count         int
	}{{"REPORTED", "reported", l.reported}, {"TELEMETRY", "telemetry", l.telemetry}} {
		count := kind.count
		if count == 0 {
			count = n
		}
		for k := range count {
			cfg := jetstream.StreamConfig{Name: kind.name, AllowDirect: true, AllowAtomicPublish: true, Discard: jetstream.DiscardOld, MaxConsumers: n + 16}
			switch kind.count {
			case 1:
				cfg.Subjects = []string{kind.subject + ".>"}
			case 0:
				cfg.Name += "_" + siteName(k)
				cfg.Subjects = []string{kind.subject + "." + siteName(k) + ".>"}
				cfg.MaxBytes = telemetryBytes
			default:
				cfg.Name += fmt.Sprintf("_%02d", k)
				for site := k; site < n; site += count {
					cfg.Subjects = append(cfg.Subjects, kind.subject+"."+siteName(site)+".>")
				}
			}
			if kind.name == "REPORTED" {
				cfg.MaxMsgsPerSubject = 1
				if kind.count == 0 { // a table that is full refuses new rows and replaces old ones
					cfg.MaxBytes, cfg.Discard = reportedBytes, jetstream.DiscardNew
				}
				if l.republish {
					cfg.RePublish = &jetstream.RePublish{Source: ">", Destination: "stored.>", HeadersOnly: true}
				}
			}
			all = append(all, cfg)
		}
	}
	return all
}

// reportedStream returns the stream of a site's reports.
func (l layout) reportedStream(site int) string {
	switch l.reported {
	case 0:
		return "REPORTED_" + siteName(site)
	case 1:
		return "REPORTED"
	}
	return fmt.Sprintf("REPORTED_%02d", site%l.reported)
}

// shards returns the number of streams of reports, and the filter of each one's subjects.
func (l layout) shards(n int) (count int, filter func(k int) string) {
	if l.reported == 0 {
		return n, func(k int) string { return "reported." + siteName(k) + ".>" }
	}
	return l.reported, func(int) string { return "reported.>" }
}

// parallel is the number of requests to the JetStream API that run at the same time.
const parallel = 32

// create creates the streams.
func create(ctx context.Context, js jetstream.JetStream, all []jetstream.StreamConfig) error {
	var group errgroup.Group
	group.SetLimit(parallel)
	for _, cfg := range all {
		group.Go(func() error {
			_, err := js.CreateStream(ctx, cfg)
			return err
		})
	}
	return group.Wait()
}

// delivered is the deliver subject of all consumers. nats-server takes only a literal
// subscription for interest of a push consumer, not one with a wildcard.
const delivered = "bridge.reported"

// follow creates the consumers by which a bridge learns of every report: one of a shared
// stream, and for streams of sites a push consumer each, all with the same deliver subject, so that
// nothing has to be requested.
func (l layout) follow(ctx context.Context, js jetstream.JetStream, n int) error {
	count, _ := l.shards(n)
	var group errgroup.Group
	group.SetLimit(parallel)
	for k := range count {
		group.Go(func() error {
			_, err := js.CreatePushConsumer(ctx, l.reportedStream(k), jetstream.ConsumerConfig{
				Durable: "bridge", DeliverSubject: delivered,
				AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 64, AckWait: 30 * time.Second,
			})
			return err
		})
	}
	return group.Wait()
}

// list reads all reports, as a cache does when it starts, and returns their number.
func (l layout) list(ctx context.Context, nc *nats.Conn, n int) (int, error) {
	count, filter := l.shards(n)
	var total atomic.Int64
	var group errgroup.Group
	group.SetLimit(parallel)
	for k := range count {
		group.Go(func() error {
			for next, more := uint64(1), true; more; next++ {
				var got int
				var err error
				got, next, more, err = readBatch(ctx, nc, l.reportedStream(k), filter(k), next)
				if err != nil {
					return err
				}
				total.Add(int64(got))
			}
			return nil
		})
	}
	err := group.Wait()
	return int(total.Load()), err
}

// readBatch reads up to 1,000 messages from a sequence on (ADR-31). It returns their number,
// the last one's sequence, and whether there are more.
func readBatch(ctx context.Context, nc *nats.Conn, stream, filter string, from uint64) (got int, last uint64, more bool, err error) {
	inbox := nc.NewInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		return 0, 0, false, err
	}
	defer func() { err = errors.Join(err, sub.Unsubscribe()) }()
	body := fmt.Appendf(nil, `{"seq":%d,"batch":1000,"next_by_subj":%q}`, from, filter)
	if err := nc.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, body); err != nil {
		return 0, 0, false, err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return got, last, false, fmt.Errorf("read %s from %d: %w", stream, from, err)
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204", "404":
			return got, last, status == "204" && m.Header.Get("Nats-Num-Pending") != "0", nil
		default:
			return got, last, false, fmt.Errorf("read %s from %d: %s %s", stream, from, status, m.Header.Get("Description"))
		}
		got++
		if last, err = strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64); err != nil {
			return got, last, false, err
		}
	}
}
