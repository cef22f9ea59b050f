package desired

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/lease"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
	"github.com/petiole-io/petiole/streams/order"
)

// writer stores messages in DESIRED and keeps the copy of it up to date.
type writer struct {
	*state
	hub      *hub.Hub
	objects  *encodeCache
	storage  Storage
	fence    *lease.Fence
	epoch    string
	counters *Counters
	// erasing is held while a Secret is erased.
	erasing sync.Mutex
}

// execute updates one object at a site.
func (w *writer) execute(ctx context.Context, site string, t task) error {
	if t.extra != nil {
		return w.deleteExtra(ctx, site, *t.extra)
	}
	return w.publishObject(ctx, site, t)
}

// publishObject makes DESIRED hold the present state of the object, or a tombstone.
func (w *writer) publishObject(ctx context.Context, site string, t task) error {
	w.mu.Lock()
	entries := maps.Clone(w.desired.entries(site, t.key))
	w.mu.Unlock()

	o := w.objects.Get(t.key)
	subject := ""
	if t.wanted && o != nil {
		subject = streams.DesiredSubject(site, t.key.Ref(t.node))
	}
	for _, e := range entries {
		if e.subject == subject || e.op == streams.OpDelete {
			continue
		}
		if err := w.tombstone(ctx, site, t.key, e, w.isGone(t.key, o, e.uid, subject != "")); err != nil {
			return err
		}
	}
	if subject == "" {
		return nil
	}
	return w.publishBody(ctx, site, t, o, entries[subject])
}

func (w *writer) publishBody(ctx context.Context, site string, t task, o *unstructured.Unstructured, was entry) error {
	data, hash, err := w.encodedFor(site, t.key, o)
	if err != nil {
		return err
	}
	uid, stamp := string(o.GetUID()), order.Stamp{Epoch: w.epoch, Version: o.GetResourceVersion()}
	if was.op == streams.OpPut && was.uid == uid && was.hash == hash && was.stamp.Epoch == w.epoch && !t.force {
		return nil
	}
	if was.uid == uid && was.stamp.NewerThan(stamp) {
		w.storage.AddCandidate(t.key, uid, was.stamp.Version)
		return fmt.Errorf("%s: %w: version %s after %s", t.key.Ref(""), errStaleCache, stamp.Version, was.stamp.Version)
	}
	subject := streams.DesiredSubject(site, t.key.Ref(t.node))
	m := streams.Message{
		Ref: t.key.Ref(t.node), Op: streams.OpPut, UID: uid, Version: stamp.Version, Epoch: stamp.Epoch, Hash: hash, Term: w.fence.Term(), Object: data,
	}
	seq, err := w.put(ctx, site, t.key, subject, m, was.seq)
	if err != nil {
		return err
	}
	w.setEntry(site, t.key, entry{
		subject: subject, op: m.Op, uid: uid, stamp: stamp, hash: hash, seq: seq, term: m.Term,
		parts: was.parts || len(data) > streams.PartBytes/2,
	})
	w.counters.Published.Add(1)
	return nil
}

// tombstone publishes a tombstone in place of what DESIRED, or only the site, has on a
// subject. If final is true, no version of the object will come back on that subject; the
// tombstone then has a higher version, so that a site that has applied it ignores an old
// message that a killed hub restores. Otherwise it has the same version, which may be wanted
// again.
func (w *writer) tombstone(ctx context.Context, site string, k kube.Key, was entry, final bool) error {
	_, ref, err := streams.ParseDesired(was.subject)
	if err != nil {
		return err
	}
	// The version belongs to the epoch in which it was published. In a new epoch it could be
	// higher than the versions of the object when that is wanted again.
	stamp := order.Stamp{Epoch: cmp.Or(was.stamp.Epoch, w.epoch), Version: was.stamp.Version}
	if final {
		stamp.Version = nextVersion(stamp.Version)
	}
	m := streams.Message{Ref: ref, Op: streams.OpDelete, UID: was.uid, Version: stamp.Version, Epoch: stamp.Epoch, Term: w.fence.Term()}
	last := was.seq
	if ref.IsSecret() && was.op == streams.OpPut {
		if last, err = w.erase(ctx, was); err != nil {
			return err
		}
	}
	seq, err := w.put(ctx, site, k, was.subject, m, last)
	if err != nil {
		return err
	}
	if was.parts {
		if err := w.hub.Desired.Purge(ctx, jetstream.WithPurgeSubject(was.subject+".>")); err != nil {
			return fmt.Errorf("purge parts of %s: %w", ref, err)
		}
	}
	w.setEntry(site, k, entry{subject: was.subject, op: streams.OpDelete, uid: was.uid, stamp: stamp, seq: seq, term: m.Term})
	w.counters.Tombstones.Add(1)
	return nil
}

