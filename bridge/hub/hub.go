package hub

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/streams"
)

// ErrReplaced reports that the hub's streams are not those that this bridge has read. Its
// caches are invalid, and it starts again.
var ErrReplaced = errors.New("the hub's streams were replaced")

// Hub gives access to the hub's streams and to the bridge's bucket. Create it with Open.
type Hub struct {
	Conn *nats.Conn
	JS   jetstream.JetStream
	// server is the ID of the server that the streams were read from.
	server string
	// Desired is the stream DESIRED; desiredID is its creation time, which distinguishes it from
	// later streams of the same name.
	Desired   jetstream.Stream
	desiredID time.Time
	// Identity is the incarnation of DESIRED, as the leaves see it.
	Identity string
	// Bucket is the bucket with the bridge's own state.
	Bucket jetstream.KeyValue
}

// Open creates or updates the streams. It fails while the hub is unavailable.
func Open(ctx context.Context, nc *nats.Conn, limits streams.HubLimits) (*Hub, error) {
	js, err := jetstream.NewWithDomain(nc, streams.HubDomain, jetstream.WithDefaultTimeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	if problems := (streams.HubInfo{MaxPayload: nc.MaxPayload(), ServerVersion: nc.ConnectedServerVersion()}).Problems(); len(problems) > 0 {
		return nil, fmt.Errorf("check the hub: %s", strings.Join(problems, "; "))
	}
	if err := streams.Ensure(ctx, js, streams.HubStreams(limits)); err != nil {
		return nil, err
	}
	if err := streams.RetireShared(ctx, js); err != nil {
		return nil, err
	}
	h := &Hub{Conn: nc, server: nc.ConnectedServerId(), JS: js}
	if h.Desired, h.desiredID, err = openStream(ctx, js, streams.Desired); err != nil {
		return nil, err
	}
	if h.Identity, err = identityOf(ctx, js, streams.Desired); err != nil {
		return nil, err
	}
	if h.Bucket, err = openBucket(ctx, js, limits.Replicas); err != nil {
		return nil, err
	}
	return h, nil
}

// bucketName is the name of the bridge's own bucket at the hub.
const bucketName = "bridge"

// openBucket creates the bucket if it does not exist.
func openBucket(ctx context.Context, js jetstream.JetStream, replicas int) (jetstream.KeyValue, error) {
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: bucketName, Description: "State of the bridge: epoch of the API server's storage, up to where each site's reports are dealt with, and which of them count", History: 1, Replicas: max(replicas, 1),
	})
	if err != nil {
		return nil, fmt.Errorf("ensure bucket %s: %w", bucketName, err)
	}
	return kv, nil
}

// identityOf asks the hub for a stream's identity in the same way as a leaf: by resetting a
// consumer, here a temporary one.
func identityOf(ctx context.Context, js jetstream.JetStream, stream string) (string, error) {
	cons, err := js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		Description: "reads the identity of the stream", HeadersOnly: true,
		AckPolicy: jetstream.AckExplicitPolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return "", fmt.Errorf("read identity of %s: %w", stream, err)
	}
	name := cons.CachedInfo().Name
	defer func() {
		// It would expire by itself, but until then it would be listed among the sites'
		// consumers.
		_ = js.DeleteConsumer(context.WithoutCancel(ctx), stream, name)
	}()
	msg := nats.NewMsg("$JS." + streams.HubDomain + ".API.CONSUMER.RESET." + stream + "." + name)
	msg.Header.Set(streams.HeaderIdentity, "?")
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	reply, err := js.Conn().RequestMsgWithContext(asking, msg)
	if err != nil {
		return "", fmt.Errorf("read identity of %s: %w", stream, err)
	}
	id := reply.Header.Get(streams.HeaderIdentity)
	if id == "" {
		return "", fmt.Errorf("read identity of %s: the hub answers %s", stream, reply.Data)
	}
	return id, nil
}

func openStream(ctx context.Context, js jetstream.JetStream, name string) (jetstream.Stream, time.Time, error) {
	s, err := js.Stream(ctx, name)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("open stream %s: %w", name, err)
	}
	return s, s.CachedInfo().Created, nil
}

// CheckSame returns ErrReplaced if DESIRED is no longer the stream that was loaded. A
// restarted server may hold other messages: nats-server 2.15.2 brings back a superseded
// message if the message that superseded it is removed and the server is killed soon after
// (docs/upstream.md, 7).
func (h *Hub) CheckSame(ctx context.Context) error {
	if id := h.Conn.ConnectedServerId(); id != "" && id != h.server {
		return ErrReplaced
	}
	info, err := h.Desired.Info(ctx)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return ErrReplaced
	case err != nil:
		return fmt.Errorf("read stream: %w", err)
	case !info.Created.Equal(h.desiredID):
		return ErrReplaced
	}
	return nil
}
