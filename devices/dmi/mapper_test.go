package dmi

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// field are devices as they are in reality: values by device and property.
type field struct {
	mu     sync.Mutex
	values map[string]map[string]string
	deaf   map[string]bool // devices that keep their values
}

func newField() *field {
	return &field{values: map[string]map[string]string{}, deaf: map[string]bool{}}
}

func (f *field) set(device, property, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.values[device] == nil {
		f.values[device] = map[string]string{"flow": "21.100000381469727", "speed": "0", "running": "false"}
	}
	f.values[device][property] = value
}

func (f *field) get(device, property string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.values[device] == nil {
		return map[string]string{"flow": "21.100000381469727", "speed": "0", "running": "false"}[property]
	}
	return f.values[device][property]
}

// write is what a mapper does with a desired value.
func (f *field) write(device, property, value string) {
	f.mu.Lock()
	deaf := f.deaf[device]
	f.mu.Unlock()
	if !deaf {
		f.set(device, property, value)
	}
}

// fakeMapper behaves as mappers of KubeEdge's framework do: it registers once, serves its
// socket afterwards, ignores a registration of a device that it has, wants the model
// before the device, writes all desired values whenever a device starts, and reports
// each property in a call of its own over a connection of its own.
type fakeMapper struct {
	pb.UnimplementedDeviceMapperServiceServer
	t      *testing.T
	rig    *rig
	field  *field
	path   string
	server *grpc.Server
	group  sync.WaitGroup
	cancel context.CancelFunc

	mu      sync.Mutex
	models  map[string]*pb.DeviceModel
	devices map[string]*pb.Device
	calls   []string
	refuse  map[string]error // by device
	dislike string           // a desired value that no device may have
	mute    bool             // reports nothing
	omit    bool             // leaves the namespace out
	skip    string           // a property that it does not report
}

// newMapper returns a mapper that was not started.
func (p *rig) newMapper(f *field) *fakeMapper {
	return &fakeMapper{
		t: p.t, rig: p, field: f, path: filepath.Join(p.dir, "mapper.sock"),
		models: map[string]*pb.DeviceModel{}, devices: map[string]*pb.Device{}, refuse: map[string]error{},
	}
}

// start registers and serves.
func (m *fakeMapper) start(withData bool) *fakeMapper {
	m.t.Helper()
	answer, err := m.register(withData)
	if err != nil {
		m.t.Fatal("register:", err)
	}
	m.serve(answer)
	return m
}

func (m *fakeMapper) register(withData bool) (*pb.MapperRegisterResponse, error) {
	c, done := dial(m.t, m.rig.socket())
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	return pb.NewDeviceManagerServiceClient(c).MapperRegister(ctx, &pb.MapperRegisterRequest{WithData: withData, Mapper: &pb.MapperInfo{
		Name: "fake", Version: "v1", ApiVersion: "v1.0.0", Protocol: "telepathy", Address: []byte(m.path), State: "ok",
	}})
}

func (m *fakeMapper) serve(answer *pb.MapperRegisterResponse) {
	m.t.Helper()
	for _, x := range answer.GetModelList() {
		m.models[x.GetNamespace()+"/"+x.GetName()] = x
	}
	for _, d := range answer.GetDeviceList() {
		m.begin(d)
	}
	_ = os.Remove(m.path) // as the framework does
	l, err := net.Listen("unix", m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	m.server = grpc.NewServer()
	pb.RegisterDeviceMapperServiceServer(m.server, m)
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.group.Go(func() {
		if err := m.server.Serve(l); err != nil {
			m.t.Error(err)
		}
	})
	m.group.Go(func() { m.report(ctx) })
	m.t.Cleanup(m.kill)
}

// kill ends the mapper without a word.
func (m *fakeMapper) kill() {
	m.cancel()
	m.server.Stop()
	m.group.Wait()
}

func (m *fakeMapper) note(call string) { m.calls = append(m.calls, call) }

func (m *fakeMapper) log() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprint(m.calls)
}

func (m *fakeMapper) count(call string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (m *fakeMapper) set(do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	do()
}

func (m *fakeMapper) device(name string) *pb.Device {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.devices["default/"+name]
}

func (m *fakeMapper) refusal(d *pb.Device) error {
	for _, p := range d.GetSpec().GetProperties() {
		if v := p.GetDesired().GetValue(); v != "" && v == m.dislike {
			return status.Error(codes.InvalidArgument, "I do not like "+v)
		}
	}
	return m.refuse[d.GetName()]
}

// begin starts a device, which writes its desired values.
func (m *fakeMapper) begin(d *pb.Device) {
	m.devices[d.GetNamespace()+"/"+d.GetName()] = d
	for _, p := range d.GetSpec().GetProperties() {
		if v := p.GetDesired().GetValue(); v != "" {
			m.field.write(d.GetName(), p.GetName(), v)
		}
	}
}

// report reports every property again and again.
func (m *fakeMapper) report(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m.mu.Lock()
		var all []*pb.ReportDeviceStatusRequest
		for _, d := range m.devices {
			if m.mute || m.refuse[d.GetName()] != nil {
				continue
			}
			for _, p := range d.GetSpec().GetProperties() {
				if p.GetName() == m.skip {
					continue
				}
				r := &pb.ReportDeviceStatusRequest{
					DeviceName: d.GetName(), DeviceNamespace: d.GetNamespace(), ReportedDevice: &pb.DeviceStatus{Twins: []*pb.Twin{{
						PropertyName:    p.GetName(),
						ObservedDesired: &pb.TwinProperty{Value: p.GetDesired().GetValue(), Metadata: map[string]string{"type": "x"}},
						Reported: &pb.TwinProperty{Value: m.field.get(d.GetName(), p.GetName()), Metadata: map[string]string{
							"type": "x", "timestamp": strconv.FormatInt(time.Now().UnixMilli(), 10),
						}},
					}}},
				}
				if m.omit {
					r.DeviceNamespace = ""
				}
				all = append(all, r)
			}
		}
		m.mu.Unlock()
		for _, r := range all {
			c, done := dial(m.t, m.rig.socket())
			call, cancel := context.WithTimeout(ctx, time.Second)
			// The leaf may be away; the framework only logs it.
			_, _ = pb.NewDeviceManagerServiceClient(c).ReportDeviceStatus(call, r)
			cancel()
			done()
		}
	}
}

