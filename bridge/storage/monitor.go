package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/streams/order"
)

const (
	// recordKey is the key of the record in the bucket.
	recordKey = "epoch"
	// markerName is the name of a ConfigMap that is rolled back together with the API server's
	// storage.
	markerName = "bridge-epoch"
	// interval is the time between two checks of the storage, each of which updates the marker.
	interval = 10 * time.Second
	// checkRetry is the delay before a failed check is repeated while something waits for it.
	checkRetry = time.Second
)

var (
	// ErrMovedBack reports that the API server's storage is not the one that this bridge has
	// read. The bridge must read everything again, in a new epoch.
	ErrMovedBack = errors.New("the API server's storage moved back or was replaced")
	// ErrRecordLost reports that the hub has lost the bucket of the record.
	ErrRecordLost = errors.New("the hub has lost the record of the API server's storage")
)

// Config is what a Monitor needs.
type Config struct {
	// Bucket is the bridge's own bucket at the hub; it keeps the record.
	Bucket jetstream.KeyValue
	// Clients read the storage and write the marker.
	Clients *kube.Clients
	Fence   *lease.Fence
	// Identity identifies this bridge in the record. Namespace is the namespace of the marker.
	Identity, Namespace string
	Log                 *zap.Logger
	// Report is called with the result of each check.
	Report func(error)
	// OnNewEpoch is called for each new epoch that this bridge starts.
	OnNewEpoch func()
}

// Monitor detects that the API server's storage was rolled back or replaced, and that another
// bridge leads. It uses a record at the hub and a marker in the API. Begin must return before
// Run starts; the other methods are safe for concurrent use.
type Monitor struct {
	cfg Config
	// candidates are objects that may prove a rollback.
	candidates chan candidate
	barrier    *barrier

	record   record
	revision uint64
	// marker is the marker as last read or written, nil if there is none.
	marker *corev1.ConfigMap
}

// NewMonitor returns a monitor that has not started.
func NewMonitor(cfg Config) *Monitor {
	return &Monitor{cfg: cfg, candidates: make(chan candidate, 1), barrier: newBarrier()}
}

// candidate is an object whose copy is older than its published version.
type candidate struct {
	key                   kube.Key
	uid, publishedVersion string
}

// Begin reads the record and the storage and starts a new epoch if necessary. It returns the
// name of the epoch, and whether it differs from that of the published messages. known is the
// highest epoch number in them, 0 if there is none.
//
// If the fence has no term yet, Begin chooses one: higher than all earlier ones, of which seen
// is the highest in a message, and at least the number of leadership transitions.
func (m *Monitor) Begin(ctx context.Context, transitions, known, seen uint64) (epoch string, renewed bool, err error) {
	if err := m.load(ctx); err != nil {
		return "", false, err
	}
	seen = max(seen, m.record.Term)
	term := m.cfg.Fence.Term()
	if term == 0 {
		term = max(transitions, seen+1)
		m.cfg.Fence.SetTerm(term)
	}
	m.cfg.Fence.ObserveTerm(seen)
	now, err := m.read(ctx)
	if err != nil {
		return "", false, err
	}
	next, reason := m.record.next(now, known)
	next.Term, next.Holder = term, m.cfg.Identity
	if err := m.save(ctx, next); err != nil {
		return "", false, err
	}
	if reason != "" {
		m.logNewEpoch(next, reason)
	}
	// Nothing may be published before the marker distinguishes the present storage from an
	// earlier copy of it.
	if err := m.advanceMarker(ctx); err != nil {
		return "", false, err
	}
	return m.record.name(), next.Number != known, nil
}

// Answered records that an API server has answered a list or started a watch: its answer may
// come from a storage that was restored from an older copy. Wait blocks until a check covers
// it.
func (m *Monitor) Answered() { m.barrier.invalidate() }

// Wait blocks until a check covers all that the API servers have answered so far. It returns an
// error only when ctx ends.
func (m *Monitor) Wait(ctx context.Context) error { return m.barrier.wait(ctx) }

func (m *Monitor) logNewEpoch(r record, reason string) {
	m.cfg.OnNewEpoch()
	m.cfg.Log.Warn("new epoch started", zap.String("epoch", r.name()), zap.String("reason", reason), zap.Uint64("term", r.Term))
}

