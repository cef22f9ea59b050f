package modbus

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// mode is how frames travel.
type mode string

const (
	modeTCP        mode = "tcp"
	modeTLS        mode = "tls"
	modeUDP        mode = "udp"
	modeRTU        mode = "rtu"
	modeRTUOverTCP mode = "rtuovertcp"
)

// endpoint is what one link connects to. Devices whose endpoints are equal share it.
type endpoint struct {
	mode    mode
	address string // host:port, or the path of the serial port
	serial  serialSettings
	tls     tlsSettings
}

func (e endpoint) String() string { return string(e.mode) + "://" + e.address }

// key names the thing that can be opened once only.
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

// character is the time that one character takes on the line.
func (s serialSettings) character() time.Duration {
	bits := 1 + s.dataBits + s.stopBits
	if s.parity != "none" {
		bits++
	}
	return time.Duration(bits) * time.Second / time.Duration(s.baud)
}

// silence is the pause between frames: 3.5 characters, above 19200 baud 1.75 ms
// (Modbus over Serial Line V1.02, 2.5.1.1).
func (s serialSettings) silence() time.Duration {
	if s.baud > 19200 {
		return 1750 * time.Microsecond
	}
	return s.character() * 7 / 2
}

type tlsSettings struct{ ca, cert, key, serverName string }

// settings are a device's protocol settings. Times are in milliseconds:
//
//	communicateMode (mode)   TCP, RTU, RTUOverTCP, UDP or TLS; default RTU when a serial
//	                         port is named, else TCP
//	ip (host, address), port default port 502, TLS 802
//	slaveID (deviceID, unitID) 0…255, RTU 1…247; default 1
//	serialName (serialPort), baudRate 9600, dataBits 8, parity none, stopBits 1, rs485Enabled
//	caFile, certFile, keyFile, serverName
//	timeout 1000             of one transaction, and of connecting
//	retries 1                of a read that was not answered
//	pauseAfterConnect 0, pauseBetweenRequests 0
//	maxRegisters 125, maxBits 2000   per request
//	writeFunction auto       or single (FC 5, 6) or multiple (FC 15, 16)
//	byteOrder ABCD           the default of the device's visitors
type settings struct {
	endpoint     endpoint
	unit         byte
	timeout      time.Duration
	retries      int
	afterConnect time.Duration
	between      time.Duration
	maxRegisters int
	maxBits      int
	write        string
	order        string
}

func parseSettings(s devices.Settings) (settings, error) {
	r := s.Read()
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
		afterConnect: ms(0, 60_000, "pauseAfterConnect"), between: ms(0, 10_000, "pauseBetweenRequests"),
		maxRegisters: int(r.Int(125, 1, 125, "maxRegisters")), maxBits: int(r.Int(2000, 1, 2000, "maxBits", "maxCoils")),
		write: r.Choice(writeAuto, []string{writeAuto, writeSingle, writeMultiple}, "writeFunction"),
		order: r.Text("", "byteOrder"),
	}
	if c.timeout < 10*time.Millisecond {
		r.Fail("timeout", "is less than 10 ms")
	}
	low, high := int64(0), int64(255)
	if m == modeRTU || m == modeRTUOverTCP {
		low, high = 1, 247
	}
	c.unit = byte(r.Int(1, low, high, "slaveID", "deviceID", "unitID", "slave", "unit"))
	if _, err := parseOrder(c.order); err != nil {
		r.Fail("byteOrder", err.Error())
	}
	if m == modeRTU {
		c.endpoint.serial = parseSerial(r)
		if port == "" {
			r.Fail("serialName", "is missing")
		}
		return c, r.Err()
	}
	c.endpoint.address = parseAddress(r, m)
	if m == modeTLS {
		c.endpoint.tls = tlsSettings{ca: r.Text("", "caFile"), cert: r.Text("", "certFile"), key: r.Text("", "keyFile"), serverName: r.Text("", "serverName")}
		if (c.endpoint.tls.cert == "") != (c.endpoint.tls.key == "") {
			r.Fail("certFile, keyFile", "belong together")
		}
	}
	return c, r.Err()
}

var modeNames = []string{"tcp", "rtu", "udp", "tls", "rtuovertcp", "rtu-over-tcp", "rtu_over_tcp"}

const (
	writeAuto     = "auto"
	writeSingle   = "single"
	writeMultiple = "multiple"
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
			r.Fail("ip", fmt.Sprintf("%q has no usable port", host))
		}
		host, def = h, int64(n)
	}
	host = strings.Trim(host, "[]")
	if host == "" || strings.ContainsAny(host, " /") {
		r.Fail("ip", fmt.Sprintf("%q is not an address", host))
	}
	return net.JoinHostPort(host, strconv.FormatInt(r.Int(def, 1, 65535, "port"), 10))
}
