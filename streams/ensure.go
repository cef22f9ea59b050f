package streams

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Ensure creates the streams that are missing and updates those whose configuration
// differs. It never deletes one: it returns an error that names the stream if the server
// rejects the update.
func Ensure(ctx context.Context, js jetstream.JetStream, streams []jetstream.StreamConfig) error {
	for _, cfg := range streams {
		if _, err := js.CreateOrUpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("ensure stream %s: %w", cfg.Name, err)
		}
	}
	return nil
}

// EnsureConsumer creates the durable pull consumer or updates it, and keeps its position. A
// push consumer of the same name is replaced, and the new consumer starts at the beginning.
func EnsureConsumer(ctx context.Context, js jetstream.JetStream, stream string, cfg jetstream.ConsumerConfig) error {
	_, err := js.CreateOrUpdateConsumer(ctx, stream, cfg)
	if err != nil {
		// nats-server does not turn a push consumer, as an earlier version created it, into a
		// pull consumer.
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

// SharedReported is the stream in which earlier versions stored the reports of all sites. The
// bridge moves them.
const SharedReported = "REPORTED"

// sharedTelemetry is the stream in which earlier versions stored the records of all sites.
const sharedTelemetry = "TELEMETRY"

// RetireShared gives the subjects of the streams that all sites shared in earlier versions to the
// streams of the sites. The old stream keeps what it has, and the room for it, until somebody
// deletes it. It is no error if there is none.
func RetireShared(ctx context.Context, js jetstream.JetStream) error {
	if err := retireReported(ctx, js); err != nil {
		return err
	}
	s, err := js.Stream(ctx, sharedTelemetry)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read stream %s: %w", sharedTelemetry, err)
	}
	cfg, retired := s.CachedInfo().Config, []string{"retired." + telemetryPrefix + ".>"}
	if !slices.Equal(cfg.Subjects, retired) {
		cfg.Subjects = retired
		cfg.Description = "Records of all sites from before they had streams of their own; nothing is added, delete it when it is not needed"
		if s, err = js.UpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("retire stream %s: %w", sharedTelemetry, err)
		}
	}
	// Only now is it certain that no more arrives.
	state := s.CachedInfo().State
	if room := max(int64(state.Bytes), 1); cfg.MaxBytes != room {
		cfg.MaxBytes = room
		if _, err := js.UpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("reduce the room of stream %s: %w", sharedTelemetry, err)
		}
	}
	return nil
}

func retireReported(ctx context.Context, js jetstream.JetStream) error {
	s, err := js.Stream(ctx, SharedReported)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read stream %s: %w", SharedReported, err)
	}
	cfg, retired := s.CachedInfo().Config, []string{"retired." + AllReported}
	if slices.Equal(cfg.Subjects, retired) {
		return nil
	}
	cfg.Subjects = retired
	cfg.Description = "Reports of sites from before they had streams of their own; the bridge moves them, and deletes this stream when it is empty"
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("retire stream %s: %w", SharedReported, err)
	}
	return nil
}

// Usage is what a site uses of its streams at the hub.
type Usage struct {
	// Streams is the number of its streams that exist.
	Streams int
	// Fullest is the fraction of its bytes or messages that the fullest one of them uses.
	Fullest float64
}

// SiteUsage returns what each site that has streams at the hub uses of them.
func SiteUsage(ctx context.Context, js jetstream.JetStream) (map[string]Usage, error) {
	used := map[string]Usage{}
	for _, kind := range []struct {
		subjects string
		name     func(site string) string
	}{{telemetryPrefix + ".*.>", Telemetry}, {AllReported, Reported}} {
		list := js.ListStreams(ctx, jetstream.WithStreamListSubject(kind.subjects))
		for info := range list.Info() {
			site, ok := strings.CutPrefix(info.Config.Name, kind.name(""))
			if !ok {
				continue
			}
			u := used[site]
			u.Streams++
			for have, limit := range map[uint64]int64{info.State.Bytes: info.Config.MaxBytes, info.State.Msgs: info.Config.MaxMsgs} {
				if limit > 0 {
					u.Fullest = max(u.Fullest, float64(have)/float64(limit))
				}
			}
			used[site] = u
		}
		if err := list.Err(); err != nil {
			return nil, fmt.Errorf("list the streams of sites: %w", err)
		}
	}
	return used, nil
}

// CodeNoRoom is the code of the API error for a stream whose bytes cannot be reserved
// (JSStorageResourcesExceededErr).
const CodeNoRoom = 10047

// RemoveSite deletes a site's streams, its desired objects and its consumer from the hub. It is
// no error if they do not exist. Without the streams nobody answers the site, and its leaf keeps
// what it has. The consumer is the last to go: as long as it exists, something may be left.
func RemoveSite(ctx context.Context, js jetstream.JetStream, site string) error {
	for _, cfg := range SiteStreams(site, SiteLimits{}) {
		if err := js.DeleteStream(ctx, cfg.Name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("delete stream %s: %w", cfg.Name, err)
		}
	}
	s, err := js.Stream(ctx, Desired)
	if err != nil {
		return fmt.Errorf("remove site %s: %w", site, err)
	}
	if err := s.Purge(ctx, jetstream.WithPurgeSubject(DesiredFilter(site))); err != nil {
		return fmt.Errorf("purge %s: %w", DesiredFilter(site), err)
	}
	if err := js.DeleteConsumer(ctx, Desired, site); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("delete consumer %s on %s: %w", site, Desired, err)
	}
	return nil
}

// The headers of a message in quarantine.
const (
	// HeaderReason is the error for which the message was quarantined.
	HeaderReason = "Petiole-Reason"
	// HeaderTruncated is the size of the original body in bytes, if the body was cut to fit
	// the server's max_payload.
	HeaderTruncated = "Petiole-Truncated"
	// originalPrefix precedes the names of the original headers: the server would act on
	// its own ones.
	originalPrefix = "Original-"
	// maxReason bounds HeaderReason, in bytes: an API server's error repeats the object.
	maxReason = 2048
)

// QuarantineMessage stores an unreadable message in quarantineStream, Quarantine or
// SiteQuarantine, with its subject, its headers and the reason. If that makes it larger than
// limit or the server's max_payload, its body is cut, and if the headers alone are too large, only
// those that identify the message are kept. A limit of 0 is none. The caller may acknowledge the message only
// after QuarantineMessage has returned nil.
func QuarantineMessage(ctx context.Context, js jetstream.JetStream, quarantineStream, subject string, header nats.Header, data []byte, reason error, limit int) error {
	prefix := map[string]string{Quarantine: "quarantine.", SiteQuarantine: "local.quarantine."}[quarantineStream]
	if prefix == "" {
		return fmt.Errorf("quarantine %q: %q is not a quarantine stream", subject, quarantineStream)
	}
	if payload := int(js.Conn().MaxPayload()); limit == 0 || payload > 0 && payload < limit {
		limit = payload
	}
	msg := quarantineMessage(prefix+subject, header, data, reason, limit)
	if _, err := js.PublishMsg(ctx, msg); err != nil {
		return fmt.Errorf("quarantine %q: %w", subject, err)
	}
	return nil
}

func quarantineMessage(subject string, header nats.Header, data []byte, reason error, limit int) *nats.Msg {
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

// headerBytes returns at least the size of a message's headers on the wire.
func headerBytes(m *nats.Msg) int {
	n := 0
	for k, values := range m.Header {
		for _, v := range values {
			n += len(k) + len(v) + len(": \r\n")
		}
	}
	return n
}
