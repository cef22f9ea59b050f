package devices

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Driver speaks one protocol. It is safe for concurrent use.
type Driver interface {
	// Protocols are the names, in any case, by which devices ask for the driver.
	Protocols() []string
	// Open checks a device's definition and prepares to operate it, without I/O.
	// Problems name points that cannot be used; the session leaves them out. An
	// error means that the device as a whole cannot be operated.
	Open(def Definition) (Session, []Problem, error)
}

// Session operates one device. Points are named by their index in the definition.
type Session interface {
	// Run reads every point at its period and delivers what it read, until ctx ends.
	// It returns after all that it started has stopped. Deliver may block.
	Run(ctx context.Context, deliver func(Batch)) error
	// Write makes a point have a value: it reads first and writes only when the
	// value is not there already, then reads back. It works while Run does. Errors
	// are a *Rejection, wrap ErrUnreachable, or mean that the device failed.
	Write(ctx context.Context, point int, value string) (Outcome, error)
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

// Outcome is what a write did.
type Outcome struct {
	// Written tells whether anything was sent to the device to change it.
	Written bool
	// Before and After are the point's values, in string form, as they were read;
	// empty when they were not.
	Before, After string
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
// the reason says why.
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
	// Reachable tells whether the device answered, be it with an error.
	Reachable bool
	// Reason and Message say why it did not.
	Reason, Message string
	Time            time.Time
}
