package dmi

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/petiole-io/petiole/devices"
)

// DefaultSocket is where KubeEdge's mappers look for the edge agent.
const DefaultSocket = "/etc/kubeedge/dmi.sock"

// Config is what a Server needs.
type Config struct {
	// Socket is the path of the Unix socket that mappers call. Empty: DefaultSocket.
	Socket string
	// StateFile keeps, across restarts, which mappers there are and what they were told:
	// a mapper registers when it starts and not when the leaf does. Its folder is made
	// when missing. Empty: nothing is kept.
	StateFile string
	// Log may be nil.
	Log *zap.Logger
}

// timing is how long things take at most, or how often they happen.
type timing struct {
	call     time.Duration // a call to a mapper
	probe    time.Duration // between two checks that a mapper answers, and for its answer
	reprobe  time.Duration // between two checks while it does not
	grace    time.Duration // for a mapper that has just registered to serve its socket
	retry    time.Duration // between the first two attempts to bring a device to its mapper
	retryMax time.Duration // between two later ones
	patience time.Duration // a report waits for room in the device's queue
	settle   time.Duration // a new device waits for its desired values
	linger   time.Duration // from a session's end to the device's removal at the mapper
	orphan   time.Duration // for a device that was known before a restart to appear again
	applied  time.Duration // for a desired value to be reported, at least
	silence  time.Duration // without the reports that used to come, at least
}

func defaultTiming() timing {
	return timing{
		call: 10 * time.Second, probe: 5 * time.Second, reprobe: 500 * time.Millisecond, grace: 10 * time.Second,
		retry: time.Second, retryMax: 30 * time.Second, patience: 500 * time.Millisecond,
		settle: time.Second, linger: time.Second, orphan: time.Minute, applied: 10 * time.Second, silence: 10 * time.Second,
	}
}

// Server serves the socket that mappers call, and is the devices.Driver of the
// protocols that they speak. Its methods are safe for concurrent use.
type Server struct {
	socket string
	log    *zap.Logger
	store  *store
	timing timing

	loaded  chan struct{} // closed when the store is loaded
	fresh   chan *mapper  // registered and not watched yet
	stopped chan struct{} // closed when no mapper is watched any more
	pending chan struct{} // something is leaving
	once    sync.Once

	mu       sync.Mutex
	mappers  map[string]*mapper   // by protocol in lower case
	sessions map[string]*session  // by namespace/name
	places   map[string]*place    // by namespace/name
	leaving  map[departure]leaver // devices that mappers shall forget
}

// New makes a Server that does nothing yet.
func New(c Config) *Server {
	if c.Socket == "" {
		c.Socket = DefaultSocket
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	return &Server{
		socket: c.Socket, log: c.Log, store: newStore(c.StateFile), timing: defaultTiming(),
		loaded: make(chan struct{}), fresh: make(chan *mapper), stopped: make(chan struct{}), pending: make(chan struct{}, 1),
		mappers: map[string]*mapper{}, sessions: map[string]*session{},
		places: map[string]*place{}, leaving: map[departure]leaver{},
	}
}

// Protocols makes the server the driver of all protocols that no other driver names.
func (s *Server) Protocols() []string { return []string{devices.AnyProtocol} }

// Open checks that a device can be brought to a mapper. Whether its settings make
// sense only the mapper knows: what it refuses is told as the device's state.
func (s *Server) Open(def devices.Definition) (devices.Session, []devices.Problem, error) {
	if def.Object == nil || def.Model == nil {
		return nil, nil, errors.New("the definition lacks its objects")
	}
	if _, err := protocolSettings(def); err != nil {
		return nil, nil, fmt.Errorf("protocol config: %w", err)
	}
	var problems []devices.Problem
	unusable := map[string]bool{}
	for _, p := range def.Points {
		if _, err := visitorSettings(def, p.Name); err != nil {
			problems = append(problems, devices.Problem{Property: p.Name, Reason: devices.ReasonInvalidProperty, Message: "visitors: " + err.Error()})
			unusable[p.Name] = true
		}
	}
	return newSession(s, def, unusable), problems, nil
}

// mapper is who speaks the protocol now; nil when nobody has registered.
func (s *Server) mapper(protocol string) *mapper {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mappers[strings.ToLower(protocol)]
}

// sessionsOf are the sessions of a protocol.
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

// find is the session of the device that a mapper names. Mappers of early versions
// leave the namespace out; then the name must be unique.
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
			return nil, fmt.Errorf("device %s is in several namespaces, and the report names none", name)
		}
		found = x
	}
	if found == nil {
		return nil, fmt.Errorf("device %s is not operated here", name)
	}
	return found, nil
}

// attach makes a session the one of its device. What its mapper has of the device is
// handed over, unless the device has changed its protocol; what was told to an earlier
// device of the name is not this one's.
func (s *Server) attach(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := x.device.String()
	s.sessions[key] = x
	r, ok := s.store.device(key)
	moved := ok && !strings.EqualFold(r.Protocol, x.protocol)
	if moved {
		s.leave(x.device, r, time.Now())
	}
	if moved || s.places[key] == nil {
		s.places[key] = newPlace()
	}
	x.place = s.places[key]
	delete(s.leaving, departureOf(x.protocol, key))
	s.store.note(key, func(r *record) {
		if !ok || moved {
			*r = record{Has: hasNothing} // no mapper was ever told of it
		}
		if r.UID != x.device.UID {
			r.Told = nil
		}
		r.UID, r.Protocol = x.device.UID, x.protocol
	})
}

// detach ends a session. The device leaves its mapper unless a new session takes over.
func (s *Server) detach(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := x.device.String()
	if s.sessions[key] != x {
		return
	}
	delete(s.sessions, key)
	if r, ok := s.store.device(key); ok {
		s.leave(x.device, r, time.Now().Add(s.timing.linger))
	}
}

// current tells whether a session is the one of its device.
func (s *Server) current(x *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[x.device.String()] == x
}
