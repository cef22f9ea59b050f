package link

import "time"

// Settings are the settings of a device that a link and its units obey. Settings of the
// driver lists their meaning.
type Settings struct {
	Timeout         time.Duration
	MinTimeout      time.Duration
	MaxBackoff      time.Duration
	AfterConnect    time.Duration
	Between         time.Duration
	BroadcastDelay  time.Duration
	Window          int
	PollShare       int
	SingleRegisters bool
	LocalEcho       bool
	Trace           bool
	// Write is which functions writes use: WriteAuto, WriteSingle or WriteMultiple.
	Write string
}

// The functions that writes use.
const (
	WriteAuto     = "auto"     // one for a single register or coil, another for several
	WriteSingle   = "single"   // FC 5, 6
	WriteMultiple = "multiple" // FC 15, 16
)
