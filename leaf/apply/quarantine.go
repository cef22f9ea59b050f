package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// quarantine stores an unreadable message in SITE_QUARANTINE. It stores nothing if the
// message is there already: it is read again after a restart, and by other appliers.
func (a *Applier) quarantine(ctx context.Context, msg jetstream.Msg, seq uint64, reason error) error {
	a.progress.markUnreadable(seq)
	s, err := a.cfg.JS.Stream(ctx, streams.SiteQuarantine)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", streams.SiteQuarantine, err)
	}
	last, err := s.GetLastMsgForSubject(ctx, "local.quarantine."+msg.Subject())
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("look up %s in %s: %w", msg.Subject(), streams.SiteQuarantine, err)
	}
	if err == nil && isCopy(last, msg) {
		return nil
	}
	if err := streams.QuarantineMessage(ctx, a.cfg.JS, streams.SiteQuarantine, msg.Subject(), msg.Headers(), msg.Data(), reason, 0); err != nil {
		return err
	}
	a.progress.countQuarantined()
	a.log.Warn("desired object quarantined: it cannot be read", zap.String("subject", msg.Subject()), zap.Uint64("seq", seq), zap.Error(reason))
	return nil
}

// isCopy reports whether a quarantined message is a copy of msg.
func isCopy(stored *jetstream.RawStreamMsg, msg jetstream.Msg) bool {
	for k, v := range msg.Headers() {
		if !slices.Equal(stored.Header["Original-"+k], v) {
			return false
		}
	}
	return bytes.Equal(stored.Data, msg.Data())
}
