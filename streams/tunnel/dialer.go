package tunnel

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// Timing is how soon a lost line is noticed.
type Timing struct {
	// Ping is how often a client asks whether the other end is there, while it has sessions, and
	// Silence how long the answer may take. A server waits for the next question for both together.
	Ping, Silence time.Duration
}

// DefaultTiming ends the sessions of a cut link within 15 s.
var DefaultTiming = Timing{Ping: 3 * time.Second, Silence: 11 * time.Second}

// pingSession is the session of pings.
const pingSession = "0"

// Dialer opens sessions. Use NewDialer. It is safe for concurrent use.
type Dialer struct {
	nc     *nats.Conn
	id     string
	timing Timing
	log    *zap.Logger
	// undeliveredSub receives what comes back because nobody receives it.
	undeliveredSub *nats.Subscription
	stop           chan struct{}
	pinger         sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	next     uint64
	inbox    string
	sessions map[string]*dialed
	peers    map[peerKey]*peer
	sites    map[string]*remoteSite
}

// remoteSite is what all sessions with one site share. Its frames have a subscription of their own:
// what one site sends fills its own queue alone, and a site without sessions is not heard.
type remoteSite struct {
	line *line
	sub  *nats.Subscription
}

// maxQueued bounds the frames of a site that wait to be handled, in bytes and messages: what its line
// has in flight at most, and as much again. Of what is more, frames are lost, which ends their sessions.
const (
	maxQueuedBytes    = 2 * maxInFlight
	maxQueuedMessages = 2 * maxInFlight / minChunk
)

// dialed is one session of a dialer.
type dialed struct {
	conn *Conn
	peer *peer
	// accepted is closed when the other end has connected the session to its backend.
	accepted chan struct{}
	open     bool
}

type peerKey struct{ site, node string }

// peer is the other end of sessions.
type peer struct {
	key peerKey
	// instance changes with each start of the other end.
	instance string
	heard    time.Time
	sessions map[string]*dialed
}

// NewDialer returns a dialer on a connection to the hub, until Close is called.
func NewDialer(nc *nats.Conn, timing Timing, log *zap.Logger) (*Dialer, error) {
	d := &Dialer{
		nc: nc, id: nuid.Next(), timing: timing, log: log, stop: make(chan struct{}), inbox: nc.NewInbox(),
		sessions: map[string]*dialed{}, peers: map[peerKey]*peer{}, sites: map[string]*remoteSite{},
	}
	var err error
	if d.undeliveredSub, err = nc.Subscribe(d.inbox+".*", d.undelivered); err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", d.inbox, err)
	}
	d.pinger.Go(d.ping)
	return d, nil
}

// Close ends all sessions.
func (d *Dialer) Close() {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return
	}
	d.closed = true
	close(d.stop)
	all := d.all(func(*dialed) bool { return true })
	d.mu.Unlock()
	for _, s := range all {
		s.conn.Reset(errors.New("the bridge stops"))
	}
	d.pinger.Wait()
	d.unsubscribe(d.undeliveredSub)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.sites {
		d.unsubscribe(r.sub)
	}
	clear(d.sites)
}

func (d *Dialer) unsubscribe(sub *nats.Subscription) {
	if err := sub.Unsubscribe(); err != nil && !d.nc.IsClosed() {
		d.log.Warn("end a subscription", zap.String("subject", sub.Subject), zap.Error(err))
	}
}

// all returns the sessions for which keep returns true. The caller holds mu.
func (d *Dialer) all(keep func(*dialed) bool) []*dialed {
	var all []*dialed
	for _, s := range d.sessions {
		if keep(s) {
			all = append(all, s)
		}
	}
	return all
}

// Dial opens a session with the backend of a node. It returns when the backend is connected, or
// with its error.
func (d *Dialer) Dial(ctx context.Context, site, node string) (*Conn, error) {
	s, id, err := d.newSession(site, node)
	if err != nil {
		return nil, err
	}
	data := frame{kind: kindOpen, bytes: receiveWindow}.encode()
	if err := d.nc.PublishRequest(streams.TunnelSubject(site, node, d.id, id), d.inbox+"."+id, data); err != nil {
		s.conn.fail(err)
		return nil, fmt.Errorf("open a session with node %s of site %s: %w", node, site, err)
	}
	silent := time.NewTimer(d.timing.Silence)
	defer silent.Stop()
	select {
	case <-s.accepted:
		return s.conn, nil
	case <-s.conn.ended:
		return nil, s.conn.endedBy()
	case <-silent.C:
		s.conn.Reset(ErrSilent)
		return nil, ErrSilent
	case <-ctx.Done():
		s.conn.Reset(ctx.Err())
		return nil, ctx.Err()
	}
}

