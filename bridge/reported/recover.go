package reported

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

// recoverReports reads the content of REPORTED after a restart. It keeps the newest report of
// each existing object, and marks acknowledged reports about other objects as obsolete.
func (c *consumer) recoverReports(ctx context.Context) error {
	if err := c.deferrals.load(ctx); err != nil {
		return err
	}
	floor, err := ackFloor(ctx, c.Hub.Reported)
	if err != nil {
		return err
	}
	newest := newestDeviceReports{}
	return c.Hub.ReadAll(ctx, c.Hub.Reported, 1, ">", false, func(msg jetstream.Msg) error {
		r, k, err := c.readReport(ctx, msg)
		if errors.Is(err, streams.ErrUndecodable) {
			// An acknowledged message was quarantined by an earlier bridge that did not get
			// around to removing it.
			if r.seq <= floor && !c.deferrals.contains(k.Site, r.seq) {
				c.garbage.add(k.Site, obsolete{seq: r.seq})
			}
			return nil
		}
		if err != nil || r == nil {
			return err
		}
		past := r.seq <= floor && !c.deferrals.contains(k.Site, r.seq)
		switch {
		case isRetained(r.msg) && r.msg.Object != nil && c.Writer.Exists(k.Ref):
			if !isState(r.msg) {
				return nil
			}
			if was := newest.add(k, r); was != nil {
				c.reports.resolve(was.key, was.seq, true)
			}
			c.reports.put(k, r)
		case past:
			c.garbage.add(k.Site, obsolete{seq: r.seq})
		}
		return nil
	})
}

// newestDeviceReports holds the newest report of each device. A site has one report for each
// node that a device was bound to. They are added in the order of the stream.
type newestDeviceReports map[deviceOf]deviceReport

type deviceOf struct{ site, namespace, name, uid string }

type deviceReport struct {
	key Key
	seq uint64
}

// add adds a report and returns the one that it replaces, if any. That one must not be written
// again if the device moves back to its former node.
func (n newestDeviceReports) add(k Key, r *report) *deviceReport {
	if k.Ref.Group != kube.DeviceGroup {
		return nil
	}
	device := deviceOf{k.Site, k.Ref.Namespace, k.Ref.Name, r.msg.UID}
	was, ok := n[device]
	n[device] = deviceReport{k, r.seq}
	if !ok || was.key == k {
		return nil
	}
	return &was
}

// ackFloor returns the ack floor of the bridge's consumer of REPORTED.
func ackFloor(ctx context.Context, reported jetstream.Stream) (uint64, error) {
	cons, err := reported.Consumer(ctx, streams.BridgeConsumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read consumer %s on %s: %w", streams.BridgeConsumer, streams.Reported, err)
	}
	return cons.CachedInfo().AckFloor.Stream, nil
}

// readReport reads a message that the durable consumer delivers or has delivered. It returns
// nil for messages that only the consumer handles, streams.ErrUndecodable with the sequence of
// an unreadable message, and a report without object if its parts need not be read because it
// is not about an object of its site.
func (c *consumer) readReport(ctx context.Context, msg jetstream.Msg) (*report, Key, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, Key{}, err
	}
	site, part := c.track(msg, meta)
	if part {
		return nil, Key{}, nil
	}
	d := newDelivery(msg, meta)
	m, err := c.decodeReport(ctx, site, d)
	switch {
	case errors.Is(err, streams.ErrUndecodable):
		return &report{seq: d.seq}, Key{Site: site}, err
	case errors.Is(err, streams.ErrSuperseded), errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, Key{}, nil
	case err != nil:
		return nil, Key{}, err
	}
	return &report{seq: d.seq, msg: m, stored: d.stored}, Key{site, m.Ref}, nil
}

// decodeReport decodes a report. If it has parts and is not about an object of its site, only
// the headers are decoded.
func (c *consumer) decodeReport(ctx context.Context, site string, d *delivery) (streams.Message, error) {
	if d.header.Get(streams.HeaderParts) != "" {
		_, m, err := streams.Decode(d.subject, d.header, d.data)
		if err != nil || !isRetained(m) || !c.Writer.Owns(site, m.Ref) {
			return m, err
		}
	}
	m, err := loadReport(ctx, c.Hub.Reported, d)
	return m, err
}
