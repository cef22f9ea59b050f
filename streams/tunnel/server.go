package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/streams"
)

// MaxSessions bounds the sessions of one node.
const MaxSessions = 256

// lingerTime is how long a backend may take to read what a client sent before it closed.
const lingerTime = 10 * time.Second

// Backend is a connection that sessions are connected to.
type Backend interface {
	net.Conn
	CloseWrite() error
}

// ServerConfig is what a Server needs.
type ServerConfig struct {
	Site, Node string
	// NC is a connection at the site.
	NC *nats.Conn
	// Dial connects a session to the backend.
	Dial   func(ctx context.Context) (Backend, error)
	Timing Timing
	Log    *zap.Logger
}

// Server connects the sessions with a node to a backend. Use NewServer.
type Server struct {
	cfg      ServerConfig
	instance string
	line     *line
	pumps    sync.WaitGroup

	mu       sync.Mutex
	clients  map[string]*client
	sessions int
}

// client is a dialer that has sessions here.
type client struct {
	heard    time.Time
	sessions map[string]*Conn
}

// NewServer returns a server that has not started.
func NewServer(cfg ServerConfig) *Server {
	return &Server{cfg: cfg, instance: nuid.Next(), line: newLine(), clients: map[string]*client{}}
}

// Run serves sessions until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	sub, err := s.cfg.NC.Subscribe(streams.TunnelFilter(s.cfg.Site, s.cfg.Node), func(m *nats.Msg) { s.handle(ctx, m) })
	if err != nil {
		return fmt.Errorf("subscribe to tunnels: %w", err)
	}
	tick := time.NewTicker(s.cfg.Timing.Ping)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.expire(s.cfg.Timing.Ping+s.cfg.Timing.Silence, ErrSilent)
			continue
		case <-ctx.Done():
		}
		break
	}
	if err := sub.Drain(); err != nil && !s.cfg.NC.IsClosed() {
		return fmt.Errorf("end the subscription to tunnels: %w", err)
	}
	s.expire(0, errors.New("the leaf stops"))
	s.pumps.Wait()
	return nil
}

// expire ends the sessions of clients that were not heard for longer than a time.
func (s *Server) expire(silence time.Duration, reason error) {
	s.mu.Lock()
	var ended []*Conn
	for id, c := range s.clients {
		if time.Since(c.heard) < silence {
			continue
		}
		for _, conn := range c.sessions {
			ended = append(ended, conn)
		}
		if len(c.sessions) == 0 {
			delete(s.clients, id)
		}
	}
	s.mu.Unlock()
	for _, c := range ended {
		c.Reset(reason)
	}
}

// handle takes a frame of a client. It runs on the subscription's goroutine and never waits.
func (s *Server) handle(ctx context.Context, m *nats.Msg) {
	id, session, err := streams.ParseTunnel(m.Subject)
	if err != nil {
		return
	}
	f, err := decode(m.Data)
	if err != nil {
		s.cfg.Log.Debug("invalid frame", zap.String("subject", m.Subject), zap.Error(err))
		return
	}
	s.mu.Lock()
	c := s.clients[id]
	if c == nil {
		c = &client{sessions: map[string]*Conn{}}
		s.clients[id] = c
	}
	c.heard = time.Now()
	conn := c.sessions[session]
	if f.kind == kindOpen && conn == nil {
		s.open(ctx, c, id, session, f.bytes)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	switch {
	case f.kind == kindPing:
		s.send(id, session, frame{kind: kindPong, rest: []byte(s.instance + " " + s.cfg.Node)})
	case conn != nil:
		conn.handle(f)
	case f.kind == kindData, f.kind == kindUrgent, f.kind == kindFinish:
		s.send(id, session, frame{kind: kindReset, rest: []byte("there is no such session: the leaf was restarted, or has ended it")})
	}
}

// send sends a frame to a client; one that is lost is noticed there.
func (s *Server) send(client, session string, f frame) {
	if err := s.cfg.NC.Publish(streams.ReturnSubject(s.cfg.Site, client, session), f.encode()); err != nil {
		s.cfg.Log.Debug("send", zap.String("session", session), zap.Error(err))
	}
}

// open starts a session. The caller holds mu.
func (s *Server) open(ctx context.Context, c *client, id, session string, window uint64) {
	if s.sessions >= MaxSessions || ctx.Err() != nil {
		s.send(id, session, frame{kind: kindReset, rest: fmt.Appendf(nil, "node %s has %d sessions already, as many as it may have", s.cfg.Node, s.sessions)})
		return
	}
	subject := streams.ReturnSubject(s.cfg.Site, id, session)
	publish := func(f frame) error { return s.cfg.NC.Publish(subject, f.encode()) }
	s.sessions++
	conn := newConn("client "+id, s.line, window, publish, func() {
		go func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(c.sessions, session)
			s.sessions--
		}()
	})
	c.sessions[session] = conn
	s.pumps.Go(func() { s.serve(ctx, conn) })
}

// serve connects a session to the backend, and copies until both directions have ended.
func (s *Server) serve(ctx context.Context, conn *Conn) {
	backend, err := s.cfg.Dial(ctx)
	if err != nil {
		conn.Reset(err)
		return
	}
	defer backend.Close()
	var watch sync.WaitGroup
	served := make(chan struct{})
	defer watch.Wait()
	defer close(served)
	watch.Go(func() { closeAfter(backend, conn, served) })
	if err := conn.publish(frame{kind: kindAccept, bytes: receiveWindow, rest: []byte(s.instance)}); err != nil {
		conn.Reset(err)
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		_, err := io.Copy(conn, backend)
		switch {
		case err == nil:
			err = conn.CloseWrite()
		case errors.Is(err, errClosedByPeer), errors.Is(err, net.ErrClosed):
		default:
			conn.Reset(fmt.Errorf("read from the kubelet: %w", err))
		}
		if err != nil {
			backend.Close()
		}
	})
	_, err = io.Copy(backend, conn)
	if err == nil {
		err = backend.CloseWrite()
	}
	if err == nil {
		// The client has sent everything. It may go on reading.
		done := make(chan struct{})
		go func() { up.Wait(); close(done) }()
		select {
		case <-done:
		case <-conn.peerClosed:
		case <-conn.ended:
		}
	} else {
		conn.Reset(fmt.Errorf("write to the kubelet: %w", err))
	}
	backend.Close()
	up.Wait()
	_ = conn.Close() // the client notices the silence
}

// closeAfter closes the backend when the session has ended, also if it does not read what was
// sent to it. It returns when served is closed.
func closeAfter(backend Backend, conn *Conn, served <-chan struct{}) {
	select {
	case <-served:
		return
	case <-conn.ended:
	case <-conn.peerClosed:
		select {
		case <-served:
			return
		case <-conn.ended:
		case <-time.After(lingerTime):
		}
	}
	backend.Close()
}
