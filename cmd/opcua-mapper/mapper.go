package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	dmi "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

const (
	callTimeout   = 2 * time.Second
	registerRetry = time.Second
)

// mapper implements the service that the leaf calls, and has its devices.
type mapper struct {
	dmi.UnimplementedDeviceMapperServiceServer
	config config
	log    *zap.Logger

	mu      sync.Mutex
	devices map[string]*running // by namespace/name
	models  map[string]*dmi.DeviceModel
	start   func(*device) *running // nil unless run runs
}

// running is a device that is operated.
type running struct {
	device *device
	stop   context.CancelFunc
	done   chan struct{}
}

func newMapper(c config, log *zap.Logger) *mapper {
	return &mapper{config: c, log: log, devices: map[string]*running{}, models: map[string]*dmi.DeviceModel{}}
}

// run serves the leaf until ctx ends and every device has stopped.
func (m *mapper) run(ctx context.Context) error {
	if err := os.Remove(m.config.GRPCServer.SocketPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old socket: %w", err)
	}
	listener, err := net.Listen("unix", m.config.GRPCServer.SocketPath)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	conn, err := grpc.NewClient("unix://"+m.config.Common.EdgeCoreSock, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return errors.Join(fmt.Errorf("create client of the leaf: %w", err), listener.Close())
	}
	defer conn.Close()
	leaf := dmi.NewDeviceManagerServiceClient(conn)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.mu.Lock()
	m.start = func(d *device) *running {
		dctx, stop := context.WithCancel(ctx)
		r := &running{device: d, stop: stop, done: make(chan struct{})}
		wg.Go(func() {
			defer close(r.done)
			defer stop()
			d.run(dctx, leaf)
		})
		return r
	}
	m.mu.Unlock()
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	dmi.RegisterDeviceMapperServiceServer(server, m)
	wg.Go(func() { m.register(ctx, leaf) })
	wg.Go(func() { <-ctx.Done(); server.Stop() })
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// register registers the mapper at the leaf, with retries, and starts the devices in the
// response.
func (m *mapper) register(ctx context.Context, leaf dmi.DeviceManagerServiceClient) {
	c := m.config.Common
	for failed := false; ctx.Err() == nil; failed = true {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		answer, err := leaf.MapperRegister(call, &dmi.MapperRegisterRequest{WithData: true, Mapper: &dmi.MapperInfo{
			Name: c.Name, Version: c.Version, ApiVersion: c.APIVersion, Protocol: c.Protocol,
			Address: []byte(m.config.GRPCServer.SocketPath), State: "ok",
		}})
		cancel()
		if err == nil {
			m.log.Info("registered at the leaf", zap.Int("devices", len(answer.GetDeviceList())))
			m.startAll(answer)
			return
		}
		if !failed {
			m.log.Warn("register at the leaf fails and is retried", zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(registerRetry):
		}
	}
}

// startAll operates the devices in the response to the registration.
func (m *mapper) startAll(answer *dmi.MapperRegisterResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, x := range answer.GetModelList() {
		m.models[x.GetNamespace()+"/"+x.GetName()] = x
	}
	for _, d := range answer.GetDeviceList() {
		if err := m.put(d, false); err != nil {
			m.log.Warn("invalid device ignored", zap.String("device", d.GetName()), zap.Error(err))
		}
	}
}

// put starts to operate a device. One that is operated already does not change unless
// replace is set.
func (m *mapper) put(d *dmi.Device, replace bool) error {
	key := d.GetNamespace() + "/" + d.GetName()
	model := m.models[d.GetNamespace()+"/"+d.GetSpec().GetDeviceModelReference()]
	if model == nil {
		return status.Errorf(codes.FailedPrecondition, "model %s is unknown", d.GetSpec().GetDeviceModelReference())
	}
	next, err := newDevice(d, model, m.log)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	old := m.devices[key]
	switch {
	case m.start == nil:
		return status.Error(codes.Unavailable, "the mapper is not running")
	case old == nil:
		m.devices[key] = m.start(next)
	case !replace:
	case old.device.update(next): // only desired values have changed: the session stays
	default:
		old.stop()
		<-old.done
		m.devices[key] = m.start(next)
	}
	return nil
}

func (m *mapper) RegisterDevice(_ context.Context, in *dmi.RegisterDeviceRequest) (*dmi.RegisterDeviceResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.put(in.GetDevice(), false); err != nil {
		return nil, err
	}
	return &dmi.RegisterDeviceResponse{DeviceName: in.GetDevice().GetName(), DeviceNamespace: in.GetDevice().GetNamespace()}, nil
}

func (m *mapper) UpdateDevice(_ context.Context, in *dmi.UpdateDeviceRequest) (*dmi.UpdateDeviceResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.put(in.GetDevice(), true); err != nil {
		return nil, err
	}
	return &dmi.UpdateDeviceResponse{}, nil
}

func (m *mapper) RemoveDevice(_ context.Context, in *dmi.RemoveDeviceRequest) (*dmi.RemoveDeviceResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := in.GetDeviceNamespace() + "/" + in.GetDeviceName()
	if r := m.devices[key]; r != nil {
		r.stop()
		<-r.done
		delete(m.devices, key)
	}
	return &dmi.RemoveDeviceResponse{}, nil
}

func (m *mapper) GetDevice(_ context.Context, in *dmi.GetDeviceRequest) (*dmi.GetDeviceResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.devices[in.GetDeviceNamespace()+"/"+in.GetDeviceName()]
	if r == nil {
		return nil, status.Errorf(codes.NotFound, "device %s/%s is not operated here", in.GetDeviceNamespace(), in.GetDeviceName())
	}
	return &dmi.GetDeviceResponse{Device: r.device.object()}, nil
}

func (m *mapper) CreateDeviceModel(_ context.Context, in *dmi.CreateDeviceModelRequest) (*dmi.CreateDeviceModelResponse, error) {
	m.keepModel(in.GetModel())
	return &dmi.CreateDeviceModelResponse{DeviceModelName: in.GetModel().GetName(), DeviceModelNamespace: in.GetModel().GetNamespace()}, nil
}

func (m *mapper) UpdateDeviceModel(_ context.Context, in *dmi.UpdateDeviceModelRequest) (*dmi.UpdateDeviceModelResponse, error) {
	m.keepModel(in.GetModel())
	return &dmi.UpdateDeviceModelResponse{}, nil
}

func (m *mapper) keepModel(model *dmi.DeviceModel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.models[model.GetNamespace()+"/"+model.GetName()] = model
}

func (m *mapper) RemoveDeviceModel(_ context.Context, in *dmi.RemoveDeviceModelRequest) (*dmi.RemoveDeviceModelResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.models, in.GetModelNamespace()+"/"+in.GetModelName())
	return &dmi.RemoveDeviceModelResponse{}, nil
}
