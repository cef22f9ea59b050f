package devices

import (
	"context"

	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

// Sink takes what the devices tell. Every method returns nil only after what it was
// given is stored; on an error it is called again with the same. It is called from
// many goroutines, for one device from at most two: one for Status, one for the
// rest, in order.
type Sink interface {
	// Status takes the newest state of a device; an older one that was not taken is
	// dropped. Name, namespace and ownerReference are set.
	Status(ctx context.Context, device Ref, status *v1beta1.DeviceStatus) error
	// Samples takes one batch of samples.
	Samples(ctx context.Context, s *Samples) error
	// Audit takes the record of a write.
	Audit(ctx context.Context, a *Audit) error
	// Event takes something an operator should see.
	Event(ctx context.Context, e *Event) error
}

// Samples are the samples of one block that was read at once.
type Samples struct {
	Device Ref    `json:"device"`
	Node   string `json:"node,omitempty"`
	// Epoch is when the worker that numbers the batches started (ms since 1970), or
	// when its clock was set back; within it Sequence counts from 1 without gaps, and
	// the times of a property's samples do not decrease. Device UID, epoch and
	// sequence together name the batch.
	Epoch    int64  `json:"epoch"`
	Sequence uint64 `json:"sequence"`
	// Dropped is how many batches of the epoch were lost before this one because the
	// sink took nothing for too long. They keep their sequence numbers.
	Dropped uint64   `json:"dropped,omitempty"`
	Samples []Sample `json:"samples"`
}

// Sample is one value at one time.
type Sample struct {
	Property string  `json:"property"`
	Value    Value   `json:"value"`
	Quality  Quality `json:"quality"`
	Reason   string  `json:"reason,omitempty"`
	// Time is the middle of the transaction that read the value, ms since 1970.
	Time int64 `json:"time"`
}

// Audit is the record of one attempt to give a property a value, with what came of
// it. Desired values that did not reach the device are recorded when the reason
// changes; every command that a device got is recorded, also one that was refused, but
// for one that was refused because too many wait.
type Audit struct {
	Device   Ref    `json:"device"`
	Node     string `json:"node,omitempty"`
	Epoch    int64  `json:"epoch"`
	Sequence uint64 `json:"sequence"`
	Property string `json:"property"`
	// Version is the desired version: the version of the Device that brought the
	// value. It is empty for commands.
	Version string `json:"version,omitempty"`
	// Command is the id of the command that wrote, and Method its method.
	Command string `json:"command,omitempty"`
	Method  string `json:"method,omitempty"`
	Value   string `json:"value"`
	Before  string `json:"before,omitempty"`
	After   string `json:"after,omitempty"`
	// Written tells whether the device was told to change.
	Written bool `json:"written"`
	// Sent is what went out, in the words of the protocol.
	Sent    string `json:"sent,omitempty"`
	Ack     Ack    `json:"ack"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	Time    int64  `json:"time"`
}

// The types of events, as in Kubernetes.
const (
	EventNormal  = "Normal"
	EventWarning = "Warning"
)

// Event is something an operator should see about a device.
type Event struct {
	Device  Ref    `json:"device"`
	Node    string `json:"node,omitempty"`
	Type    string `json:"type"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Time    int64  `json:"time"`
}
