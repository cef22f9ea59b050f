package push

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/petiole-io/petiole/devices"
	"github.com/petiole-io/petiole/devices/api/v1beta1"
)

const (
	// defaultCycle is the period of pushing if reportCycle is 0.
	defaultCycle   = time.Second
	defaultTimeout = 5 * time.Second
	longestTimeout = time.Minute
)

// The reasons of problems.
const (
	ReasonUnsupported = "PushMethodNotSupported"
	ReasonInvalid     = "InvalidPushMethod"
)

// Rule sends the samples of a property to a target.
type Rule struct {
	Property string
	// Every is the shortest period: if samples are more frequent, the first of each period is
	// pushed. A change of quality is pushed at once.
	Every  time.Duration
	Target Target
}

// Target is a web hook or a topic of an MQTT broker.
type Target struct {
	// Endpoint is the address to connect to: http://host:port, https://host:port, or that of
	// a broker. Targets with the same endpoint share its connection and its queue.
	Endpoint string
	// URL is the web hook; empty for MQTT.
	URL     string
	Timeout time.Duration

	Topic    string
	QoS      byte
	Retained bool
}

// Plan returns the rules of a device's push methods. A method with a problem is left out; the
// others apply. It is a pure function.
func Plan(d *v1beta1.Device) ([]Rule, []devices.Problem) {
	var rules []Rule
	var problems []devices.Problem
	for _, p := range d.Spec.Properties {
		if p.PushMethod == nil {
			continue
		}
		every := time.Duration(p.ReportCycle) * time.Millisecond
		if every <= 0 {
			every = defaultCycle
		}
		targets, wrong := planProperty(p.PushMethod)
		for _, t := range targets {
			rules = append(rules, Rule{p.Name, every, t})
		}
		for _, w := range wrong {
			w.Property = p.Name
			problems = append(problems, w)
		}
	}
	return rules, problems
}

func planProperty(m *v1beta1.PushMethod) (targets []Target, problems []devices.Problem) {
	problem := func(reason, message string) {
		problems = append(problems, devices.Problem{Reason: reason, Message: "pushMethod." + message})
	}
	if m.HTTP != nil {
		if t, err := webHook(m.HTTP); err != nil {
			problem(ReasonInvalid, "http: "+err.Error())
		} else {
			targets = append(targets, t)
		}
	}
	if m.MQTT != nil {
		if t, err := topic(m.MQTT); err != nil {
			problem(ReasonInvalid, "mqtt: "+err.Error())
		} else {
			targets = append(targets, t)
		}
	}
	const instead = " is not supported: use a durable consumer of the stream TELEMETRY_<site> instead"
	if m.DBMethod != nil {
		problem(ReasonUnsupported, "dbMethod"+instead)
	}
	if m.OTEL != nil {
		problem(ReasonUnsupported, "otel"+instead)
	}
	if m.AnomalyDetection != nil {
		problem(ReasonUnsupported, "anomalyDetection"+instead)
	}
	return targets, problems
}

// webHook returns the target of hostName (with or without http:// or https://), port (0: the
// scheme's own), requestPath and timeout (milliseconds).
func webHook(h *v1beta1.PushMethodHTTP) (Target, error) {
	base := strings.TrimRight(strings.TrimSpace(h.HostName), "/")
	if base == "" {
		return Target{}, fmt.Errorf("hostName is empty")
	}
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return Target{}, fmt.Errorf("hostName %q: %w", h.HostName, err)
	case u.Scheme != "http" && u.Scheme != "https":
		return Target{}, fmt.Errorf("hostName %q: the scheme is neither http nor https", h.HostName)
	case u.Hostname() == "" || u.Path != "" || u.RawQuery != "":
		return Target{}, fmt.Errorf("hostName %q is not a host name", h.HostName)
	case h.Port < 0 || h.Port > 65535:
		return Target{}, fmt.Errorf("port %d is not within 0 and 65535", h.Port)
	case h.Timeout < 0 || time.Duration(h.Timeout)*time.Millisecond > longestTimeout:
		return Target{}, fmt.Errorf("timeout %d is not within 0 and %d milliseconds", h.Timeout, longestTimeout.Milliseconds())
	}
	if h.Port > 0 {
		u.Host = net.JoinHostPort(u.Hostname(), strconv.FormatInt(h.Port, 10))
	}
	endpoint := u.Scheme + "://" + u.Host
	hook, err := url.Parse(endpoint + "/" + strings.TrimLeft(strings.TrimSpace(h.RequestPath), "/"))
	if err != nil {
		return Target{}, fmt.Errorf("requestPath %q: %w", h.RequestPath, err)
	}
	hook.User = u.User
	timeout := time.Duration(h.Timeout) * time.Millisecond
	if timeout == 0 {
		timeout = defaultTimeout
	}
	return Target{Endpoint: endpoint, URL: hook.String(), Timeout: timeout}, nil
}

// topic returns the target of address (host:port, or with tcp://, mqtt://, ssl://, tls://,
// mqtts://, ws:// or wss://), topic, qos and retained.
func topic(m *v1beta1.PushMethodMQTT) (Target, error) {
	address := strings.TrimSpace(m.Address)
	if address == "" {
		return Target{}, fmt.Errorf("address is empty")
	}
	if !strings.Contains(address, "://") {
		address = "tcp://" + address
	}
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return Target{}, fmt.Errorf("address %q: %w", m.Address, err)
	case u.Hostname() == "":
		return Target{}, fmt.Errorf("address %q has no host", m.Address)
	case m.Topic == "" || strings.ContainsAny(m.Topic, "+#"):
		return Target{}, fmt.Errorf("topic %q is empty or has wildcards", m.Topic)
	case m.QoS < 0 || m.QoS > 2:
		return Target{}, fmt.Errorf("qos %d is not 0, 1 or 2", m.QoS)
	}
	switch u.Scheme {
	case "tcp", "mqtt", "ssl", "tls", "mqtts", "ws", "wss":
	default:
		return Target{}, fmt.Errorf("address %q: scheme %q is not an MQTT scheme", m.Address, u.Scheme)
	}
	if u.Port() == "" && !strings.HasPrefix(u.Scheme, "ws") {
		port := map[bool]string{true: "8883", false: "1883"}[u.Scheme == "ssl" || u.Scheme == "tls" || u.Scheme == "mqtts"]
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return Target{Endpoint: u.String(), Topic: m.Topic, QoS: byte(m.QoS), Retained: m.Retained, Timeout: defaultTimeout}, nil
}