// Run checks the storage every ten seconds, and whenever an API server has answered a list
// or started a watch, until ctx ends. It returns ErrMovedBack if the storage was rolled back or
// replaced, and lease.ErrDeposed if another bridge has written the record.
func (m *Monitor) Run(ctx context.Context) error {
	watcher, err := m.cfg.Bucket.Watch(ctx, recordKey, jetstream.UpdatesOnly())
	if err != nil {
		return fmt.Errorf("watch the record: %w", err)
	}
	defer func() { _ = watcher.Stop() }() // it ends with the connection at the latest
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrMovedBack) || errors.Is(err, lease.ErrDeposed) || errors.Is(err, ErrRecordLost) {
			return err
		}
		m.cfg.Report(err)
		select {
		case <-ctx.Done():
			return nil
		case e, open := <-watcher.Updates():
			if !open { // the hub has lost the bucket
				return ErrRecordLost
			}
			err = m.recordChanged(e)
		case q := <-m.candidates:
			err = m.verify(ctx, q)
		case <-m.barrier.checkDue:
			if err = m.check(ctx); err != nil {
				select {
				case <-ctx.Done():
				case <-time.After(checkRetry):
				}
				m.barrier.requestCheck()
			}
		case <-tick.C:
			err = m.check(ctx)
		}
	}
}

// recordChanged handles a write of the record.
func (m *Monitor) recordChanged(e jetstream.KeyValueEntry) error {
	if e == nil || e.Operation() != jetstream.KeyValuePut {
		return nil
	}
	var r record
	if err := json.Unmarshal(e.Value(), &r); err != nil {
		return nil // invalid: load reports it
	}
	m.cfg.Fence.ObserveTerm(r.Term)
	if err := m.cfg.Fence.Check(); errors.Is(err, lease.ErrDeposed) {
		return err
	}
	return nil
}

// check compares the storage with the record and updates both the marker and the record.
func (m *Monitor) check(ctx context.Context) error {
	responses := m.barrier.current()
	if _, err := m.cfg.Bucket.Status(ctx); errors.Is(err, jetstream.ErrBucketNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return ErrRecordLost
	}
	uid, err := m.clusterUID(ctx)
	if err != nil {
		return err
	}
	if uid != m.record.UID {
		return fmt.Errorf("%w: %s", ErrMovedBack, reasonReplaced)
	}
	if err := m.advanceMarker(ctx); err != nil {
		return err
	}
	m.barrier.confirm(responses)
	return nil
}

// AddCandidate schedules the verification of an object whose copy is older than its published
// version: either the informer lags, or the storage was rolled back. It does not block; if the
// queue is full, the next attempt to publish the object adds it again.
func (m *Monitor) AddCandidate(k kube.Key, uid, published string) {
	select {
	case m.candidates <- candidate{k, uid, published}:
	default:
	}
}

// verify reads an object from the storage. If that version is also older than the published
// one, it starts a new epoch.
func (m *Monitor) verify(ctx context.Context, q candidate) error {
	resource, ok := q.key.VersionedResource()
	if !ok {
		return nil
	}
	o, err := m.cfg.Clients.Dynamic.Resource(resource).Namespace(q.key.Namespace).Get(ctx, q.key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", q.key.Ref(""), err)
	}
	published, stored := order.Stamp{Version: q.publishedVersion}, order.Stamp{Version: o.GetResourceVersion()}
	if string(o.GetUID()) != q.uid || !published.NewerThan(stored) {
		return nil
	}
	if err := m.load(ctx); err != nil {
		return err
	}
	now, err := m.read(ctx)
	if err != nil {
		return err
	}
	next := m.record.newEpoch(now, 0)
	if err := m.save(ctx, next); err != nil {
		return err
	}
	m.logNewEpoch(next, reasonObject)
	return fmt.Errorf("%w: %s has version %s after %s", ErrMovedBack, q.key.Ref(""), o.GetResourceVersion(), q.publishedVersion)
}

func (m *Monitor) load(ctx context.Context) error {
	e, err := m.cfg.Bucket.Get(ctx, recordKey)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		m.record, m.revision = record{}, 0
		return nil
	case err != nil:
		return fmt.Errorf("read the record: %w", err)
	}
	m.record, m.revision = record{}, e.Revision()
	if err := json.Unmarshal(e.Value(), &m.record); err != nil {
		m.cfg.Log.Error("cannot decode the epoch record, starting a new epoch", zap.Error(err))
		m.record = record{}
	}
	return nil
}

