package devices

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Driver speaks one protocol. It is safe for concurrent use.
type Driver interface {
	// Protocols returns the protocol names that select the driver; case does not matter.
	// AnyProtocol selects it for every protocol that no other driver names.
	Protocols() []string
	// Open validates a device's definition and returns a session for it, without I/O.
	// Problems name points that cannot be used; the session leaves them out. An error means
	// that the device as a whole cannot be operated.
	Open(def Definition) (Session, []Problem, error)
}

// AnyProtocol is the protocol name of a driver for all protocols without a driver.
const AnyProtocol = "*"

// WithoutProtocols returns a driver that leaves some of its protocols to other drivers.
func WithoutProtocols(d Driver, protocols []string) Driver {
	left := slices.DeleteFunc(slices.Clone(d.Protocols()), func(p string) bool {
		return slices.ContainsFunc(protocols, func(other string) bool { return strings.EqualFold(p, other) })
	})
	return &partialDriver{d, left}
}

type partialDriver struct {
	Driver
	protocols []string
}

// Protocols implements Driver.
func (p *partialDriver) Protocols() []string { return p.protocols }

// Session operates one device. Points are identified by their index in the definition.
type Session interface {
	// Run reads every point at its period and delivers the readings, until ctx ends. It
	// returns after everything it started has stopped. Deliver may block. If Run returns
	// before ctx ends, the device is offline and another session is opened after a pause.
	Run(ctx context.Context, deliver func(Batch)) error
	// Write applies a desired value to a point: it reads first, writes only if the value
	// differs, and reads back. It is called while Run runs, by one goroutine at a time. It
	// must not begin to change the device after ctx has ended, but may finish what it has
	// begun. Errors are a *Rejection, wrap ErrUnreachable or the error of ctx, or mean that
	// the device failed. The Outcome is valid with an error, too.
	Write(ctx context.Context, point int, value string) (Outcome, error)
	// Command sends the value of a command to a point, even if the point has it already, and
	// never twice. It goes before waiting desired values, and otherwise works as Write does.
	// It is no error if the device accepts the value and resets it after acting on it: the
	// Outcome's Reason is then ReasonReset. An error that wraps ErrUnreachable while
	// Outcome.Written is true means that it is unknown whether the device acted.
	Command(ctx context.Context, point int, value string) (Outcome, error)
}

// Redefiner is an optional interface of a Session. Redefine is called when the definition
// changes without a restart of the session, as when only desired values change. The session
// of a mapper passes them on with the device, so that the mapper has them when it restarts.
type Redefiner interface {
	// Redefine replaces the definition. It does not block.
	Redefine(def Definition)
}

// GroupWriter is an optional interface of a Session. It writes the values of a group of points,
// which Point.Group names, with one request.
type GroupWriter interface {
	// WriteGroup is Write for several points. It writes all values or none, and also those
	// that the device has already if one differs or always is set. It returns a result for each
	// value. If one cannot be written, the results of the others wrap ErrNotWritten.
	WriteGroup(ctx context.Context, values []PointValue, always bool) []WriteResult
}

// LateConfirmer is an optional interface of a Session of a device that shows a written value only
// at its own period, as one that a mapper reports.
type LateConfirmer interface {
	// WriteBefore is Write, or Command if always is set, with a limit of its own for the
	// beginning: the device must not be changed after begin. The session decides how long it
	// waits for the device to show the value, and ends that when ctx ends.
	WriteBefore(ctx context.Context, begin time.Time, point int, value string, always bool) (Outcome, error)
}

// ReportReceiver receives the reports of mappers that have no connection to the driver of their
// devices, as those that use MQTT, for that driver.
type ReportReceiver interface {
	// Operates reports whether a mapper operates a device here.
	Operates(device Ref) bool
	// ReportValues queues reported values by property. After a nil error they will be delivered.
	ReportValues(ctx context.Context, device Ref, values map[string]ReportedValue) error
	// ReportState queues a reported state, which is one of KubeEdge's.
	ReportState(ctx context.Context, device Ref, state string) error
	// AnnounceWrites sets the function with which values are sent to such mappers. It is called
	// before the sessions start.
	AnnounceWrites(announce func(device Ref, property, value string))
}

// ReportedValue is a value that a mapper reports, as text. Time is zero if the mapper states
// none, and an empty Quality means Good.
type ReportedValue struct {
	Text    string
	Time    time.Time
	Quality Quality
	Reason  string
}

