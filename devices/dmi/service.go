package dmi

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/petiole-io/petiole/devices/dmi/reports"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// service implements the gRPC service that mappers call.
type service struct {
	pb.UnimplementedDeviceManagerServiceServer
	server *Server
}

// MapperRegister registers a mapper for its protocol. It replaces an earlier one.
func (v *service) MapperRegister(ctx context.Context, in *pb.MapperRegisterRequest) (*pb.MapperRegisterResponse, error) {
	info := mapperInfo{
		Name: in.GetMapper().GetName(), Version: in.GetMapper().GetVersion(),
		Protocol: strings.TrimSpace(in.GetMapper().GetProtocol()), Address: string(in.GetMapper().GetAddress()),
	}
	if info.Protocol == "" {
		return nil, status.Error(codes.InvalidArgument, "mapper.protocol is empty")
	}
	m, err := newMapper(info, v.server.timing)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := v.server.store.register(info); err != nil {
		return nil, status.Error(codes.Internal, errors.Join(err, m.conn.Close()).Error())
	}
	answer := v.server.replaceMapper(m, in.GetWithData())
	select {
	case v.server.registered <- m:
	case <-v.server.stopped:
		return nil, status.Error(codes.Unavailable, errors.Join(errors.New("the leaf is stopping"), m.conn.Close()).Error())
	}
	if ctx.Err() != nil { // the mapper does not get the response
		v.server.undoRegistration(m)
	}
	if err := v.server.store.flush(); err != nil {
		v.server.log.Warn("save state of mappers", zap.Error(err))
	}
	v.server.log.Info("mapper registered", zap.String("mapper", info.Name), zap.String("protocol", info.Protocol),
		zap.String("version", info.Version), zap.String("socket", info.Address), zap.Int("devices", len(answer.GetDeviceList())))
	if slices.ContainsFunc(v.server.cfg.BuiltIn, func(p string) bool { return strings.EqualFold(p, info.Protocol) }) {
		v.server.log.Warn("mapper gets no devices, because the leaf has a driver for the protocol; devices.mapperProtocols leaves it to mappers",
			zap.String("mapper", info.Name), zap.String("protocol", info.Protocol))
	}
	v.server.mapperChanged(m)
	return answer, nil
}

// replaceMapper replaces the mapper of a protocol. Removals from the earlier one are dropped,
// since the new one does not have those devices.
func (s *Server) replaceMapper(m *mapper, withData bool) *pb.MapperRegisterResponse {
	protocol := strings.ToLower(m.info.Protocol)
	answer := &pb.MapperRegisterResponse{}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.mappers[protocol]; old != nil {
		close(old.ended)
	}
	s.mappers[protocol] = m
	for d := range s.removals {
		if d.protocol != protocol {
			continue
		}
		delete(s.removals, d)
		if s.sessions[d.key] == nil {
			delete(s.bindings, d.key)
			s.store.drop(d.key)
		}
	}
	models := map[string]bool{}
	for _, x := range s.sessions {
		if !strings.EqualFold(x.protocol, protocol) {
			continue
		}
		x.delivery.reset()
		if !withData {
			continue
		}
		r, _ := s.store.device(x.device.String())
		b, err := x.delivery.bundle(r, nil)
		if err != nil {
			continue // its session reports why
		}
		x.delivery.bindRegistered(m, b)
		answer.DeviceList = append(answer.DeviceList, b.Device)
		if key := b.Model.GetNamespace() + "/" + b.Model.GetName(); !models[key] {
			models[key] = true
			answer.ModelList = append(answer.ModelList, b.Model)
		}
	}
	return answer
}

// undoRegistration records that a mapper did not get its devices.
func (s *Server) undoRegistration(m *mapper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sessions {
		if x.delivery.binding.mapper == m {
			x.delivery.reset()
		}
	}
}

// ReportDeviceStatus queues reported values. After a nil error they will be delivered.
func (v *service) ReportDeviceStatus(ctx context.Context, in *pb.ReportDeviceStatusRequest) (*pb.ReportDeviceStatusResponse, error) {
	x, err := v.session(in.GetDeviceNamespace(), in.GetDeviceName())
	if err != nil {
		return nil, err
	}
	if len(in.GetReportedDevice().GetTwins()) == 0 {
		return nil, status.Errorf(codes.InvalidArgument, "report of device %s has no twins", x.device)
	}
	r, unknown := reports.Values(x.points, in.GetReportedDevice().GetTwins(), time.Now())
	if !r.IsEmpty() {
		if err := x.reports.Enqueue(ctx, r); err != nil {
			return nil, status.Error(codes.ResourceExhausted, err.Error())
		}
	}
	if len(unknown) > 0 {
		return nil, status.Errorf(codes.InvalidArgument, "device %s has no valid property %s", x.device, strings.Join(unknown, ", "))
	}
	return &pb.ReportDeviceStatusResponse{}, nil
}

// ReportDeviceStates queues the reported state of a device.
func (v *service) ReportDeviceStates(ctx context.Context, in *pb.ReportDeviceStatesRequest) (*pb.ReportDeviceStatesResponse, error) {
	x, err := v.session(in.GetDeviceNamespace(), in.GetDeviceName())
	if err != nil {
		return nil, err
	}
	if in.GetState() == "" {
		return nil, status.Errorf(codes.InvalidArgument, "report of device %s has no state", x.device)
	}
	if err := x.reports.Enqueue(ctx, reports.State(in.GetState())); err != nil {
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	}
	return &pb.ReportDeviceStatesResponse{}, nil
}

func (v *service) session(namespace, name string) (*session, error) {
	if name == "" {
		return nil, status.Error(codes.InvalidArgument, "deviceName is empty")
	}
	x, err := v.server.find(namespace, name)
	if err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	return x, nil
}