// save writes the record if nobody else has changed it.
func (m *Monitor) save(ctx context.Context, next record) error {
	if next == m.record && m.revision > 0 {
		return nil
	}
	if err := m.cfg.Fence.Check(); err != nil {
		return err
	}
	data, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode the record: %w", err)
	}
	revision, err := m.cfg.Bucket.Update(ctx, recordKey, data, m.revision)
	if errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		if err := m.load(ctx); err != nil {
			return err
		}
		m.cfg.Fence.ObserveTerm(m.record.Term)
		if err := m.cfg.Fence.Check(); err != nil {
			return err
		}
		return errors.New("write the record: changed by another writer")
	}
	if err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	m.record, m.revision = next, revision
	return nil
}

// read makes a consistent read of the storage, not one from the API server's cache, which can
// be ahead of a storage that was restored under it.
func (m *Monitor) read(ctx context.Context) (state, error) {
	uid, err := m.clusterUID(ctx)
	if err != nil {
		return state{}, err
	}
	if err := m.readMarker(ctx); err != nil {
		return state{}, err
	}
	now := state{UID: uid}
	if m.marker != nil {
		now.Version = m.marker.ResourceVersion
		now.Marker, now.Number = markerOf(m.marker)
	}
	return now, nil
}

// clusterUID returns an ID that differs between storages.
func (m *Monitor) clusterUID(ctx context.Context) (uid string, err error) {
	ns, err := m.cfg.Clients.Own.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read namespace %s: %w", metav1.NamespaceSystem, err)
	}
	return string(ns.UID), nil
}

func (m *Monitor) readMarker(ctx context.Context) error {
	cm, err := m.cfg.Clients.Own.CoreV1().ConfigMaps(m.cfg.Namespace).Get(ctx, markerName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		m.marker = nil
	case err != nil:
		return fmt.Errorf("read the marker: %w", err)
	default:
		m.marker = cm
	}
	return nil
}

func markerOf(cm *corev1.ConfigMap) (generation, number uint64) {
	generation, _ = strconv.ParseUint(cm.Data["generation"], 10, 64) // an invalid value counts as no marker
	return generation, order.EpochNumber(cm.Data["epoch"])
}

// advanceMarker writes the marker, then the record: a marker that is ahead of the record does
// not indicate a rollback. The resource version that the write returns is the version of the
// whole storage. If somebody else has changed the marker, it is read first.
func (m *Monitor) advanceMarker(ctx context.Context) error {
	written, err := m.writeMarker(ctx)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) {
		if err := m.readMarker(ctx); err != nil {
			return err
		}
		var generation uint64
		if m.marker != nil {
			generation, _ = markerOf(m.marker)
		}
		if generation < m.record.Marker {
			return fmt.Errorf("%w: %s", ErrMovedBack, reasonMarker)
		}
		written, err = m.writeMarker(ctx)
	}
	if err != nil {
		return fmt.Errorf("write the marker: %w", err)
	}
	m.marker = written
	if m.record.passed(written.ResourceVersion) {
		return fmt.Errorf("%w: %s", ErrMovedBack, reasonVersion)
	}
	next := m.record
	next.Marker, _ = markerOf(written)
	next.Version = written.ResourceVersion
	return m.save(ctx, next)
}

// writeMarker creates or updates the marker.
func (m *Monitor) writeMarker(ctx context.Context) (*corev1.ConfigMap, error) {
	maps := m.cfg.Clients.Own.CoreV1().ConfigMaps(m.cfg.Namespace)
	generation := m.record.Marker
	if m.marker != nil {
		has, _ := markerOf(m.marker)
		generation = max(generation, has)
	}
	data := map[string]string{
		"generation": strconv.FormatUint(generation+1, 10), "epoch": m.record.name(), "term": strconv.FormatUint(m.record.Term, 10),
	}
	if m.marker == nil {
		return maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: markerName}, Data: data}, metav1.CreateOptions{})
	}
	cm := m.marker.DeepCopy()
	cm.Data = data
	return maps.Update(ctx, cm, metav1.UpdateOptions{})
}
