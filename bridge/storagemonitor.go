package bridge

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
)

const (
	// recordBucket is the bridge's own bucket at the hub, recordKey the key of the epoch
	// record.
	recordBucket, recordKey = "bridge", "epoch"
	// markerName is the name of a ConfigMap that is rolled back together with the API server's
	// storage.
	markerName = "bridge-epoch"
	// storageInterval is the time between two checks of the storage, each of which updates the
	// marker.
	storageInterval = 10 * time.Second
	// checkRetry is the delay before a failed check is repeated while something waits for it.
	checkRetry = time.Second
)

// errEpoch reports that the API server's storage is not the one that this bridge has read. The
// bridge reads everything again, in a new epoch.
var errEpoch = errors.New("the API server's storage moved back or was replaced")

// storageMonitor detects that the API server's storage was rolled back or replaced, and that
// another bridge leads. It uses a record at the hub and a marker in the API.
type storageMonitor struct {
	kv       jetstream.KeyValue
	clients  *kube.Clients
	fence    *lease.Fence
	log      *zap.Logger
	count    *counters
	outage   *outage
	identity string
	// namespace is the namespace of the marker.
	namespace string
	// candidates are objects that may prove a rollback.
	candidates chan rollbackCandidate
	// barrier blocks publishing until the storage has been checked.
	barrier *storageBarrier

	record   epochRecord
	revision uint64
	// marker is the marker as last read or written, nil if there is none.
	marker *corev1.ConfigMap
}

// rollbackCandidate is an object whose copy is older than its published version.
type rollbackCandidate struct {
	key                   kube.Key
	uid, publishedVersion string
}

// openRecord creates the bucket if it does not exist.
func openBucket(ctx context.Context, js jetstream.JetStream, replicas int) (jetstream.KeyValue, error) {
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: recordBucket, Description: "State of the bridge: epoch of the API server's storage, deferred reports", History: 1, Replicas: max(replicas, 1),
	})
	if err != nil {
		return nil, fmt.Errorf("ensure bucket %s: %w", recordBucket, err)
	}
	return kv, nil
}

// begin reads the record and the storage, starts a new epoch if necessary, and chooses a term:
// higher than all earlier ones, and at least the number of leadership transitions. was is the
// content of DESIRED. It returns whether the epoch differs from that of the published
// messages.
func (s *storageMonitor) begin(ctx context.Context, transitions uint64, stored *desiredCache) (renewed bool, err error) {
	if err := s.load(ctx); err != nil {
		return false, err
	}
	known, seen := stored.highest()
	seen = max(seen, s.record.Term)
	term := s.fence.Term()
	if term == 0 {
		term = max(transitions, seen+1)
		s.fence.SetTerm(term)
	}
	s.fence.ObserveTerm(seen)
	now, err := s.read(ctx)
	if err != nil {
		return false, err
	}
	next, reason := s.record.next(now, known)
	next.Term, next.Holder = term, s.identity
	if err := s.save(ctx, next); err != nil {
		return false, err
	}
	if reason != "" {
		s.logNewEpoch(next, reason)
	}
	// Nothing may be published before the marker distinguishes the present storage from an
	// earlier copy of it.
	if err := s.advanceMarker(ctx); err != nil {
		return false, err
	}
	return next.Number != known, nil
}

func (s *storageMonitor) logNewEpoch(r epochRecord, reason string) {
	s.count.epochs.Add(1)
	s.log.Warn("new epoch started", zap.String("epoch", r.name()), zap.String("reason", reason), zap.Uint64("term", r.Term))
}

