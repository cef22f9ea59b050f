// Package desired reads SITE_DESIRED, the site's copy of its desired state, as it is on disk.
//
// It guarantees that a reader who gets no error has seen everything that the stream counts, or an
// ErrUnreadable: nats-server 2.15.2 leaves out without a word what it cannot read
// (docs/upstream.md, 18). The caller keeps others from changing the stream meanwhile. It writes
// nothing. The store and the replicator of the leaf call it.
package desired

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

const (
	// readAhead is how many messages are requested at a time when a whole stream is read.
	readAhead = 256
	// Wait is how long the site's own server may take to deliver them.
	Wait = 5 * time.Second
)

// TombstoneRetention is how long a tombstone stays in SITE_DESIRED at least.
//
// The node API decides by the last message of an object whether the next one is newer. Without
// the tombstone it would take an older version of a deleted object for a new object. DESIRED
// holds only the newest message of each object, so an older one can only come from a hub whose
// store was restored to an earlier state, until the bridge, which compares that store with the
// API server when it starts, has published the tombstone again. A day covers that.
const TombstoneRetention = 24 * time.Hour

// ErrUnreadable reports that a stream counts messages that it does not deliver.
var ErrUnreadable = errors.New("messages of the stream cannot be read")

// Read calls f with the last message of every subject of a site that the stream holds now, in
// stream order, without the bodies if headersOnly is set. It returns ErrUnreadable if some are not
// delivered, or the first error of f.
func Read(ctx context.Context, s jetstream.Stream, site string, headersOnly bool, f func(jetstream.Msg, *jetstream.MsgMetadata) error) (err error) {
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{
		FilterSubject: streams.DesiredFilter(site), DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, AckPolicy: jetstream.AckNonePolicy,
		HeadersOnly: headersOnly, MemoryStorage: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return err
	}
	info := c.CachedInfo()
	defer func() {
		// One that is left behind goes by itself after InactiveThreshold.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), Wait)
		defer cancel()
		_ = s.DeleteConsumer(ending, info.Name)
	}()
	for left := info.NumPending; left > 0; {
		n := min(left, readAhead)
		// The batch's own limit of time: what cannot be read does not come.
		batch, err := c.Fetch(int(n), jetstream.FetchMaxWait(Wait))
		if err != nil {
			return err
		}
		got := uint64(0)
		for msg := range batch.Messages() {
			md, err := msg.Metadata()
			if err != nil {
				return err
			}
			if err := f(msg, md); err != nil {
				return err
			}
			got++
		}
		switch err := batch.Error(); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !errors.Is(err, nats.ErrTimeout):
			return err
		case got < n:
			return fmt.Errorf("%w: %d of %d are missing", ErrUnreadable, left-got, info.NumPending)
		}
		left -= got
	}
	return nil
}

// Inventory computes the inventory of what the stream holds.
func Inventory(ctx context.Context, s jetstream.Stream, site string) (*inventory.Set, error) {
	m := &inventory.Set{}
	err := Entries(ctx, s, site, func(e inventory.Entry) { m.Add(e) })
	return m, err
}

// Entries calls f with every entry of the inventory. Objects whose parts are incomplete are left out.
func Entries(ctx context.Context, s jetstream.Stream, site string, f func(inventory.Entry)) error {
	parts := streams.PartsSeen{}
	return Read(ctx, s, site, true, func(msg jetstream.Msg, _ *jetstream.MsgMetadata) error {
		if !parts.Add(msg.Subject(), msg.Headers()) {
			return nil
		}
		if e, ok := inventory.EntryOf(msg.Subject(), msg.Headers()); ok {
			f(e)
		}
		return nil
	})
}

// WithoutServerHeaders returns the headers that neither instruct a nats-server nor describe
// where a message is stored.
func WithoutServerHeaders(h nats.Header) nats.Header {
	out := nats.Header{}
	for k, v := range h {
		if !strings.HasPrefix(k, "Nats-") {
			out[k] = v
		}
	}
	return out
}
