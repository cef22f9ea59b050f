package devices

import "time"

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
