package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/leaf/desired"
	"github.com/petiole-io/petiole/streams"
)

// Erase removes from the disk what SITE_DESIRED holds of the objects with these subjects, which are
// deleted, and returns when nothing of them can come back. The caller holds the lock, and stores
// their tombstones next.
//
// Until then a kill would bring back the message before the erased one (docs/upstream.md, 7), so the
// live set is written first; and the stream must not lose its end.
func (d *Desired) Erase(ctx context.Context, subjects []string) error {
	s, err := d.js.Stream(ctx, streams.SiteDesired)
	if err != nil {
		return fmt.Errorf("open %s: %w", streams.SiteDesired, err)
	}
	var going []uint64
	for _, subject := range subjects {
		seqs, _, err := streams.Erasable(ctx, s, subject, 0)
		if err != nil {
			return err
		}
		going = append(going, seqs...)
	}
	if len(going) == 0 {
		return nil
	}
	if err := d.moveEnd(ctx, s, going); err != nil {
		return err
	}
	info, err := s.Info(ctx)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", streams.SiteDesired, err)
	}
	seen, _, err := d.list(ctx, s, nil)
	if err != nil {
		return err
	}
	if err := newLiveSet(info, seen, going).write(d.liveSetFile); err != nil {
		return err
	}
	return streams.EraseMessages(ctx, s, going)
}

// moveEnd stores another message of the stream once more if the last one is about to go: the last
// one holds the position of the site, and a stream without it counts as damaged. That is no Secret,
// of which the former copy would stay on the disk. If there is nothing else, it does nothing.
func (d *Desired) moveEnd(ctx context.Context, s jetstream.Stream, going []uint64) error {
	last := s.CachedInfo().State.LastSeq
	if !slices.Contains(going, last) {
		return nil
	}
	_, stays, err := d.list(ctx, s, going)
	if err != nil || stays == 0 {
		return err
	}
	end, err := s.GetMsg(ctx, last)
	if err != nil {
		return fmt.Errorf("read the end of %s: %w", streams.SiteDesired, err)
	}
	msg, err := s.GetMsg(ctx, stays)
	if err != nil {
		return fmt.Errorf("read message %d of %s: %w", stays, streams.SiteDesired, err)
	}
	again := &nats.Msg{Subject: msg.Subject, Header: desired.WithoutServerHeaders(msg.Header), Data: msg.Data}
	again.Header.Set(streams.HeaderSource, end.Header.Get(streams.HeaderSource))
	if _, err := d.js.PublishMsg(ctx, again); err != nil {
		return fmt.Errorf("store %s again: %w", msg.Subject, err)
	}
	return nil
}

// list returns the sequences of all messages, and that of the last one that is neither in going nor a
// part nor that of a Secret: 0 if there is none.
func (d *Desired) list(ctx context.Context, s jetstream.Stream, going []uint64) (seen []uint64, stays uint64, err error) {
	err = desired.Read(ctx, s, d.site, true, func(msg jetstream.Msg, md *jetstream.MsgMetadata) error {
		seq := md.Sequence.Stream
		seen = append(seen, seq)
		if _, ref, err := streams.ParseDesired(msg.Subject()); err == nil && !streams.IsPart(msg.Subject()) && !ref.IsSecret() && !slices.Contains(going, seq) {
			stays = seq
		}
		return nil
	})
	if errors.Is(err, desired.ErrUnreadable) {
		d.ReportUnreadable()
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", streams.SiteDesired, err)
	}
	return seen, stays, nil
}
