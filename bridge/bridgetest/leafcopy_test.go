package bridgetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

// leafCopy is what a leaf keeps of what is desired at its site, by the leaf's protocol
// and with the site's credentials: deliveries in an unbroken run from number 1, each
// acknowledged when it is kept, and comparisons of the manifest.
type leafCopy struct {
	*site
	sub *nats.Subscription
	// stop ends the deliveries.
	stop func() error

	mu             sync.Mutex
	kept           map[string]inventory.Entry
	position       uint64
	identity       string
	last           uint64
	history        []kept
	verifyRequests int
}

// kept is one delivery.
type kept struct {
	subject string
	op      streams.Op
	uid     string
	hash    string
	version string
	epoch   string
	term    uint64
}

// leaf returns an empty copy that is connected.
func (s *site) leaf() *leafCopy {
	s.t.Helper()
	l := &leafCopy{site: s, kept: map[string]inventory.Entry{}}
	l.connect()
	return l
}

// connect begins a session: it has the hub deliver from what the copy has.
func (l *leafCopy) connect() {
	l.t.Helper()
	sub, err := l.nc.Subscribe(streams.SyncSubject(l.name), l.take)
	l.must(err)
	l.sub = sub
	l.t.Cleanup(func() { _ = sub.Unsubscribe() }) // again after disconnect
	l.mu.Lock()
	position, identity := l.position, l.identity
	l.mu.Unlock()
	var floor uint64
	var now string
	eventually(l.t, "session of "+l.name, func() bool {
		var ok bool
		floor, now, ok = l.reset(0)
		return ok
	})
	switch {
	case identity != "" && identity != now:
		_, _, _ = l.reset(1)
	case position < floor:
		_, _, _ = l.reset(position + 1)
	}
	l.stop = natstest.Pull(l.t, l.nc, l.name, l.take)
	l.mu.Lock()
	l.identity = now
	l.mu.Unlock()
}

func (l *leafCopy) disconnect() {
	l.t.Helper()
	l.must(errors.Join(l.sub.Unsubscribe(), l.stop()))
	l.must(l.nc.Flush())
	l.mu.Lock()
	l.last = 0
	l.mu.Unlock()
}

func (l *leafCopy) reset(from uint64) (floor uint64, identity string, ok bool) {
	msg := nats.NewMsg(streams.ResetSubject(l.name))
	msg.Header.Set(streams.HeaderIdentity, "?")
	if from > 0 {
		msg.Data = fmt.Appendf(nil, `{"seq":%d}`, from)
	}
	reply, err := l.nc.RequestMsg(msg, 2*time.Second)
	if err != nil {
		return 0, "", false
	}
	var answer struct {
		Error    json.RawMessage `json:"error"`
		ResetSeq uint64          `json:"reset_seq"`
		Waiting  int             `json:"num_waiting"`
	}
	// A request of before, which is still open, would take deliveries away.
	if json.Unmarshal(reply.Data, &answer) != nil || answer.Error != nil || answer.ResetSeq == 0 || answer.Waiting > 0 {
		return 0, "", false
	}
	return answer.ResetSeq - 1, reply.Header.Get(streams.HeaderIdentity), true
}

// take runs on the subscription's goroutine.
func (l *leafCopy) take(m *nats.Msg) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.Header.Get(streams.HeaderControl) == streams.ControlVerify {
		l.verifyRequests++
		return
	}
	t := strings.Split(m.Reply, ".")
	if len(t) != 9 {
		return // a heartbeat
	}
	seq, err1 := strconv.ParseUint(t[5], 10, 64)
	number, err2 := strconv.ParseUint(t[6], 10, 64)
	if err1 != nil || err2 != nil || number != 1 && number != l.last+1 {
		return
	}
	l.last, l.position = number, seq
	if e, ok := inventory.EntryOf(m.Subject, m.Header); ok {
		l.kept[m.Subject] = e
	} else if !streams.IsPart(m.Subject) {
		delete(l.kept, m.Subject)
	}
	l.history = append(l.history, kept{
		m.Subject, streams.Op(m.Header.Get(streams.HeaderOp)), m.Header.Get(streams.HeaderUID),
		m.Header.Get(streams.HeaderHash), m.Header.Get(streams.HeaderVersion), m.Header.Get(streams.HeaderEpoch), streams.TermOf(m.Header),
	})
	if err := l.nc.Publish(m.Reply, []byte("+ACK")); err != nil {
		l.t.Error(err)
	}
}