// run checks the storage every storageInterval, and whenever an API server has answered a list
// or started a watch, until ctx ends. It returns errEpoch if the storage was rolled back or
// replaced, and lease.ErrDeposed if another bridge has written the record.
func (s *storageMonitor) run(ctx context.Context) error {
	watcher, err := s.kv.Watch(ctx, recordKey, jetstream.UpdatesOnly())
	if err != nil {
		return fmt.Errorf("watch the record: %w", err)
	}
	defer func() { _ = watcher.Stop() }() // it ends with the connection at the latest
	tick := time.NewTicker(storageInterval)
	defer tick.Stop()
	for {
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errEpoch) || errors.Is(err, lease.ErrDeposed) || errors.Is(err, errHubReplaced) {
			return err
		}
		s.outage.report(err)
		select {
		case <-ctx.Done():
			return nil
		case e, open := <-watcher.Updates():
			if !open { // the hub has lost the bucket
				return errHubReplaced
			}
			err = s.recordChanged(e)
		case q := <-s.candidates:
			err = s.verify(ctx, q)
		case <-s.barrier.checkDue:
			if err = s.check(ctx); err != nil {
				sleep(ctx, checkRetry)
				s.barrier.requestCheck()
			}
		case <-tick.C:
			err = s.check(ctx)
		}
	}
}

// recordChanged handles a write of the record.
func (s *storageMonitor) recordChanged(e jetstream.KeyValueEntry) error {
	if e == nil || e.Operation() != jetstream.KeyValuePut {
		return nil
	}
	var r epochRecord
	if err := json.Unmarshal(e.Value(), &r); err != nil {
		return nil // invalid: load reports it
	}
	s.fence.ObserveTerm(r.Term)
	if err := s.fence.Check(); errors.Is(err, lease.ErrDeposed) {
		return err
	}
	return nil
}

// check compares the storage with the record and updates both the marker and the record.
func (s *storageMonitor) check(ctx context.Context) error {
	responses := s.barrier.current()
	if _, err := s.kv.Status(ctx); errors.Is(err, jetstream.ErrBucketNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return errHubReplaced
	}
	uid, err := s.clusterUID(ctx)
	if err != nil {
		return err
	}
	if uid != s.record.UID {
		return fmt.Errorf("%w: %s", errEpoch, epochReplaced)
	}
	if err := s.advanceMarker(ctx); err != nil {
		return err
	}
	s.barrier.confirm(responses)
	return nil
}

// wait blocks until a check covers all that the API server has answered so far, or ctx ends.
func (s *storageMonitor) wait(ctx context.Context) error { return s.barrier.wait(ctx) }

// addCandidate schedules the verification of an object whose copy is older than its published
// version: either the informer lags, or the storage was rolled back. It does not block; if the
// queue is full, the next attempt to publish the object adds it again.
func (s *storageMonitor) addCandidate(k kube.Key, uid, published string) {
	select {
	case s.candidates <- rollbackCandidate{k, uid, published}:
	default:
	}
}

// verify reads an object from the storage. If that version is also older than the published
// one, it starts a new epoch.
func (s *storageMonitor) verify(ctx context.Context, q rollbackCandidate) error {
	resource, ok := q.key.VersionedResource()
	if !ok {
		return nil
	}
	o, err := s.clients.Dynamic.Resource(resource).Namespace(q.key.Namespace).Get(ctx, q.key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", q.key.Ref(""), err)
	}
	if string(o.GetUID()) != q.uid || !olderVersion(o.GetResourceVersion(), q.publishedVersion) {
		return nil
	}
	if err := s.load(ctx); err != nil {
		return err
	}
	now, err := s.read(ctx)
	if err != nil {
		return err
	}
	next := s.record.newEpoch(now, 0)
	if err := s.save(ctx, next); err != nil {
		return err
	}
	s.logNewEpoch(next, epochObject)
	return fmt.Errorf("%w: %s has version %s after %s", errEpoch, q.key.Ref(""), o.GetResourceVersion(), q.publishedVersion)
}

func (s *storageMonitor) load(ctx context.Context) error {
	e, err := s.kv.Get(ctx, recordKey)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		s.record, s.revision = epochRecord{}, 0
		return nil
	case err != nil:
		return fmt.Errorf("read the record: %w", err)
	}
	s.record, s.revision = epochRecord{}, e.Revision()
	if err := json.Unmarshal(e.Value(), &s.record); err != nil {
		s.log.Error("cannot decode the epoch record, starting a new epoch", zap.Error(err))
		s.record = epochRecord{}
	}
	return nil
}

