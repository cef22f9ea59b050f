package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

const (
	// defaultDeadline is the time from receipt to the deadline of a command that has none;
	// longestDeadline bounds that of the others.
	defaultDeadline = 30 * time.Second
	longestDeadline = 24 * time.Hour
	maxIDLength     = 128
	// commandQueue bounds the waiting commands of a device.
	commandQueue = 64
	// maxUnstored bounds the audits and events of a device that wait for the sink. Above it
	// commands are refused: a command that cannot be audited is not executed.
	maxUnstored = 1024
)

// The reasons why commands are refused, besides those of desired values.
const (
	ReasonUnknownMethod   = "UnknownMethod"
	ReasonNotInMethod     = "PropertyNotInMethod"
	ReasonUnknownProperty = "UnknownProperty"
	ReasonOtherDevice     = "OtherDevice"
	ReasonBusy            = "TooManyCommands"
	ReasonNotTried        = "NotTried"
	ReasonStopped         = "HostStopped"
)

// Command asks a device to do something now. It is carried out at most once for its
// id, never after its deadline, and never replayed.
//
// Everything is validated before anything is written: the method, that it contains the
// properties, and each value as a desired one is. Properties are then written one after the
// other, in the order of the method, or by name if there is none; the first that is not
// applied ends the command, and the rest is not tried. If the device is offline the command
// fails at once: it waits only for other commands. Every value is sent, even one that the
// device has already, since it may act on being written. Commands go before desired values.
// They do not change desired values: a property with the drift policy enforce gets its
// desired value again.
type Command struct {
	// ID is unique for the device, at most 128 bytes.
	ID string `json:"id"`
	// Device is the target. UID may be empty.
	Device Ref `json:"device"`
	// Method is a method of Device.spec.methods, which bounds the properties; empty: any
	// property may be written.
	Method string `json:"method,omitempty"`
	// Properties are the values to write, in string form.
	Properties map[string]string `json:"properties"`
	// Deadline is the time after which nothing is written, at most 24 h away; zero: 30 s
	// after the command was received.
	Deadline time.Time `json:"deadline,omitzero"`
}

