package desired

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

// externalWritesInterval is the time between two polls of DESIRED.
const externalWritesInterval = 5 * time.Second

// externalWrites finds messages in DESIRED that other bridges wrote: a former leader whose
// last write was delayed, or a later one, which deposes this bridge. Objects written by a
// former leader are published again if necessary.
type externalWrites struct {
	reconciler *Reconciler
	report     func(error)
	// lastSeq is the last sequence that was examined.
	lastSeq uint64
}

// run polls until ctx ends. It returns hub.ErrReplaced if DESIRED has lost messages.
func (w *externalWrites) run(ctx context.Context) error {
	poll := time.NewTicker(externalWritesInterval)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
		}
		err := w.poll(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, hub.ErrReplaced) {
			return err
		}
		w.report(err)
	}
}

func (w *externalWrites) poll(ctx context.Context) error {
	info, err := w.reconciler.hub.Desired.Info(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.Desired, err)
	}
	switch {
	case info.State.LastSeq < w.lastSeq:
		return hub.ErrReplaced // the store was rolled back
	case info.State.LastSeq == w.lastSeq:
		return nil
	}
	term := w.reconciler.fence.Term()
	err = w.reconciler.hub.ReadAll(ctx, w.reconciler.hub.Desired, w.lastSeq+1, ">", true, func(msg jetstream.Msg) error {
		if t := streams.TermOf(msg.Headers()); t != term && !streams.IsPart(msg.Subject()) {
			w.handle(msg, t)
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.lastSeq = info.State.LastSeq
	return nil
}

func (w *externalWrites) handle(msg jetstream.Msg, term uint64) {
	site, ref, err := streams.ParseDesired(msg.Subject())
	if err != nil {
		return // not a subject of the protocol
	}
	meta, err := msg.Metadata()
	if err != nil {
		return
	}
	w.reconciler.fence.ObserveTerm(term)
	if w.reconciler.mergeEntry(site, kube.KeyOf(ref), entryOf(msg.Subject(), msg.Headers(), meta.Sequence.Stream)) {
		w.reconciler.counters.ExternalWrites.Add(1)
		w.reconciler.log.Warn("desired object was written by another bridge, checking it again",
			zap.String("site", site), zap.Stringer("object", ref), zap.Uint64("term", term), zap.Uint64("seq", meta.Sequence.Stream))
	}
}

// mergeEntry updates the cache unless it has a later message, and marks the object dirty.
func (r *Reconciler) mergeEntry(site string, k kube.Key, e entry) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.desired.entries(site, k)[e.subject].seq >= e.seq {
		return false
	}
	r.desired.put(site, k, e)
	r.markDirty(site).keys.Insert(k)
	return true
}