// erase removes a Secret from the hub's disk before its tombstone takes its place: what a message
// replaces stays there. It returns the sequence that the subject has then. If the bridge ends in
// between, the site still has the Secret, and the comparison of inventories ends that.
//
// The server writes a whole block for each. One at a time is erased, so that others get their turn.
func (w *writer) erase(ctx context.Context, was entry) (last uint64, err error) {
	if err := w.storage.Wait(ctx); err != nil {
		return 0, err
	}
	w.erasing.Lock()
	defer w.erasing.Unlock()
	if err := w.fence.Check(); err != nil {
		return 0, err
	}
	return streams.Erase(ctx, w.hub.Desired, was.subject, was.seq)
}

// isGone reports whether the object that was published with this UID is over on its subject:
// it is deleted (o is nil), was replaced by another of the same name, or is wanted on another
// subject. Objects of a resource that is not watched may exist and be wanted again unchanged: no
// Site selects it any longer, or a bridge of a later version has published it.
func (w *writer) isGone(k kube.Key, o *unstructured.Unstructured, uid string, elsewhere bool) bool {
	if o == nil {
		return w.objects.Watched(k)
	}
	return string(o.GetUID()) != uid || elsewhere
}

// nextVersion returns the lowest version above that of a put. Whatever follows on the subject
// has a higher one still, because ending the object in the API took a version too. It returns
// a version that is not a number unchanged.
func nextVersion(version string) string {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return version
	}
	return strconv.FormatUint(n+1, 10)
}

// deleteExtra publishes a tombstone for an object that a site has and should not have.
func (w *writer) deleteExtra(ctx context.Context, site string, e inventory.Entry) error {
	_, ref, err := streams.ParseDesired(e.Subject)
	if err != nil {
		return err
	}
	k := kube.KeyOf(ref)
	w.mu.Lock()
	was := w.desired.entries(site, k)[e.Subject]
	w.mu.Unlock()
	if was.op == streams.OpPut {
		return nil // wanted there by now
	}
	gone := w.isGone(k, w.objects.Get(k), e.UID, false)
	return w.tombstone(ctx, site, k, entry{subject: e.Subject, uid: e.UID, stamp: order.Stamp{Epoch: e.Epoch, Version: e.Version}, seq: was.seq}, gone)
}

// put stores m if this bridge leads and the subject's last message is the expected one, so
// that a late write by a former leader changes nothing. It blocks until the storage that m
// comes from has been checked.
func (w *writer) put(ctx context.Context, site string, k kube.Key, subject string, m streams.Message, last uint64) (uint64, error) {
	if err := w.storage.Wait(ctx); err != nil {
		return 0, err
	}
	if err := w.fence.Check(); err != nil {
		return 0, err
	}
	seq, err := streams.Put(ctx, w.hub.JS, subject, m, jetstream.WithExpectLastSequencePerSubject(last))
	if !isWrongLastSequence(err) {
		return seq, err
	}
	w.mu.Lock()
	highest := w.desired.lastSeq(site)
	w.mu.Unlock()
	found, err := w.refreshEntry(ctx, site, k, subject)
	if err != nil {
		return 0, err
	}
	if found > 0 && found < highest {
		return 0, fmt.Errorf("%s: %w: sequence %d, the site's last is %d", m.Ref, errResurrected, found, highest)
	}
	return 0, fmt.Errorf("%s: %w", m.Ref, errConcurrentWrite)
}

// errResurrected is an errConcurrentWrite whose message is older than what this bridge has
// published since: it had been superseded or removed, and a killed hub restored it. The site
// has already passed its sequence and will not receive it, whatever it contains.
var errResurrected = fmt.Errorf("%w: a removed message is back", errConcurrentWrite)

// refreshEntry updates the cache with what DESIRED holds on a subject now. A message of a
// later leader deposes this bridge.
func (w *writer) refreshEntry(ctx context.Context, site string, k kube.Key, subject string) (found uint64, err error) {
	msg, err := w.hub.Desired.GetLastMsgForSubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		w.mu.Lock()
		w.desired.remove(site, k, subject)
		w.mu.Unlock()
	case err != nil:
		return 0, fmt.Errorf("read %s: %w", subject, err)
	default:
		found = msg.Sequence
		w.setEntry(site, k, entryOf(subject, msg.Header, msg.Sequence))
		w.fence.ObserveTerm(streams.TermOf(msg.Header))
	}
	return found, w.fence.Check()
}

func isWrongLastSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

func (w *writer) setEntry(site string, k kube.Key, e entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.desired.put(site, k, e)
}

// expireTombstones deletes the tombstones that the site has stored: those up to its
// acknowledgement floor.
func (w *writer) expireTombstones(ctx context.Context, site string, floor uint64) error {
	w.mu.Lock()
	passed := w.desired.ackedTombstones(site, floor)
	w.mu.Unlock()
	if len(passed) == 0 {
		return nil
	}
	if err := w.fence.Check(); err != nil {
		return err
	}
	for k, entries := range passed {
		for _, e := range entries {
			if err := w.hub.Desired.DeleteMsg(ctx, e.seq); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
				return fmt.Errorf("remove tombstone of %s: %w", k.Ref(""), err)
			}
			w.mu.Lock()
			if now := w.desired.entries(site, k)[e.subject]; now.seq == e.seq {
				w.desired.remove(site, k, e.subject)
			}
			w.mu.Unlock()
		}
	}
	return nil
}
