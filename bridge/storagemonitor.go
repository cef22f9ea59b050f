package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	// recordBucket is the bridge's own bucket at the hub, recordKey its only key.
	recordBucket, recordKey = "bridge", "epoch"
	// markerName is the ConfigMap that moves back with the API server's storage.
	markerName = "bridge-epoch"
	// storageInterval is how often the marker is written, and the storage looked at by it.
	storageInterval = 10 * time.Second
	// lookRetry is how soon a look is taken again that failed and that is waited for.
	checkRetry = time.Second
)

// errEpoch reports that the API server's storage is not what this bridge has read: it
// reads all of it again, under a new epoch.
var errEpoch = errors.New("the API server's storage moved back or was replaced")

// storage watches over the API server's storage and over the terms of the bridges, with
// a record at the hub and a marker in the API.
type storageMonitor struct {
	kv       jetstream.KeyValue
	clients  *clients
	fence    *fence
	log      *zap.Logger
	count    *counters
	outage   *outage
	identity string
	// namespace is where the marker is.
	namespace string
	// suspects are objects that may prove that the storage has moved back.
	candidates chan rollbackCandidate
	// lookout waits for looks at the storage.
	barrier *storageBarrier

	record   epochRecord
	revision uint64
	// marker is the marker as this bridge has read or written it last, nil when there is
	// none.
	marker *corev1.ConfigMap
}

// suspect is an object whose copy is older than what was published of it.
type rollbackCandidate struct {
	key                   objectKey
	uid, publishedVersion string
}

// openRecord ensures the bucket of the record.
func openRecord(ctx context.Context, js jetstream.JetStream, replicas int) (jetstream.KeyValue, error) {
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: recordBucket, Description: "What the bridge knows of the API server's storage", History: 1, Replicas: max(replicas, 1),
	})
	if err != nil {
		return nil, fmt.Errorf("ensure bucket %s: %w", recordBucket, err)
	}
	return kv, nil
}

// begin reads the record and the storage, begins a new epoch where that is due, and
// claims a term: higher than any before, and at least how often leadership changed
// hands. was is what DESIRED holds. It returns whether the epoch is another than that of
// what was published.
func (s *storageMonitor) begin(ctx context.Context, transitions uint64, was *desiredCache) (renewed bool, err error) {
	if err := s.load(ctx); err != nil {
		return false, err
	}
	known, seen := was.highest()
	seen = max(seen, s.record.Term)
	term := s.fence.currentTerm()
	if term == 0 {
		term = max(transitions, seen+1)
		s.fence.setTerm(term)
	}
	s.fence.observeTerm(seen)
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
	// Nothing is published before the marker tells the storage of now from a copy of it
	// that was made before.
	if err := s.advanceMarker(ctx); err != nil {
		return false, err
	}
	return next.Number != known, nil
}

func (s *storageMonitor) logNewEpoch(r epochRecord, reason string) {
	s.count.epochs.Add(1)
	s.log.Warn("new epoch", zap.String("epoch", r.name()), zap.String("reason", reason), zap.Uint64("term", r.Term))
}

// run looks at the storage every storageInterval, and when an API server was heard anew,
// until ctx ends. It returns errEpoch
// when the storage has changed under this bridge, and errDeposed when another bridge
// has written the record.
func (s *storageMonitor) run(ctx context.Context) error {
	watcher, err := s.kv.Watch(ctx, recordKey, jetstream.UpdatesOnly())
	if err != nil {
		return fmt.Errorf("watch the record: %w", err)
	}
	defer func() { _ = watcher.Stop() }() // ends with the connection at the latest
	tick := time.NewTicker(storageInterval)
	defer tick.Stop()
	for {
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errEpoch) || errors.Is(err, errDeposed) || errors.Is(err, errHubReplaced) {
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

// seen takes in that the record was written.
func (s *storageMonitor) recordChanged(e jetstream.KeyValueEntry) error {
	if e == nil || e.Operation() != jetstream.KeyValuePut {
		return nil
	}
	var r epochRecord
	if err := json.Unmarshal(e.Value(), &r); err != nil {
		return nil // nobody's: load says so when it is read
	}
	s.fence.observeTerm(r.Term)
	if err := s.fence.check(); errors.Is(err, errDeposed) {
		return err
	}
	return nil
}

// look compares the storage with the record and writes down how far it is.
func (s *storageMonitor) check(ctx context.Context) error {
	answers := s.barrier.current()
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
	s.barrier.confirm(answers)
	return nil
}

// suspect notes an object whose copy is older than what was published of it: either the
// watch is behind, or the storage has moved back. It does not block; what does not find
// a place comes again.
func (s *storageMonitor) addCandidate(k objectKey, uid, published string) {
	select {
	case s.candidates <- rollbackCandidate{k, uid, published}:
	default:
	}
}

// examine reads an object from the storage itself. If that is older, too, than what was
// published of it, a new epoch begins.
func (s *storageMonitor) verify(ctx context.Context, q rollbackCandidate) error {
	i := slices.IndexFunc(watched, func(r schema.GroupVersionResource) bool {
		return r.Group == q.key.Group && r.Resource == q.key.Resource
	})
	if i < 0 {
		return nil
	}
	o, err := s.clients.dynamic.Resource(watched[i]).Namespace(q.key.Namespace).Get(ctx, q.key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", q.key.ref(""), err)
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
	return fmt.Errorf("%w: %s has version %s after %s", errEpoch, q.key.ref(""), o.GetResourceVersion(), q.publishedVersion)
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
		s.log.Error("record not understood, a new epoch begins", zap.Error(err))
		s.record = epochRecord{}
	}
	return nil
}

// save writes the record if it is still the one that this bridge has read.
func (s *storageMonitor) save(ctx context.Context, next epochRecord) error {
	if next == s.record && s.revision > 0 {
		return nil
	}
	if err := s.fence.check(); err != nil {
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
		s.fence.observeTerm(s.record.Term)
		if err := s.fence.check(); err != nil {
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

// read reads the storage consistently: not from a cache of the API server, which may
// know more than a storage that was restored under it.
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

// cluster tells the storage from another one.
func (s *storageMonitor) clusterUID(ctx context.Context) (uid string, err error) {
	ns, err := s.clients.own.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read namespace %s: %w", metav1.NamespaceSystem, err)
	}
	return string(ns.UID), nil
}

func (s *storageMonitor) readMarker(ctx context.Context) error {
	cm, err := s.clients.own.CoreV1().ConfigMaps(s.namespace).Get(ctx, markerName, metav1.GetOptions{})
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
	generation, _ = strconv.ParseUint(cm.Data["generation"], 10, 64) // what nobody can read is 0: no marker
	return generation, epochNumber(cm.Data["epoch"])
}

// mark writes the marker, and the record after it: a marker that is ahead of the record is
// no move backwards. The version that the marker gets is that of the storage as a whole.
// A marker that is not the one that was written last is read first.
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

// writeMarker makes the marker, or changes the one that this bridge knows of.
func (s *storageMonitor) writeMarker(ctx context.Context) (*corev1.ConfigMap, error) {
	maps := s.clients.own.CoreV1().ConfigMaps(s.namespace)
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
