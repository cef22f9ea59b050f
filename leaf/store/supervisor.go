package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/streams"
)

const (
	// CheckInterval is the time between two checks of the disk and the store.
	CheckInterval = time.Second
	// The embedded server is restarted because of its store after minRestartPause at the
	// earliest, doubled each time that the restart did not help.
	minRestartPause = 5 * time.Second
	maxRestartPause = time.Minute
)

// ErrRebuild reports that SITE_DESIRED has to be created again, and that all its readers have to
// start again.
var ErrRebuild = errors.New("the store of desired state is damaged")

// Config is what a Supervisor needs.
type Config struct {
	Site string
	// DataDir is where it keeps its own files.
	DataDir string
	// Server is the embedded server, or nil for a nats-server outside of this process.
	Server *natsd.Server
	JS     jetstream.JetStream
	// TelemetryBytes is the limit of SITE_TELEMETRY, and ReserveBytes what telemetry leaves free on
	// the disk for everything else.
	TelemetryBytes, ReserveBytes int64
	// DeviceState is the stream that holds the state of the devices.
	DeviceState DeviceState
	// MaxIdleChecks is how many consecutive checks (CheckInterval) must find neither a connection to
	// the hub nor an attempt at one before the embedded server is restarted. 0 selects 60.
	MaxIdleChecks int
	Counters      *Counters
	Log           *zap.Logger
}

// DeviceState describes the stream of the device worker's state, which exists nowhere else.
type DeviceState struct {
	Stream string
	// Create creates the stream if it is missing.
	Create func(context.Context, jetstream.JetStream) error
}

// Supervisor looks after the streams of the site. Use New.
type Supervisor struct {
	cfg       Config
	server    *natsd.Server // nil: a nats-server outside of this process
	js        jetstream.JetStream
	desired   *Desired
	creator   creator
	compactor compactor
	losses    losses
	telemetry telemetryLimit
	degraded  *degraded
	counters  *Counters
	log       *zap.Logger
	failures  *logonce.Reporter

	restartPause time.Duration
	restarted    time.Time
	idle         idle
}

// New returns the supervisor of a site. It starts nothing.
func New(cfg Config) *Supervisor {
	drops, err := journal.OpenDropLog(cfg.DataDir)
	if err != nil {
		cfg.Log.Warn("counts of dropped records not read, counting starts again", zap.Error(err))
	}
	failures, checkpoints, degraded := logonce.New(cfg.Log), journal.OpenCheckpoints(cfg.DataDir), &degraded{}
	liveSetFile := filepath.Join(cfg.DataDir, liveSetName)
	desired := &Desired{
		site: cfg.Site, js: cfg.JS, checkpoints: checkpoints, liveSetFile: liveSetFile, failures: failures,
		complete: make(chan struct{}), unreadable: make(chan struct{}, 1),
	}
	s := &Supervisor{
		cfg: cfg, server: cfg.Server, js: cfg.JS, desired: desired, degraded: degraded, counters: cfg.Counters, log: cfg.Log, failures: failures,
		creator: creator{site: cfg.Site, telemetryBytes: cfg.TelemetryBytes, js: cfg.JS, failures: failures},
		compactor: compactor{
			site: cfg.Site, js: cfg.JS, storing: desired, liveSetFile: liveSetFile,
			compacted: cfg.Counters.compacted, failures: failures, log: cfg.Log,
		},
		losses: losses{
			js: cfg.JS, deviceState: cfg.DeviceState.Stream, checkpoints: checkpoints, drops: drops, timelines: map[string]*journal.TimelineStore{},
			degraded: degraded, failures: failures, log: cfg.Log,
		},
		telemetry:    telemetryLimit{js: cfg.JS, configured: cfg.TelemetryBytes, log: cfg.Log},
		restartPause: minRestartPause, idle: idle{server: cfg.Server, most: cmp.Or(cfg.MaxIdleChecks, defaultMaxIdleChecks)},
	}
	for _, stream := range []string{streams.SiteReported, streams.SiteTelemetry} {
		s.losses.timelines[stream] = journal.NewTimelineStore(cfg.JS, stream)
	}
	if cfg.Server != nil {
		s.telemetry.disk = disk{dir: filepath.Dir(cfg.Server.StoreDir()), reserve: cfg.ReserveBytes}
	}
	return s
}

