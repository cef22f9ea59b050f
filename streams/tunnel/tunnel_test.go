package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/streams"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const site, node = "plant-a", "plant-a-1"

// fixture is a hub and a site with a line between them, a dialer at the hub and a server at the
// site whose backend is a listener.
type fixture struct {
	t      *testing.T
	hub    *natstest.Hub
	line   *natstest.Line
	leaf   *natsd.Server
	dialer *Dialer
	// backend accepts what the server dials.
	backend *net.TCPListener
	stop    func()
}

var soon = Timing{Ping: 100 * time.Millisecond, Silence: 2 * time.Second}

func newFixture(t *testing.T, timing Timing) *fixture {
	t.Helper()
	f := &fixture{t: t, hub: natstest.StartHub(t, site, "plant-b")}
	f.line = natstest.NewLine(t, f.hub.LeafAddr())
	leaf, err := natsd.Start(t.Context(), natsd.Config{Site: site, File: natstest.LeafConf(t, site, f.line.Addr()), Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))})
	must(t, err)
	t.Cleanup(leaf.Stop)
	f.leaf = leaf
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	f.backend = l
	f.stop = f.serve(timing)
	f.dialer, err = NewDialer(f.hub.Connect(t, "bridge"), timing, zap.NewNop())
	must(t, err)
	t.Cleanup(f.dialer.Close)
	f.awaitInterest()
	return f
}

// serve runs a server at the site until the returned function is called.
func (f *fixture) serve(timing Timing) (stop func()) {
	f.t.Helper()
	nc, err := f.leaf.Connect()
	must(f.t, err)
	ctx, cancel := context.WithCancel(f.t.Context())
	s := NewServer(ServerConfig{Site: site, Node: node, NC: nc, Timing: timing, Log: zap.NewNop(), Dial: func(ctx context.Context) (Backend, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp4", f.backend.Addr().String())
		if err != nil {
			return nil, fmt.Errorf("the kubelet does not answer: %w", err)
		}
		return c.(*net.TCPConn), nil
	}})
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("server: %v", err)
		}
		nc.Close()
	})
	f.t.Cleanup(stop)
	return stop
}

// awaitInterest waits until the hub knows that the site receives.
func (f *fixture) awaitInterest() {
	f.t.Helper()
	polltest.Eventually(f.t, "the site receives", func() bool {
		c, err := f.dialer.Dial(f.t.Context(), site, node)
		if err != nil {
			return false
		}
		must(f.t, c.Close())
		b, err := f.backend.Accept()
		must(f.t, err)
		must(f.t, b.Close())
		return true
	})
}

// dial opens a session and returns both ends of it.
func (f *fixture) dial() (*Conn, *net.TCPConn) {
	f.t.Helper()
	c, err := f.dialer.Dial(f.t.Context(), site, node)
	must(f.t, err)
	b, err := f.backend.AcceptTCP()
	must(f.t, err)
	f.t.Cleanup(func() { c.Close(); b.Close() })
	return c, b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// random returns bytes that cannot be mistaken for others, and their digest.
func random(n int) ([]byte, [32]byte) {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b) // never fails
	return b, sha256.Sum256(b)
}

// Both directions carry megabytes at the same time, intact, and each can end before the other.
func TestBytesArriveIntact(t *testing.T) {
	t.Parallel()
	f := newFixture(t, DefaultTiming)
	c, b := f.dial()
	const size = 2 << 20
	data, sum := random(size)
	var wg sync.WaitGroup
	send := func(w io.Writer, end func() error) {
		wg.Go(func() {
			if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
				t.Errorf("send: %v", err)
			}
			if err := end(); err != nil {
				t.Errorf("finish: %v", err)
			}
		})
	}
	receive := func(what string, r io.Reader) {
		wg.Go(func() {
			got := sha256.New()
			n, err := io.Copy(got, r)
			if err != nil || n != size || [32]byte(got.Sum(nil)) != sum {
				t.Errorf("%s: %d bytes, the same %v, %v", what, n, [32]byte(got.Sum(nil)) == sum, err)
			}
		})
	}
	send(c, c.CloseWrite)
	send(b, b.CloseWrite)
	receive("down", b)
	receive("up", c)
	wg.Wait()
}

