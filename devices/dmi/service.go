package dmi

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// service answers mappers.
type service struct {
	pb.UnimplementedDeviceManagerServiceServer
	server *Server
}

// MapperRegister makes a mapper the one of its protocol, in place of an earlier one.
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
	answer := v.server.welcome(m, in.GetWithData())
	select {
	case v.server.fresh <- m:
	case <-v.server.stopped:
		return nil, status.Error(codes.Unavailable, errors.Join(errors.New("the leaf stops"), m.conn.Close()).Error())
	}
	if ctx.Err() != nil { // nobody reads the answer
		v.server.unanswered(m)
	}
	if err := v.server.store.flush(); err != nil {
		v.server.log.Warn("state of mappers not saved", zap.Error(err))
	}
	v.server.log.Info("mapper registered", zap.String("mapper", info.Name), zap.String("protocol", info.Protocol),
		zap.String("version", info.Version), zap.String("socket", info.Address), zap.Int("devices", len(answer.GetDeviceList())))
	v.server.changed(m)
	return answer, nil
}

// welcome puts a mapper in the place of an earlier one. Devices that the earlier one was
// to forget, the new one does not know.
func (s *Server) welcome(m *mapper, withData bool) *pb.MapperRegisterResponse {
	protocol := strings.ToLower(m.info.Protocol)
	answer := &pb.MapperRegisterResponse{}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.mappers[protocol]; old != nil {
		close(old.ended)
	}
	s.mappers[protocol] = m
	for d := range s.leaving {
		if d.protocol != protocol {
			continue
		}
		delete(s.leaving, d)
		if s.sessions[d.key] == nil {
			delete(s.places, d.key)
			s.store.drop(d.key)
		}
	}
	models := map[string]bool{}
	for _, x := range s.sessions {
		if !strings.EqualFold(x.protocol, protocol) {
			continue
		}
		x.renew()
		if !withData {
			continue
		}
		r, _ := s.store.device(x.device.String())
		b, err := x.bundle(r, nil)
		if err != nil {
			continue // its own session tells why
		}
		x.answered(m, b)
		answer.DeviceList = append(answer.DeviceList, b.device)
		if key := b.model.GetNamespace() + "/" + b.model.GetName(); !models[key] {
			models[key] = true
			answer.ModelList = append(answer.ModelList, b.model)
		}
	}
	return answer
}

// unanswered takes back that a mapper was given its devices.
func (s *Server) unanswered(m *mapper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sessions {
		if x.place.mapper == m {
			x.renew()
		}
	}
}

// ReportDeviceStatus takes reported values. What it answers with nil will be delivered.
func (v *service) ReportDeviceStatus(ctx context.Context, in *pb.ReportDeviceStatusRequest) (*pb.ReportDeviceStatusResponse, error) {
	x, err := v.session(in.GetDeviceNamespace(), in.GetDeviceName())
	if err != nil {
		return nil, err
	}
	if len(in.GetReportedDevice().GetTwins()) == 0 {
		return nil, status.Errorf(codes.InvalidArgument, "report of device %s has no twins", x.device)
	}
	r, unknown := readTwins(x.points, in.GetReportedDevice().GetTwins(), time.Now())
	if len(r.readings) > 0 || len(r.observed) > 0 {
		if err := x.offer(ctx, r); err != nil {
			return nil, status.Error(codes.ResourceExhausted, err.Error())
		}
	}
	if len(unknown) > 0 {
		return nil, status.Errorf(codes.InvalidArgument, "device %s has no usable property %s", x.device, strings.Join(unknown, ", "))
	}
	return &pb.ReportDeviceStatusResponse{}, nil
}

// ReportDeviceStates takes the state of a device.
func (v *service) ReportDeviceStates(ctx context.Context, in *pb.ReportDeviceStatesRequest) (*pb.ReportDeviceStatesResponse, error) {
	x, err := v.session(in.GetDeviceNamespace(), in.GetDeviceName())
	if err != nil {
		return nil, err
	}
	if in.GetState() == "" {
		return nil, status.Errorf(codes.InvalidArgument, "report of device %s has no state", x.device)
	}
	if err := x.offer(ctx, report{state: in.GetState()}); err != nil {
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
