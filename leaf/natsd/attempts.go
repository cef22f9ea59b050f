package natsd

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// What nats-server logs about every attempt: that it failed, or that the hub answered.
const (
	attemptFailed  = "Error trying to connect as leafnode to remote server"
	attemptReached = "Leafnode connection created"
	// connectionID is in each line about a connection to the hub, before its number.
	connectionID = " - lid"
)

// invalidTime is what crypto/x509 says about a certificate that is not valid at the time.
const invalidTime = "x509: certificate has expired or is not yet valid"

// repeatTime is how long a line of a connection counts as one that is repeated.
const repeatTime = 10 * time.Minute

// attempts detects in the log of nats-server, the only place that shows it, whether the server
// tries to reach the hub, and why TLS refused the hub. The zero value has seen no attempt. It is safe
// for concurrent use.
type attempts struct {
	seen atomic.Bool
	// refused is the last error about the time of the hub's certificate, nil if the last attempt had
	// another result.
	refused atomic.Pointer[string]
	// refusals counts the attempts that were refused for the time, judged is set while one is judged.
	refusals atomic.Int64
	judged   atomic.Bool

	mu sync.Mutex
	// repeated are the lines about connections, without their ids.
	repeated map[string]repeat
}

// repeat is a line that nats-server has logged so often.
type repeat struct {
	count int
	last  time.Time
}

// observe takes a format string that nats-server logs, with its arguments, and reports whether
// to log it: of failed attempts, and of lines that each connection has, such as that a certificate is
// not trusted, only the 1st, 2nd, 4th, 8th and so on.
func (a *attempts) observe(format string, args []any) bool {
	if strings.HasPrefix(format, attemptFailed) {
		a.seen.Store(true)
		a.refused.Store(nil)
		n, ok := 0, false
		if len(args) > 1 {
			n, ok = args[1].(int)
		}
		return !ok || n&(n-1) == 0
	}
	if strings.Contains(format, attemptReached) { // TLS comes after it
		a.seen.Store(true)
	}
	_, line, ok := strings.Cut(format, connectionID)
	if !ok {
		return true
	}
	if _, line, ok = strings.Cut(line, " - "); !ok {
		return true
	}
	return a.count(fmt.Sprintf(line, args...))
}

// count reports whether a line has been repeated 0, 1, 3, 7 and so on times.
func (a *attempts) count(line string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for l, r := range a.repeated {
		if now.Sub(r.last) > repeatTime {
			delete(a.repeated, l)
		}
	}
	if a.repeated == nil {
		a.repeated = map[string]repeat{}
	}
	n := a.repeated[line].count + 1
	a.repeated[line] = repeat{n, now}
	return n&(n-1) == 0
}

// observeError takes an error that nats-server logs, in case it is that the certificate of the hub is
// not valid at the time.
func (a *attempts) observeError(line string) {
	if i := strings.Index(line, invalidTime); i >= 0 {
		why := line[i:]
		a.refused.Store(&why)
		if a.judged.Swap(false) {
			a.refusals.Add(1)
		}
	}
}

// certificateTime returns the time by which the next attempt is judged.
func (a *attempts) certificateTime(times []time.Time) time.Time {
	a.judged.Store(true)
	return times[a.refusals.Load()%int64(len(times))]
}

// CertificateRefused returns why the hub's certificate is not valid at the time of this gateway, empty
// if the last attempt of the server to reach the hub had another result.
func CertificateRefused(s *Server) string {
	if why := s.attempts.refused.Load(); why != nil {
		return *why
	}
	return ""
}

// Idle reports whether the server has remotes, is connected to none of them, and has not tried
// since the last call.
//
// nats-server 2.15.2 stops trying when a connection breaks by a write error while it is being set
// up (docs/upstream.md, 10; nats-io/nats-server#7615). A restart helps.
func (s *Server) Idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	tried := s.attempts.seen.Swap(false)
	return s.running != nil && s.hub.remotes > 0 && !tried && s.running.NumLeafNodes() == 0
}

// AttemptInterval returns the longest time between two attempts to reach the hub.
func (s *Server) AttemptInterval() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hub.attemptInterval
}

func attemptIntervalOf(opts *server.Options) time.Duration {
	dial := opts.LeafNode.DialTimeout
	for _, r := range opts.LeafNode.Remotes {
		dial = max(dial, r.DialTimeout)
	}
	return 2*opts.LeafNode.ReconnectInterval + dial // the server adds up to as much again at random
}