// PointValue is a value for a point.
type PointValue struct {
	Point int
	Value string
}

// WriteResult is the result of a write.
type WriteResult struct {
	Outcome Outcome
	Err     error
}

// ErrNotWritten reports that a value was not written because another one of its group cannot
// be.
var ErrNotWritten = errors.New("another value of the group cannot be written")

// ErrUnreachable reports that a device did not respond: a retry may help.
var ErrUnreachable = errors.New("device unreachable")

// Rejection reports that a value will never be accepted: a retry does not help.
type Rejection struct {
	Reason  string
	Message string
}

// Error returns the reason and the message.
func (r *Rejection) Error() string { return r.Reason + ": " + r.Message }

// Reject returns a Rejection with a formatted message.
func Reject(reason, format string, args ...any) *Rejection {
	return &Rejection{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// The reasons of rejections.
const (
	ReasonReadOnly    = "ReadOnly"
	ReasonOutOfBounds = "OutOfBounds"
	ReasonNotValid    = "NotValid"
	ReasonRefused     = "RefusedByDevice"
	ReasonReadBack    = "ReadBackDiffers"
)

// The other reasons of acks.
const (
	// ReasonFailure: the device responded with a failure.
	ReasonFailure = "DeviceFailure"
	// ReasonUnverified: a write was sent, and it is unknown whether the device acted on it.
	ReasonUnverified = "NotVerified"
	// ReasonReset: the device accepted a command's value and does not keep it: it reads zero.
	ReasonReset = "ResetByDevice"
	// ReasonInterrupted: the session ended meanwhile, because the definition changed, the
	// driver ended it or the host stopped.
	ReasonInterrupted = "Interrupted"
	// ReasonUnknown: the host was killed while it carried out the command.
	ReasonUnknown = "Unknown"
	// ReasonDeadline: the command's deadline or the desired value's expiresAt passed.
	ReasonDeadline = "DeadlinePassed"
	// ReasonDrifted: the device has another value than the desired one.
	ReasonDrifted = "ChangedAtDevice"
	// ReasonEnforced: the value was written again after the device had changed it.
	ReasonEnforced = "Enforced"
	// ReasonGroup: another desired value of the property's writeGroup is not valid, so that none
	// of the group is written.
	ReasonGroup = "GroupIncomplete"
	// ReasonEnforceEnded: the device has another value, and it is no longer written again.
	ReasonEnforceEnded = "EnforcementEnded"
)

// The reasons that this package gives for a quality.
const (
	ReasonNoValue = "NoValue"
	// ReasonOld: the value was not read within staleAfter.
	ReasonOld = "Stale"
	// ReasonNotReadYet: the value was read before the host was restarted, and not since.
	ReasonNotReadYet = "NotReadSinceRestart"
	// ReasonNotAvailable: the device responds that it has no value. That is no fault of the
	// property, which does not degrade the device.
	ReasonNotAvailable = "NotAvailable"
)

// Outcome is the outcome of a write.
type Outcome struct {
	// Written reports whether a write was sent to the device.
	Written bool
	// Before and After are the point's values, in string form, read before and after; empty
	// if they were not read.
	Before, After string
	// Sent describes the write in the terms of the protocol.
	Sent string
	// Reason is ReasonReset or ReasonUnverified for a command that was carried out with that
	// restriction, and Message explains it.
	Reason, Message string
}

// Quality is how far a value can be trusted.
type Quality string

// The qualities.
const (
	Good      Quality = "good"
	Uncertain Quality = "uncertain"
	Bad       Quality = "bad"
)

// Reading is the result of one attempt to read a point. With quality Bad there is no value,
// and Reason says why. A reading whose Time is before that of an earlier one of the point is
// ignored; a Time in the future is replaced by the present time.
type Reading struct {
	Point   int
	Value   Value
	Quality Quality
	Reason  string
	Time    time.Time
}

// Batch has the readings of one request, or one failure, of a device.
type Batch struct {
	Readings []Reading
	// Reachable reports whether the device responded, even if with an error. A batch with
	// readings of some points only makes the device offline if the next one is unreachable,
	// too.
	Reachable bool
	// Degraded reports that the device responds and reports itself unhealthy. It applies until
	// the next batch.
	Degraded bool
	// Reason and Message explain Reachable and Degraded.
	Reason, Message string
	Time            time.Time
	// Identification is what the device says of itself, such as vendor and model, by name; nil:
	// nothing new.
	Identification map[string]string
}
