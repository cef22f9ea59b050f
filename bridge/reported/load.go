package reported

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/table"
)

// loadMessages is the number of messages that are read in one request when a stream is opened.
const loadMessages = 500

// loader reads what a site's stream holds when it is opened.
type loader struct {
	*reader
	newest newestDeviceReports
}

// load reads what a site's stream holds when it is opened. It keeps the newest report of each
// existing object, and marks reports about other objects as obsolete if they were dealt with.
func (r *loader) load(ctx context.Context, s *siteState, last uint64) error {
	for from := uint64(1); from <= last; {
		msgs, err := r.table.Read(ctx, s.name, from, loadMessages)
		if err != nil || len(msgs) == 0 {
			return err
		}
		for _, m := range msgs {
			if from = m.Seq + 1; m.Seq > last {
				break
			}
			if err := r.loadMessage(ctx, s, &m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *loader) loadMessage(ctx context.Context, s *siteState, d *table.Message) error {
	if _, _, err := streams.ParsePart(d.Subject); err == nil {
		s.checkParts(r.now().Add(orphanWait))
		return nil
	}
	m, err := r.decodeReport(ctx, s, d)
	past := d.Seq <= s.floor.seq
	switch {
	case errors.Is(err, streams.ErrSuperseded), errors.Is(err, jetstream.ErrMsgNotFound):
		if _, ref, err := streams.ParseReported(d.Subject); err == nil && !s.live.lacks(d.Seq) {
			s.retain(ref, d.Seq)
		}
		return nil
	case errors.Is(err, streams.ErrUndecodable):
		// It was quarantined by an earlier bridge that did not get around to removing it.
	case err != nil:
		return err
	case isRetained(m) && !isState(m) && r.Writer.Exists(m.Ref):
		return nil
	case s.live.lacks(d.Seq):
		// A hub that was killed has brought it back.
	case isState(m) && m.Object != nil && r.Writer.Exists(m.Ref):
		k, n := Key{s.name, m.Ref}, &report{seq: d.Seq, msg: m, stored: storedAt(d)}
		if was := r.newest.add(k, n); was != nil {
			r.reports.resolve(was.key, was.seq, true)
		}
		if !r.reports.put(k, n) {
			s.retain(m.Ref, d.Seq)
			r.Log.Warn("report not kept", zap.Uint64("seq", d.Seq), zap.Error(r.Limits.refuseState(s.name, m.Ref)))
		}
		return nil
	}
	if past {
		s.discard(obsoleteMessage(d))
	}
	return nil
}

// decodeReport decodes a report. If it has parts and is not about an object of its site, only
// the headers are decoded.
func (r *loader) decodeReport(ctx context.Context, s *siteState, d *table.Message) (streams.Message, error) {
	if d.Header.Get(streams.HeaderParts) != "" {
		_, m, err := streams.Decode(d.Subject, d.Header, d.Data)
		if err != nil || !isRetained(m) || !r.Writer.Owns(s.name, m.Ref) {
			return m, err
		}
	}
	return loadReport(ctx, s.stream, d)
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
