package bridge

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// recover reads what REPORTED holds: the memory of the write-back after a restart. Of
// objects that are in the API the newest report is kept; what was acknowledged and is
// about no such object is not needed any more.
func (i *intake) recover(ctx context.Context) error {
	if err := i.recoverPutOff(ctx); err != nil {
		return err
	}
	floor, err := i.floor(ctx)
	if err != nil {
		return err
	}
	return readAll(ctx, i.hub.js, i.hub.reported, 1, ">", false, func(msg jetstream.Msg) error {
		r, k, err := i.read(ctx, msg)
		switch {
		case err != nil:
			return err
		case r == nil:
			return nil
		case keeps(r.msg) && i.present(k):
			i.reports.put(k, r)
		case r.seq <= floor && !i.isPutOff(k.site, r.seq):
			i.discard(k.site, r.seq)
		}
		return nil
	})
}

// floor is up to where the bridge has acknowledged.
func (i *intake) floor(ctx context.Context) (uint64, error) {
	cons, err := i.hub.reported.Consumer(ctx, streams.BridgeConsumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read consumer %s on %s: %w", streams.BridgeConsumer, streams.Reported, err)
	}
	return cons.CachedInfo().AckFloor.Stream, nil
}

// read reads a message again that the durable consumer delivers, or has delivered. It
// returns nothing for what the consumer alone deals with.
func (i *intake) read(ctx context.Context, msg jetstream.Msg) (*report, reportKey, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, reportKey{}, err
	}
	site, m, err := loadReport(ctx, i.hub.reported, msg)
	if site != "" {
		i.note(site, meta.Sequence.Stream)
	}
	switch {
	case streams.IsPart(msg.Subject()), errors.Is(err, streams.ErrUndecodable), errors.Is(err, streams.ErrSuperseded), errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, reportKey{}, nil
	case err != nil:
		return nil, reportKey{}, err
	}
	return &report{seq: meta.Sequence.Stream, msg: m, stored: meta.Timestamp}, reportKey{site, m.Ref}, nil
}
