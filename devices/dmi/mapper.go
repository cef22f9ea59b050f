package dmi

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// callsAtOnce bounds the concurrent calls to one mapper.
const callsAtOnce = 64

// mapper is one registration of a mapper.
type mapper struct {
	info   mapperInfo
	conn   *grpc.ClientConn
	client pb.DeviceMapperServiceClient
	calls  chan struct{}
	timing timing
	ended  chan struct{} // closed when another registration replaces it

	mu       sync.Mutex
	presence presence
}

// presence is whether a mapper responds.
type presence struct {
	phase phase
	// epoch counts how often the mapper has become present. It may have restarted, without
	// any devices, between two epochs.
	epoch   int
	message string
}

type phase int

const (
	starting phase = iota // has not responded yet, within timing.grace
	present
	away
)

// newMapper returns the mapper of a registration. It does no I/O.
func newMapper(info mapperInfo, t timing) (*mapper, error) {
	path := strings.TrimPrefix(info.Address, "unix://")
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("address %q is not an absolute path of a Unix socket", info.Address)
	}
	conn, err := grpc.NewClient("passthrough:///localhost",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: t.reprobe / 2, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 4 * t.reprobe},
			MinConnectTimeout: t.probe,
		}))
	if err != nil {
		return nil, fmt.Errorf("create client of mapper %s: %w", info.Name, err)
	}
	return &mapper{
		info: info, conn: conn, client: pb.NewDeviceMapperServiceClient(conn), timing: t,
		calls: make(chan struct{}, callsAtOnce), ended: make(chan struct{}),
	}, nil
}

// currentPresence returns whether the mapper responds now.
func (m *mapper) currentPresence() presence {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.presence
}

// watch checks whether the mapper responds, until ctx or the registration ends, and calls
// changed after every change. It closes the connection at the end.
func (m *mapper) watch(ctx context.Context, changed func(), log *zap.Logger) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-m.ended:
			cancel()
		case <-ctx.Done():
		}
	})
	defer wg.Wait()
	defer cancel()
	defer m.conn.Close()
	log = log.With(zap.String("mapper", m.info.Name), zap.String("protocol", m.info.Protocol))
	patient := time.Now().Add(m.timing.grace)
	for ctx.Err() == nil {
		err := m.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		if m.observe(err, time.Now().Before(patient)) {
			if err == nil {
				log.Info("mapper responds")
			} else {
				log.Warn("mapper does not respond", zap.Error(err))
			}
			changed()
		}
		m.sleep(ctx, err == nil)
	}
}

// sleep waits until the next check is due. A lost connection makes it due.
func (m *mapper) sleep(ctx context.Context, answers bool) {
	d := m.timing.reprobe
	if answers {
		d = m.timing.probe
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if answers {
		m.conn.WaitForStateChange(ctx, connectivity.Ready)
		return
	}
	<-ctx.Done()
}

// probe calls the mapper's gRPC health service. Mappers need not implement it: any response
// counts, and the call has no effect on them.
func (m *mapper) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.timing.probe)
	defer cancel()
	_, err := grpc_health_v1.NewHealthClient(m.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if unreachable(err) {
		return err
	}
	return nil
}

// observe applies the result of a check, and reports whether the phase changed.
func (m *mapper) observe(err error, patient bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.presence.phase
	switch {
	case err == nil && was != present:
		m.presence = presence{phase: present, epoch: m.presence.epoch + 1}
	case err != nil && (was == present || was == starting && !patient):
		m.presence.phase, m.presence.message = away, status.Convert(err).Message()
	}
	return m.presence.phase != was
}

// call calls the mapper, with a timeout and a bound on concurrent calls.
func (m *mapper) call(ctx context.Context, do func(context.Context, pb.DeviceMapperServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, m.timing.call)
	defer cancel()
	select {
	case m.calls <- struct{}{}:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	defer func() { <-m.calls }()
	return do(ctx, m.client)
}

// unreachable reports whether a call failed because the mapper did not respond.
func unreachable(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	default:
		return false
	}
}