// After the client has sent everything, the backend answers.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	f := newFixture(t, DefaultTiming)
	c, b := f.dial()
	_, err := io.WriteString(c, "question")
	must(t, err)
	must(t, c.CloseWrite())
	got, err := io.ReadAll(b)
	must(t, err)
	_, err = fmt.Fprintf(b, "answer to %s", got)
	must(t, err)
	must(t, b.Close())
	if got, err := io.ReadAll(c); err != nil || string(got) != "answer to question" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := c.Write([]byte("more")); err == nil {
		t.Error("written after CloseWrite")
	}
}

// A session whose reader does not read, in either direction, stops its writer and nobody else.
func TestReaderThatDoesNotReadStallsNobody(t *testing.T) {
	t.Parallel()
	f := newFixture(t, DefaultTiming)
	stuck, backend := f.dial()
	var wg sync.WaitGroup
	data := make([]byte, 8<<20)
	blocked := make(chan int, 2)
	wg.Go(func() { n, _ := stuck.Write(data); blocked <- n }) // until the session is closed
	wg.Go(func() { n, _ := backend.Write(data); blocked <- n })
	for range 3 {
		c, b := f.dial()
		wg.Go(func() { _, _ = io.Copy(b, b); b.Close() })
		question, _ := random(256 << 10)
		wg.Go(func() {
			if _, err := c.Write(question); err != nil {
				t.Errorf("write: %v", err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Errorf("finish: %v", err)
			}
		})
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, question) {
			t.Fatalf("beside a stuck session: %d bytes, %v", len(got), err)
		}
	}
	select {
	case n := <-blocked:
		t.Errorf("%d bytes were written to a reader that does not read", n)
	default:
	}
	must(t, stuck.Close())
	must(t, backend.Close())
	wg.Wait()
}

// Many sessions at the same time: as many kubectl.
func TestManySessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t, DefaultTiming)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 50 {
			b, err := f.backend.Accept()
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			wg.Go(func() { defer b.Close(); _, _ = io.Copy(b, b) })
		}
	})
	for i := range 50 {
		wg.Go(func() {
			c, err := f.dialer.Dial(t.Context(), site, node)
			if err != nil {
				t.Errorf("session %d: %v", i, err)
				return
			}
			defer c.Close()
			question := bytes.Repeat([]byte{byte(i)}, 100_000)
			if _, err := c.Write(question); err != nil {
				t.Errorf("session %d: %v", i, err)
				return
			}
			if err := c.CloseWrite(); err != nil {
				t.Errorf("session %d: %v", i, err)
			}
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, question) {
				t.Errorf("session %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

// The error of the backend is that of Dial, and so is that of a site which is not there.
func TestDialErrors(t *testing.T) {
	t.Parallel()
	f := newFixture(t, DefaultTiming)
	must(t, f.backend.Close())
	if _, err := f.dialer.Dial(t.Context(), site, node); !errors.Is(err, ErrReset) || !strings.Contains(err.Error(), "the kubelet does not answer") {
		t.Errorf("a kubelet that is down: %v", err)
	}
	for _, other := range [][2]string{{site, "plant-a-2"}, {"plant-b", "plant-b-1"}, {"nowhere", node}} {
		if _, err := f.dialer.Dial(t.Context(), other[0], other[1]); !errors.Is(err, ErrNotConnected) {
			t.Errorf("%v: %v", other, err)
		}
	}
	f.stop()
	if _, err := f.dialer.Dial(t.Context(), site, node); !errors.Is(err, ErrNotConnected) {
		t.Errorf("a leaf that stopped: %v", err)
	}
}

// A silent line ends the sessions at both ends, and the server has nothing left of them.
func TestSilentLineEndsSessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t, soon)
	c, b := f.dial()
	f.line.Swallow(natstest.Upward, natstest.Downward)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrSilent) && !errors.Is(err, ErrNotConnected) {
		t.Errorf("at the hub: %v", err)
	}
	if _, err := b.Read(make([]byte, 1)); err == nil {
		t.Error("at the site: no error")
	}
}

// A message that was lost in a short outage ends the session. Nothing is delivered after a gap.
func TestLostMessageEndsSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t, DefaultTiming)
	c, b := f.dial()
	_, err := c.Write([]byte("one"))
	must(t, err)
	buf := make([]byte, 3)
	_, err = io.ReadFull(b, buf)
	must(t, err)
	publish := c.publish
	c.publish = func(f frame) error {
		c.publish = publish // this one is lost
		return nil
	}
	_, err = c.Write([]byte("two"))
	must(t, err)
	_, err = c.Write([]byte("three"))
	must(t, err)
	if got, err := io.ReadAll(b); len(got) > 0 {
		t.Errorf("after a gap: %q, %v", got, err)
	}
	if _, err := c.Read(buf); err == nil || !strings.Contains(err.Error(), "a message was lost") {
		t.Errorf("at the hub: %v", err)
	}
}

