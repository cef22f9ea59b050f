package dmi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/dmi/reports"
	pb "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

// Remote receives the reports of mappers without a socket, as those that use MQTT, and sends
// values to them. It implements devices.ReportReceiver.
type Remote struct {
	server   *Server
	announce func(device devices.Ref, property, value string)
}

// NewRemote returns the Remote of a server.
func NewRemote(s *Server) *Remote { return &Remote{server: s} }

// Operates reports whether a device is operated by a mapper here.
func (m *Remote) Operates(device devices.Ref) bool {
	_, err := m.server.find(device.Namespace, device.Name)
	return err == nil
}

// AnnounceWrites sets the function with which values are sent. It must not block, and is called
// before the sessions start.
func (m *Remote) AnnounceWrites(announce func(device devices.Ref, property, value string)) {
	m.announce = announce
}

// ReportValues queues values that a mapper reports. After a nil error they will
// be delivered. From then on the device is operated by such mappers, while no mapper for its
// protocol has registered.
func (m *Remote) ReportValues(ctx context.Context, device devices.Ref, values map[string]devices.ReportedValue) error {
	x, err := m.server.find(device.Namespace, device.Name)
	if err != nil {
		return err
	}
	var twins []*pb.Twin
	for _, name := range slices.Sorted(maps.Keys(values)) {
		v := values[name]
		metadata := map[string]string{"quality": string(v.Quality), "reason": v.Reason}
		if !v.Time.IsZero() {
			metadata["timestamp"] = strconv.FormatInt(v.Time.UnixMilli(), 10)
		}
		twins = append(twins, &pb.Twin{PropertyName: name, Reported: &pb.TwinProperty{Value: v.Text, Metadata: metadata}})
	}
	r, unknown := reports.Values(x.points, twins, time.Now())
	if !r.IsEmpty() {
		m.operate(x.delivery)
		if err := x.reports.Enqueue(ctx, r); err != nil {
			return err
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("device %s has no valid property %s", x.device, strings.Join(unknown, ", "))
	}
	return nil
}

// ReportState queues the state of a device that a mapper reports.
func (m *Remote) ReportState(ctx context.Context, device devices.Ref, state string) error {
	x, err := m.server.find(device.Namespace, device.Name)
	if err != nil {
		return err
	}
	if state == "" {
		return errors.New("state is empty")
	}
	m.operate(x.delivery)
	return x.reports.Enqueue(ctx, reports.State(state))
}

// operate records that a mapper without a socket reports a device.
func (m *Remote) operate(x *delivery) {
	m.server.mu.Lock()
	defer m.server.mu.Unlock()
	x.binding.remote = m
}

// remoteOf returns the Remote whose mappers operate a device, nil if there is none, or a mapper
// for its protocol has registered.
func remoteOf(x *delivery) *Remote {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	if x.binding == nil || x.server.mappers[strings.ToLower(x.protocol)] != nil {
		return nil
	}
	return x.binding.remote
}
