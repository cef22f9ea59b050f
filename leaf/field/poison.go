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

// setAside keeps an unreadable message for people, once: one that is read again, after a
// restart or by another consumer, is found there already.
func (f *Field) setAside(ctx context.Context, subject string, header nats.Header, data []byte, reason error) error {
	quarantine, err := f.cfg.JS.Stream(ctx, streams.SiteQuarantine)
	if err != nil {
		return fmt.Errorf("open %s: %w", streams.SiteQuarantine, err)
	}
	last, err := quarantine.GetLastMsgForSubject(ctx, "local.quarantine."+subject)
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("look for %s in %s: %w", subject, streams.SiteQuarantine, err)
	}
	if err == nil && isCopy(last, header, data) {
		return nil
	}
	if err := streams.QuarantineMessage(ctx, f.cfg.JS, streams.SiteQuarantine, subject, header, data, reason); err != nil {
		return err
	}
	f.quarantined.Add(1)
	f.cfg.Log.Warn("device message set aside", zap.String("subject", subject), zap.Error(reason))
	return nil
}

// isCopy tells whether what is in quarantine was made of the message.
func isCopy(kept *jetstream.RawStreamMsg, header nats.Header, data []byte) bool {
	for k, v := range header {
		if !slices.Equal(kept.Header["Original-"+k], v) {
			return false
		}
	}
	return bytes.Equal(kept.Data, data)
}
