package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"
	"go.uber.org/zap/zaptest"
	"sigs.k8s.io/yaml"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/devicestest"
	"github.com/petiole-io/petiole/devices/dmi"
	"github.com/petiole-io/petiole/devices/host"
	"github.com/petiole-io/petiole/devices/host/hosttest"
	"github.com/petiole-io/petiole/internal/porttest"
)

const examples = "../../deploy/kubernetes/examples"

// TestEndToEnd: a real OPC UA server, the mapper as a process of its own, and the leaf's
// device host; the first two are killed and started again.
func TestEndToEnd(t *testing.T) {
	dir := t.TempDir()
	address := porttest.Addr(t)
	server := start(t, envServer+"="+address)
	host, sink := startHost(t, dir)
	config := filepath.Join(dir, "mapper.yaml")
	write(t, config, fmt.Sprintf(`
grpc_server:
  socket_path: %[1]s/opcua.sock
common:
  name: opcua-mapper
  version: v1.0.0
  api_version: v1.0.0
  protocol: opcua
  address: 127.0.0.1
  edgecore_sock: %[1]s/dmi.sock
`, dir))
	mapper := start(t, envMapper+"="+config)

	// The example of the manifests, with the server where it is here.
	model, press := load(t)
	press.Spec.Protocol.ConfigData.Data["url"] = "opc.tcp://" + address
	apply(t, host, model, press)
	sink.await(t, "values are read", func(s *v1beta1.DeviceStatus) bool {
		return s.Status.State == v1beta1.StateOnline && reported(s, "temperature") == "21.5" && reported(s, "serial") == "PX-7"
	})
	sink.await(t, "the desired value of the manifest is applied", func(s *v1beta1.DeviceStatus) bool {
		return acked(s, "setpoint") == devices.Applied && reported(s, "setpoint") == "55.5"
	})
	if got := read(t, address, "Setpoint"); got != float32(55.5) {
		t.Errorf("the server has %v", got)
	}

	// A further desired value.
	press = press.DeepCopy()
	desire(press, "speed", "1200")
	apply(t, host, press)
	sink.await(t, "desired value is applied", func(s *v1beta1.DeviceStatus) bool {
		return acked(s, "speed") == devices.Applied && reported(s, "speed") == "1200"
	})
	if got := read(t, address, "Speed"); got != int32(1200) {
		t.Errorf("the server has %v", got)
	}

	// The mapper is killed and started again.
	kill(t, mapper)
	sink.await(t, "offline without its mapper", func(s *v1beta1.DeviceStatus) bool {
		return s.Status.State == v1beta1.StateOffline && s.Status.Extensions.Data["reason"] == dmi.ReasonMapperAway
	})
	mapper = start(t, envMapper+"="+config)
	sink.await(t, "online with its mapper", func(s *v1beta1.DeviceStatus) bool {
		return s.Status.State == v1beta1.StateOnline && reported(s, "speed") == "1200"
	})

	// The server is killed and started again, with its initial values.
	kill(t, server)
	sink.await(t, "offline without its server", func(s *v1beta1.DeviceStatus) bool {
		return s.Status.State == v1beta1.StateOffline && s.Status.Extensions.Data["reason"] == "ReportedOffline"
	})
	server = start(t, envServer+"="+address)
	sink.await(t, "online with its server", func(s *v1beta1.DeviceStatus) bool {
		return s.Status.State == v1beta1.StateOnline && reported(s, "temperature") == "21.5"
	})
	desire(press, "speed", "1300")
	apply(t, host, press.DeepCopy())
	sink.await(t, "desired value after all that", func(s *v1beta1.DeviceStatus) bool {
		return acked(s, "speed") == devices.Applied && reported(s, "speed") == "1300"
	})

	// A node that does not exist is one bad value, and no more.
	broken := press.DeepCopy()
	broken.Spec.Properties[0].Visitors = &v1beta1.VisitorConfig{ConfigData: &v1beta1.CustomizedValue{Data: map[string]any{"nodeID": "ns=1;s=Nothing"}}}
	apply(t, host, broken)
	sink.await(t, "one bad value", func(s *v1beta1.DeviceStatus) bool {
		p := twin(s, "temperature")
		return p != nil && p.Metadata["quality"] == "bad" && p.Metadata["reason"] == "StatusBadNodeIDUnknown" && s.Status.State != v1beta1.StateOffline
	})

	// A refusal of the mapper is reported.
	broken = press.DeepCopy()
	broken.Spec.Protocol.ConfigData.Data["url"] = "http://wrong"
	apply(t, host, broken)
	sink.await(t, "refused", func(s *v1beta1.DeviceStatus) bool {
		return s.Status.State == v1beta1.StateOffline && s.Status.Extensions.Data["reason"] == dmi.ReasonMapperRefuses
	})
	kill(t, mapper)
	kill(t, server)
}

