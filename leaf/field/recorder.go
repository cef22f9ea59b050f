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

// commitBytes bounds the records of one commit, so that a commit takes no longer than
// its acknowledgement is waited for, also on slow flash memory.
const commitBytes = 4 << 20

// recorder stores what all devices tell in one stream by group commit: what comes while a
// commit is under way makes up the next one, so that under load one commit carries many
// messages, and a lone one waits for nothing.
//
// The order of a device's messages is kept because a device offers one at a time.
type recorder struct {
	js     jetstream.JetStream
	stream string
	in     chan *record
	counts recorderCounts
	// most is how many messages a commit may have.
	most int
	// wait is how long a commit and a look at the stream may take.
	wait time.Duration
	// doubtful are the subjects whose last record may be stored though nobody said so.
	// Only run touches it.
	doubtful map[string]bool
}

type recorderCounts struct {
	records, commits, bytes, failed atomic.Uint64
}

// record is one message on its way into the stream.
type record struct {
	msg *nats.Msg
	// Epoch and sequence name a numbered record among those of its subject: it is stored
	// once. Without a number it may be stored again after an error.
	epoch    int64
	sequence uint64
	done     chan error
}

func newRecorder(js jetstream.JetStream, stream string) *recorder {
	return &recorder{js: js, stream: stream, in: make(chan *record, streams.MaxBatch), most: streams.MaxBatch, wait: commitWait, doubtful: map[string]bool{}}
}

// open finds out whether the stream takes atomic batches; if not, it is one message a
// commit.
func (c *recorder) open(ctx context.Context) error {
	s, err := c.js.Stream(ctx, c.stream)
	if err != nil {
		return fmt.Errorf("open %s: %w", c.stream, err)
	}
	if !s.CachedInfo().Config.AllowAtomicPublish {
		c.most = 1
	}
	return nil
}

// store returns nil after the stream has stored r. On an error it may be given again:
// it is stored once. Once the recorder has taken r, the end of ctx no longer counts,
// because only the outcome tells whether r must be given again.
func (c *recorder) store(ctx context.Context, r *record) error {
	r.done = make(chan error, 1)
	select {
	case c.in <- r:
		return <-r.done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run stores what it is given until ctx ends. Nobody may wait in store then.
func (c *recorder) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-c.in:
			c.commit(ctx, c.gather(r))
		}
	}
}

// gather takes along what waits already.
func (c *recorder) gather(first *record) []*record {
	batch, size := []*record{first}, first.msg.Size()
	for yielded := false; len(batch) < c.most && size < commitBytes; {
		select {
		case r := <-c.in:
			batch, size = append(batch, r), size+r.msg.Size()
			continue
		default:
		}
		if yielded {
			return batch
		}
		runtime.Gosched() // those whom the last commit woke offer their next record now
		yielded = true
	}
	return batch
}

// commit stores a batch and tells everybody what became of it.
func (c *recorder) commit(ctx context.Context, batch []*record) {
	batch = c.dispel(ctx, batch)
	if len(batch) == 0 {
		return
	}
	err := c.publish(ctx, batch)
	if len(batch) > 1 && errors.As(err, new(*streams.Refusal)) {
		c.commitEach(ctx, batch) // one may be the reason, and the others shall not suffer
		return
	}
	c.finish(batch, err)
}

// commitEach stores records one by one, until the stream does not answer.
func (c *recorder) commitEach(ctx context.Context, batch []*record) {
	for i := range batch {
		err := c.publish(ctx, batch[i:i+1])
		if err != nil && !errors.As(err, new(*streams.Refusal)) {
			c.finish(batch[i:], err)
			return
		}
		c.finish(batch[i:i+1], err)
	}
}

func (c *recorder) publish(ctx context.Context, batch []*record) error {
	msgs := make([]*nats.Msg, len(batch))
	for i, r := range batch {
		msgs[i] = r.msg
	}
	return commit(ctx, c.js.Conn(), msgs, c.wait)
}

// finish answers those who wait. After an error it is looked up whether they are stored
// before they are tried again: the acknowledgement may have been lost, and what a full
// disk refused may be there after a restart.
func (c *recorder) finish(batch []*record, err error) {
	if err != nil {
		c.counts.failed.Add(uint64(len(batch)))
	} else {
		c.counts.commits.Add(1)
		c.counts.records.Add(uint64(len(batch)))
	}
	for _, r := range batch {
		switch {
		case err == nil:
			c.counts.bytes.Add(uint64(len(r.msg.Data)))
			delete(c.doubtful, r.msg.Subject)
		case r.sequence > 0:
			c.doubtful[r.msg.Subject] = true
		}
		r.done <- err
	}
}

// dispel finds out whether records whose storage is in doubt are stored, answers for
// those, and gives the others a fence: should an earlier attempt still be on its way,
// only one of the two is stored.
func (c *recorder) dispel(ctx context.Context, batch []*record) []*record {
	if len(c.doubtful) == 0 {
		return batch
	}
	var failed error
	left := batch[:0]
	for _, r := range batch {
		if !c.doubtful[r.msg.Subject] {
			left = append(left, r)
			continue
		}
		stored := false
		if failed == nil { // one failure to ask stands for all
			stored, failed = c.stored(ctx, r)
		}
		switch {
		case failed != nil:
			r.done <- failed
		case stored:
			delete(c.doubtful, r.msg.Subject)
			c.counts.records.Add(1)
			r.done <- nil
		default:
			left = append(left, r)
		}
	}
	return left
}

// stored tells whether r is in the stream, and otherwise sets its fence.
func (c *recorder) stored(ctx context.Context, r *record) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	stream, err := c.js.Stream(ctx, c.stream)
	if err != nil {
		return false, fmt.Errorf("look for %s in %s: %w", r.msg.Subject, c.stream, err)
	}
	last, err := stream.GetLastMsgForSubject(ctx, r.msg.Subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		r.msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for %s in %s: %w", r.msg.Subject, c.stream, err)
	}
	r.msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last.Sequence, 10))
	epoch, sequence := numberOf(last.Data)
	return epoch == r.epoch && sequence >= r.sequence, nil
}
