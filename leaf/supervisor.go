package leaf

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/leaf/field"
	"github.com/petiole-io/petiole/leaf/journal"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/streams"
)

const (
	// checkInterval is the time between two checks of the disk and the store.
	checkInterval = time.Second
	// The embedded server is restarted because of its store after minRestartPause at the
	// earliest, doubled each time that the restart did not help.
	minRestartPause = 5 * time.Second
	maxRestartPause = time.Minute
)

// errRebuild says that SITE_DESIRED has to be created again, and that all its readers have to
// start again.
var errRebuild = errors.New("the store of desired state is damaged")

// storeSupervisor looks after the streams of the site: that they exist, that they are complete,
// and that there is room for them. It leaves a nats-server that runs outside of this process
// alone where it cannot see the files.
type storeSupervisor struct {
	site           string
	telemetryBytes int64
	host           *natsd.Server // nil: a nats-server outside of this process
	js             jetstream.JetStream
	disk           disk
	drops          *journal.DropLog
	checkpoints    *journal.Checkpoints
	timelines      map[string]*journal.TimelineStore
	// liveSetFile lists what SITE_DESIRED held at the last compaction.
	liveSetFile string
	degraded    *degraded
	counts      *counts
	log         *zap.Logger

	// storing is held while SITE_DESIRED is changed, and while all of it is read: a message that
	// is superseded during the reading would count as missing.
	storing sync.Mutex

	// complete is closed when SITE_DESIRED holds what it should.
	complete chan struct{}
	once     sync.Once
	// unreadable is signalled when a reader finds messages of SITE_DESIRED that cannot be read.
	unreadable chan struct{}

	// damaged is set if a block of SITE_DESIRED was damaged when the server started.
	damaged bool

	restartPause time.Duration
	restarted    time.Time

	// idleChecks counts consecutive checks without a connection to the hub or an attempt at one;
	// after maxIdleChecks of them the server is restarted.
	idleChecks, maxIdleChecks int

	failures *logonce.Reporter
}

func newStoreSupervisor(l *Leaf, h *natsd.Server, js jetstream.JetStream) *storeSupervisor {
	drops, err := journal.OpenDropLog(l.cfg.DataDir)
	if err != nil {
		l.log.Warn("counts of dropped records not read, counting starts again", zap.Error(err))
	}
	k := &storeSupervisor{
		site: l.cfg.Site, telemetryBytes: l.cfg.Storage.TelemetryBytes, host: h, js: js,
		drops: drops, checkpoints: journal.OpenCheckpoints(l.cfg.DataDir), degraded: &degraded{}, counts: l.counts, log: l.log.Named("store"),
		complete: make(chan struct{}), unreadable: make(chan struct{}, 1), restartPause: minRestartPause, maxIdleChecks: defaultMaxIdleChecks,
		failures: logonce.New(l.log.Named("store")), timelines: map[string]*journal.TimelineStore{}, liveSetFile: filepath.Join(l.cfg.DataDir, LiveSetName),
	}
	for _, stream := range []string{streams.SiteReported, streams.SiteTelemetry} {
		k.timelines[stream] = journal.NewTimelineStore(js, stream)
	}
	if h != nil {
		k.disk = disk{dir: filepath.Dir(h.StoreDir()), reserve: l.cfg.Storage.ReserveBytes}
	}
	return k
}

