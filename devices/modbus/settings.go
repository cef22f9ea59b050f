package modbus

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/modbus/codec"
)

// mode is a transport of frames.
type mode string

const (
	modeTCP        mode = "tcp"
	modeTLS        mode = "tls"
	modeUDP        mode = "udp"
	modeRTU        mode = "rtu"
	modeRTUOverTCP mode = "rtuovertcp"
)

// rtu reports whether frames are RTU frames, which have no transaction number.
func (m mode) rtu() bool { return m == modeRTU || m == modeRTUOverTCP }

// endpoint is the address and the line settings of a link. Devices with equal endpoints
// share a link.
type endpoint struct {
	mode    mode
	address string // host:port, or the path of the serial port
	serial  serialSettings
	tls     tlsSettings
}

func (e endpoint) String() string { return string(e.mode) + "://" + e.address }

// key identifies a resource that can be opened only once.
func (e endpoint) key() string {
	if e.mode == modeRTU {
		return e.address
	}
	return e.String()
}

type serialSettings struct {
	baud, dataBits, stopBits int
	parity                   string // none, even, odd
	rs485                    bool
}

// character returns the time that one character takes on the line.
func (s serialSettings) character() time.Duration {
	bits := 1 + s.dataBits + s.stopBits
	if s.parity != "none" {
		bits++
	}
	return time.Duration(bits) * time.Second / time.Duration(s.baud)
}

// silence returns the least time between frames: 3.5 characters, above 19200 baud 1.75 ms
// (Modbus over Serial Line V1.02, 2.5.1.1).
func (s serialSettings) silence() time.Duration {
	if s.baud > 19200 {
		return 1750 * time.Microsecond
	}
	return s.character() * 7 / 2
}

type tlsSettings struct{ ca, cert, key, serverName string }

// settings are a device's protocol settings. Times are in milliseconds, names in any
// case, aliases in brackets:
//
//	communicateMode (mode, commType)  TCP, RTU, RTUOverTCP, UDP or TLS; default RTU when a
//	                         serial port is named, else TCP
//	ip (host, address, hostname), port default port 502, TLS 802
//	slaveID (deviceID, unitID, slave, unit) 1; 0…255, on serial lines 0…247, where 0 is
//	                         the broadcast: written, never read, no unit replies
//	serialName (serialPort, serial), baudRate (baud) 9600, dataBits 8, parity none,
//	                         stopBits 1, rs485Enabled false
//	localEcho false          the adapter returns what is sent; without the setting an echo is
//	                         found, too, except that of a write to which no unit replies
//	caFile, certFile, keyFile, serverName  of TLS
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
//	trace false              every frame is logged, at level debug
//
// and those of codec.ReadDefaults.
type settings struct {
	endpoint        endpoint
	unit            byte
	timeout         time.Duration
	minTimeout      time.Duration
	retries         int
	maxBackoff      time.Duration
	afterConnect    time.Duration
	between         time.Duration
	broadcastDelay  time.Duration
	window          int
	pollShare       int
	maxRegisters    int
	maxBits         int
	alone           bool
	singleRegisters bool
	coilsFromZero   bool
	forbidden       string
	localEcho       bool
	trace           bool

	// The settings below concern single points and writes, not the requests of polls.
	write     string
	maskWrite string
	points    codec.Defaults
}

// polling returns the settings that the requests of polls depend on.
func (s *settings) polling() settings {
	p := *s
	p.write, p.maskWrite, p.points = "", "", codec.Defaults{}
	return p
}

// broadcasts reports whether the unit id addresses all units.
func (s *settings) broadcasts() bool { return s.unit == broadcast && s.endpoint.mode.rtu() }

