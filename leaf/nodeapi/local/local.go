// Package local holds the site's own state of its objects: what the kubelet and others wrote
// to the node API. It stores the state in SITE_REPORTED, from where the forwarder sends it to
// the hub, loads it at a start, and removes it when the hub has it and nobody needs it.
//
// Guarantees: what Put and Delete return nil for is in SITE_REPORTED; a message is removed
// from it only after the forwarder has acknowledged it, that is, when the hub has it.
//
// The node API calls it. It does not know HTTP and does not decide what may be written.
package local

import (
	"context"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/keymutex"

	"github.com/petiole-io/petiole/internal/logonce"
	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
	"github.com/petiole-io/petiole/streams"
)

const (
	// storeTimeout is the timeout of requests to the leaf's own JetStream.
	storeTimeout = 10 * time.Second
	// writeLocks is the number of locks that serialize writes. It is much larger than the
	// number of concurrent writes, so that few writes to different objects share a lock.
	writeLocks = 256
)

// Tokens is the cache of service account tokens.
type Tokens interface {
	// Retain removes the tokens of all pods that are not alive.
	Retain(alive func(podUID string) bool) error
}

// Config configures a Store. All fields are required.
type Config struct {
	Node    string
	JS      jetstream.JetStream
	Objects *objects.Store
	Tokens  Tokens
	// ClockRight reports whether the wall clock is right.
	ClockRight func() bool
	Log        *zap.Logger
}

// Store stores local state. Its methods are safe for concurrent use, except Load and Run.
type Store struct {
	Config
	outcomes *logonce.Reporter
	locks    keymutex.KeyMutex
	events   eventQueue
	wakeup   chan struct{}

	// collecting serializes Collect. It guards the fields below.
	collecting sync.Mutex
	// pending holds the Events that are no longer served and wait for the forwarder.
	pending   []eventRef
	expiredAt time.Time
}

// New returns a Store. It does no I/O.
func New(cfg Config) *Store {
	return &Store{Config: cfg, outcomes: logonce.New(cfg.Log), locks: keymutex.NewHashed(writeLocks), wakeup: make(chan struct{}, 1)}
}

// Lock serializes the writes to an object, while writes to other objects wait for the disk
// concurrently. It returns the function that unlocks the object. No caller may hold two
// locks.
func (s *Store) Lock(gr schema.GroupResource, k objects.Key) (unlock func()) {
	id := gr.String() + " " + k.String()
	s.locks.LockKey(id)
	return func() { _ = s.locks.UnlockKey(id) } // a hashed mutex never returns an error
}

// isReported reports whether the local state of a resource is reported to the cloud. Leases
// are not: the bridge renews them from the site's heartbeats.
func isReported(gr schema.GroupResource) bool { return gr != objects.Leases }

// Put stores local state and then makes it visible; report is what the cloud gets of it. It
// returns the effective object, nil if there is none, after the state is stored, even if ctx
// ends in the meantime. The caller holds the object's lock.
func (s *Store) Put(ctx context.Context, gr schema.GroupResource, k objects.Key, l *objects.Local, report []byte) (*objects.Object, error) {
	if gr == objects.Events {
		defer s.wake()
	}
	if isReported(gr) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		ref := streams.Ref{Node: s.Node, Group: gr.Group, Resource: gr.Resource, Namespace: k.Namespace, Name: k.Name}
		seq, err := streams.Put(ctx, s.JS, streams.LocalReportedSubject(ref),
			streams.Message{Ref: ref, Op: l.Op, UID: l.UID, Version: l.Version, Object: report}, putOptions(gr, s.ClockRight())...)
		if err != nil {
			s.Log.Warn("store local state", zap.Stringer("object", ref), zap.Error(err))
			return nil, apierrors.NewServiceUnavailable("the leaf's store rejected the write: " + err.Error())
		}
		l.Node, l.Seq = s.Node, seq
	}
	effective, err := s.Objects.SetLocal(gr, k, l)
	if err == nil && gr == objects.Events {
		s.events.add(k, l.Seq, time.Now())
	}
	return effective, err
}

// Delete stores that the object with the given UID was deleted here, and then hides it. A
// deletion is reported like any other state: as the last message on its subject. was is the
// object's state. The caller holds the object's lock.
func (s *Store) Delete(ctx context.Context, gr schema.GroupResource, k objects.Key, uid string, was objects.State) error {
	if !isReported(gr) {
		_, err := s.Objects.SetLocal(gr, k, nil)
		return err
	}
	l := &objects.Local{Op: streams.OpDelete, UID: uid}
	if was.Live {
		l.Version, l.InReplyTo = was.Desired.Version, was.Desired.Arrival
	}
	_, err := s.Put(ctx, gr, k, l, nil)
	return err
}