// A leaf that was restarted knows no session: they end at once.
func TestRestartOfTheLeafEndsSessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Timing{Ping: 100 * time.Millisecond, Silence: time.Minute})
	c, _ := f.dial()
	f.stop()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Errorf("at the hub: %v", err)
	}
	f.serve(soon)
	f.awaitInterest()
}

// A site that sends frames of a session of another site reaches nothing.
func TestSiteSpeaksForItselfOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t, DefaultTiming)
	c, b := f.dial()
	forger := f.hub.Connect(t, "plant-b")
	attack := func(subject string) {
		for id := range 40 {
			must(t, forger.Publish(fmt.Sprintf(subject, id), frame{kind: kindReset, rest: []byte("forged")}.encode()))
		}
		must(t, forger.Flush())
	}
	attack("return.plant-b." + f.dialer.id + ".%d")
	attack("return.plant-a." + f.dialer.id + ".%d")
	attack("tunnel.plant-a.plant-a-1." + f.dialer.id + ".%d")
	read, err := forger.SubscribeSync(streams.TunnelFilter(site, node))
	must(t, err)
	_, err = io.WriteString(b, "alive")
	must(t, err)
	_, err = io.WriteString(c, "secret")
	must(t, err)
	buf := make([]byte, 6)
	if _, err := io.ReadFull(c, buf[:5]); err != nil || string(buf[:5]) != "alive" {
		t.Errorf("the session was ended by another site: %q, %v", buf[:5], err)
	}
	if _, err := io.ReadFull(b, buf); err != nil {
		t.Errorf("the session was ended by another site: %v", err)
	}
	must(t, forger.Flush())
	if m, err := read.NextMsg(time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("another site read %v, %v", m, err)
	}
}

// pretend answers at another site what its leaf is asked, with a window of its own choice, and returns
// the connection.
func (f *fixture) pretend(other, node string, window uint64) *nats.Conn {
	f.t.Helper()
	nc := f.hub.Connect(f.t, other)
	_, err := nc.Subscribe(streams.TunnelFilter(other, node), func(m *nats.Msg) {
		client, session, err := streams.ParseTunnel(m.Subject)
		if err != nil {
			f.t.Error(err)
			return
		}
		answer := frame{kind: kindAccept, bytes: window}
		if m.Data[0] == byte(kindPing) {
			answer = frame{kind: kindPong, rest: []byte("instance " + node)}
		}
		if err := nc.Publish(streams.ReturnSubject(other, client, session), answer.encode()); err != nil && !nc.IsClosed() {
			f.t.Error(err)
		}
	})
	must(f.t, err)
	must(f.t, nc.Flush())
	return nc
}

// dialOther opens a session with the site that pretend plays.
func (f *fixture) dialOther(other, node string) *Conn {
	f.t.Helper()
	var c *Conn
	polltest.NoError(f.t, "a session with "+other, func(ctx context.Context) (err error) {
		c, err = f.dialer.Dial(ctx, other, node)
		return err
	})
	f.t.Cleanup(func() { c.Close() })
	return c
}