// Desired returns what is known about SITE_DESIRED.
func (sv *Supervisor) Desired() *Desired { return sv.desired }

// Drops returns the counts of records that were dropped before the hub had them.
func (sv *Supervisor) Drops() *journal.DropLog { return sv.losses.drops }

// Timeline returns the timeline of a stream that is forwarded.
func (sv *Supervisor) Timeline(stream string) *journal.TimelineStore {
	return sv.losses.timelines[stream]
}

// DeviceStateLostAt returns when device state was found to be lost, or zero if nothing is missing.
func (sv *Supervisor) DeviceStateLostAt() time.Time { return sv.losses.deviceStateLostAt() }

// Degraded returns the reasons for which the store is degraded (streams.DegradedDiskFull and
// others), sorted.
func (sv *Supervisor) Degraded() []string { return sv.degraded.list() }

// DiskFree returns the free space of the disk that holds the store in bytes, and false if it is not
// known.
func (sv *Supervisor) DiskFree() (int64, bool) {
	if sv.server == nil {
		return 0, false
	}
	s, err := sv.telemetry.disk.space()
	return s.free, err == nil
}

// Open brings the streams up, whatever state their files are in, and returns when they can be
// used. It blocks until JetStream is available and has room for the streams that are missing.
func (sv *Supervisor) Open(ctx context.Context) error {
	if err := sv.recoverStreams(ctx, true); err != nil {
		return err
	}
	sv.handleDamage(ctx)
	err := wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		err := sv.compactor.removeResurrected(ctx, sv.js)
		if err == nil {
			err = sv.verifyDesired(ctx)
		}
		if sv.failures.Report("read desired state", err); err != nil && sv.server != nil && !sv.server.Running() {
			return false, err
		}
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	sv.losses.checkpointUpstream(ctx)
	sv.failures.Report("checkpoint device state", sv.losses.checkDeviceState(ctx, false))
	sv.check(ctx) // so that telemetry is bounded from the beginning
	return ctx.Err()
}

// recoverStreams creates missing streams, and sets streams aside whose files the server does not
// accept. The messages of irreplaceable streams are kept if keepMessages is set, which the
// caller clears after the server rejected them as well.
func (sv *Supervisor) recoverStreams(ctx context.Context, keepMessages bool) error {
	if sv.server == nil {
		return sv.creator.ensure(ctx)
	}
	bad, err := sv.server.Unrecovered()
	if err != nil {
		return err
	}
	consumers, err := sv.server.UnrecoveredConsumers()
	if err != nil {
		return err
	}
	for _, dir := range consumers {
		sv.log.Warn("consumer removed, its files are damaged", zap.String("folder", dir))
		sv.failures.Report("delete a damaged consumer", os.RemoveAll(dir))
	}
	if len(bad) == 0 {
		return sv.creator.ensure(ctx)
	}
	var keep []natsd.StreamDir
	for _, d := range bad {
		sv.recordRebuild(d.Stream, "the server does not recover it")
		if d.Stream == sv.cfg.DeviceState.Stream {
			sv.failures.Report("record that device state is damaged", sv.losses.checkDeviceState(ctx, true))
		}
		if keepMessages && sv.irreplaceable(d.Stream) {
			keep = append(keep, d)
		}
	}
	store := sv.server.StoreDir()
	sv.failures.Report("make room for streams", sv.telemetry.disk.makeRoom())
	sv.failures.Report("set damaged streams aside", natsd.SetAside(store, bad))
	failed := sv.creator.ensure(ctx)
	if len(keep) == 0 {
		return failed
	}
	if failed == nil && slices.ContainsFunc(keep, func(d natsd.StreamDir) bool { return d.Stream == sv.cfg.DeviceState.Stream }) {
		sv.failures.Report("create the stream of device state", sv.cfg.DeviceState.Create(ctx, sv.js))
	}
	// Also if there was no time for it: what is set aside is deleted when the disk is full, and these
	// messages exist nowhere else.
	keeping := context.WithoutCancel(ctx)
	if err := sv.stopAndStart(keeping, "keep the messages of damaged streams", func() error { return natsd.RestoreMessages(store, keep) }); err != nil || failed != nil {
		return errors.Join(failed, err)
	}
	return sv.recoverStreams(ctx, false)
}

