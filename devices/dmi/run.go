package dmi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

const (
	// streamsPerConnection bounds the concurrent calls of one mapper.
	streamsPerConnection = 256
	stopTimeout          = 2 * time.Second
)

// Run serves mappers until ctx ends and everything it started has stopped; it returns nil
// then. It fails if the socket cannot be created, or another process serves it. It may be
// called once.
func (s *Server) Run(ctx context.Context) error {
	first := false
	s.once.Do(func() { first = true })
	if !first {
		return errors.New("run DMI server: called twice")
	}
	if err := s.store.load(); err != nil {
		// Devices are delivered again; only the mappers must register again.
		s.log.Error("state file of mappers is unreadable and is ignored: mappers must register again", zap.Error(err))
	}
	listener, err := listen(ctx, s.cfg.Socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer s.flushStore()
	defer wg.Wait()
	defer cancel()
	known := s.restore()
	close(s.loaded)
	wg.Go(func() { s.watchAll(ctx, known) })
	wg.Go(func() { (&remover{server: s}).run(ctx) })

	server := grpc.NewServer(grpc.MaxConcurrentStreams(streamsPerConnection), grpc.WaitForHandlers(true))
	pb.RegisterDeviceManagerServiceServer(server, &service{server: s})
	wg.Go(func() {
		<-ctx.Done()
		force := time.AfterFunc(stopTimeout, server.Stop)
		defer force.Stop()
		server.GracefulStop()
	})
	s.log.Info("accepting registrations of mappers", zap.String("socket", s.cfg.Socket))
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve %s: %w", s.cfg.Socket, err)
	}
	return nil
}

// restore restores mappers and devices from the store. It returns the mappers.
func (s *Server) restore() []*mapper {
	s.mu.Lock()
	defer s.mu.Unlock()
	var known []*mapper
	for _, info := range s.store.mappers() {
		m, err := newMapper(info, s.timing)
		if err != nil {
			s.log.Warn("ignore invalid registration in the state file", zap.String("mapper", info.Name), zap.Error(err))
			continue
		}
		s.mappers[strings.ToLower(info.Protocol)] = m
		known = append(known, m)
	}
	for key, r := range s.store.devices() {
		if s.sessions[key] == nil {
			s.scheduleRemoval(refOf(key), r, time.Now().Add(s.timing.orphan))
		}
	}
	return known
}

// flushStore saves changes that were not saved at once.
func (s *Server) flushStore() {
	if err := s.store.flush(); err != nil {
		s.log.Warn("save state of mappers", zap.Error(err))
	}
}

// watchAll watches the known mappers, and those that register, until ctx ends.
func (s *Server) watchAll(ctx context.Context, known []*mapper) {
	defer close(s.stopped)
	var wg sync.WaitGroup
	defer wg.Wait()
	start := func(m *mapper) { wg.Go(func() { m.watch(ctx, func() { s.mapperChanged(m) }, s.log) }) }
	for _, m := range known {
		start(m)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-s.registered:
			start(m)
		}
	}
}

// mapperChanged makes the sessions of a mapper check it again.
func (s *Server) mapperChanged(m *mapper) {
	for _, x := range s.sessionsOf(m.info.Protocol) {
		x.delivery.wake()
	}
	s.wakeRemovals()
}

// wakeRemovals makes the remover check the removals again.
func (s *Server) wakeRemovals() {
	select {
	case s.removalsWake <- struct{}{}:
	default:
	}
}