// open brings the streams up, whatever state their files are in, and returns when they can be
// used. It blocks until JetStream is available and has room for the streams that are missing.
func (k *storeSupervisor) open(ctx context.Context) error {
	if err := k.recoverStreams(ctx, true); err != nil {
		return err
	}
	k.handleDamage(ctx)
	for {
		err := k.removeResurrected(ctx, k.js)
		if err == nil {
			err = k.verifyDesired(ctx)
		}
		if k.failures.Report("read desired state", err); err == nil {
			break
		}
		if k.host != nil && !k.host.Running() {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	k.checkpointUpstream(ctx)
	k.failures.Report("checkpoint device state", k.checkDeviceState(ctx, false))
	k.check(ctx) // so that telemetry is bounded from the beginning
	return ctx.Err()
}

// recoverStreams creates missing streams, and sets streams aside whose files the server does not
// accept. The messages of irreplaceable streams are kept if keepMessages is set, which the
// caller clears after the server rejected them as well.
func (k *storeSupervisor) recoverStreams(ctx context.Context, keepMessages bool) error {
	if k.host == nil {
		return k.ensureStreams(ctx)
	}
	bad, err := k.host.Unrecovered()
	if err != nil {
		return err
	}
	consumers, err := k.host.UnrecoveredConsumers()
	if err != nil {
		return err
	}
	for _, dir := range consumers {
		k.log.Warn("consumer removed, its files are damaged", zap.String("folder", dir))
		k.failures.Report("delete a damaged consumer", os.RemoveAll(dir))
	}
	if len(bad) == 0 {
		return k.ensureStreams(ctx)
	}
	var keep []natsd.StreamDir
	for _, d := range bad {
		k.recordRebuild(d.Stream, "the server does not recover it")
		if d.Stream == field.StateStream {
			k.failures.Report("record that device state is damaged", k.checkDeviceState(ctx, true))
		}
		if keepMessages && irreplaceable(d.Stream) {
			keep = append(keep, d)
		}
	}
	store := k.host.StoreDir()
	k.failures.Report("set damaged streams aside", natsd.SetAside(store, bad))
	if err := k.ensureStreams(ctx); err != nil || len(keep) == 0 {
		return err
	}
	if slices.ContainsFunc(keep, func(d natsd.StreamDir) bool { return d.Stream == field.StateStream }) {
		k.failures.Report("create the stream of device state", field.CreateState(ctx, k.js))
	}
	if err := k.stopAndStart(ctx, "keep the messages of damaged streams", func() error { return natsd.RestoreMessages(store, keep) }); err != nil {
		return err
	}
	return k.recoverStreams(ctx, false)
}

// irreplaceable reports whether a stream holds what exists nowhere else: what the hub may not
// have yet, or the device state. Its readable messages are kept; other streams are created
// again.
func irreplaceable(stream string) bool {
	switch stream {
	case streams.SiteReported, streams.SiteTelemetry, streams.SiteQuarantine, field.StateStream:
		return true
	}
	return false
}

// stopAndStart restarts the server and calls between while it does not run. An error of between
// is logged and the server runs all the same; it returns an error if no server runs.
func (k *storeSupervisor) stopAndStart(ctx context.Context, what string, between func() error) error {
	err := k.host.Restart(ctx, between, k.beforeConnections)
	if k.failures.Report(what, err); !k.host.Running() {
		return fmt.Errorf("restart the embedded server: %w", err)
	}
	return nil
}

// ensureStreams creates or updates the streams. It retries until ctx ends, since a nats-server
// outside of this process may start after the leaf, and a full disk may get room. If the disk is
// too full to update a stream, the stream is used as it is.
func (k *storeSupervisor) ensureStreams(ctx context.Context) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := k.ensureOnce(attempt)
		cancel()
		var refused *jetstream.APIError
		switch {
		case err == nil:
			k.failures.Report("wait for the site's JetStream", nil)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &refused) && refused.Code != 500 && refused.Code != 503:
			return err
		}
		k.failures.Report("wait for the site's JetStream", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (k *storeSupervisor) ensureOnce(ctx context.Context) error {
	want := streams.LeafStreams(k.site, streams.LeafLimits{TelemetryBytes: k.telemetryBytes})
	for i := range want {
		have, err := k.js.Stream(ctx, want[i].Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			if _, err := k.js.CreateStream(ctx, want[i]); err != nil {
				return fmt.Errorf("create stream %s: %w", want[i].Name, err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("look up stream %s: %w", want[i].Name, err)
		}
		cfg := have.CachedInfo().Config
		want[i].Metadata = maps.Clone(cfg.Metadata) // holds the timeline
		if want[i].Name == streams.SiteTelemetry && cfg.MaxBytes < want[i].MaxBytes {
			want[i].MaxBytes = cfg.MaxBytes // raised again when the disk has room
		}
		err = streams.Ensure(ctx, k.js, want[i:i+1])
		var refused *jetstream.APIError
		if err != nil && (!errors.As(err, &refused) || refused.Code != 500) {
			return err
		}
		k.failures.Report("update stream "+want[i].Name, err) // used as it is
	}
	return nil
}

// verifyDesired reads all of SITE_DESIRED, creates it again if it is damaged, and records
// whether it holds everything that it held before.
func (k *storeSupervisor) verifyDesired(ctx context.Context) error {
	reason, whole, err := k.inspect(ctx)
	if err != nil {
		return err
	}
	if reason != "" && k.host != nil {
		dir, err := k.host.Find(streams.SiteDesired)
		if err != nil {
			return err
		}
		k.recordRebuild(streams.SiteDesired, reason)
		store := k.host.StoreDir()
		err = k.stopAndStart(ctx, "set damaged streams aside", func() error { return natsd.SetAside(store, []natsd.StreamDir{dir}) })
		k.damaged = false
		if err == nil {
			err = k.ensureStreams(ctx)
		}
		if err != nil {
			return err
		}
	}
	was, _ := k.checkpoints.Get(streams.SiteDesired)
	if reason != "" || !whole || was.Incomplete {
		// A kubelet that sees less than there was would stop what still has to run.
		k.log.Warn("desired state is incomplete; pods and devices stay as they are until the hub has delivered it")
		return k.saveCheckpoint(ctx, "", true)
	}
	k.markComplete(ctx)
	return nil
}

// inspect returns why SITE_DESIRED cannot be used, or "" if it can, and whether it holds
// everything that it is known to have held.
func (k *storeSupervisor) inspect(ctx context.Context) (reason string, whole bool, err error) {
	k.storing.Lock()
	defer k.storing.Unlock()
	s, err := k.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return "", false, fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	info := s.CachedInfo()
	was, known := k.checkpoints.Get(streams.SiteDesired)
	whole = !known || !was.LostBy(info.Created, info.State.LastSeq)
	if k.damaged {
		return "a block is damaged", false, nil
	}
	if info.State.LastSeq == 0 {
		return "", whole, nil
	}
	// The last message of this stream is never removed.
	_, err = s.GetMsg(ctx, info.State.LastSeq)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return "its end is missing", false, nil
	case err != nil:
		return "", false, fmt.Errorf("read the end of %s: %w", streams.SiteDesired, err)
	}
	m := &streams.Inventory{}
	err = desired.Read(ctx, s, k.site, false, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) error {
		if e, ok := streams.EntryOf(msg.Subject(), msg.Headers()); ok {
			m.Add(e)
		}
		return nil
	})
	switch {
	case errors.Is(err, desired.ErrUnreadable):
		return "messages cannot be read", false, nil
	case err != nil:
		return "", false, fmt.Errorf("read %s: %w", streams.SiteDesired, err)
	case whole && was.Digest != "" && was.Last == info.State.LastSeq && was.Digest != m.Digest():
		return "its content differs from what it was at shutdown", false, nil
	}
	return "", whole, nil
}

// handleDamage acts on damage that was found in the files before the server started. Losses in
// forwarded streams are found by the forwarder and the checkpoints.
func (k *storeSupervisor) handleDamage(ctx context.Context) {
	if k.host == nil {
		return
	}
	for stream, d := range k.host.TakeDamaged() {
		k.degraded.set(streams.DegradedStore, true)
		switch stream {
		case streams.SiteDesired:
			if !d.Cut {
				continue // it is read anyway
			}
			was, _ := k.checkpoints.Get(stream)
			was.Incomplete, k.damaged = true, true
			k.failures.Report("record that desired state is damaged", k.checkpoints.Put(stream, was))
			select {
			case <-k.complete:
				k.reportUnreadable() // there are readers of what was there
			default:
			}
		case field.StateStream:
			k.failures.Report("record that device state is damaged", k.checkDeviceState(ctx, true))
		}
	}
}

// markComplete records that SITE_DESIRED holds what it should.
func (k *storeSupervisor) markComplete(ctx context.Context) {
	k.once.Do(func() {
		k.failures.Report("checkpoint "+streams.SiteDesired, k.saveCheckpoint(ctx, "", false))
		close(k.complete)
	})
}

// saveCheckpoint checkpoints SITE_DESIRED.
func (k *storeSupervisor) saveCheckpoint(ctx context.Context, digest string, incomplete bool) error {
	s, err := k.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", streams.SiteDesired, err)
	}
	i := s.CachedInfo()
	return k.checkpoints.Put(streams.SiteDesired, journal.Checkpoint{Created: i.Created.UnixNano(), Last: i.State.LastSeq, Digest: digest, Incomplete: incomplete})
}

// checkpointAtShutdown checkpoints all streams after the last write.
func (k *storeSupervisor) checkpointAtShutdown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, desired.Wait)
	defer cancel()
	s, err := k.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return // there is no server to ask
	}
	select {
	case <-k.complete:
		if m, err := desired.Inventory(ctx, s, k.site); err == nil {
			k.failures.Report("checkpoint "+streams.SiteDesired, k.saveCheckpoint(ctx, m.Digest(), false))
		}
	default:
	}
	k.checkpointUpstream(ctx)
}

// recordRebuild logs and counts that a stream is set aside.
func (k *storeSupervisor) recordRebuild(stream, reason string) {
	k.log.Error("stream set aside, its files are damaged", zap.String("stream", stream), zap.String("reason", reason))
	k.counts.rebuilt.WithLabelValues(stream).Inc()
	k.degraded.set(streams.DegradedStore, true)
}
