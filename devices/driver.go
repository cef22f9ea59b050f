package devices

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Driver speaks one protocol. It is safe for concurrent use.
type Driver interface {
	// Protocols are the names, in any case, by which devices ask for the driver. The
	// name AnyProtocol stands for every protocol that no other driver names.
	Protocols() []string
	// Open checks a device's definition and prepares to operate it, without I/O.
	// Problems name points that cannot be used; the session leaves them out. An
	// error means that the device as a whole cannot be operated.
	Open(def Definition) (Session, []Problem, error)
}

// AnyProtocol is the protocol name of a driver for all that have none of their own.
const AnyProtocol = "*"

// Session operates one device. Points are named by their index in the definition.
type Session interface {
	// Run reads every point at its period and delivers what it read, until ctx ends.
	// It returns after all that it started has stopped. Deliver may block. When it
	// returns before ctx ends the device is offline, and another session is opened
	// after a pause.
	Run(ctx context.Context, deliver func(Batch)) error
	// Write makes a point have a value: it reads first and writes only when the
	// value is not there already, then reads back. It works while Run does, and is
	// called by one goroutine at a time. It must not begin to change the device after
	// ctx has ended; what it has begun it may finish. Errors are a *Rejection, wrap
	// ErrUnreachable or the error of ctx, or mean that the device failed; with each of
	// them the Outcome tells whether the device was told to change.
	Write(ctx context.Context, point int, value string) (Outcome, error)
	// Command sends a point a value for a command: also when the value is there already,
	// and never twice. It overtakes the desired values that wait. Else it is as Write. A
	// value that the device took and does not show, because it acts on it and resets it,
	// is no error: the Outcome's Reason says so. An error that wraps ErrUnreachable while
	// Outcome.Written is true means that nobody knows whether the device acted.
	Command(ctx context.Context, point int, value string) (Outcome, error)
}

// Redefiner is a Session that is told when its definition is another one that reads the
// same: desired values have changed. A mapper is told of them with its device, so that
// it knows them when it starts anew.
type Redefiner interface {
	// Redefine takes the definition over. It does not block.
	Redefine(def Definition)
}

// ErrUnreachable reports that a device did not take part: trying again may help.
var ErrUnreachable = errors.New("device unreachable")

// Rejection reports that a value will not be accepted however often it is tried.
type Rejection struct {
	Reason  string
	Message string
}

// Error is the reason and the message.
func (r *Rejection) Error() string { return r.Reason + ": " + r.Message }

func reject(reason, format string, args ...any) *Rejection {
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
	// ReasonFailure: the device took part and failed.
	ReasonFailure = "DeviceFailure"
	// ReasonUnverified: the device was told to change, and whether it did is not known.
	ReasonUnverified = "NotVerified"
	// ReasonReset: the device took a command's value and does not keep it: it reads zero.
	ReasonReset = "ResetByDevice"
	// ReasonInterrupted: the session with the device ended meanwhile, because the
	// definition changed, the driver gave up or the host stopped.
	ReasonInterrupted = "Interrupted"
	// ReasonUnknown: the host was killed while the command was carried out.
	ReasonUnknown = "Unknown"
	// ReasonDeadline: the command's deadline or the desired value's expiresAt passed.
	ReasonDeadline = "DeadlinePassed"
	// ReasonDrifted: the device has another value than the one that is desired.
	ReasonDrifted = "ChangedAtDevice"
	// ReasonEnforced: the value was written again after the device had another one.
	ReasonEnforced = "Enforced"
	// ReasonEnforceEnded: the device has another value and it is not written again.
	ReasonEnforceEnded = "EnforcementEnded"
)

// The reasons of qualities that this package gives.
const (
	ReasonNoValue = "NoValue"
	// ReasonOld: the value was not read for longer than staleAfter.
	ReasonOld = "Stale"
)

// Outcome is what a write did.
type Outcome struct {
	// Written tells whether anything was sent to the device to change it.
	Written bool
	// Before and After are the point's values, in string form, as they were read;
	// empty when they were not.
	Before, After string
	// Sent is what went out to change the device, in the words of the protocol.
	Sent string
	// Reason and Message say what a command that was carried out leaves open:
	// ReasonReset or ReasonUnverified.
	Reason, Message string
}

// Quality tells how far a value can be trusted.
type Quality string

// The qualities.
const (
	Good      Quality = "good"
	Uncertain Quality = "uncertain"
	Bad       Quality = "bad"
)

// Reading is one attempt to read a point. With quality Bad there is no value, and
// the reason says why. A reading whose Time is before that of an earlier one of the
// point is left out; one whose Time is in the future counts as of now.
type Reading struct {
	Point   int
	Value   Value
	Quality Quality
	Reason  string
	Time    time.Time
}

// Batch is what one request, or one failure, tells of a device.
type Batch struct {
	Readings []Reading
	// Reachable tells whether the device answered, be it with an error. A batch that
	// has readings of some points only makes the device offline when the next one is
	// not answered either.
	Reachable bool
	// Degraded tells that the device answers and says of itself that it is not well.
	// It holds until the next batch.
	Degraded bool
	// Reason and Message say why.
	Reason, Message string
	Time            time.Time
}
