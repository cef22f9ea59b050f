package devices

import (
	"context"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Sink stores what devices report. Every method returns nil only after its argument is
// stored; after an error it is called again with the same one. It is called from many
// goroutines, for one device from at most two: one for Status, and one for the rest, in
// order.
type Sink interface {
	// Status stores the newest status of a device; an older one that was not stored is
	// dropped. Name, namespace and ownerReference are set.
	Status(ctx context.Context, device Ref, status *v1beta1.DeviceStatus) error
	// Samples stores one batch of samples.
	Samples(ctx context.Context, s *Samples) error
	// Audit stores the record of a write.
	Audit(ctx context.Context, a *Audit) error
	// Event stores an event for operators.
	Event(ctx context.Context, e *Event) error
}

// StatusReader is an optional interface of a Sink. With it a device's status keeps its reported
// values after a restart, with quality uncertain, until they are read again.
type StatusReader interface {
	// LastStatus returns the newest stored status of a device, or nil without an error if
	// there is none.
	LastStatus(ctx context.Context, device Ref) (*v1beta1.DeviceStatus, error)
}

// RecordNumber is the number of a record of a device. With the device's UID it names the record.
type RecordNumber struct {
	// Epoch is the number of an epoch, which begins when the worker that numbers the records
	// starts, or when its clock was set back. A later epoch has a larger number.
	Epoch int64 `json:"epoch"`
	// Sequence counts from 1 without gaps within an epoch, samples and audits apart. The times of a
	// property's samples do not decrease within it.
	Sequence uint64 `json:"sequence"`
}

// Samples are the samples of a batch of readings, and of the next ones if they had to wait.
type Samples struct {
	Device Ref    `json:"device"`
	Node   string `json:"node,omitempty"`
	RecordNumber
	// Clock is nil if the times are by a clock that is right.
	Clock *ClockMark `json:"clock,omitempty"`
	// Dropped counts the records of the epoch that were lost before this one because the
	// sink stored nothing for too long. Their sequence numbers are not reused.
	Dropped uint64   `json:"dropped,omitempty"`
	Samples []Sample `json:"samples"`
}

// Sample is one value of a property at one time.
type Sample struct {
	Property string  `json:"property"`
	Value    Value   `json:"value"`
	Quality  Quality `json:"quality"`
	Reason   string  `json:"reason,omitempty"`
	// Time is the midpoint of the transaction that read the value, ms since 1970.
	Time int64 `json:"time"`
}

// Audit is the record of one attempt to write a property, and its result. A desired value
// that did not reach the device is recorded when the reason changes. Every command is
// recorded, even if refused, unless it was refused because too many wait.
type Audit struct {
	Device Ref    `json:"device"`
	Node   string `json:"node,omitempty"`
	RecordNumber
	Property string `json:"property"`
	// Version is the version of the Device object that introduced the desired value. It is
	// empty for commands.
	Version string `json:"version,omitempty"`
	// Command is the id of the command that wrote, and Method its method.
	Command string `json:"command,omitempty"`
	Method  string `json:"method,omitempty"`
	Value   string `json:"value"`
	Before  string `json:"before,omitempty"`
	After   string `json:"after,omitempty"`
	// Written reports whether a write was sent to the device.
	Written bool `json:"written"`
	// Sent describes the write in the terms of the protocol.
	Sent    string `json:"sent,omitempty"`
	Ack     Ack    `json:"ack"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Time    int64  `json:"time"`
	// Clock is nil if Time is by a clock that is right.
	Clock *ClockMark `json:"clock,omitempty"`
}

// The states of a ClockMark.
const (
	// ClockUnset: the clock said a time that had passed already, as 1970.
	ClockUnset = "unset"
	// ClockUnverified: nothing had confirmed the clock since the boot.
	ClockUnverified = "unverified"
	// ClockWrong: the clock differed from the hub's.
	ClockWrong = "wrong"
	// ClockCorrected: the times are no longer the clock's: they were corrected.
	ClockCorrected = "corrected"
)

// ClockMark tells that the times of a record are not, or were not, by a clock that is right.
type ClockMark struct {
	State string `json:"state"`
	// Boot identifies the boot of the gateway. Times of one boot are comparable.
	Boot string `json:"boot,omitempty"`
	// Booted is the time of the boot by the clock of the record, ms since 1970: what it differs
	// by from the right one is missing in the times.
	Booted int64 `json:"booted,omitempty"`
	// Offset was added to the times of a corrected record, in ms, and Error is their largest error.
	Offset int64 `json:"offset,omitempty"`
	Error  int64 `json:"error,omitempty"`
}

// The types of events, as in Kubernetes.
const (
	EventNormal  = "Normal"
	EventWarning = "Warning"
)

// Event is an event about a device for operators.
type Event struct {
	Device  Ref    `json:"device"`
	Node    string `json:"node,omitempty"`
	Type    string `json:"type"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Time    int64  `json:"time"`
}