// save writes the record if nobody else has changed it.
func (s *storageMonitor) save(ctx context.Context, next epochRecord) error {
	if next == s.record && s.revision > 0 {
		return nil
	}
	if err := s.fence.Check(); err != nil {
		return err
	}
	data, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode the record: %w", err)
	}
	revision, err := s.kv.Update(ctx, recordKey, data, s.revision)
	if errors.Is(err, jetstream.ErrKeyExists) || isWrongLastSequence(err) {
		if err := s.load(ctx); err != nil {
			return err
		}
		s.fence.ObserveTerm(s.record.Term)
		if err := s.fence.Check(); err != nil {
			return err
		}
		return fmt.Errorf("write the record: %w", errConcurrentWrite)
	}
	if err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	s.record, s.revision = next, revision
	return nil
}

// read makes a consistent read of the storage, not one from the API server's cache, which can
// be ahead of a storage that was restored under it.
func (s *storageMonitor) read(ctx context.Context) (storeState, error) {
	uid, err := s.clusterUID(ctx)
	if err != nil {
		return storeState{}, err
	}
	if err := s.readMarker(ctx); err != nil {
		return storeState{}, err
	}
	state := storeState{UID: uid}
	if s.marker != nil {
		state.Version = s.marker.ResourceVersion
		state.Marker, state.Number = markerOf(s.marker)
	}
	return state, nil
}

// clusterUID returns an ID that differs between storages.
func (s *storageMonitor) clusterUID(ctx context.Context) (uid string, err error) {
	ns, err := s.clients.Own.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read namespace %s: %w", metav1.NamespaceSystem, err)
	}
	return string(ns.UID), nil
}

func (s *storageMonitor) readMarker(ctx context.Context) error {
	cm, err := s.clients.Own.CoreV1().ConfigMaps(s.namespace).Get(ctx, markerName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		s.marker = nil
	case err != nil:
		return fmt.Errorf("read the marker: %w", err)
	default:
		s.marker = cm
	}
	return nil
}

func markerOf(cm *corev1.ConfigMap) (generation, number uint64) {
	generation, _ = strconv.ParseUint(cm.Data["generation"], 10, 64) // an invalid value counts as no marker
	return generation, epochNumber(cm.Data["epoch"])
}

// advanceMarker writes the marker, then the record: a marker that is ahead of the record does
// not indicate a rollback. The resource version that the write returns is the version of the
// whole storage. If somebody else has changed the marker, it is read first.
func (s *storageMonitor) advanceMarker(ctx context.Context) error {
	written, err := s.writeMarker(ctx)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) {
		if err := s.readMarker(ctx); err != nil {
			return err
		}
		var generation uint64
		if s.marker != nil {
			generation, _ = markerOf(s.marker)
		}
		if generation < s.record.Marker {
			return fmt.Errorf("%w: %s", errEpoch, epochMarker)
		}
		written, err = s.writeMarker(ctx)
	}
	if err != nil {
		return fmt.Errorf("write the marker: %w", err)
	}
	s.marker = written
	if olderVersion(written.ResourceVersion, s.record.Version) {
		return fmt.Errorf("%w: %s", errEpoch, epochVersion)
	}
	next := s.record
	next.Marker, _ = markerOf(written)
	next.Version = written.ResourceVersion
	return s.save(ctx, next)
}

// writeMarker creates or updates the marker.
func (s *storageMonitor) writeMarker(ctx context.Context) (*corev1.ConfigMap, error) {
	maps := s.clients.Own.CoreV1().ConfigMaps(s.namespace)
	generation := s.record.Marker
	if s.marker != nil {
		has, _ := markerOf(s.marker)
		generation = max(generation, has)
	}
	data := map[string]string{
		"generation": strconv.FormatUint(generation+1, 10), "epoch": s.record.name(), "term": strconv.FormatUint(s.record.Term, 10),
	}
	if s.marker == nil {
		return maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: markerName}, Data: data}, metav1.CreateOptions{})
	}
	cm := s.marker.DeepCopy()
	cm.Data = data
	return maps.Update(ctx, cm, metav1.UpdateOptions{})
}