// TestConfig: the keys of KubeEdge's mappers, and nothing else.
func TestConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	write(t, path, "common: {name: x, edgecore_sock: /run/dmi.sock}\ngrpc_server: {socket_path: /run/x.sock}\n")
	c, err := loadConfig(path)
	if err != nil || c.Common.EdgeCoreSock != "/run/dmi.sock" || c.GRPCServer.SocketPath != "/run/x.sock" || c.Common.Protocol != "opcua" {
		t.Errorf("%+v, %v", c, err)
	}
	for _, wrong := range []string{"common: {colour: red}", "common: {protocol: ''}"} {
		write(t, path, wrong)
		if _, err := loadConfig(path); err == nil {
			t.Errorf("%s is accepted", wrong)
		}
	}
}

// start starts this binary as another program.
func start(t *testing.T, env string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), env)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.ProcessState == nil {
			kill(t, c)
		}
	})
	return c
}

// kill kills a program.
func kill(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if err := c.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = c.Wait() // the error is that it was killed
}

func startHost(t *testing.T, dir string) (*host.Host, *sink) {
	t.Helper()
	log := zaptest.NewLogger(t)
	server := dmi.New(dmi.Config{Socket: dir + "/dmi.sock", StateFile: dir + "/mappers.json", Log: log.Named("dmi")})
	s := &sink{}
	host, err := host.New(host.Config{
		Node: "plant-a-1", Drivers: []devices.Driver{server}, Sink: s, State: &devicestest.State{}, Clock: &hosttest.Clock{}, Log: log, StatusInterval: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, run := range []func(context.Context) error{server.Run, host.Run} {
		wg.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return host, s
}

func apply(t *testing.T, host *host.Host, objects ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	version++
	for _, o := range objects {
		var err error
		switch x := o.(type) {
		case *v1beta1.Device:
			err = host.ApplyDevice(ctx, x.DeepCopy(), fmt.Sprint(version)) // the test changes it later
		case *v1beta1.DeviceModel:
			err = host.ApplyModel(ctx, x, fmt.Sprint(version))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

var version int

// load reads the manifests of the example.
func load(t *testing.T) (*v1beta1.DeviceModel, *v1beta1.Device) {
	t.Helper()
	m, d := &v1beta1.DeviceModel{}, &v1beta1.Device{}
	for name, into := range map[string]any{"opcua-model.yaml": m, "opcua-device.yaml": d} {
		b, err := os.ReadFile(filepath.Join(examples, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(b, into); err != nil {
			t.Fatal(name, err)
		}
	}
	d.UID = "press-1"
	return m, d
}

func desire(d *v1beta1.Device, property, value string) {
	for i := range d.Spec.Properties {
		if d.Spec.Properties[i].Name == property {
			d.Spec.Properties[i].Desired = &v1beta1.TwinProperty{Value: value}
		}
	}
}

// read reads a variable without the mapper.
func read(t *testing.T, address, name string) any {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := opcua.NewClient("opc.tcp://"+address, opcua.SecurityMode(ua.MessageSecurityModeNone), opcua.AutoReconnect(false))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()
	answer, err := c.Read(ctx, &ua.ReadRequest{NodesToRead: []*ua.ReadValueID{{NodeID: ua.NewStringNodeID(1, name), AttributeID: ua.AttributeIDValue}}})
	if err != nil || answer.Results[0].Value == nil {
		t.Fatal(answer, err)
	}
	return answer.Results[0].Value.Value()
}

func twin(s *v1beta1.DeviceStatus, property string) *v1beta1.TwinProperty {
	for _, x := range s.Status.Twins {
		if x.PropertyName == property {
			return x.Reported
		}
	}
	return nil
}

func reported(s *v1beta1.DeviceStatus, property string) string {
	if p := twin(s, property); p != nil && p.Metadata["quality"] == string(devices.Good) {
		return p.Value
	}
	return ""
}

func acked(s *v1beta1.DeviceStatus, property string) devices.Ack {
	for _, x := range s.Status.Twins {
		if x.PropertyName == property && x.ObservedDesired != nil {
			return devices.Ack(x.ObservedDesired.Metadata["ack"])
		}
	}
	return ""
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sink records the newest status.
type sink struct {
	mu     sync.Mutex
	status *v1beta1.DeviceStatus
}

func (s *sink) await(t *testing.T, what string, ok func(*v1beta1.DeviceStatus) bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		s.mu.Lock()
		now := s.status
		s.mu.Unlock()
		if now != nil && ok(now) {
			return
		}
		if time.Now().After(deadline) {
			b, err := yaml.Marshal(now)
			if err != nil {
				t.Error(err)
			}
			t.Fatalf("not seen: %s; the device is\n%s", what, b)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *sink) Status(_ context.Context, _ devices.Ref, status *v1beta1.DeviceStatus) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
	return nil
}

func (s *sink) Samples(context.Context, *devices.Samples) error { return nil }
func (s *sink) Audit(context.Context, *devices.Audit) error     { return nil }
func (s *sink) Event(context.Context, *devices.Event) error     { return nil }
