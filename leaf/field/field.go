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
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/push"
	"github.com/petiole-io/petiole/leaf/field/mqtt"
	"github.com/petiole-io/petiole/streams"
)

// Config is what a Field needs. All fields but MQTT and Forgot are required.
type Config struct {
	Site, Node string
	JS         jetstream.JetStream
	Drivers    []devices.Driver
	// MQTT serves KubeEdge's device topics.
	MQTT bool
	// Forgot is when StateStream was found to have lost something, zero when it has not.
	// For a while after that no command is carried out, because one with its id may have
	// been, and been forgotten. nil: never. It must not block.
	Forgot func() time.Time
	Log    *zap.Logger
}

// StateStream is the stream of the device worker's memory: which desired values it has
// dealt with, and which commands.
const StateStream = "KV_" + stateBucket

// MakeState makes StateStream if it is missing.
func MakeState(ctx context.Context, js jetstream.JetStream) error {
	_, err := openState(ctx, js)
	return err
}

// Field operates the devices of one node of a site.
type Field struct {
	cfg         Config
	records     *recorder
	reports     *recorder
	pusher      *push.Pusher
	host        atomic.Pointer[devices.Host]
	quarantined atomic.Uint64
	// retry is after how long a message that could not be taken over comes again.
	retry time.Duration
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
		pusher: push.New(push.Config{Log: cfg.Log.Named("push")}), retry: retryDelay,
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

// reasonForgotten is that of commands that are refused because of Config.Forgot.
const reasonForgotten = "MemoryLost"

// command has the host carry out a command, unless one with its id may have been carried
// out and forgotten: commandTimeMax later a deadline of before has passed.
func (f *Field) command(ctx context.Context, c devices.Command) (devices.CommandResult, error) {
	if f.cfg.Forgot != nil {
		at := f.cfg.Forgot()
		if until := at.Add(commandTimeMax); !at.IsZero() && time.Now().Before(until) {
			return devices.CommandResult{ID: c.ID, Ack: devices.Failed, Reason: reasonForgotten, Message: "nothing was done: what was done before may be forgotten; " +
				"commands are taken again at " + until.UTC().Format(time.RFC3339)}, nil
		}
	}
	return f.host.Load().Command(ctx, c)
}

// Run operates the devices until ctx ends. It may be called once.
func (f *Field) Run(ctx context.Context) error {
	err := f.operate(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // cut off while it started
	}
	return err
}

func (f *Field) operate(ctx context.Context) error {
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
	commands := newCommands(f.cfg.Site, f.cfg.Node, in.roster, f.command, f.cfg.Log)
	// The recorders outlive all that give them something: the host, whose devices say their
	// last words at the end, and the feed, which tells what is wrong with a device.
	recording, stopRecording := context.WithCancel(context.WithoutCancel(ctx))
	var telling sync.WaitGroup
	telling.Add(2)
	group, parts := errgroup.WithContext(ctx)
	if f.cfg.MQTT {
		out.local = mqtt.New(mqtt.Config{
			Node: f.cfg.Node, Conn: f.cfg.JS.Conn(), Command: commands.do, Elsewhere: in.roster.elsewhere(f.cfg.Node), Log: f.cfg.Log.Named("mqtt"),
		})
		group.Go(func() error { return in.whenReady(parts, out.local.Run) })
	}
	group.Go(func() error { f.records.run(recording); return nil })
	group.Go(func() error { f.reports.run(recording); return nil })
	group.Go(func() error { telling.Wait(); stopRecording(); return nil })
	group.Go(func() error { defer telling.Done(); return host.Run(parts) })
	group.Go(func() error { return f.pusher.Run(parts) })
	group.Go(func() error { defer telling.Done(); return in.follow(parts) })
	group.Go(func() error {
		return in.whenReady(parts, func(ctx context.Context) error { return commands.run(ctx, f.cfg.JS.Conn()) })
	})
	return group.Wait()
}