// CommandResult is the result of a command: applied if all of its properties were, and
// otherwise the ack of the first that was not.
type CommandResult struct {
	ID      string `json:"id"`
	Ack     Ack    `json:"ack"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Properties has the result of each property. It is empty if the command was refused as
	// a whole.
	Properties map[string]PropertyResult `json:"properties,omitempty"`
	// Repeated reports that the id was known: this is the recorded result, and nothing was
	// executed again.
	Repeated bool `json:"repeated,omitempty"`
}

// PropertyResult is the result of one property of a command.
type PropertyResult struct {
	Ack Ack `json:"ack"`
	// Written reports whether a write was sent to the device. Sent describes it in the terms
	// of the protocol, with the error that the device returned, if any.
	Written bool   `json:"written"`
	Sent    string `json:"sent,omitempty"`
	// Before and After are the values read before and after; empty if they were not read.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Reason is why the value was not applied, or, for one that was, ReasonReset or
	// ReasonUnverified.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// ErrUnknownDevice reports that the host operates no such device.
var ErrUnknownDevice = errors.New("unknown device")

// request is a command with the channel for its result.
type request struct {
	command  Command
	deadline time.Time
	reply    chan CommandResult // has room for one result
}

// Command carries out a command and returns its result. It blocks until then, which is soon
// after the deadline at the latest. The end of ctx does not end the command: a later call
// with the same id returns how it ended. Errors are ErrUnknownDevice, ErrStopped, or that of
// ctx; everything else is a result.
//
// The id is recorded in State before anything is written. A repeated id gets the recorded
// result, also after a restart; if the host was killed while it executed the command, that
// is failed, reason Unknown. State has at least the newest 240 ids of a device, and all
// whose deadlines have not passed. A command that was refused or expired before anything
// was written is not recorded: a repetition is decided again.
func (h *Host) Command(ctx context.Context, c Command) (CommandResult, error) {
	r := &request{command: c, deadline: c.Deadline, reply: make(chan CommandResult, 1)}
	if c.Deadline.IsZero() {
		r.deadline = time.Now().Add(defaultDeadline)
	}
	var w *worker
	err := h.call(ctx, func(_ context.Context, ro *registry) error {
		w = ro.workers[c.Device.String()]
		return nil
	})
	if err != nil {
		return CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, err)
	}
	if w == nil {
		return CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, ErrUnknownDevice)
	}
	select {
	case w.requests <- r:
	case <-w.stopped:
	case <-ctx.Done():
		return CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, ctx.Err())
	}
	select {
	case result := <-r.reply:
		return result, nil
	case <-ctx.Done():
		return CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, ctx.Err())
	case <-w.stopped:
	}
	select {
	case result := <-r.reply:
		return result, nil
	default:
		return CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, ErrStopped)
	}
}

// plan has the points that a command writes, in order.
type plan []int

// admit validates a command against a definition. It returns the indexes of the points to
// write, in order, or why the command is refused. It is a pure function.
func admit(c Command, deadline time.Time, def Definition, now time.Time) (plan, *Rejection) {
	switch {
	case c.ID == "" || len(c.ID) > maxIDLength:
		return nil, reject(ReasonNotValid, "the id has %d bytes, 1 to %d are allowed", len(c.ID), maxIDLength)
	case c.Device.UID != "" && c.Device.UID != def.Device.UID:
		return nil, reject(ReasonOtherDevice, "the device has UID %s", def.Device.UID)
	case deadline.Sub(now) > longestDeadline:
		return nil, reject(ReasonNotValid, "the deadline is more than %s away", longestDeadline)
	case len(c.Properties) == 0:
		return nil, reject(ReasonNotValid, "no properties")
	}
	order, rejection := orderOf(c, def)
	if rejection != nil {
		return nil, rejection
	}
	var out plan
	for _, name := range order {
		i := slices.IndexFunc(def.Points, func(p Point) bool { return p.Name == name })
		if i < 0 {
			return nil, reject(ReasonUnknownProperty, "the device has no property %q that can be used", name)
		}
		if rejection := validate(def.Points[i], c.Properties[name]); rejection != nil {
			rejection.Message = "property " + name + ": " + rejection.Message
			return nil, rejection
		}
		out = append(out, i)
	}
	return out, nil
}

// orderOf returns the names of a command's properties in the order of its method, or
// sorted.
func orderOf(c Command, def Definition) ([]string, *Rejection) {
	names := sortedKeys(c.Properties)
	if c.Method == "" {
		return names, nil
	}
	i := slices.IndexFunc(def.Methods, func(m v1beta1.DeviceMethod) bool { return m.Name == c.Method })
	if i < 0 {
		return nil, reject(ReasonUnknownMethod, "the device has no method %q", c.Method)
	}
	var order []string
	for _, name := range def.Methods[i].PropertyNames {
		if _, ok := c.Properties[name]; ok && !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	for _, name := range names {
		if !slices.Contains(order, name) {
			return nil, reject(ReasonNotInMethod, "method %q does not set property %q", c.Method, name)
		}
	}
	return order, nil
}

// propertyResult returns the result of a property from the outcome of its write. It is a
// pure function.
func propertyResult(o Outcome, err error, replaced, late bool) PropertyResult {
	r := PropertyResult{Ack: Failed, Written: o.Written, Sent: o.Sent, Before: o.Before, After: o.After}
	if err != nil {
		r.Message = err.Error()
	}
	var rejection *Rejection
	switch {
	case err == nil:
		r.Ack, r.Reason, r.Message = Applied, o.Reason, o.Message
	case errors.As(err, &rejection):
		r.Ack, r.Reason, r.Message = Rejected, rejection.Reason, rejection.Message
	case o.Written && unreachable(err):
		r.Reason = ReasonUnverified
	case late && unreachable(err):
		r.Ack, r.Reason = Expired, ReasonDeadline
	case replaced:
		r.Reason = ReasonInterrupted
	case unreachable(err):
		r.Reason = ReasonOffline
	default:
		r.Reason = ReasonFailure
	}
	return r
}

// resultOf returns the result of a command from those of its properties, in the order in
// which they were written.
func resultOf(id string, order []string, properties map[string]PropertyResult) CommandResult {
	r := CommandResult{ID: id, Ack: Applied, Properties: maps.Clone(properties)}
	for _, name := range order {
		if p := properties[name]; p.Ack != Applied {
			r.Ack, r.Reason, r.Message = p.Ack, p.Reason, "property "+name+": "+p.Message
			break
		}
	}
	return r
}
