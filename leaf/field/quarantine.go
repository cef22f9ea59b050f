package field

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// quarantine stores an unreadable message in SITE_QUARANTINE. It does nothing if the message
// is there already, which happens when it is read again after a restart.
func (f *Field) quarantine(ctx context.Context, subject string, header nats.Header, data []byte, reason error) error {
	stream, err := f.cfg.JS.Stream(ctx, streams.SiteQuarantine)
	if err != nil {
		return fmt.Errorf("open %s: %w", streams.SiteQuarantine, err)
	}
	last, err := stream.GetLastMsgForSubject(ctx, "local.quarantine."+subject)
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("look up %s in %s: %w", subject, streams.SiteQuarantine, err)
	}
	if err == nil && isCopy(last, header, data) {
		return nil
	}
	if err := streams.QuarantineMessage(ctx, f.cfg.JS, streams.SiteQuarantine, subject, header, data, reason); err != nil {
		return err
	}
	f.quarantined.Add(1)
	f.cfg.Log.Warn("device message quarantined: it cannot be read", zap.String("subject", subject), zap.Error(reason))
	return nil
}

// isCopy reports whether a quarantined message is a copy of the given message.
func isCopy(stored *jetstream.RawStreamMsg, header nats.Header, data []byte) bool {
	for k, v := range header {
		if !slices.Equal(stored.Header["Original-"+k], v) {
			return false
		}
	}
	return bytes.Equal(stored.Data, data)
}
