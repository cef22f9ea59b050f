package wire

import (
	"errors"
	"fmt"

	"github.com/petiole-io/petiole/devices"
)

// The errors of a transaction besides exceptions. ErrTimeout and ErrLink mean that the device
// could not be reached.
var (
	ErrTimeout = fmt.Errorf("%w: no reply", devices.ErrUnreachable)
	ErrLink    = fmt.Errorf("%w: link down", devices.ErrUnreachable)
	ErrGarbled = errors.New("garbled reply")
)

// ErrBroadcast is the result of a request to all units, to which none replies.
var ErrBroadcast = errors.New("broadcast: no unit replies")

// ErrClosed is the result of a request on a connection that the other side had closed
// before: a read may be sent again over a new one.
var ErrClosed = fmt.Errorf("%w: closed by the other side", ErrLink)
