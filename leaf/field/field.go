// Package field connects a site's devices to its streams: it applies the Devices of
// SITE_DESIRED to the device host, stores what the devices report in SITE_REPORTED and
// SITE_TELEMETRY, and answers commands.
//
// It acknowledges a message after the device's worker has applied the object, and tells the
// worker that a message is stored after the leaf's JetStream has acknowledged it. It knows
// no protocol: the caller passes the drivers. The leaf runs it.
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
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/host"
	"github.com/petiole-io/petiole/devices/push"
	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/leaf/clock"
	"github.com/petiole-io/petiole/leaf/field/mqtt"
	"github.com/petiole-io/petiole/leaf/transfer"
	"github.com/petiole-io/petiole/streams"
)

// Config configures a Field. All fields but MQTT, Mappers,
// Interest, PushFormat and StateLostAt are required.
type Config struct {
	Site, Node string
	JS         jetstream.JetStream
	Drivers    []devices.Driver
	// Clock numbers and marks the records.
	Clock *clock.Clock
	// MQTT enables KubeEdge's device topics. Mappers receives what applications that are mappers
	// report; nil: there are none.
	MQTT    bool
	Mappers devices.ReportReceiver
	// Interest is mqtt.Config.Interest.
	Interest func(subject string) bool
	// PushFormat is the form of what is pushed to applications; empty: push.FormatJSON.
	PushFormat push.Format
	// Gather is host.Config.Gather.
	Gather time.Duration
	// StateLostAt returns the time at which StateStream was found to have lost messages,
	// zero if it has not. For maxCommandTimeout after that no command is executed, because
	// the record of an earlier one with the same id may be lost. nil means never. It must
	// not block.
	StateLostAt func() time.Time
	// Meter counts commands that cross the link; nil: nothing.
	Meter *transfer.Meter
	Log   *zap.Logger
}

// openRetry is the time between two attempts to open the streams.
const openRetry = time.Second

// StateStream is the stream with the device worker's state: the desired values and commands
// that it has processed.
const StateStream = "KV_" + stateBucket

// CreateState creates StateStream if it does not exist.
func CreateState(ctx context.Context, js jetstream.JetStream) error {
	_, err := openState(ctx, js)
	return err
}

// Field operates the devices of one node of a site.
type Field struct {
	cfg       Config
	telemetry *groupWriter
	reported  *groupWriter
	pusher    *push.Pusher
	// host and applier are nil before Run.
	host      atomic.Pointer[host.Host]
	applier   atomic.Pointer[applier]
	stateLoss stateLoss
	// retry is the delay before a message that could not be applied is delivered again; 0
	// stands for the default.
	retry time.Duration
}

// Stats counts what happened to the devices' records since the start.
type Stats struct {
	// Records counts the stored records of telemetry, Commits the commits with which they
	// were stored, Bytes the size of their bodies. Failed counts the attempts that were
	// rejected or not answered; they are repeated.
	Records, Commits, Bytes, Failed uint64
	// Push holds the statistics of each push endpoint.
	Push []push.Stats
	// Devices holds the statistics of the device host; it is zero before Run.
	Devices devices.Stats
}

// New returns a Field. It does no I/O.
func New(cfg Config) *Field {
	return &Field{
		cfg: cfg, telemetry: newGroupWriter(cfg.JS, streams.SiteTelemetry), reported: newGroupWriter(cfg.JS, streams.SiteReported),
		pusher: push.New(push.Config{Format: cfg.PushFormat, Log: cfg.Log.Named("push")}),
	}
}

// Quarantined returns the number of messages that were quarantined since the start.
func (f *Field) Quarantined() uint64 {
	a := f.applier.Load()
	if a == nil {
		return 0
	}
	return a.desired.Quarantined()
}

// Stats returns the present counters. It may be called at any time.
func (f *Field) Stats() Stats {
	c := &f.telemetry.counts
	var counts devices.Stats
	if h := f.host.Load(); h != nil {
		counts = h.Stats()
	}
	return Stats{
		Devices: counts,
		Records: c.records.Load(), Commits: c.commits.Load(), Bytes: c.bytes.Load(), Failed: c.failed.Load(),
		Push: f.pusher.Stats(),
	}
}

// stateLoss is the last loss of StateStream. The zero value is none.
type stateLoss struct {
	mu    sync.Mutex
	at    time.Time
	until time.Time
}

