// Package jointest provides machines for tests of leaf/join: folders of the test, a container
// runtime that only reports that it is ready, and a systemctl that runs a function instead of the
// leaf.
//
// Tests of leaf/join and of the bridge use it.
package jointest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/leaf/join"
	"github.com/petiole-io/petiole/leaf/natsd"
	"github.com/petiole-io/petiole/leaf/node"
)

// Machine is a machine that is ready to join.
type Machine struct {
	join.Machine
	Runtime *Runtime
	// Start is what systemctl starts. It ends with ctx.
	Start func(ctx context.Context)

	t     testing.TB
	mu    sync.Mutex
	calls []string
	stop  func()
}

// Runtime is the container runtime.
type Runtime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
	// NoNetwork makes it report that it has no pod network.
	NoNetwork bool
	// Images is the folder of its images, empty if it does not tell.
	Images string
}

// ImageFsInfo implements runtimeapi.ImageServiceServer.
func (r *Runtime) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	if r.Images == "" {
		return &runtimeapi.ImageFsInfoResponse{}, nil
	}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: r.Images}}}}, nil
}

// Status implements runtimeapi.RuntimeServiceServer.
func (r *Runtime) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: !r.NoNetwork}
	if r.NoNetwork {
		network.Reason, network.Message = "NetworkPluginNotReady", "No CNI configuration file in /etc/cni/net.d/"
	}
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: runtimeapi.RuntimeReady, Status: true}, network}}}, nil
}

// RuntimeConfig implements runtimeapi.RuntimeServiceServer.
func (*Runtime) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS}}, nil
}

// New returns a machine that ends with the test.
func New(t testing.TB, host string) *Machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "join") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for path, data := range map[string]string{
		"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n", "proc/sys/net/ipv4/ip_forward": "1\n", "usr/bin/" + node.Program: "",
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "run/crio"), 0o700); err != nil {
		t.Fatal(err)
	}
	m := &Machine{t: t, Runtime: &Runtime{}}
	l, err := net.Listen("unix", filepath.Join(dir, "run/crio/crio.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(s, m.Runtime)
	runtimeapi.RegisterImageServiceServer(s, m.Runtime)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
		m.end()
	})
	metrics := porttest.Addr(t)
	m.Machine = join.Machine{
		Root: dir, ConfigDir: filepath.Join(dir, "etc/petiole"), DataDir: filepath.Join(dir, "var/petiole"), UnitDir: filepath.Join(dir, "units"),
		Executable: "/usr/bin/leaf", Hostname: host, Now: time.Now, Systemctl: m.systemctl,
		Addresses: []string{porttest.Addr(t), metrics}, Metrics: metrics,
	}
	return m
}

// Calls returns what systemctl was called with.
func (m *Machine) Calls() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

func (m *Machine) systemctl(ctx context.Context, args ...string) error {
	m.mu.Lock()
	running := m.stop != nil
	m.mu.Unlock()
	switch args[0] {
	case "is-active":
		if !running {
			return os.ErrProcessDone
		}
		return nil
	case "restart":
		m.end()
		m.begin(context.WithoutCancel(ctx))
	case "disable":
		m.end()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, args[0])
	return nil
}

func (m *Machine) begin(ctx context.Context) {
	if m.Start == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Start(ctx)
	}()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stop = func() {
		cancel()
		<-done
	}
}

// Connected runs the nats-server of a machine that has joined, until the test ends, and waits until
// it is connected to the hub.
func (m *Machine) Connected(site string) *natsd.Server {
	m.t.Helper()
	s, err := natsd.Start(m.t.Context(), natsd.Config{Site: site, File: filepath.Join(m.ConfigDir, "leaf.conf"), Log: zap.NewNop()})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(s.Stop)
	polltest.Eventually(m.t, "the gateway is connected", func() bool { return s.HubConnection() != 0 })
	return s
}

func (m *Machine) end() {
	m.mu.Lock()
	stop := m.stop
	m.stop = nil
	m.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// Options returns those of a join.
func (m *Machine) Options(url, token string) join.Options {
	return join.Options{
		URL: url, Token: token, IgnorePreflight: []string{"Disk"}, Timeout: time.Minute, Version: "test",
		Progress: func(format string, args ...any) { m.t.Logf("  "+format, args...) },
	}
}
