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
	newest := newestDevices{}
	return readAll(ctx, i.hub.js, i.hub.reported, 1, ">", false, func(msg jetstream.Msg) error {
		r, k, err := i.read(ctx, msg)
		if errors.Is(err, streams.ErrUndecodable) {
			// Acknowledged, it was set aside by an earlier bridge that did not come to removing it.
			if r.seq <= floor && !i.isPutOff(k.site, r.seq) {
				i.discard(k.site, spent{seq: r.seq})
			}
			return nil
		}
		if err != nil || r == nil {
			return err
		}
		past := r.seq <= floor && !i.isPutOff(k.site, r.seq)
		switch {
		case lasts(r.msg) && r.msg.Object != nil && i.present(k):
			if !keeps(r.msg) {
				return nil
			}
			if was := newest.take(k, r); was != nil {
				i.reports.settle(was.key, was.seq, true)
			}
			i.reports.put(k, r)
		case past:
			i.discard(k.site, spent{seq: r.seq})
		}
		return nil
	})
}

// newestDevices are the newest reports about devices, of which a site has one for each
// node that a device was bound to. They are read in the order of the stream.
type newestDevices map[deviceOf]deviceReport

type deviceOf struct{ site, namespace, name, uid string }

type deviceReport struct {
	key reportKey
	seq uint64
}

// take takes in a report, and returns the one that is overtaken by it, if any: that must
// not be written again when the device is bound to its former node again.
func (n newestDevices) take(k reportKey, r *report) *deviceReport {
	if k.ref.Group != deviceGroup {
		return nil
	}
	device := deviceOf{k.site, k.ref.Namespace, k.ref.Name, r.msg.UID}
	was, ok := n[device]
	n[device] = deviceReport{k, r.seq}
	if !ok || was.key == k {
		return nil
	}
	return &was
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
// returns nothing for what the consumer alone deals with, streams.ErrUndecodable with the
// place of what cannot be read, and no object for one in parts that is not about an object
// of its site: it is not looked for.
func (i *intake) read(ctx context.Context, msg jetstream.Msg) (*report, reportKey, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, reportKey{}, err
	}
	site, part := i.note(msg, meta)
	if part {
		return nil, reportKey{}, nil
	}
	a := arrivalOf(msg, meta)
	m, err := i.decode(ctx, site, a)
	switch {
	case errors.Is(err, streams.ErrUndecodable):
		return &report{seq: a.seq}, reportKey{site: site}, err
	case errors.Is(err, streams.ErrSuperseded), errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, reportKey{}, nil
	case err != nil:
		return nil, reportKey{}, err
	}
	return &report{seq: a.seq, msg: m, stored: a.stored}, reportKey{site, m.Ref}, nil
}

// decode reads a report; but of one in parts that is not about an object of its site only
// what its headers tell.
func (i *intake) decode(ctx context.Context, site string, a *arrival) (streams.Message, error) {
	if a.header.Get(streams.HeaderParts) != "" {
		_, m, err := streams.Decode(a.subject, a.header, a.data)
		if err != nil || !lasts(m) || !i.concerns(reportKey{site, m.Ref}) {
			return m, err
		}
	}
	m, err := loadReport(ctx, i.hub.reported, a)
	return m, err
}
