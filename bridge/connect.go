package bridge

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// dialHub returns a connection that retries until it is closed. An unavailable hub is not an
// error. It logs one line per change of state.
func dialHub(cfg NATSConfig, identity string, log *zap.Logger) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name("petiole bridge " + identity),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond), nats.ReconnectJitter(200*time.Millisecond, time.Second),
		nats.PingInterval(5 * time.Second), nats.MaxPingsOutstanding(2),
		// Without a buffer, publishing fails while the hub is unavailable, and the caller
		// retries.
		nats.ReconnectBufSize(-1),
		nats.ConnectHandler(func(c *nats.Conn) { log.Info("hub connected", zap.String("url", c.ConnectedUrlRedacted())) }),
		nats.ReconnectHandler(func(c *nats.Conn) { log.Info("hub connected again", zap.String("url", c.ConnectedUrlRedacted())) }),
		nats.DisconnectErrHandler(func(c *nats.Conn, err error) {
			if !c.IsClosed() {
				log.Warn("hub disconnected", zap.Error(err))
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			if s != nil {
				log.Warn("hub reports an error", zap.String("subject", s.Subject), zap.Error(err))
				return
			}
			log.Warn("hub reports an error", zap.Error(err))
		}),
	}
	if cfg.CAFile != "" {
		opts = append(opts, nats.RootCAs(cfg.CAFile))
	}
	if cfg.CredentialsFile != "" {
		opts = append(opts, nats.UserCredentials(cfg.CredentialsFile))
	}
	if cfg.NKeySeedFile != "" {
		nkey, err := nats.NkeyOptionFromSeed(cfg.NKeySeedFile)
		if err != nil {
			return nil, fmt.Errorf("read nkey seed %s: %w", cfg.NKeySeedFile, err)
		}
		opts = append(opts, nkey)
	}
	nc, err := nats.Connect(strings.Join(cfg.URLs, ","), opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the hub: %w", err)
	}
	if !nc.IsConnected() {
		log.Warn("hub not reachable, retrying", zap.Strings("urls", redactedAll(cfg.URLs)), zap.NamedError("last", nc.LastError()))
	}
	return nc, nil
}

func redactedAll(urls []string) []string {
	out := make([]string, len(urls))
	for i, u := range urls {
		out[i] = redacted(u)
	}
	return out
}

// hub gives access to the hub's streams.
type hub struct {
	nc *nats.Conn
	// server is the ID of the server that the streams were read from.
	server string
	js     jetstream.JetStream
	// desired and reported are the streams; desiredID and reportedID are their creation times,
	// which distinguish them from later streams of the same name.
	desired, reported     jetstream.Stream
	desiredID, reportedID time.Time
	// identity is the incarnation of DESIRED, as the leaves see it.
	identity string
	// bucket is the bucket with the bridge's own state.
	bucket jetstream.KeyValue
}

// openHub creates or updates the streams. It fails while the hub is unavailable.
func openHub(ctx context.Context, nc *nats.Conn, limits streams.HubLimits) (*hub, error) {
	js, err := jetstream.NewWithDomain(nc, streams.HubDomain, jetstream.WithDefaultTimeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	if err := streams.Ensure(ctx, js, streams.HubStreams(limits)); err != nil {
		return nil, err
	}
	h := &hub{nc: nc, server: nc.ConnectedServerId(), js: js}
	if h.desired, h.desiredID, err = openStream(ctx, js, streams.Desired); err != nil {
		return nil, err
	}
	if h.reported, h.reportedID, err = openStream(ctx, js, streams.Reported); err != nil {
		return nil, err
	}
	if h.identity, err = identityOf(ctx, js, streams.Desired); err != nil {
		return nil, err
	}
	if h.bucket, err = openBucket(ctx, js, limits.Replicas); err != nil {
		return nil, err
	}
	return h, nil
}

// bucketName is the name of the bridge's own bucket at the hub.
const bucketName = "bridge"

// openBucket creates the bucket if it does not exist.
func openBucket(ctx context.Context, js jetstream.JetStream, replicas int) (jetstream.KeyValue, error) {
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: bucketName, Description: "State of the bridge: epoch of the API server's storage, deferred reports", History: 1, Replicas: max(replicas, 1),
	})
	if err != nil {
		return nil, fmt.Errorf("ensure bucket %s: %w", bucketName, err)
	}
	return kv, nil
}

// headerIdentity is the header that requests, and returns, the identity of a stream.
const headerIdentity = "Nats-Stream-Identity"

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
	msg.Header.Set(headerIdentity, "?")
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	reply, err := js.Conn().RequestMsgWithContext(asking, msg)
	if err != nil {
		return "", fmt.Errorf("read identity of %s: %w", stream, err)
	}
	id := reply.Header.Get(headerIdentity)
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

// readAll calls handle for each message that the stream holds now, from a sequence on, in order.
// With headersOnly the hub does not send the bodies.
func readAll(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, from uint64, filter string, headersOnly bool, handle func(jetstream.Msg) error) error {
	name := stream.CachedInfo().Config.Name
	info, err := stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	cons, err := js.CreateConsumer(ctx, name, jetstream.ConsumerConfig{
		Description: "reads a stream into the bridge's cache", FilterSubject: filter, HeadersOnly: headersOnly,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1), AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	defer func() {
		// It would expire by itself, but until then it would be listed among the sites'
		// consumers.
		_ = js.DeleteConsumer(context.WithoutCancel(ctx), name, cons.CachedInfo().Name)
	}()
	left, next := cons.CachedInfo().NumPending, uint64(1)
	for left > 0 {
		batch, err := cons.Fetch(int(min(left, 500)), jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		for msg := range batch.Messages() {
			meta, err := msg.Metadata()
			if err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
			if meta.Sequence.Consumer != next {
				return fmt.Errorf("read %s: received message %d instead of %d", name, meta.Sequence.Consumer, next)
			}
			left, next = meta.NumPending, next+1
			if meta.Sequence.Stream > info.State.LastSeq {
				left = 0 // later messages are delivered another way
			}
			if err := handle(msg); err != nil {
				return err
			}
		}
		if err := batch.Error(); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if left == 0 {
			return nil
		}
		// Pending messages may have been replaced meanwhile.
		now, err := cons.Info(ctx)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		left = now.NumPending
	}
	return nil
}
