package modbus

import (
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
	"github.com/petiole-io/petiole/devices/modbus/link"
	"github.com/petiole-io/petiole/devices/modbus/plan"
	"github.com/petiole-io/petiole/devices/modbus/wire"
)

// settings are a device's protocol settings. Times are in milliseconds, names in any
// case, aliases in brackets:
//
//	slaveID (deviceID, unitID, slave, unit) 1; 0…255, on serial lines 0…247, where 0 is
//	                         the broadcast: written, never read, no unit replies
//	localEcho false          the adapter returns what is sent; without the setting an echo is
//	                         found, too, except that of a write to which no unit replies
//	timeout 1000             of one transaction, and of connecting
//	minTimeout               the timeout adapts to the latencies of the unit, but not below
//	                         this; default a quarter of timeout, at least 50; the same as
//	                         timeout: it does not adapt
//	retries 1                of a read that got no reply
//	maxBackoff 0             between probes of a silent unit at most; 0: 5000 for a
//	                         device alone on its link, else fifty timeouts, at most 60000
//	pauseAfterConnect 0, pauseBetweenRequests 0
//	broadcastDelay 100       after a broadcast, until the units have acted on it
//	requestWindow (window) 1 reads in flight at the same time, up to 16; TCP and TLS only
//	pollShare 20             percentage of transactions that polls get while writes wait
//	maxRegisters 125, maxBits (maxCoils) 2000   per request
//	oneRequestPerProperty false  properties are not merged into one request
//	oneRegisterAtATime false registers are read and written one by one; values of several
//	                         registers are then of uncertain quality
//	forbidden                ranges that no request may touch: holding:12-16, input:30; the
//	                         addresses are those on the wire, without a table: holding
//	readCoilsFromZero false  every request for coils begins with coil 0
//	writeFunction auto       or single (FC 5, 6) or multiple (FC 15, 16)
//	maskWrite auto           FC 22 for parts of registers: auto tries it, on, off
//	identification false     function 43/14 is read once in each session
//	trace false              every frame is logged, at level debug
//
// and those of wire.ReadEndpoint and codec.ReadDefaults.
type settings struct {
	link.Settings
	endpoint      wire.Endpoint
	unit          byte
	retries       int
	maxRegisters  int
	maxBits       int
	alone         bool
	coilsFromZero bool
	forbidden     string

	// The settings below, and Write, concern the session, single points and writes, not the
	// requests of polls.
	identify  bool
	maskWrite string
	points    codec.Defaults
}

// polling returns the settings that the requests of polls depend on.
func (s *settings) polling() settings {
	p := *s
	p.Write, p.identify, p.maskWrite, p.points = "", false, "", codec.Defaults{}
	return p
}

// broadcasts reports whether the unit id addresses all units.
func (s *settings) broadcasts() bool { return s.unit == wire.Broadcast && !s.endpoint.Mode.Numbered() }

func (s *settings) limits() plan.Limits {
	return plan.Limits{Registers: s.maxRegisters, Bits: s.maxBits, Alone: s.alone || s.SingleRegisters, CoilsFromZero: s.coilsFromZero}
}

func parseSettings(s devices.Settings) (settings, error) {
	r := s.Read()
	c := readSettings(r)
	return c, r.Err()
}

func readSettings(r *devices.Reader) settings {
	ms := func(def, max int64, names ...string) time.Duration {
		return time.Duration(r.Int(def, 0, max, names...)) * time.Millisecond
	}
	e := wire.ReadEndpoint(r)
	c := settings{
		Settings: link.Settings{
			Timeout: ms(1000, 60_000, "timeout"), MaxBackoff: ms(0, 3_600_000, "maxBackoff"),
			AfterConnect: ms(0, 60_000, "pauseAfterConnect"), Between: ms(0, 10_000, "pauseBetweenRequests"), BroadcastDelay: ms(100, 10_000, "broadcastDelay"),
			Window: int(r.Int(1, 1, 16, "requestWindow", "window")), PollShare: int(r.Int(link.DefaultPollShare, 1, 90, "pollShare")),
			SingleRegisters: r.Bool(false, "oneRegisterAtATime"), LocalEcho: r.Bool(false, "localEcho"), Trace: r.Bool(false, "trace"),
			Write: r.Choice(link.WriteAuto, []string{link.WriteAuto, link.WriteSingle, link.WriteMultiple}, "writeFunction"),
		},
		endpoint: e, retries: int(r.Int(1, 0, 10, "retries")),
		maxRegisters: int(r.Int(125, 1, 125, "maxRegisters")), maxBits: int(r.Int(2000, 1, 2000, "maxBits", "maxCoils")),
		alone: r.Bool(false, "oneRequestPerProperty"), coilsFromZero: r.Bool(false, "readCoilsFromZero"), forbidden: r.Text("", "forbidden"),
		identify:  r.Bool(false, "identification"),
		maskWrite: r.Choice(maskAuto, []string{maskAuto, maskOn, maskOff, "true", "false"}, "maskWrite"),
		points:    codec.ReadDefaults(r),
	}
	c.maskWrite = strings.NewReplacer("true", maskOn, "false", maskOff).Replace(c.maskWrite)
	if c.Timeout < 10*time.Millisecond {
		r.Fail("timeout", "must be at least 10 ms")
	}
	c.MinTimeout = min(ms(max(c.Timeout.Milliseconds()/4, 50), 60_000, "minTimeout"), c.Timeout)
	if c.Window > 1 && ((e.Mode != wire.TCP && e.Mode != wire.TLS) || c.Between > 0) {
		r.Fail("requestWindow", "needs TCP or TLS, and no pauseBetweenRequests")
	}
	most := int64(255)
	if !e.Mode.Numbered() {
		most = 247
	}
	c.unit = byte(r.Int(1, 0, most, "slaveID", "deviceID", "unitID", "slave", "unit"))
	if _, err := codec.ParseRanges(c.forbidden); err != nil {
		r.Fail("forbidden", err.Error())
	}
	return c
}

const (
	maskAuto = "auto"
	maskOn   = "on"
	maskOff  = "off"
)