func (d *Dialer) newSession(site, node string) (*dialed, string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, "", errors.New("the bridge stops")
	}
	r, err := d.remoteSite(site)
	if err != nil {
		return nil, "", err
	}
	d.next++
	id, key := strconv.FormatUint(d.next, 36), peerKey{site, node}
	p := d.peers[key]
	if p == nil {
		p = &peer{key: key, heard: time.Now(), sessions: map[string]*dialed{}}
		d.peers[key] = p
	}
	subject := streams.TunnelSubject(site, node, d.id, id)
	publish := func(f frame) error { return d.nc.Publish(subject, f.encode()) }
	s := &dialed{peer: p, accepted: make(chan struct{})}
	s.conn = newConn(node+" at "+site, r.line, 0, publish, func() { go d.remove(id) })
	d.sessions[id], p.sessions[id] = s, s
	return s, id, nil
}

// remoteSite returns what the sessions with a site share. It subscribes if the site has none yet. The
// caller holds mu.
func (d *Dialer) remoteSite(site string) (*remoteSite, error) {
	if r := d.sites[site]; r != nil {
		return r, nil
	}
	subject := streams.ReturnFilter(site, d.id)
	sub, err := d.nc.Subscribe(subject, d.handle)
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	if err := sub.SetPendingLimits(maxQueuedMessages, maxQueuedBytes); err != nil {
		d.unsubscribe(sub)
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	r := &remoteSite{line: newLine(), sub: sub}
	d.sites[site] = r
	return r, nil
}

// remove forgets a session that has ended. A site without sessions begins with an unknown line.
func (d *Dialer) remove(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sessions[id]
	delete(d.sessions, id)
	delete(s.peer.sessions, id)
	if len(s.peer.sessions) > 0 || d.peers[s.peer.key] != s.peer {
		return
	}
	delete(d.peers, s.peer.key)
	for key := range d.peers {
		if key.site == s.peer.key.site {
			return
		}
	}
	if r := d.sites[s.peer.key.site]; r != nil { // not closed meanwhile
		d.unsubscribe(r.sub)
		delete(d.sites, s.peer.key.site)
	}
}

// handle takes a frame of a site. It runs on the subscription's goroutine and never waits.
func (d *Dialer) handle(m *nats.Msg) {
	site, id, err := streams.ParseReturn(m.Subject)
	if err != nil {
		return
	}
	f, err := decode(m.Data)
	if err != nil {
		d.log.Debug("invalid frame", zap.String("subject", m.Subject), zap.Error(err))
		return
	}
	if f.kind == kindPong {
		d.pong(site, f)
		return
	}
	d.mu.Lock()
	s := d.sessions[id]
	if s == nil || s.peer.key.site != site { // a site may not speak for another
		d.mu.Unlock()
		return
	}
	s.peer.heard = time.Now()
	if f.kind == kindAccept {
		if !s.open {
			s.open = true
			s.conn.mu.Lock()
			s.conn.out.window = min(f.bytes, maxWindow)
			s.conn.mu.Unlock()
			close(s.accepted)
		}
		d.mu.Unlock()
		return
	}
	d.mu.Unlock()
	s.conn.handle(f)
}

// pong takes the answer to a ping: "<instance> <node>". Sessions of an earlier instance are gone.
func (d *Dialer) pong(site string, f frame) {
	instance, node, _ := strings.Cut(string(f.rest), " ")
	d.mu.Lock()
	p := d.peers[peerKey{site, node}]
	var gone []*dialed
	if p != nil {
		p.heard = time.Now()
		if p.instance != "" && p.instance != instance {
			gone = d.all(func(s *dialed) bool { return s.peer == p && s.open })
		}
		p.instance = instance
	}
	d.mu.Unlock()
	for _, s := range gone {
		s.conn.fail(errors.New("the leaf of the site was restarted"))
	}
}

// undelivered takes the hub's word that nobody receives what was sent to a site.
func (d *Dialer) undelivered(m *nats.Msg) {
	if m.Header.Get("Status") != "503" {
		return
	}
	id := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	d.mu.Lock()
	var failed []*dialed
	if s := d.sessions[id]; s != nil {
		failed = d.all(func(other *dialed) bool { return other.peer == s.peer })
	}
	d.mu.Unlock()
	for _, s := range failed {
		s.conn.fail(ErrNotConnected)
	}
}

// ping asks the other ends of all sessions whether they are there, and ends the sessions of those
// that do not answer.
func (d *Dialer) ping() {
	tick := time.NewTicker(d.timing.Ping)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-tick.C:
		}
		var silent []*dialed
		type question struct{ subject, reply string }
		var ask []question
		d.mu.Lock()
		for _, p := range d.peers {
			if time.Since(p.heard) > d.timing.Silence {
				silent = append(silent, d.all(func(s *dialed) bool { return s.peer == p })...)
				continue
			}
			for id := range p.sessions {
				ask = append(ask, question{streams.TunnelSubject(p.key.site, p.key.node, d.id, pingSession), d.inbox + "." + id})
				break
			}
		}
		d.mu.Unlock()
		for _, s := range silent {
			s.conn.Reset(ErrSilent)
		}
		for _, q := range ask {
			if err := d.nc.PublishRequest(q.subject, q.reply, frame{kind: kindPing}.encode()); err != nil {
				d.log.Debug("ping", zap.String("subject", q.subject), zap.Error(err))
			}
		}
	}
}
