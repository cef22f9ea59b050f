package field

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// commitBytes bounds the size of one commit, so that it completes within commitWait even on
// slow flash memory.
const commitBytes = 4 << 20

// atomicMin is the least number of messages for which one atomic batch is cheaper than a commit
// of each: nats-server 2.15.2 stages a batch in a folder of its own, which takes about six syncs.
const atomicMin = 8

// commitPace is the least time from the begin of a commit of several messages to the begin of the next,
// unless commitFull messages wait. Each commit costs the disk several writes, however many messages it
// has: with 500 devices that are read once a second the pace saves a third of the gateway's processor
// time.
const (
	commitPace = 50 * time.Millisecond
	commitFull = 32
)

// groupWriter stores the messages of all devices in one stream by group commit: messages
// that arrive during a commit, or soon after it, form the next one. Under load one commit carries
// many messages, and a message that comes alone does not wait.
//
// The order of a device's messages is kept because a device stores one at a time.
type groupWriter struct {
	js     jetstream.JetStream
	stream string
	queue  chan *record
	counts writerCounts
	// maxBatch is the maximum number of messages in a commit.
	maxBatch int
	// wait is the timeout of a commit and of a lookup in the stream.
	wait time.Duration
	pace time.Duration
	// inDoubt holds the subjects whose last record may be stored although its commit
	// failed. It belongs to run.
	inDoubt map[string]bool
}

type writerCounts struct {
	records, commits, bytes, failed atomic.Uint64
}

// record is a message that is to be stored.
type record struct {
	msg *nats.Msg
	// epoch and sequence identify a numbered record among those of its subject: it is stored
	// exactly once. A record without a number may be stored again after an error.
	epoch    int64
	sequence uint64
	done     chan error
}

func newGroupWriter(js jetstream.JetStream, stream string) *groupWriter {
	return &groupWriter{js: js, stream: stream, queue: make(chan *record, streams.MaxBatch), maxBatch: streams.MaxBatch, wait: commitWait, pace: commitPace, inDoubt: map[string]bool{}}
}

// open checks whether the stream supports atomic batches. If it does not, each commit has one
// message.
func (w *groupWriter) open(ctx context.Context) error {
	s, err := w.js.Stream(ctx, w.stream)
	if err != nil {
		return fmt.Errorf("open %s: %w", w.stream, err)
	}
	if !s.CachedInfo().Config.AllowAtomicPublish {
		w.maxBatch = 1
	}
	return nil
}

// store returns nil after the stream has stored r. After an error the caller may store r
// again: a numbered record is stored once. ctx has no effect after r has been queued,
// because only the outcome decides whether r must be stored again.
func (w *groupWriter) store(ctx context.Context, r *record) error {
	r.done = make(chan error, 1)
	select {
	case w.queue <- r:
		return <-r.done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run stores records until ctx ends. No call of store may be in progress then.
func (w *groupWriter) run(ctx context.Context) {
	var next time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-w.queue:
			if len(w.queue) < commitFull {
				time.Sleep(time.Until(next))
			}
			batch, begun := w.collect(r), time.Now()
			if len(batch) > 1 {
				next = begun.Add(w.pace)
			}
			w.commit(ctx, batch)
		}
	}
}

// collect returns first and the records that are queued already, as one batch.
func (w *groupWriter) collect(first *record) []*record {
	batch, size := []*record{first}, first.msg.Size()
	for yielded := false; len(batch) < w.maxBatch && size < commitBytes; {
		select {
		case r := <-w.queue:
			batch, size = append(batch, r), size+r.msg.Size()
			continue
		default:
		}
		if yielded {
			return batch
		}
		runtime.Gosched() // lets the devices that the last commit woke queue their next record
		yielded = true
	}
	return batch
}

// commit stores a batch and answers the callers of store.
func (w *groupWriter) commit(ctx context.Context, batch []*record) {
	batch = w.resolveInDoubt(ctx, batch)
	if len(batch) == 0 {
		return
	}
	if len(batch) < atomicMin {
		w.commitEach(ctx, batch)
		return
	}
	err := w.publish(ctx, batch)
	if errors.As(err, new(*streams.Refusal)) {
		w.commitEach(ctx, batch) // one record may be the reason: the others are stored
		return
	}
	w.finish(batch, err)
}

// commitEach stores records one by one and stops when the stream does not answer.
func (w *groupWriter) commitEach(ctx context.Context, batch []*record) {
	for i := range batch {
		err := w.publish(ctx, batch[i:i+1])
		if err != nil && !errors.As(err, new(*streams.Refusal)) {
			w.finish(batch[i:], err)
			return
		}
		w.finish(batch[i:i+1], err)
	}
}

func (w *groupWriter) publish(ctx context.Context, batch []*record) error {
	msgs := make([]*nats.Msg, len(batch))
	for i, r := range batch {
		msgs[i] = r.msg
	}
	return commit(ctx, w.js.Conn(), msgs, w.wait)
}

// finish answers the callers of store. After an error, numbered records are in doubt: they
// are looked up in the stream before they are stored again, because the acknowledgement may
// have been lost, and a record rejected by a full disk may be there after a restart.
func (w *groupWriter) finish(batch []*record, err error) {
	if err != nil {
		w.counts.failed.Add(uint64(len(batch)))
	} else {
		w.counts.commits.Add(1)
		w.counts.records.Add(uint64(len(batch)))
	}
	for _, r := range batch {
		switch {
		case err == nil:
			w.counts.bytes.Add(uint64(len(r.msg.Data)))
			delete(w.inDoubt, r.msg.Subject)
		case r.sequence > 0:
			w.inDoubt[r.msg.Subject] = true
		}
		r.done <- err
	}
}

// resolveInDoubt looks up the records that are in doubt. It answers the callers of those that
// are stored, and returns the other records with an expected last sequence, so that only one
// of two attempts is stored if an earlier one is still on its way.
func (w *groupWriter) resolveInDoubt(ctx context.Context, batch []*record) []*record {
	if len(w.inDoubt) == 0 {
		return batch
	}
	var failed error
	left := batch[:0]
	for _, r := range batch {
		if !w.inDoubt[r.msg.Subject] {
			left = append(left, r)
			continue
		}
		stored := false
		if failed == nil { // after one failed lookup the others fail too
			stored, failed = w.isStored(ctx, r)
		}
		switch {
		case failed != nil:
			r.done <- failed
		case stored:
			delete(w.inDoubt, r.msg.Subject)
			w.counts.records.Add(1)
			r.done <- nil
		default:
			left = append(left, r)
		}
	}
	return left
}

// isStored reports whether r is in the stream. If it is not, isStored sets the sequence that
// the stream must have for r to be stored.
func (w *groupWriter) isStored(ctx context.Context, r *record) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, w.wait)
	defer cancel()
	stream, err := w.js.Stream(ctx, w.stream)
	if err != nil {
		return false, fmt.Errorf("look up %s in %s: %w", r.msg.Subject, w.stream, err)
	}
	last, err := stream.GetLastMsgForSubject(ctx, r.msg.Subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		r.msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up %s in %s: %w", r.msg.Subject, w.stream, err)
	}
	r.msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last.Sequence, 10))
	epoch, sequence := recordNumber(last.Data)
	return epoch == r.epoch && sequence >= r.sequence, nil
}
