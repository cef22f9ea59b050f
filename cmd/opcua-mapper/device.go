package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/gopcua/opcua"
	"github.com/gopcua/opcua/ua"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	dmi "github.com/petiole-io/petiole/devices/dmi/v1beta1"
)

const (
	reconnectMin = 200 * time.Millisecond
	reconnectMax = 10 * time.Second
	// stateCycle is how often the state is told again: the leaf may have missed it.
	stateCycle = 10 * time.Second
	// nodesPerRead is how many values servers give at once.
	nodesPerRead = 32
)

// device is one OPC UA server.
type device struct {
	settings settings
	log      *zap.Logger

	mu      sync.Mutex
	config  *dmi.Device
	desired map[string]wish
}

// wish is a desired value. Done tells that it was written, or never can be; command that
// it is one of a command, which is written also when the variable has it.
type wish struct {
	value, stamp  string
	command, done bool
}

// differs reports whether a value is to be written over what the variable has: that of a
// command is in any case.
func (w wish) differs(value, now *ua.Variant) bool { return w.command || !equal(value, now) }

func newDevice(d *dmi.Device, model *dmi.DeviceModel, log *zap.Logger) (*device, error) {
	s, err := parse(d, model)
	if err != nil {
		return nil, err
	}
	x := &device{settings: s, config: d, desired: map[string]wish{}, log: log.With(zap.String("device", d.GetNamespace()+"/"+d.GetName()))}
	x.want(d)
	return x, nil
}

// want takes desired values over. One that was dealt with is left alone.
func (x *device) want(d *dmi.Device) {
	next := map[string]wish{}
	for _, p := range d.GetSpec().GetProperties() {
		w := wish{value: p.GetDesired().GetValue(), stamp: p.GetDesired().GetMetadata()["timestamp"], command: p.GetDesired().GetMetadata()["command"] == "true"}
		if w.value == "" {
			continue
		}
		if old, ok := x.desired[p.GetName()]; ok && old.value == w.value && old.stamp == w.stamp {
			w.done = old.done
		}
		next[p.GetName()] = w
	}
	x.config, x.desired = d, next
}

// adopt takes the desired values of another form of the device over, if that is all in
// which they differ.
func (x *device) adopt(next *device) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !proto.Equal(withoutDesired(x.config), withoutDesired(next.config)) {
		return false
	}
	x.want(next.config)
	return true
}

func withoutDesired(d *dmi.Device) *dmi.Device {
	c := proto.CloneOf(d)
	c.Status = nil
	for _, p := range c.GetSpec().GetProperties() {
		p.Desired = nil
	}
	return c
}

func (x *device) object() *dmi.Device {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.config
}

// run connects and polls until ctx ends.
func (x *device) run(ctx context.Context, leaf dmi.DeviceManagerServiceClient) {
	wait := reconnectMin
	var told time.Time
	failed := false
	for ctx.Err() == nil {
		err := x.operate(ctx, leaf, func() { wait, failed, told = reconnectMin, false, time.Time{} })
		if ctx.Err() != nil {
			return
		}
		if !failed {
			x.log.Warn("server is away", zap.Error(err))
		}
		failed = true
		if time.Since(told) > stateCycle {
			told = time.Now()
			x.state(ctx, leaf, "offline")
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, reconnectMax)
	}
}

// operate polls over one connection until it fails. Connected is called when it stands.
func (x *device) operate(ctx context.Context, leaf dmi.DeviceManagerServiceClient, connected func()) error {
	client, err := opcua.NewClient(x.settings.url, opcua.AutoReconnect(false), opcua.SecurityMode(ua.MessageSecurityModeNone),
		opcua.RequestTimeout(x.settings.timeout), opcua.DialTimeout(x.settings.timeout))
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	attempt, cancel := context.WithTimeout(ctx, x.settings.timeout)
	err = client.Connect(attempt)
	cancel()
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = client.Close(last) // a broken connection has nothing to be closed
	}()
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	connected()
	x.log.Info("server answers")
	due := make([]time.Time, len(x.settings.variables))
	var told time.Time
	for ctx.Err() == nil {
		if time.Since(told) > stateCycle {
			told = time.Now()
			x.state(ctx, leaf, "online")
		}
		next, err := x.poll(ctx, client, leaf, due)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(next)):
		}
	}
	return nil
}

// poll reads what is due, and answers when something will be again.
func (x *device) poll(ctx context.Context, client *opcua.Client, leaf dmi.DeviceManagerServiceClient, due []time.Time) (next time.Time, err error) {
	now := time.Now()
	next = now.Add(defaultCycle)
	var batch []variable
	for i, v := range x.settings.variables {
		if !due[i].After(now) {
			batch = append(batch, v)
			due[i] = now.Add(v.cycle)
		}
		if due[i].Before(next) {
			next = due[i]
		}
	}
	for len(batch) > 0 {
		n := min(len(batch), nodesPerRead)
		if err := x.read(ctx, client, leaf, batch[:n]); err != nil {
			return next, err
		}
		batch = batch[n:]
	}
	return next, nil
}

