package host

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/devices/internal/commandlog"
)

const (
	// defaultDeadline is the time from receipt to the deadline of a command that has none;
	// longestDeadline bounds that of the others.
	defaultDeadline = 30 * time.Second
	longestDeadline = commandlog.Longest
	maxIDLength     = 128
	// commandQueue bounds the waiting commands of a device.
	commandQueue = 64
	// maxUnstored bounds the audits and events of a device that wait for the sink. Above it
	// commands are refused: a command that cannot be audited is not executed.
	maxUnstored = 1024
)

// plan has the points that a command writes, in order.
type plan []int

// admit validates a command against a definition. It returns the indexes of the points to
// write, in order, or why the command is refused. It is a pure function.
func admit(c devices.Command, deadline time.Time, def devices.Definition, now time.Time) (plan, *devices.Rejection) {
	switch {
	case c.ID == "" || len(c.ID) > maxIDLength:
		return nil, devices.Reject(devices.ReasonNotValid, "the id has %d bytes, 1 to %d are allowed", len(c.ID), maxIDLength)
	case c.Device.UID != "" && c.Device.UID != def.Device.UID:
		return nil, devices.Reject(devices.ReasonOtherDevice, "the device has UID %s", def.Device.UID)
	case deadline.Sub(now) > longestDeadline:
		return nil, devices.Reject(devices.ReasonNotValid, "the deadline is more than %s away", longestDeadline)
	case len(c.Properties) == 0:
		return nil, devices.Reject(devices.ReasonNotValid, "no properties")
	}
	order, rejection := orderOf(c, def)
	if rejection != nil {
		return nil, rejection
	}
	var out plan
	for _, name := range order {
		i := slices.IndexFunc(def.Points, func(p devices.Point) bool { return p.Name == name })
		if i < 0 {
			return nil, devices.Reject(devices.ReasonUnknownProperty, "the device has no property %q that can be used", name)
		}
		if rejection := def.Points[i].Validate(c.Properties[name]); rejection != nil {
			rejection.Message = "property " + name + ": " + rejection.Message
			return nil, rejection
		}
		out = append(out, i)
	}
	return out, nil
}

// orderOf returns the names of a command's properties in the order of its method, or in that of
// their settings, and of the same order sorted.
func orderOf(c devices.Command, def devices.Definition) ([]string, *devices.Rejection) {
	names := sortedKeys(c.Properties)
	if c.Method == "" {
		order := map[string]int{}
		for _, p := range def.Points {
			order[p.Name] = p.Writing.Order
		}
		slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(order[a], order[b]) })
		return names, nil
	}
	i := slices.IndexFunc(def.Methods, func(m v1beta1.DeviceMethod) bool { return m.Name == c.Method })
	if i < 0 {
		return nil, devices.Reject(devices.ReasonUnknownMethod, "the device has no method %q", c.Method)
	}
	var order []string
	for _, name := range def.Methods[i].PropertyNames {
		if _, ok := c.Properties[name]; ok && !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	for _, name := range names {
		if !slices.Contains(order, name) {
			return nil, devices.Reject(devices.ReasonNotInMethod, "method %q does not set property %q", c.Method, name)
		}
	}
	return order, nil
}

// propertyResult returns the result of a property from the outcome of its write. It is a
// pure function.
func propertyResult(o devices.Outcome, err error, replaced, late bool) devices.PropertyResult {
	r := devices.PropertyResult{Ack: devices.Failed, Written: o.Written, Sent: o.Sent, Before: o.Before, After: o.After}
	if err != nil {
		r.Message = err.Error()
	}
	var rejection *devices.Rejection
	switch {
	case err == nil:
		r.Ack, r.Reason, r.Message = devices.Applied, o.Reason, o.Message
	case errors.As(err, &rejection):
		r.Ack, r.Reason, r.Message = devices.Rejected, rejection.Reason, rejection.Message
	case o.Written && unreachable(err):
		r.Reason = devices.ReasonUnverified
	case late && unreachable(err):
		r.Ack, r.Reason = devices.Expired, devices.ReasonDeadline
	case replaced:
		r.Reason = devices.ReasonInterrupted
	case unreachable(err):
		r.Reason = devices.ReasonOffline
	default:
		r.Reason = devices.ReasonFailure
	}
	return r
}

// resultOf returns the result of a command from those of its properties, in the order in
// which they were written.
func resultOf(id string, order []string, properties map[string]devices.PropertyResult) devices.CommandResult {
	r := devices.CommandResult{ID: id, Ack: devices.Applied, Properties: maps.Clone(properties)}
	for _, name := range order {
		if p := properties[name]; p.Ack != devices.Applied {
			r.Ack, r.Reason, r.Message = p.Ack, p.Reason, "property "+name+": "+p.Message
			break
		}
	}
	return r
}

// unreachable reports whether a retry may help after an error.
func unreachable(err error) bool {
	return errors.Is(err, devices.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
