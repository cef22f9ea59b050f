package streams

import (
	"context"
	"errors"
	"fmt"

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

// EnsureConsumer creates the durable consumer or repairs it, and leaves its position
// alone.
func EnsureConsumer(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig) error {
	var err error
	if cfg.DeliverSubject != "" {
		_, err = js.CreateOrUpdatePushConsumer(ctx, stream, cfg)
	} else {
		_, err = js.CreateOrUpdateConsumer(ctx, stream, cfg)
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

// SetAside stores an unreadable message in the quarantine stream of its side, with
// its subject, its headers and the reason, for a person to find. Only then may the
// caller acknowledge it.
func SetAside(ctx context.Context, js jetstream.JetStream, quarantineStream, subject string, header nats.Header, data []byte, reason error) error {
	prefix := map[string]string{Quarantine: "quarantine.", SiteQuarantine: "local.quarantine."}[quarantineStream]
	if prefix == "" {
		return fmt.Errorf("set aside %q: %q is not a quarantine stream", subject, quarantineStream)
	}
	msg := nats.NewMsg(prefix + subject)
	for k, v := range header {
		// The server would act upon its own headers.
		msg.Header["Original-"+k] = v
	}
	msg.Header.Set("Petiole-Reason", reason.Error())
	msg.Data = data
	if _, err := js.PublishMsg(ctx, msg); err != nil {
		return fmt.Errorf("set aside %q: %w", subject, err)
	}
	return nil
}