func (m *fakeMapper) RegisterDevice(_ context.Context, in *pb.RegisterDeviceRequest) (*pb.RegisterDeviceResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := in.GetDevice()
	m.note("register " + d.GetName())
	if err := m.refusal(d); err != nil {
		return nil, err
	}
	if m.devices[d.GetNamespace()+"/"+d.GetName()] != nil {
		return &pb.RegisterDeviceResponse{DeviceName: d.GetName()}, nil
	}
	if m.models[d.GetNamespace()+"/"+d.GetSpec().GetDeviceModelReference()] == nil {
		return nil, fmt.Errorf("model of %s not found", d.GetName())
	}
	m.begin(d)
	return &pb.RegisterDeviceResponse{DeviceName: d.GetName()}, nil
}

func (m *fakeMapper) UpdateDevice(_ context.Context, in *pb.UpdateDeviceRequest) (*pb.UpdateDeviceResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := in.GetDevice()
	m.note("update " + d.GetName())
	if err := m.refusal(d); err != nil {
		return nil, err
	}
	if m.models[d.GetNamespace()+"/"+d.GetSpec().GetDeviceModelReference()] == nil {
		return nil, fmt.Errorf("model of %s not found", d.GetName())
	}
	m.begin(d)
	return &pb.UpdateDeviceResponse{}, nil
}

func (m *fakeMapper) RemoveDevice(_ context.Context, in *pb.RemoveDeviceRequest) (*pb.RemoveDeviceResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("remove " + in.GetDeviceName())
	delete(m.devices, in.GetDeviceNamespace()+"/"+in.GetDeviceName())
	return &pb.RemoveDeviceResponse{}, nil
}

func (m *fakeMapper) CreateDeviceModel(_ context.Context, in *pb.CreateDeviceModelRequest) (*pb.CreateDeviceModelResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("create model " + in.GetModel().GetName())
	m.models[in.GetModel().GetNamespace()+"/"+in.GetModel().GetName()] = in.GetModel()
	return &pb.CreateDeviceModelResponse{DeviceModelName: in.GetModel().GetName()}, nil
}

func (m *fakeMapper) UpdateDeviceModel(_ context.Context, in *pb.UpdateDeviceModelRequest) (*pb.UpdateDeviceModelResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("update model " + in.GetModel().GetName())
	key := in.GetModel().GetNamespace() + "/" + in.GetModel().GetName()
	if m.models[key] == nil {
		return nil, status.Error(codes.Unknown, "model not existed")
	}
	m.models[key] = in.GetModel()
	return &pb.UpdateDeviceModelResponse{}, nil
}

func (m *fakeMapper) RemoveDeviceModel(_ context.Context, in *pb.RemoveDeviceModelRequest) (*pb.RemoveDeviceModelResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note("remove model " + in.GetModelName())
	delete(m.models, in.GetModelNamespace()+"/"+in.GetModelName())
	return &pb.RemoveDeviceModelResponse{}, nil
}

// dial connects to a Unix socket, as a mapper does.
func dial(t *testing.T, path string) (c *grpc.ClientConn, done func()) {
	t.Helper()
	c, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return c, func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestMapperForABuiltInProtocol registers a mapper for a protocol that the leaf has a driver for:
// it is logged that it gets no devices.
func TestMapperForABuiltInProtocol(t *testing.T) {
	t.Parallel()
	core, logged := observer.New(zap.WarnLevel)
	s := New(Config{Socket: filepath.Join(t.TempDir(), "dmi.sock"), BuiltIn: []string{"modbus"}, Log: zap.New(core)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.loaded
	for protocol, want := range map[string]int{"opcua": 0, "Modbus": 1} {
		v := &service{server: s}
		in := &pb.MapperRegisterRequest{Mapper: &pb.MapperInfo{Name: "m", Protocol: protocol, Address: []byte(filepath.Join(t.TempDir(), "m.sock"))}}
		if _, err := v.MapperRegister(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		if got := logged.FilterMessageSnippet("mapper gets no devices").FilterField(zap.String("protocol", protocol)).Len(); got != want {
			t.Errorf("%s: %d warnings", protocol, got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