// irreplaceable reports whether a stream holds what exists nowhere else: what the hub may not
// have yet, or the device state. Its readable messages are kept; other streams are created
// again.
func (sv *Supervisor) irreplaceable(stream string) bool {
	switch stream {
	case streams.SiteReported, streams.SiteTelemetry, streams.SiteQuarantine, sv.cfg.DeviceState.Stream:
		return true
	}
	return false
}

// stopAndStart restarts the server and calls between while it does not run. An error of between
// is logged and the server runs all the same; it returns an error if no server runs.
func (sv *Supervisor) stopAndStart(ctx context.Context, what string, between func() error) error {
	err := sv.server.Restart(ctx, between, sv.compactor.beforeConnections)
	if sv.failures.Report(what, err); !sv.server.Running() {
		return fmt.Errorf("restart the embedded server: %w", err)
	}
	return nil
}

// verifyDesired reads all of SITE_DESIRED, creates it again if it is damaged, and records
// whether it holds everything that it held before.
func (sv *Supervisor) verifyDesired(ctx context.Context) error {
	reason, whole, err := sv.desired.inspect(ctx)
	if err != nil {
		return err
	}
	if reason != "" && sv.server != nil {
		dir, err := sv.server.Find(streams.SiteDesired)
		if err != nil {
			return err
		}
		sv.recordRebuild(streams.SiteDesired, reason)
		store := sv.server.StoreDir()
		err = sv.stopAndStart(ctx, "set damaged streams aside", func() error { return natsd.SetAside(store, []natsd.StreamDir{dir}) })
		sv.desired.damaged = false
		if err == nil {
			err = sv.creator.ensure(ctx)
		}
		if err != nil {
			return err
		}
	}
	was, _ := sv.losses.checkpoints.Get(streams.SiteDesired)
	if reason != "" || !whole || was.Incomplete {
		// A kubelet that sees less than there was would stop what still has to run.
		sv.log.Warn("desired state is incomplete; pods and devices stay as they are until the hub has delivered it")
		return sv.desired.checkpoint(ctx, "", true)
	}
	sv.desired.MarkComplete(ctx)
	return nil
}

// handleDamage acts on damage that was found in the files before the server started. Losses in
// forwarded streams are found by the forwarder and the checkpoints.
func (sv *Supervisor) handleDamage(ctx context.Context) {
	if sv.server == nil {
		return
	}
	for stream, d := range sv.server.TakeDamaged() {
		sv.degraded.set(streams.DegradedStore, true)
		switch stream {
		case streams.SiteDesired:
			if !d.Cut {
				continue // it is read anyway
			}
			sv.desired.recordDamage()
		case sv.cfg.DeviceState.Stream:
			sv.failures.Report("record that device state is damaged", sv.losses.checkDeviceState(ctx, true))
		}
	}
}

// Checkpoint checkpoints all streams after the last write, before the leaf ends.
func (sv *Supervisor) Checkpoint(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, desired.Wait)
	defer cancel()
	s, err := sv.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return // there is no server to ask
	}
	sv.desired.checkpointContent(ctx, s)
	sv.losses.checkpointUpstream(ctx)
	sv.failures.Report("write checkpoints", sv.losses.checkpoints.Flush())
}

// recordRebuild logs and counts that a stream is set aside.
func (sv *Supervisor) recordRebuild(stream, reason string) {
	sv.log.Error("stream set aside, its files are damaged", zap.String("stream", stream), zap.String("reason", reason))
	sv.counters.rebuilt.WithLabelValues(stream).Inc()
	sv.degraded.set(streams.DegradedStore, true)
}
