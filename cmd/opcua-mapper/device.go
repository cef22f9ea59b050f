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
	// stateCycle is the period of state reports: the leaf may have missed one.
	stateCycle = 10 * time.Second
	// nodesPerRead is the number of values in one read, which servers bound.
	nodesPerRead = 32
)

// device is one OPC UA server.
type device struct {
	settings settings
	log      *zap.Logger

	mu      sync.Mutex
	config  *dmi.Device
	desired map[string]desiredValue
}

// desiredValue is a desired value. Done reports that it was written, or never can be.
// Command marks the value of a command, which is written even if the variable has it.
type desiredValue struct {
	value, stamp  string
	command, done bool
}

// mustWrite reports whether to write a value to a variable: it differs from the present one,
// or is that of a command.
func (w desiredValue) mustWrite(value, now *ua.Variant) bool { return w.command || !equal(value, now) }

func newDevice(d *dmi.Device, model *dmi.DeviceModel, log *zap.Logger) (*device, error) {
	s, err := parse(d, model)
	if err != nil {
		return nil, err
	}
	x := &device{settings: s, config: d, desired: map[string]desiredValue{}, log: log.With(zap.String("device", d.GetNamespace()+"/"+d.GetName()))}
	x.setDesired(d)
	return x, nil
}

// setDesired replaces the desired values. One that is done stays done.
func (x *device) setDesired(d *dmi.Device) {
	next := map[string]desiredValue{}
	for _, p := range d.GetSpec().GetProperties() {
		w := desiredValue{value: p.GetDesired().GetValue(), stamp: p.GetDesired().GetMetadata()["timestamp"], command: p.GetDesired().GetMetadata()["command"] == "true"}
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

// update takes over the desired values of a new version of the device. It returns false if
// anything else differs.
func (x *device) update(next *device) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !proto.Equal(withoutDesired(x.config), withoutDesired(next.config)) {
		return false
	}
	x.setDesired(next.config)
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
	var reported time.Time // when the state was last reported
	failed := false
	for ctx.Err() == nil {
		err := x.operate(ctx, leaf, func() { wait, failed, reported = reconnectMin, false, time.Time{} })
		if ctx.Err() != nil {
			return
		}
		if !failed {
			x.log.Warn("OPC UA server cannot be reached", zap.Error(err))
		}
		failed = true
		if time.Since(reported) > stateCycle {
			reported = time.Now()
			x.state(ctx, leaf, "offline")
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, reconnectMax)
	}
}

// operate polls over one connection until it fails. It calls connected once it is open.
func (x *device) operate(ctx context.Context, leaf dmi.DeviceManagerServiceClient, connected func()) error {
	client, err := opcua.NewClient(x.settings.url, opcua.AutoReconnect(false), opcua.SecurityMode(ua.MessageSecurityModeNone),
		opcua.RequestTimeout(x.settings.timeout), opcua.DialTimeout(x.settings.timeout))
	if err != nil {
		return fmt.Errorf("create client: %w", err)
	}
	attempt, cancel := context.WithTimeout(ctx, x.settings.timeout)
	err = client.Connect(attempt)
	cancel()
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = client.Close(last) // closing a broken connection fails
	}()
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	connected()
	x.log.Info("connected to OPC UA server")
	due := make([]time.Time, len(x.settings.variables))
	var reported time.Time
	for ctx.Err() == nil {
		if time.Since(reported) > stateCycle {
			reported = time.Now()
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

// poll reads the variables that are due, and returns when the next one is.
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

// read reads variables with one request, writes their desired values, and reports them.
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
		return fmt.Errorf("read: %d results for %d variables", len(answer.Results), len(variables))
	}
	var twins []*dmi.Twin
	for i, v := range variables {
		value := answer.Results[i]
		written, err := x.writeDesired(ctx, client, v, value)
		if err != nil {
			return err
		}
		if written { // the next cycle reports the new value
			continue
		}
		twins = append(twins, x.twin(v, value, at))
	}
	x.report(ctx, leaf, twins)
	return nil
}

// writeDesired writes the desired value of a variable if it has another one, and that of a
// command in any case, once. An error means that the connection is broken. A value that the
// server refuses is not retried, nor is a command after a broken connection.
func (x *device) writeDesired(ctx context.Context, client *opcua.Client, v variable, now *ua.DataValue) (written bool, err error) {
	x.mu.Lock()
	w, ok := x.desired[v.property]
	x.mu.Unlock()
	if !ok || w.done || !v.writable || now.Value == nil {
		return false, nil
	}
	value, wrong := variant(w.value, now.Value)
	if wrong == nil && w.mustWrite(value, now.Value) {
		answer, err := client.Write(ctx, &ua.WriteRequest{NodesToWrite: []*ua.WriteValue{{
			NodeID: v.node, AttributeID: ua.AttributeIDValue,
			Value: &ua.DataValue{EncodingMask: ua.DataValueValue, Value: value},
		}}})
		if err != nil {
			if w.command {
				x.markDone(v.property, w)
			}
			return false, fmt.Errorf("write %s: %w", v.property, err)
		}
		if len(answer.Results) == 1 && answer.Results[0] != ua.StatusOK {
			wrong = answer.Results[0]
		}
		written = wrong == nil
	}
	if wrong != nil {
		x.log.Warn("desired value cannot be written", zap.String("property", v.property), zap.String("value", w.value), zap.Error(wrong))
	}
	x.markDone(v.property, w)
	return written, nil
}

// markDone records that a value needs no further write, unless it has changed by now.
func (x *device) markDone(property string, w desiredValue) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if now := x.desired[property]; now.value == w.value && now.stamp == w.stamp {
		w.done = true
		x.desired[property] = w
	}
}

// twin returns the report of a value. Quality and reason follow from the server's status.
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

// report reports twins. It does not retry: a later report would be outdated.
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
		x.log.Debug("report values to the leaf", zap.Error(err))
	}
}

func (x *device) state(ctx context.Context, leaf dmi.DeviceManagerServiceClient, state string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	d := x.object()
	if _, err := leaf.ReportDeviceStates(ctx, &dmi.ReportDeviceStatesRequest{
		DeviceName: d.GetName(), DeviceNamespace: d.GetNamespace(), State: state,
	}); err != nil {
		x.log.Debug("report state to the leaf", zap.Error(err))
	}
}