// A site that asks for more than is ever in flight, or more than a number can hold, gets what others get.
func TestWindowOfASiteIsBounded(t *testing.T) {
	t.Parallel()
	for name, window := range map[string]uint64{"largest": math.MaxUint64, "largest signed": math.MaxInt64, "negative": 1 << 63, "much": 1 << 40} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, DefaultTiming)
			f.pretend("plant-b", "b", window)
			c := f.dialOther("plant-b", "b")
			must(t, c.SetWriteDeadline(time.Now().Add(polltest.Limit)))
			if n, err := c.Write(make([]byte, 100)); n != 100 || err != nil {
				t.Errorf("written %d: %v", n, err)
			}
			if got := c.out.window; got > maxWindow {
				t.Errorf("the window is %d, more than %d", got, maxWindow)
			}
		})
	}
}

// A site floods the bridge with frames of its sessions, which the bridge handles more slowly than they
// come: at most its own sessions end.
func TestFloodOfOneSiteEndsItsOwnSessionsOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Timing{Ping: time.Second, Silence: 10 * time.Minute}) // no session ends because the machine is busy
	c, b := f.dial()
	nc := f.pretend("plant-b", "b", receiveWindow)
	worst := f.dialOther("plant-b", "b")
	worst.mu.Lock() // the frames of plant-b are handled from now on only when its queue is full
	flooded := false
	defer func() {
		if !flooded {
			worst.mu.Unlock()
		}
	}()
	f.dialer.mu.Lock()
	queue := f.dialer.sites["plant-b"].sub
	var id string
	for session := range f.dialer.sessions {
		if f.dialer.sessions[session].conn == worst {
			id = session
		}
	}
	f.dialer.mu.Unlock()
	subject := streams.ReturnSubject("plant-b", f.dialer.id, id)
	payload := frame{kind: kindData, rest: make([]byte, 256<<10)}.encode()
	pong := frame{kind: kindPong, rest: []byte("another b")}.encode()
	polltest.Eventually(t, "the queue of plant-b is full", func() bool {
		for range 32 {
			must(t, nc.Publish(subject, payload))
			must(t, nc.Publish(subject, pong))
		}
		must(t, nc.Flush())
		dropped, err := queue.Dropped()
		must(t, err)
		return dropped > 0
	})
	data, sum := random(1 << 20)
	go func() { _, _ = io.Copy(b, bytes.NewReader(data)); _ = b.CloseWrite() }() // the digest tells
	must(t, c.SetReadDeadline(time.Now().Add(polltest.Limit)))
	got := sha256.New()
	if n, err := io.Copy(got, c); err != nil || [32]byte(got.Sum(nil)) != sum {
		t.Errorf("the session with another site read %d of %d bytes: %v", n, len(data), err)
	}
	if _, bytes, err := queue.Pending(); err != nil || bytes > maxQueuedBytes+len(payload) {
		t.Errorf("%d bytes of plant-b wait, more than %d: %v", bytes, maxQueuedBytes, err)
	}
	flooded = true
	worst.mu.Unlock()
	// plant-b has interrupted itself, and nobody hears a site without sessions.
	must(t, worst.SetReadDeadline(time.Now().Add(polltest.Limit)))
	if _, err := worst.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the session of the site that floods: %v", err)
	}
	polltest.Eventually(t, "the subscription of plant-b has ended", func() bool { return !queue.IsValid() })
}

// Deadlines, as net/http uses them.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	f := newFixture(t, DefaultTiming)
	c, b := f.dial()
	must(t, c.SetReadDeadline(time.Now().Add(-time.Second)))
	var timeout net.Error
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("read after the deadline: %v", err)
	}
	must(t, c.SetReadDeadline(time.Time{}))
	_, err := io.WriteString(b, "x")
	must(t, err)
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("read without a deadline: %d, %v", n, err)
	}
	must(t, c.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
	if _, err := c.Write(make([]byte, 16<<20)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("write to a reader that does not read: %v", err)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{byte(kindData), 1, 2, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decode(data)
		if err != nil {
			return
		}
		again, err := decode(got.encode())
		if err != nil || again.kind != got.kind || again.offset != got.offset || again.bytes != got.bytes || !bytes.Equal(again.rest, got.rest) {
			t.Errorf("%+v became %+v, %v", got, again, err)
		}
		c := newConn("x", newLine(), receiveWindow, func(frame) error { return nil }, func() {})
		c.handle(got)
		c.handle(again)
		_ = c.Close()
	})
}
