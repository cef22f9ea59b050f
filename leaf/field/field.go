// Package field connects a site's devices to its streams and to those at the site who
// deal with them: it feeds the device host from SITE_DESIRED, stores what the devices tell
// in SITE_REPORTED and SITE_TELEMETRY, and serves commands.
//
// It acknowledges a message after the device's worker has taken the object over, and
// tells the worker that something is stored after the leaf's JetStream has answered.
// It knows no protocol: drivers are given to it. The leaf runs it.
package field

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/push"
	"github.com/petiole-io/petiole/leaf/field/mqtt"
	"github.com/petiole-io/petiole/streams"
)

// Config is what a Field needs. All fields but MQTT are required.
type Config struct {
	Site, Node string
	JS         jetstream.JetStream
	Drivers    []devices.Driver
	// MQTT serves KubeEdge's device topics.
	MQTT bool
	Log  *zap.Logger
}

// Field operates the devices of one node of a site.
type Field struct {
	cfg         Config
	records     *recorder
	reports     *recorder
	pusher      *push.Pusher
	host        atomic.Pointer[devices.Host]
	quarantined atomic.Uint64
}

// Stats is what became of the devices' records since the start.
type Stats struct {
	// Records of telemetry are stored, in so many Commits; Bytes is what they say. Failed
	// counts the attempts that were refused or not answered, and are repeated.
	Records, Commits, Bytes, Failed uint64
	// Push is what became of pushed samples, by endpoint.
	Push []push.Stats
	// Devices is what the devices' host counts; zero before Run.
	Devices devices.Stats
}

// New returns a Field that does nothing yet.
func New(cfg Config) *Field {
	return &Field{
		cfg: cfg, records: newRecorder(cfg.JS, streams.SiteTelemetry), reports: newRecorder(cfg.JS, streams.SiteReported),
		pusher: push.New(push.Config{Log: cfg.Log.Named("push")}),
	}
}

// Quarantined counts the messages that were set aside as unreadable since the start.
func (f *Field) Quarantined() uint64 { return f.quarantined.Load() }

// Stats may be called at any time.
func (f *Field) Stats() Stats {
	c := &f.records.counts
	var host devices.Stats
	if h := f.host.Load(); h != nil {
		host = h.Stats()
	}
	return Stats{
		Devices: host,
		Records: c.records.Load(), Commits: c.commits.Load(), Bytes: c.bytes.Load(), Failed: c.failed.Load(),
		Push: f.pusher.Stats(),
	}
}

// Run operates the devices until ctx ends. It may be called once.
func (f *Field) Run(ctx context.Context) error {
	state, err := openState(ctx, f.cfg.JS)
	if err != nil {
		return err
	}
	for _, r := range []*recorder{f.records, f.reports} {
		if err := r.open(ctx); err != nil {
			return err
		}
	}
	out := &sink{node: f.cfg.Node, js: f.cfg.JS, records: f.records, reports: f.reports, pusher: f.pusher}
	host, err := devices.New(devices.Config{
		Node: f.cfg.Node, Drivers: f.cfg.Drivers, State: state, Log: f.cfg.Log, Sink: out,
	})
	if err != nil {
		return fmt.Errorf("make device host: %w", err)
	}
	f.host.Store(host)
	in := newFeed(f, host, out)
	commands := newCommands(f.cfg.Site, f.cfg.Node, in.roster, host.Command, f.cfg.Log)
	// The recorders outlive the host, whose devices say their last words at the end.
	recording, stopRecording := context.WithCancel(context.WithoutCancel(ctx))
	group, parts := errgroup.WithContext(ctx)
	if f.cfg.MQTT {
		out.local = mqtt.New(mqtt.Config{
			Node: f.cfg.Node, Conn: f.cfg.JS.Conn(), Command: commands.do, Elsewhere: in.roster.elsewhere(f.cfg.Node), Log: f.cfg.Log.Named("mqtt"),
		})
		group.Go(func() error { return in.whenReady(parts, out.local.Run) })
	}
	group.Go(func() error { f.records.run(recording); return nil })
	group.Go(func() error { f.reports.run(recording); return nil })
	group.Go(func() error { defer stopRecording(); return host.Run(parts) })
	group.Go(func() error { return f.pusher.Run(parts) })
	group.Go(func() error { return in.follow(parts) })
	group.Go(func() error {
		return in.whenReady(parts, func(ctx context.Context) error { return commands.run(ctx, f.cfg.JS.Conn()) })
	})
	err = group.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // cut off while it started
	}
	return err
}