// over returns when the deadlines of all commands before a loss have passed, zero if there was none. It
// does not change when the wall clock is set, and is not further away than maxCommandTimeout if that was
// set back since the loss.
func (s *stateLoss) over(at, now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.IsZero() {
		return time.Time{}
	}
	if !at.Equal(s.at) {
		ago := now.Sub(at)
		s.at, s.until = at, now.Add(maxCommandTimeout-max(ago, 0))
	}
	return s.until
}

// reasonStateLost is the reason of commands that are rejected because of
// Config.StateLostAt.
const reasonStateLost = "MemoryLost"

// command executes a command, unless the record of an earlier one with the same id may be
// lost. After maxCommandTimeout the deadline of any earlier command has passed.
func (f *Field) command(ctx context.Context, c devices.Command) (devices.CommandResult, error) {
	if f.cfg.StateLostAt != nil {
		if until := f.stateLoss.over(f.cfg.StateLostAt(), time.Now()); time.Now().Before(until) {
			return devices.CommandResult{ID: c.ID, Ack: devices.Failed, Reason: reasonStateLost, Message: "nothing was written: the record of earlier commands may be lost; " +
				"commands are accepted again at " + until.UTC().Format(time.RFC3339)}, nil
		}
	}
	return f.host.Load().Command(ctx, c)
}

// Run operates the devices until ctx ends. It may be called once.
func (f *Field) Run(ctx context.Context) error {
	err := f.operate(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // ctx ended during the start
	}
	return err
}

// open opens the bucket and the streams, and tries again until ctx ends: a server that is busy or
// is being restarted answers later, and the pods of the node need no devices.
func (f *Field) open(ctx context.Context) (bucket *state, err error) {
	failures := logonce.New(f.cfg.Log)
	err = wait.PollUntilContextCancel(ctx, openRetry, true, func(ctx context.Context) (bool, error) {
		var err error
		if bucket, err = openState(ctx, f.cfg.JS); err == nil {
			err = errors.Join(f.telemetry.open(ctx), f.reported.open(ctx))
		}
		if ctx.Err() == nil {
			failures.Report("open the streams of devices", err)
		}
		return err == nil, nil
	})
	return bucket, err
}

func (f *Field) operate(ctx context.Context) error {
	state, err := f.open(ctx)
	if err != nil {
		return err
	}
	out := &sink{node: f.cfg.Node, js: f.cfg.JS, telemetry: f.telemetry, reported: f.reported, pusher: f.pusher, drivers: f.cfg.Drivers}
	h, err := host.New(host.Config{
		Node: f.cfg.Node, Drivers: f.cfg.Drivers, State: state, Clock: f.cfg.Clock, Log: f.cfg.Log, Sink: out, Gather: f.cfg.Gather,
	})
	if err != nil {
		return fmt.Errorf("create device host: %w", err)
	}
	f.host.Store(h)
	apply := newApplier(f, h, out)
	f.applier.Store(apply)
	commands := newCommands(f.cfg.Site, f.cfg.Node, apply.index, f.command, f.cfg.Clock.Until, f.cfg.Meter, f.cfg.Log)
	// The writers stop after all that store through them: the host, whose devices report
	// their last state at the end, and the applier, which reports the problems of a device.
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	var producers sync.WaitGroup
	producers.Add(2)
	group, runCtx := errgroup.WithContext(ctx)
	if f.cfg.MQTT {
		out.mqtt = mqtt.New(mqtt.Config{
			Node: f.cfg.Node, Conn: f.cfg.JS.Conn(), Command: commands.execute, OperatedElsewhere: apply.index.operatedElsewhere(f.cfg.Node),
			Mappers: f.cfg.Mappers, Interest: f.cfg.Interest, Log: f.cfg.Log.Named("mqtt"),
		})
		if mappers := f.cfg.Mappers; mappers != nil {
			mappers.AnnounceWrites(out.mqtt.Announce)
		}
		group.Go(func() error { return apply.whenLoaded(runCtx, out.mqtt.Run) })
	}
	group.Go(func() error { f.telemetry.run(writing); return nil })
	group.Go(func() error { f.reported.run(writing); return nil })
	group.Go(func() error { producers.Wait(); stopWriting(); return nil })
	group.Go(func() error { defer producers.Done(); return h.Run(runCtx) })
	group.Go(func() error { return f.pusher.Run(runCtx) })
	group.Go(func() error { defer producers.Done(); return apply.desired.Run(runCtx) })
	group.Go(func() error {
		return apply.whenLoaded(runCtx, func(ctx context.Context) error { return commands.run(ctx, f.cfg.JS.Conn()) })
	})
	return group.Wait()
}
