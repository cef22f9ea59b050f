package dmi

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/dmi/convert"
)

// DefaultSocket is the socket of the edge agent for KubeEdge's mappers.
const DefaultSocket = "/etc/kubeedge/dmi.sock"

// Config configures a Server.
type Config struct {
	// Socket is the path of the Unix socket that mappers call. Empty: DefaultSocket.
	Socket string
	// StateFile keeps the registered mappers and the values sent to them across restarts: a
	// mapper registers when it starts, not when the leaf does. Its folder is created if
	// missing. Empty: nothing is kept.
	StateFile string
	// BuiltIn are the protocols that other drivers serve: a mapper for one of them gets no
	// devices.
	BuiltIn []string
	// Until returns the time that is left until a time by the right clock, as host.Clock does:
	// expiresAt is judged by it. Nil: by the wall clock.
	Until func(t time.Time) (left time.Duration, known bool)
	// Log may be nil.
	Log *zap.Logger
}

// timing has the timeouts and intervals of a Server.
type timing struct {
	call     time.Duration // a call to a mapper
	probe    time.Duration // between two checks that a mapper responds, and for its response
	reprobe  time.Duration // between two checks while it does not
	grace    time.Duration // for a mapper that has just registered to serve its socket
	retry    time.Duration // between the first two attempts to deliver a device
	retryMax time.Duration // between two later ones
	patience time.Duration // that a report waits for room in the device's queue
	settle   time.Duration // that a new device waits for its desired values
	linger   time.Duration // from a session's end to the removal of the device from the mapper
	orphan   time.Duration // for a device that was known before a restart to be applied again
	applied  time.Duration // for a desired value to be reported, at least
	silence  time.Duration // without the reports that used to come, at least
	clock    time.Duration // between two looks whether the time is known
}

func defaultTiming() timing {
	return timing{
		call: 10 * time.Second, probe: 5 * time.Second, reprobe: 500 * time.Millisecond, grace: 10 * time.Second,
		retry: time.Second, retryMax: 30 * time.Second, patience: 500 * time.Millisecond,
		settle: time.Second, linger: time.Second, orphan: time.Minute, applied: 10 * time.Second, silence: 10 * time.Second, clock: 10 * time.Second,
	}
}

// Server serves the socket that mappers call, and is the devices.Driver of the
// protocols that they speak. Its methods are safe for concurrent use.
type Server struct {
	cfg    Config // complete
	log    *zap.Logger
	store  *store
	timing timing

	loaded       chan struct{} // closed when the store is loaded
	registered   chan *mapper  // registered mappers that are not watched yet
	stopped      chan struct{} // closed when no mapper is watched any longer
	removalsWake chan struct{} // removals has changed
	once         sync.Once

	mu       sync.Mutex
	mappers  map[string]*mapper     // by protocol in lower case
	sessions map[string]*session    // by namespace/name
	bindings map[string]*binding    // by namespace/name
	removals map[removalKey]removal // devices to remove from mappers
}

// New returns a Server. It does no I/O and starts nothing.
func New(c Config) *Server {
	if c.Socket == "" {
		c.Socket = DefaultSocket
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.Until == nil {
		c.Until = func(t time.Time) (time.Duration, bool) { return time.Until(t), true }
	}
	return &Server{
		cfg: c, log: c.Log, store: newStore(c.StateFile), timing: defaultTiming(),
		loaded: make(chan struct{}), registered: make(chan *mapper), stopped: make(chan struct{}), removalsWake: make(chan struct{}, 1),
		mappers: map[string]*mapper{}, sessions: map[string]*session{},
		bindings: map[string]*binding{}, removals: map[removalKey]removal{},
	}
}

// Protocols returns devices.AnyProtocol: the server drives all protocols without a driver.
func (s *Server) Protocols() []string { return []string{devices.AnyProtocol} }

// Open validates that a device can be sent to a mapper. Only the mapper can validate its
// settings: a refusal becomes the device's state.
func (s *Server) Open(def devices.Definition) (devices.Session, []devices.Problem, error) {
	if def.Object == nil || def.Model == nil {
		return nil, nil, errors.New("the definition lacks its objects")
	}
	if _, err := convert.ProtocolSettings(def); err != nil {
		return nil, nil, fmt.Errorf("protocol config: %w", err)
	}
	var problems []devices.Problem
	unusable := map[string]bool{}
	for _, p := range def.Points {
		if _, err := convert.VisitorSettings(def, p.Name); err != nil {
			problems = append(problems, devices.Problem{Property: p.Name, Reason: devices.ReasonInvalidProperty, Message: "visitors: " + err.Error()})
			unusable[p.Name] = true
		}
	}
	return newSession(s, def, unusable), problems, nil
}

// mapper returns the mapper of a protocol, or nil if none has registered.
func (s *Server) mapper(protocol string) *mapper {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mappers[strings.ToLower(protocol)]
}

// sessionsOf returns the sessions of a protocol.
func (s *Server) sessionsOf(protocol string) []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*session
	for _, x := range s.sessions {
		if strings.EqualFold(x.protocol, protocol) {
			list = append(list, x)
		}
	}
	return list
}

// find returns the session of the device that a mapper names. Early versions of mappers omit
// the namespace; then the name must be unique.
func (s *Server) find(namespace, name string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if namespace != "" {
		if x := s.sessions[namespace+"/"+name]; x != nil {
			return x, nil
		}
		return nil, fmt.Errorf("device %s/%s is not operated here", namespace, name)
	}
	var found *session
	for _, x := range s.sessions {
		if x.device.Name != name {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("device %s exists in several namespaces, and the report names none", name)
		}
		found = x
	}
	if found == nil {
		return nil, fmt.Errorf("device %s is not operated here", name)
	}
	return found, nil
}

// attach makes a session the current one of its device. It takes over the binding of the
// device, unless the protocol has changed. Values sent for an earlier device of the same name
// are dropped.
func (s *Server) attach(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := x.device.String()
	s.sessions[key] = x
	r, ok := s.store.device(key)
	moved := ok && !strings.EqualFold(r.Protocol, x.protocol)
	if moved {
		s.scheduleRemoval(x.device, r, time.Now())
	}
	if moved || s.bindings[key] == nil {
		s.bindings[key] = newBinding()
	}
	x.delivery.binding = s.bindings[key]
	delete(s.removals, removalKeyOf(x.protocol, key))
	s.store.update(key, func(r *record) {
		if !ok || moved {
			*r = record{Has: hasNothing} // no mapper has ever had it
		}
		if r.UID != x.device.UID {
			r.Sent = nil
		}
		r.UID, r.Protocol = x.device.UID, x.protocol
	})
}

// detach ends a session. It schedules the removal of the device, which a new session cancels.
func (s *Server) detach(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := x.device.String()
	if s.sessions[key] != x {
		return
	}
	delete(s.sessions, key)
	if r, ok := s.store.device(key); ok {
		s.scheduleRemoval(x.device, r, time.Now().Add(s.timing.linger))
	}
}

// current reports whether a delivery is that of the current session of its device.
func (s *Server) current(d *delivery) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.sessions[d.device.String()]
	return x != nil && x.delivery == d
}
