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
	// streamsPerConnection bounds the calls that one mapper has under way.
	streamsPerConnection = 256
	goodbye              = 2 * time.Second
)

// Run serves mappers until ctx ends and everything it started has stopped; it returns
// nil then. It fails when the socket cannot be made, or something else answers on it.
// It may be called once.
func (s *Server) Run(ctx context.Context) error {
	first := false
	s.once.Do(func() { first = true })
	if !first {
		return errors.New("run DMI server: called twice")
	}
	if err := s.store.load(); err != nil {
		// What it held is brought to the mappers again; only they must register anew.
		s.log.Error("state of mappers unreadable, going on without", zap.Error(err))
	}
	listener, err := listen(ctx, s.socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer s.keep()
	defer wg.Wait()
	defer cancel()
	known := s.recall()
	close(s.loaded)
	wg.Go(func() { s.watchAll(ctx, known) })
	wg.Go(func() { s.removeLeavers(ctx) })

	server := grpc.NewServer(grpc.MaxConcurrentStreams(streamsPerConnection), grpc.WaitForHandlers(true))
	pb.RegisterDeviceManagerServiceServer(server, &service{server: s})
	wg.Go(func() {
		<-ctx.Done()
		force := time.AfterFunc(goodbye, server.Stop)
		defer force.Stop()
		server.GracefulStop()
	})
	s.log.Info("mappers may register", zap.String("socket", s.socket))
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve %s: %w", s.socket, err)
	}
	return nil
}

// recall takes over what was known before a restart. It answers the mappers.
func (s *Server) recall() []*mapper {
	s.mu.Lock()
	defer s.mu.Unlock()
	var known []*mapper
	for _, info := range s.store.mappers() {
		m, err := newMapper(info, s.timing)
		if err != nil {
			s.log.Warn("known mapper left out", zap.String("mapper", info.Name), zap.Error(err))
			continue
		}
		s.mappers[strings.ToLower(info.Protocol)] = m
		known = append(known, m)
	}
	for key, r := range s.store.devices() {
		if s.sessions[key] == nil {
			s.leave(refOf(key), r, time.Now().Add(s.timing.orphan))
		}
	}
	return known
}

// keep saves what needs not have been saved at once.
func (s *Server) keep() {
	if err := s.store.flush(); err != nil {
		s.log.Warn("state of mappers not saved", zap.Error(err))
	}
}

// watchAll watches the known mappers and every further one until ctx ends.
func (s *Server) watchAll(ctx context.Context, known []*mapper) {
	defer close(s.stopped)
	var wg sync.WaitGroup
	defer wg.Wait()
	start := func(m *mapper) { wg.Go(func() { m.watch(ctx, func() { s.changed(m) }, s.log) }) }
	for _, m := range known {
		start(m)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-s.fresh:
			start(m)
		}
	}
}

// changed has the sessions of a mapper look at it again.
func (s *Server) changed(m *mapper) {
	for _, x := range s.sessionsOf(m.info.Protocol) {
		x.wake()
	}
	s.stir()
}

// stir has the leavers looked at again.
func (s *Server) stir() {
	select {
	case s.pending <- struct{}{}:
	default:
	}
}
