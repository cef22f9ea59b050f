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
func (c *reportConsumer) recoverReports(ctx context.Context) error {
	if err := c.loadDeferred(ctx); err != nil {
		return err
	}
	floor, err := c.ackFloor(ctx)
	if err != nil {
		return err
	}
	newest := newestDeviceReports{}
	return readAll(ctx, c.hub.js, c.hub.reported, 1, ">", false, func(msg jetstream.Msg) error {
		r, k, err := c.readReport(ctx, msg)
		if errors.Is(err, streams.ErrUndecodable) {
			// Acknowledged, it was set aside by an earlier bridge that did not come to removing it.
			if r.seq <= floor && !c.isDeferred(k.site, r.seq) {
				c.markObsolete(k.site, obsolete{seq: r.seq})
			}
			return nil
		}
		if err != nil || r == nil {
			return err
		}
		past := r.seq <= floor && !c.isDeferred(k.site, r.seq)
		switch {
		case isRetained(r.msg) && r.msg.Object != nil && c.objectExists(k):
			if !isState(r.msg) {
				return nil
			}
			if was := newest.add(k, r); was != nil {
				c.reports.resolve(was.key, was.seq, true)
			}
			c.reports.put(k, r)
		case past:
			c.markObsolete(k.site, obsolete{seq: r.seq})
		}
		return nil
	})
}

// newestDevices are the newest reports about devices, of which a site has one for each
// node that a device was bound to. They are read in the order of the stream.
type newestDeviceReports map[deviceOf]deviceReport

type deviceOf struct{ site, namespace, name, uid string }

type deviceReport struct {
	key reportKey
	seq uint64
}

// take takes in a report, and returns the one that is overtaken by it, if any: that must
// not be written again when the device is bound to its former node again.
func (n newestDeviceReports) add(k reportKey, r *report) *deviceReport {
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
func (c *reportConsumer) ackFloor(ctx context.Context) (uint64, error) {
	cons, err := c.hub.reported.Consumer(ctx, streams.BridgeConsumer)
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
func (c *reportConsumer) readReport(ctx context.Context, msg jetstream.Msg) (*report, reportKey, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, reportKey{}, err
	}
	site, part := c.track(msg, meta)
	if part {
		return nil, reportKey{}, nil
	}
	a := newDelivery(msg, meta)
	m, err := c.decodeReport(ctx, site, a)
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
func (c *reportConsumer) decodeReport(ctx context.Context, site string, a *delivery) (streams.Message, error) {
	if a.header.Get(streams.HeaderParts) != "" {
		_, m, err := streams.Decode(a.subject, a.header, a.data)
		if err != nil || !isRetained(m) || !c.ownsObject(reportKey{site, m.Ref}) {
			return m, err
		}
	}
	m, err := loadReport(ctx, c.hub.reported, a)
	return m, err
}