func (s *settings) limits() limits {
	return limits{registers: s.maxRegisters, bits: s.maxBits, alone: s.alone || s.singleRegisters, coilsFromZero: s.coilsFromZero}
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
	port := r.Text("", "serialName", "serialPort", "serial")
	def := string(modeTCP)
	if port != "" {
		def = string(modeRTU)
	}
	m := mode(strings.NewReplacer("-", "", "_", "").Replace(r.Choice(def, modeNames, "communicateMode", "mode", "commType")))
	c := settings{
		endpoint: endpoint{mode: m, address: port}, timeout: ms(1000, 60_000, "timeout"), retries: int(r.Int(1, 0, 10, "retries")),
		maxBackoff: ms(0, 3_600_000, "maxBackoff"), afterConnect: ms(0, 60_000, "pauseAfterConnect"), between: ms(0, 10_000, "pauseBetweenRequests"),
		broadcastDelay: ms(100, 10_000, "broadcastDelay"), window: int(r.Int(1, 1, 16, "requestWindow", "window")), pollShare: int(r.Int(defaultPollShare, 1, 90, "pollShare")),
		maxRegisters: int(r.Int(125, 1, 125, "maxRegisters")), maxBits: int(r.Int(2000, 1, 2000, "maxBits", "maxCoils")),
		alone: r.Bool(false, "oneRequestPerProperty"), singleRegisters: r.Bool(false, "oneRegisterAtATime"), coilsFromZero: r.Bool(false, "readCoilsFromZero"),
		forbidden: r.Text("", "forbidden"), localEcho: r.Bool(false, "localEcho"),
		trace: r.Bool(false, "trace"), write: r.Choice(writeAuto, []string{writeAuto, writeSingle, writeMultiple}, "writeFunction"),
		maskWrite: r.Choice(maskAuto, []string{maskAuto, maskOn, maskOff, "true", "false"}, "maskWrite"),
		points:    codec.ReadDefaults(r),
	}
	c.maskWrite = strings.NewReplacer("true", maskOn, "false", maskOff).Replace(c.maskWrite)
	if c.timeout < 10*time.Millisecond {
		r.Fail("timeout", "must be at least 10 ms")
	}
	c.minTimeout = min(ms(max(c.timeout.Milliseconds()/4, 50), 60_000, "minTimeout"), c.timeout)
	if c.window > 1 && ((m != modeTCP && m != modeTLS) || c.between > 0) {
		r.Fail("requestWindow", "needs TCP or TLS, and no pauseBetweenRequests")
	}
	most := int64(255)
	if m.rtu() {
		most = 247
	}
	c.unit = byte(r.Int(1, 0, most, "slaveID", "deviceID", "unitID", "slave", "unit"))
	if _, err := codec.ParseRanges(c.forbidden); err != nil {
		r.Fail("forbidden", err.Error())
	}
	c.endpoint = readEndpoint(r, m, port)
	return c
}

func readEndpoint(r *devices.Reader, m mode, port string) endpoint {
	e := endpoint{mode: m, address: port}
	if m == modeRTU {
		e.serial = parseSerial(r)
		if port == "" {
			r.Fail("serialName", "is missing")
		}
		return e
	}
	e.address = parseAddress(r, m)
	if m == modeTLS {
		e.tls = tlsSettings{ca: r.Text("", "caFile"), cert: r.Text("", "certFile"), key: r.Text("", "keyFile"), serverName: r.Text("", "serverName")}
		if (e.tls.cert == "") != (e.tls.key == "") {
			r.Fail("certFile, keyFile", "must be set together")
		}
	}
	return e
}

var modeNames = []string{"tcp", "rtu", "udp", "tls", "rtuovertcp", "rtu-over-tcp", "rtu_over_tcp"}

const (
	writeAuto     = "auto"
	writeSingle   = "single"
	writeMultiple = "multiple"

	maskAuto = "auto"
	maskOn   = "on"
	maskOff  = "off"
)

func parseSerial(r *devices.Reader) serialSettings {
	return serialSettings{
		baud: int(r.Int(9600, 50, 4_000_000, "baudRate", "baud")), dataBits: int(r.Int(8, 7, 8, "dataBits")),
		stopBits: int(r.Int(1, 1, 2, "stopBits")), parity: parity(r.Choice("none", []string{"none", "even", "odd", "n", "e", "o"}, "parity")),
		rs485: r.Bool(false, "rs485Enabled"),
	}
}

func parity(s string) string {
	return map[string]string{"n": "none", "e": "even", "o": "odd"}[s[:1]]
}

func parseAddress(r *devices.Reader, m mode) string {
	def := int64(502)
	if m == modeTLS {
		def = 802
	}
	host := r.Text("", "ip", "host", "address", "hostname")
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	if h, p, err := net.SplitHostPort(host); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			r.Fail("ip", fmt.Sprintf("%q has no valid port", host))
		}
		host, def = h, int64(n)
	}
	host = strings.Trim(host, "[]")
	if host == "" || strings.ContainsAny(host, " /") {
		r.Fail("ip", fmt.Sprintf("%q is not an address", host))
	}
	return net.JoinHostPort(host, strconv.FormatInt(r.Int(def, 1, 65535, "port"), 10))
}