// read reads variables at once, writes what is desired of them, and reports.
func (x *device) read(ctx context.Context, client *opcua.Client, leaf dmi.DeviceManagerServiceClient, variables []variable) error {
	request := &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnNeither}
	for _, v := range variables {
		request.NodesToRead = append(request.NodesToRead, &ua.ReadValueID{NodeID: v.node, AttributeID: ua.AttributeIDValue})
	}
	at := time.Now()
	answer, err := client.Read(ctx, request)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if len(answer.Results) != len(variables) {
		return fmt.Errorf("read: %d answers to %d questions", len(answer.Results), len(variables))
	}
	var twins []*dmi.Twin
	for i, v := range variables {
		value := answer.Results[i]
		written, err := x.fulfil(ctx, client, v, value)
		if err != nil {
			return err
		}
		if written { // what it is now is seen in the next cycle
			continue
		}
		twins = append(twins, x.twin(v, value, at))
	}
	x.report(ctx, leaf, twins)
	return nil
}

// fulfil writes the value that is desired of a variable, if it has another one, and that
// of a command in any case, once. An error means that the connection is broken; a value
// that the server refuses is given up, and so is a command that was cut off.
func (x *device) fulfil(ctx context.Context, client *opcua.Client, v variable, now *ua.DataValue) (written bool, err error) {
	x.mu.Lock()
	w, ok := x.desired[v.property]
	x.mu.Unlock()
	if !ok || w.done || !v.writable || now.Value == nil {
		return false, nil
	}
	value, wrong := variant(w.value, now.Value)
	if wrong == nil && w.differs(value, now.Value) {
		answer, err := client.Write(ctx, &ua.WriteRequest{NodesToWrite: []*ua.WriteValue{{
			NodeID: v.node, AttributeID: ua.AttributeIDValue,
			Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: value},
		}}})
		if err != nil {
			if w.command {
				x.settled(v.property, w)
			}
			return false, fmt.Errorf("write %s: %w", v.property, err)
		}
		if len(answer.Results) == 1 && answer.Results[0] != ua.StatusOK {
			wrong = answer.Results[0]
		}
		written = wrong == nil
	}
	if wrong != nil {
		x.log.Warn("desired value is not written", zap.String("property", v.property), zap.String("value", w.value), zap.Error(wrong))
	}
	x.settled(v.property, w)
	return written, nil
}

// settled remembers that a value needs no further write, unless it is another one by now.
func (x *device) settled(property string, w wish) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if now := x.desired[property]; now.value == w.value && now.stamp == w.stamp {
		w.done = true
		x.desired[property] = w
	}
}

// twin makes the report of a value that was read at a time. Quality and reason are what
// the server said of it.
func (x *device) twin(v variable, value *ua.DataValue, at time.Time) *dmi.Twin {
	quality, reason := "good", ""
	if value.EncodingMask&ua.DataValueStatusCode != 0 {
		quality, reason = grade(value.Status)
	}
	reported := ""
	switch {
	case quality == "bad":
	case value.Value == nil:
		quality, reason = "bad", "NoValue"
	default:
		t, err := text(value.Value)
		if err != nil {
			quality, reason = "bad", "UnsupportedType"
		}
		reported = t
	}
	x.mu.Lock()
	w := x.desired[v.property]
	x.mu.Unlock()
	return &dmi.Twin{
		PropertyName:    v.property,
		ObservedDesired: &dmi.TwinProperty{Value: w.value, Metadata: map[string]string{"timestamp": w.stamp}},
		Reported: &dmi.TwinProperty{Value: reported, Metadata: map[string]string{
			"timestamp": strconv.FormatInt(at.UnixMilli(), 10), "quality": quality, "reason": reason,
		}},
	}
}

// report reports twins. What cannot be told now is too old later.
func (x *device) report(ctx context.Context, leaf dmi.DeviceManagerServiceClient, twins []*dmi.Twin) {
	if len(twins) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	d := x.object()
	_, err := leaf.ReportDeviceStatus(ctx, &dmi.ReportDeviceStatusRequest{
		DeviceName: d.GetName(), DeviceNamespace: d.GetNamespace(), ReportedDevice: &dmi.DeviceStatus{Twins: twins},
	})
	if err != nil {
		x.log.Debug("report is lost", zap.Error(err))
	}
}

func (x *device) state(ctx context.Context, leaf dmi.DeviceManagerServiceClient, state string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	d := x.object()
	if _, err := leaf.ReportDeviceStates(ctx, &dmi.ReportDeviceStatesRequest{
		DeviceName: d.GetName(), DeviceNamespace: d.GetNamespace(), State: state,
	}); err != nil {
		x.log.Debug("state is lost", zap.Error(err))
	}
}
