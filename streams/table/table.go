package table

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// Config is what a Table needs.
type Config struct {
	Conn *nats.Conn
	// Domain is the JetStream domain of the streams.
	Domain string
	// Name returns the name of a site's stream, Site the site of a subject in it.
	Name func(site string) string
	Site func(subject string) (string, error)
	// Subjects matches the subjects of all the streams. They republish their messages on the
	// same subjects below Republished.
	Subjects, Republished string
	// Changed is called when a site may have something new. It must not block.
	Changed func(site string)
	Log     *zap.Logger

	// interval is the time over which a list is spread; default a minute.
	interval time.Duration
}

const (
	listInterval = time.Minute
	// lookInterval is the time between two looks at whether notifications were lost on the way.
	lookInterval = time.Second
	// requestTimeout bounds a request to the hub.
	requestTimeout = 5 * time.Second
)

// Tail is what is known of the end of a site's stream.
type Tail struct {
	// Last is the last sequence that is known to have been stored.
	Last uint64
	// Generation changes whenever the stream may have been created again.
	Generation uint64

	created time.Time
}

// Exists reports whether the stream was there when the streams were listed last.
func (t Tail) Exists() bool { return !t.created.IsZero() }

// Table follows the streams. Create it with New. It is safe for concurrent use.
type Table struct {
	cfg Config

	mu    sync.Mutex
	tails map[string]Tail
}

// New returns a table that follows nothing yet.
func New(cfg Config) *Table {
	if cfg.interval == 0 {
		cfg.interval = listInterval
	}
	return &Table{cfg: cfg, tails: map[string]Tail{}}
}

// Tail returns the known end of a site's stream, zero if none is known.
func (t *Table) Tail(site string) Tail {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tails[site]
}

// Sites returns the sites whose streams are known.
func (t *Table) Sites() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]string, 0, len(t.tails))
	for site := range t.tails {
		all = append(all, site)
	}
	return all
}

// Forget forgets the end of a site's stream, which was deleted.
func (t *Table) Forget(site string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tails, site)
}

// Run follows the streams until ctx ends. It returns an error only if it cannot subscribe.
func (t *Table) Run(ctx context.Context) error {
	sub, err := t.cfg.Conn.Subscribe(t.cfg.Republished+"."+t.cfg.Subjects, t.stored)
	if err != nil {
		return fmt.Errorf("follow %s: %w", t.cfg.Subjects, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection has been closed
	spread := time.Duration(0)
	for ctx.Err() == nil {
		lost := t.losses(sub)
		err := t.list(ctx, spread, func() bool { return t.losses(sub) != lost })
		if spread = t.cfg.interval; err != nil {
			spread = 0
			t.cfg.Log.Debug("cannot list streams, retrying", zap.String("subjects", t.cfg.Subjects), zap.Error(err))
			pause(ctx, lookInterval, func() bool { return false })
		} else if t.losses(sub) != lost {
			spread = 0
		}
	}
	return nil
}

// losses counts the occasions on which notifications may have been lost.
func (t *Table) losses(sub *nats.Subscription) uint64 {
	dropped, err := sub.Dropped()
	if err != nil {
		dropped = 0 // the subscription has ended
	}
	return t.cfg.Conn.Stats().Reconnects + uint64(dropped)
}

// List compares with the streams that exist, once.
func (t *Table) List(ctx context.Context) error {
	return t.list(ctx, 0, func() bool { return false })
}

// list reads the state of all streams, page by page, over a time. It ends early if lost returns
// true.
func (t *Table) list(ctx context.Context, spread time.Duration, lost func() bool) error {
	for offset := 0; ; {
		var page struct {
			Error   *jetstream.APIError     `json:"error"`
			Total   int                     `json:"total"`
			Streams []*jetstream.StreamInfo `json:"streams"`
		}
		if err := request(ctx, t.cfg, "STREAM.LIST", map[string]any{"offset": offset, "subject": t.cfg.Subjects}, &page); err != nil {
			return err
		}
		if page.Error != nil {
			return fmt.Errorf("list streams: %w", page.Error)
		}
		for _, info := range page.Streams {
			t.listed(info)
		}
		offset += len(page.Streams)
		last := offset >= page.Total || len(page.Streams) == 0
		wait := spread
		if !last {
			wait = spread * time.Duration(len(page.Streams)) / time.Duration(page.Total)
		} else if page.Total > 0 {
			wait = spread * time.Duration(max(len(page.Streams), 1)) / time.Duration(page.Total)
		}
		if !pause(ctx, wait, lost) || last {
			return ctx.Err()
		}
	}
}

// pause waits. It returns false if ctx ends or stop returns true before.
func pause(ctx context.Context, d time.Duration, stop func() bool) bool {
	for d > 0 {
		step := min(d, lookInterval)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(step):
		}
		if d -= step; stop() {
			return false
		}
	}
	return ctx.Err() == nil
}

// listed takes the state of a stream.
func (t *Table) listed(info *jetstream.StreamInfo) {
	if len(info.Config.Subjects) == 0 {
		return
	}
	site, err := t.cfg.Site(info.Config.Subjects[0])
	if err != nil || info.Config.Name != t.cfg.Name(site) {
		return // not one of these streams
	}
	t.mu.Lock()
	was, known := t.tails[site]
	now := Tail{Last: max(was.Last, info.State.LastSeq), Generation: was.Generation, created: info.Created}
	if !was.created.IsZero() && !was.created.Equal(info.Created) {
		now.Last, now.Generation = info.State.LastSeq, was.Generation+1
	}
	t.tails[site] = now
	t.mu.Unlock()
	if !known || now.Last != was.Last || now.Generation != was.Generation {
		t.cfg.Changed(site)
	}
}

// stored takes the headers of a message that was stored.
func (t *Table) stored(msg *nats.Msg) {
	site, err := t.cfg.Site(strings.TrimPrefix(msg.Subject, t.cfg.Republished+"."))
	if err != nil {
		return // sites cannot publish such a subject
	}
	seq, err := strconv.ParseUint(own(msg.Header, jetstream.SequenceHeader), 10, 64)
	if err != nil {
		t.cfg.Log.Error("republished message without a sequence", zap.String("subject", msg.Subject), zap.Error(err))
		return
	}
	t.mu.Lock()
	tail := t.tails[site]
	if seq <= tail.Last {
		tail.Generation++
	}
	tail.Last = seq
	t.tails[site] = tail
	t.mu.Unlock()
	t.cfg.Changed(site)
}

// own returns the value of a header that the server added: the last one, since those that the
// publisher set come before it.
func own(h nats.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// request sends a request to the JetStream API and decodes the answer.
func request(ctx context.Context, cfg Config, subject string, query, answer any) error {
	body, err := json.Marshal(query)
	if err != nil {
		return fmt.Errorf("encode request %s: %w", subject, err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reply, err := cfg.Conn.RequestWithContext(ctx, api(cfg, subject), body)
	if err != nil {
		return fmt.Errorf("request %s: %w", subject, err)
	}
	if err := json.Unmarshal(reply.Data, answer); err != nil {
		return fmt.Errorf("decode answer to %s: %w", subject, err)
	}
	return nil
}

func api(cfg Config, subject string) string { return "$JS." + cfg.Domain + ".API." + subject }

// errEnd is the answer that there are no more messages.
var errEnd = errors.New("no more messages")
