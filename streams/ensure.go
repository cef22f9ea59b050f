package streams

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Ensure creates the streams that are missing and repairs those that differ. It
// never deletes one: a difference that the server refuses to change is an error that
// names the stream.
func Ensure(ctx context.Context, js jetstream.JetStream, streams []jetstream.StreamConfig) error {
	for _, cfg := range streams {
		if _, err := js.CreateOrUpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("ensure stream %s: %w", cfg.Name, err)
		}
	}
	return nil
}

// EnsureConsumer creates the durable pull consumer or repairs it, and leaves its position
// alone; a push consumer of its name is replaced, and the new one begins at the beginning.
func EnsureConsumer(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig) error {
	_, err := js.CreateOrUpdateConsumer(ctx, stream, cfg)
	if err != nil {
		// nats-server makes no pull consumer of the push consumer that a former version made.
		if _, notPush := js.PushConsumer(ctx, stream, cfg.Durable); notPush == nil {
			if err = js.DeleteConsumer(ctx, stream, cfg.Durable); err == nil {
				_, err = js.CreateConsumer(ctx, stream, cfg)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("ensure consumer %s on %s: %w", cfg.Durable, stream, err)
	}
	return nil
}

// RemoveSite takes a site's consumer and its desired objects away from the hub.
// Missing ones are no error.
func RemoveSite(ctx context.Context, js jetstream.JetStream, site string) error {
	if err := js.DeleteConsumer(ctx, Desired, site); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("delete consumer %s on %s: %w", site, Desired, err)
	}
	s, err := js.Stream(ctx, Desired)
	if err != nil {
		return fmt.Errorf("remove site %s: %w", site, err)
	}
	if err := s.Purge(ctx, jetstream.WithPurgeSubject(DesiredFilter(site))); err != nil {
		return fmt.Errorf("purge %s: %w", DesiredFilter(site), err)
	}
	return nil
}

// The headers of a message that was set aside.
const (
	// HeaderReason is why the message was set aside.
	HeaderReason = "Petiole-Reason"
	// HeaderTruncated is how many bytes the body had, if it was cut to fit the server's
	// max_payload.
	HeaderTruncated = "Petiole-Truncated"
	// originalPrefix precedes the names of the headers that the message had. The server
	// would act upon its own headers.
	originalPrefix = "Original-"
	// maxReason bounds HeaderReason, in bytes: an API server repeats what it refuses.
	maxReason = 2048
)

// SetAside stores an unreadable message in the quarantine stream of its side, with its
// subject, its headers and the reason, for a person to find. A message that has become
// larger than the server's max_payload by that is cut: its body, and when its headers
// alone are too large, all of them but what says what the message was. Only when SetAside
// returns nil may the caller acknowledge the message.
func SetAside(ctx context.Context, js jetstream.JetStream, quarantineStream, subject string, header nats.Header, data []byte, reason error) error {
	prefix := map[string]string{Quarantine: "quarantine.", SiteQuarantine: "local.quarantine."}[quarantineStream]
	if prefix == "" {
		return fmt.Errorf("set aside %q: %q is not a quarantine stream", subject, quarantineStream)
	}
	msg := asideMessage(prefix+subject, header, data, reason, int(js.Conn().MaxPayload()))
	if _, err := js.PublishMsg(ctx, msg); err != nil {
		return fmt.Errorf("set aside %q: %w", subject, err)
	}
	return nil
}

func asideMessage(subject string, header nats.Header, data []byte, reason error, limit int) *nats.Msg {
	msg := nats.NewMsg(subject)
	why := reason.Error()
	msg.Header.Set(HeaderReason, why[:min(len(why), maxReason)])
	for k, v := range header {
		msg.Header[originalPrefix+k] = v
	}
	if limit > 0 && headerBytes(msg) > limit-headerRoom {
		msg.Header = nats.Header{HeaderReason: msg.Header[HeaderReason]}
		for _, k := range []string{HeaderOp, HeaderUID, HeaderVersion, HeaderParts} {
			if v := header.Get(k); v != "" && len(v) < 256 {
				msg.Header.Set(originalPrefix+k, v)
			}
		}
	}
	msg.Data = data
	if room := limit - headerBytes(msg) - headerRoom; limit > 0 && len(data) > max(room, 0) {
		msg.Header.Set(HeaderTruncated, strconv.Itoa(len(data)))
		msg.Data = data[:max(room, 0)]
	}
	return msg
}

// headerBytes is at least what the headers of a message take on the wire.
func headerBytes(m *nats.Msg) int {
	n := 0
	for k, values := range m.Header {
		for _, v := range values {
			n += len(k) + len(v) + len(": \r\n")
		}
	}
	return n
}
