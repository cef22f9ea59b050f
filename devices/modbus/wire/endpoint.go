package wire

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
)

// Mode is a transport of frames.
type Mode string

// The modes, by their names in manifests.
const (
	TCP        Mode = "tcp"
	TLS        Mode = "tls"
	UDP        Mode = "udp"
	RTU        Mode = "rtu"
	RTUOverTCP Mode = "rtuovertcp"
)

// Numbered reports whether frames have a transaction number: RTU frames have none.
func (m Mode) Numbered() bool { return m != RTU && m != RTUOverTCP }

// Endpoint is the address and the line settings of a link. Devices with equal endpoints
// share a link.
type Endpoint struct {
	Mode    Mode
	Address string // host:port, or the path of the serial port
	Serial  Serial
	tls     tlsSettings
}

// String formats the endpoint as <mode>://<address>.
func (e Endpoint) String() string { return string(e.Mode) + "://" + e.Address }

// Key identifies a resource that can be opened only once.
func (e Endpoint) Key() string {
	if e.Mode == RTU {
		return e.Address
	}
	return e.String()
}

// Serial has the settings of a serial line.
type Serial struct {
	Baud, DataBits, StopBits int
	Parity                   string // none, even, odd
	RS485                    bool   // the kernel switches the direction of a two-wire line
}

// Character returns the time that one character takes on the line.
func (s Serial) Character() time.Duration {
	bits := 1 + s.DataBits + s.StopBits
	if s.Parity != "none" {
		bits++
	}
	return time.Duration(bits) * time.Second / time.Duration(s.Baud)
}

// Silence returns the least time between frames: 3.5 characters, above 19200 baud 1.75 ms
// (Modbus over Serial Line V1.02, 2.5.1.1).
func (s Serial) Silence() time.Duration {
	if s.Baud > 19200 {
		return 1750 * time.Microsecond
	}
	return s.Character() * 7 / 2
}

type tlsSettings struct{ ca, cert, key, serverName string }

// separators removes what people put between the words of a mode.
var separators = strings.NewReplacer("-", "", "_", "")

var modeNames = []string{"tcp", "rtu", "udp", "tls", "rtuovertcp", "rtu-over-tcp", "rtu_over_tcp"}

// otherModes are the settings of all modes: manifests often contain those of several.
var otherModes = []string{
	"ip", "host", "address", "hostname", "port", "baudRate", "baud", "dataBits", "stopBits", "parity", "rs485Enabled",
	"caFile", "certFile", "keyFile", "serverName",
}

// ReadEndpoint reads the settings of an endpoint. What is wrong with them is an error of r.
// Names are in any case, aliases in brackets:
//
//	communicateMode (mode, commType)  TCP, RTU, RTUOverTCP, UDP or TLS; default RTU when a
//	                         serial port is named, else TCP
//	ip (host, address, hostname), port default port 502, TLS 802
//	serialName (serialPort, serial), baudRate (baud) 9600, dataBits 8, parity none,
//	                         stopBits 1, rs485Enabled false
//	caFile, certFile, keyFile, serverName  of TLS
func ReadEndpoint(r *devices.Reader) Endpoint {
	port := r.Text("", "serialName", "serialPort", "serial")
	def := TCP
	if port != "" {
		def = RTU
	}
	m := Mode(separators.Replace(r.Choice(string(def), modeNames, "communicateMode", "mode", "commType")))
	r.Has(otherModes...)
	e := Endpoint{Mode: m, Address: port}
	if m == RTU {
		e.Serial = readSerial(r)
		if port == "" {
			r.Fail("serialName", "is missing")
		}
		return e
	}
	e.Address = readAddress(r, m)
	if m == TLS {
		e.tls = tlsSettings{ca: r.Text("", "caFile"), cert: r.Text("", "certFile"), key: r.Text("", "keyFile"), serverName: r.Text("", "serverName")}
		if (e.tls.cert == "") != (e.tls.key == "") {
			r.Fail("certFile, keyFile", "must be set together")
		}
	}
	return e
}

func readSerial(r *devices.Reader) Serial {
	return Serial{
		Baud: int(r.Int(9600, 50, 4_000_000, "baudRate", "baud")), DataBits: int(r.Int(8, 7, 8, "dataBits")),
		StopBits: int(r.Int(1, 1, 2, "stopBits")), Parity: parity(r.Choice("none", []string{"none", "even", "odd", "n", "e", "o"}, "parity")),
		RS485: r.Bool(false, "rs485Enabled"),
	}
}

func parity(s string) string {
	return map[string]string{"n": "none", "e": "even", "o": "odd"}[s[:1]]
}

func readAddress(r *devices.Reader, m Mode) string {
	def := int64(502)
	if m == TLS {
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