// image is what a copy has on disk at one moment.
type image struct {
	kept     map[string]inventory.Entry
	position uint64
	identity string
}

func (l *leafCopy) image() image {
	l.mu.Lock()
	defer l.mu.Unlock()
	return image{maps.Clone(l.kept), l.position, l.identity}
}

// restore puts an older image back, as a power cut does.
func (l *leafCopy) restore(i image) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept, l.position, l.last = maps.Clone(i.kept), i.position, 0
}

// damage changes what is kept, behind the bridge's back.
func (l *leafCopy) damage(change func(map[string]inventory.Entry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l.kept)
}

// has returns what the copy holds of an object.
func (l *leafCopy) has(r streams.Ref) (inventory.Entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.kept[streams.DesiredSubject(l.name, r)]
	return e, ok
}

// of are the deliveries about an object, oldest first.
func (l *leafCopy) of(r streams.Ref) []kept {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []kept
	for _, k := range l.history {
		if k.subject == streams.DesiredSubject(l.name, r) {
			out = append(out, k)
		}
	}
	return out
}

// verifies counts how often the bridge told the site to compare.
func (l *leafCopy) verifies() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.verifyRequests
}

// request asks the bridge something.
func (s *site) request(verb, data string, answer any) {
	s.t.Helper()
	m, err := s.nc.Request(streams.RequestSubject(s.name, verb), []byte(data), patience)
	s.must(err)
	s.must(json.Unmarshal(m.Data, answer))
}

// ask sends one inventory query.
func (s *site) ask(q inventory.Query) inventory.Answer {
	s.t.Helper()
	data, err := json.Marshal(q)
	s.must(err)
	return s.askRaw(data)
}

func (s *site) askRaw(data []byte) inventory.Answer {
	s.t.Helper()
	var a inventory.Answer
	s.request(inventory.Request, string(data), &a)
	return a
}

// comparison is one comparison of a copy with what was published. It implements inventory.Site.
type comparison struct {
	*leafCopy
	at   streams.HubPosition
	kept map[string]inventory.Entry
	last inventory.Answer
}

// Read implements inventory.Site.
func (c *comparison) Read(_ context.Context, f func(streams.HubPosition, func(func(inventory.Entry)) error) error) error {
	return f(c.at, func(yield func(inventory.Entry)) error {
		for _, e := range c.kept {
			yield(e)
		}
		return nil
	})
}

// Ask implements inventory.Site. An answer with an error counts as behind.
func (c *comparison) Ask(_ context.Context, q inventory.Query) (inventory.Answer, error) {
	c.last = c.ask(q)
	return c.last, nil
}

// compare compares once, as the leaf does, and returns the last answer.
func (l *leafCopy) compare() inventory.Answer {
	l.t.Helper()
	at := l.image()
	c := &comparison{leafCopy: l, at: streams.HubPosition{Seq: at.position, Identity: at.identity}, kept: at.kept}
	_, err := inventory.Compare(context.Background(), c, int(l.nc.MaxPayload())/2, int(l.nc.MaxPayload())/2)
	l.must(err)
	return c.last
}

// equal waits until the site is found to have what it should have, and returns how
// often it was found to differ before.
func (l *leafCopy) equal() (repairs int) {
	l.t.Helper()
	eventually(l.t, l.name+" equal to what was published", func() bool {
		switch a := l.compare(); a.State {
		case inventory.Equal:
			return true
		case inventory.Repairing:
			repairs++
			time.Sleep(2 * time.Second) // a leaf asks again when it has caught up, and not at once
		}
		return false
	})
	return repairs
}
