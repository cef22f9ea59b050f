package desired

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/urgent"
)

// Urgent returns copies of the messages in the backlog of a site that may overtake others.
func (w *writer) Urgent(ctx context.Context, site string, q urgent.Query) (urgent.Answer, error) {
	return urgent.Collect(w.pendingEntries(site, q.Position), q, func(e urgent.Entry) (urgent.Message, error) {
		msg, err := w.hub.Desired.GetLastMsgForSubject(ctx, e.Subject)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return urgent.Message{}, nil
		case err != nil:
			return urgent.Message{}, fmt.Errorf("read %s: %w", e.Subject, err)
		}
		return urgent.Copy(msg.Sequence, e.Subject, msg.Header, msg.Data), nil
	})
}

// pendingEntries returns the entries of a site after a position.
func (s *state) pendingEntries(site string, position uint64) (out []urgent.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, entries := range s.desired.sites[site] {
		for _, e := range entries {
			if e.seq > position {
				out = append(out, urgent.Entry{Subject: e.subject, Delete: e.op == streams.OpDelete, Parts: e.parts, Seq: e.seq})
			}
		}
	}
	return out
}
