package natsd

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/petiole-io/petiole/leaf/filestore"
)

// StoreDir returns the folder of JetStream, also while the server does not run.
func (s *Server) StoreDir() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.storeDir
}

// LastSequences returns the last sequence of each stream by name, without the streams that the
// server does not report. It is empty while the server does not run.
func (s *Server) LastSequences() map[string]uint64 { return lastSequences(s.server()) }

func lastSequences(running *server.Server) map[string]uint64 {
	out := map[string]uint64{}
	accounts, err := list(running, server.JSzOptions{})
	if err != nil {
		return out
	}
	for _, a := range accounts {
		for _, d := range a.Streams {
			out[d.Name] = d.State.LastSeq
		}
	}
	return out
}

// list returns the streams of a server by account.
func list(running *server.Server, opts server.JSzOptions) ([]*server.AccountDetail, error) {
	if running == nil {
		return nil, errNotRunning
	}
	opts.Accounts, opts.Streams = true, true
	z, err := running.Jsz(&opts)
	if err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	return z.AccountDetails, nil
}

// LastAtStart returns the last sequence of a stream when the running server started, before
// anybody in this process could store anything, and false if it is unknown.
func (s *Server) LastAtStart(stream string) (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.lastSeqs[stream]
	return last, ok
}

func (s *Server) addDamaged(found []filestore.Damaged) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range found {
		if s.damaged == nil {
			s.damaged = map[string]filestore.Damaged{}
		}
		s.damaged[d.Stream] = d
	}
}

// TakeDamaged returns the streams, by name, that were found damaged before a start of the server
// and that it has not returned before.
func (s *Server) TakeDamaged() map[string]filestore.Damaged {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.damaged
	s.damaged = nil
	return found
}

// Unrecovered returns the streams that have a folder and that the server did not recover.
func (s *Server) Unrecovered() ([]StreamDir, error) {
	return unrecovered(s.server(), s.StoreDir())
}

func unrecovered(running *server.Server, store string) ([]StreamDir, error) {
	accounts, err := list(running, server.JSzOptions{})
	if err != nil {
		return nil, err
	}
	up := map[StreamDir]bool{}
	for _, a := range accounts {
		for _, d := range a.Streams {
			up[StreamDir{a.Name, d.Name}] = true
		}
	}
	folders, err := filepath.Glob(filepath.Join(store, "*", "streams", "*"))
	if err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	var out []StreamDir
	for _, f := range folders {
		d := StreamDir{filepath.Base(filepath.Dir(filepath.Dir(f))), filepath.Base(f)}
		if !up[d] && !strings.HasPrefix(d.Stream, ".") { // the server removes those itself
			out = append(out, d)
		}
	}
	return out, nil
}

// UnrecoveredConsumers returns the folders of durable consumers that the server did not recover.
// While a damaged folder exists, nats-server 2.15.2 loses the consumer at each start
// (docs/upstream.md, 14).
func (s *Server) UnrecoveredConsumers() ([]string, error) {
	accounts, err := list(s.server(), server.JSzOptions{Consumer: true})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range accounts {
		for _, d := range a.Streams {
			folders, err := filepath.Glob(filepath.Join(StreamDir{a.Name, d.Name}.in(s.StoreDir()), consumersDir, "*"))
			if err != nil {
				return nil, fmt.Errorf("list consumers: %w", err)
			}
			for _, f := range folders {
				up := func(c *server.ConsumerInfo) bool { return c.Name == filepath.Base(f) }
				if !slices.ContainsFunc(d.Consumer, up) {
					out = append(out, f)
				}
			}
		}
	}
	return out, nil
}

// Find returns the folder of a stream that the server has recovered.
func (s *Server) Find(stream string) (StreamDir, error) {
	accounts, err := list(s.server(), server.JSzOptions{})
	if err != nil {
		return StreamDir{}, err
	}
	for _, a := range accounts {
		if slices.ContainsFunc(a.Streams, func(d server.StreamDetail) bool { return d.Name == stream }) {
			return StreamDir{a.Name, stream}, nil
		}
	}
	return StreamDir{}, fmt.Errorf("no account has stream %s", stream)
}
