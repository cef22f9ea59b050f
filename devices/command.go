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
	// defaultDeadline is the deadline of a command that has none, from when it was
	// received; longestDeadline is how far it may be away.
	defaultDeadline = 30 * time.Second
	longestDeadline = 24 * time.Hour
	longestID       = 128
	// commandQueue bounds the commands of a device that wait.
	commandQueue = 64
	// unstored bounds the audits and events of a device that wait for the sink while
	// commands are still taken: what cannot be recorded is not done.
	unstored = 1024
)

// The reasons why commands are refused, beside those of values.
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
// Before anything is written all of it is checked: the method, that the properties
// are in it, and each value as a desired one is. Properties are then written one
// after the other, in the order of the method, without one by name; the first that
// is not applied ends the command, and the rest is not tried. A device that is
// offline fails a command at once: it waits for nothing but other commands. Each value is
// sent, also one that the device has already: it may act on being written. Commands
// go before desired values. They do not change what is desired: a property with the
// drift policy enforce gets its desired value again.
type Command struct {
	// ID is unique for the device, at most 128 bytes.
	ID string `json:"id"`
	// Device is whom it is for. UID may be empty.
	Device Ref `json:"device"`
	// Method is a method of Device.spec.methods, which bounds what may be set; empty:
	// the properties are written as they are.
	Method string `json:"method,omitempty"`
	// Properties are the values to write, in string form.
	Properties map[string]string `json:"properties"`
	// Deadline is when nothing is written any more, at most 24 h away; zero: 30 s after
	// it was received.
	Deadline time.Time `json:"deadline,omitzero"`
}

// CommandResult is what became of a command: applied when each of its properties
// was, else the ack of the first that was not.
type CommandResult struct {
	ID      string `json:"id"`
	Ack     Ack    `json:"ack"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Properties is what became of each. It is empty when the command was refused as a
	// whole.
	Properties map[string]PropertyResult `json:"properties,omitempty"`
	// Repeated tells that the id was known: this is the recorded result, and nothing
	// was executed again.
	Repeated bool `json:"repeated,omitempty"`
}

// PropertyResult is what became of one property of a command.
type PropertyResult struct {
	Ack Ack `json:"ack"`
	// Written tells whether anything was sent to change the device, and Sent what, in the
	// words of the protocol, with the device's answer where that was not consent.
	Written bool   `json:"written"`
	Sent    string `json:"sent,omitempty"`
	// Before and After are the values as they were read, empty when they were not.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Reason says why the value was not applied, or what is open about one that was:
	// ReasonReset, ReasonUnverified.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// ErrUnknownDevice reports that the host operates no such device.
var ErrUnknownDevice = errors.New("unknown device")

// request is a command with the one who waits for its result.
type request struct {
	command  Command
	deadline time.Time
	reply    chan CommandResult // takes one without blocking
}

// Command has a device carry out a command and returns what became of it. It blocks
// until then, which is soon after the deadline at the latest. The end of ctx does not
// end the command: asked again with the same id, it answers how it ended. Errors are
// ErrUnknownDevice, ErrStopped, or that of ctx; everything else is a result.
//
// The id is recorded in State before anything is written. A repeated id, also after a
// restart, gets the recorded result; when the host was killed meanwhile that is
// failed, reason Unknown. At least the newest 240 ids of a device are remembered, and
// in any case those whose deadlines have not passed. A command that was refused or
// that expired before anything was written is not recorded: repeated, it is judged
// again.
func (h *Host) Command(ctx context.Context, c Command) (CommandResult, error) {
	r := &request{command: c, deadline: c.Deadline, reply: make(chan CommandResult, 1)}
	if c.Deadline.IsZero() {
		r.deadline = time.Now().Add(defaultDeadline)
	}
	var w *worker
	err := h.call(ctx, func(_ context.Context, ro *roster) error {
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
	case <-w.gone:
	case <-ctx.Done():
		return CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, ctx.Err())
	}
	select {
	case result := <-r.reply:
		return result, nil
	case <-ctx.Done():
		return CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, ctx.Err())
	case <-w.gone:
	}
	select {
	case result := <-r.reply:
		return result, nil
	default:
		return CommandResult{}, fmt.Errorf("command device %s: %w", c.Device, ErrStopped)
	}
}

// plan is the order in which a command's properties are written.
type plan []int

// admit checks a command against a definition. It returns what is to be written in
// order, as indexes of points, or why it is refused. It is pure.
func admit(c Command, deadline time.Time, def Definition, now time.Time) (plan, *Rejection) {
	switch {
	case c.ID == "" || len(c.ID) > longestID:
		return nil, reject(ReasonNotValid, "the id has %d bytes, 1 to %d are allowed", len(c.ID), longestID)
	case c.Device.UID != "" && c.Device.UID != def.Device.UID:
		return nil, reject(ReasonOtherDevice, "the device has UID %s", def.Device.UID)
	case deadline.Sub(now) > longestDeadline:
		return nil, reject(ReasonNotValid, "the deadline is more than %s away", longestDeadline)
	case len(c.Properties) == 0:
		return nil, reject(ReasonNotValid, "no properties")
	}
	order, no := orderOf(c, def)
	if no != nil {
		return nil, no
	}
	var out plan
	for _, name := range order {
		i := slices.IndexFunc(def.Points, func(p Point) bool { return p.Name == name })
		if i < 0 {
			return nil, reject(ReasonUnknownProperty, "the device has no usable property %q", name)
		}
		if no := check(def.Points[i], c.Properties[name]); no != nil {
			no.Message = "property " + name + ": " + no.Message
			return nil, no
		}
		out = append(out, i)
	}
	return out, nil
}

// orderOf is the order of a command's properties: that of its method, or by name.
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

// end is what became of a property that was written, from the outcome of its write.
// It is pure.
func end(o Outcome, err error, replaced, late bool) PropertyResult {
	r := PropertyResult{Ack: Failed, Written: o.Written, Sent: o.Sent, Before: o.Before, After: o.After}
	if err != nil {
		r.Message = err.Error()
	}
	var no *Rejection
	switch {
	case err == nil:
		r.Ack, r.Reason, r.Message = Applied, o.Reason, o.Message
	case errors.As(err, &no):
		r.Ack, r.Reason, r.Message = Rejected, no.Reason, no.Message
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

// resultOf is the result of a command from those of its properties, in the order in
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
