package streams

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/version"
)

// RequestHub asks what the hub offers: the last token of a RequestSubject, answered by a HubInfo.
const RequestHub = "hub"

// HubInfo tells a site what it cannot see of its hub.
type HubInfo struct {
	// MaxPayload is the size of the largest message that the hub takes, in bytes.
	MaxPayload int64 `json:"maxPayload"`
	// ServerVersion is the version of its nats-server.
	ServerVersion string `json:"serverVersion"`
	// Time is the bridge's clock when it answered. Zero: it is an earlier version.
	Time  time.Time `json:"time,omitzero"`
	Error string    `json:"error,omitempty"`
}

const (
	// MinMaxPayload is the least max_payload of a nats-server at either end: a part of an object
	// with its headers.
	MinMaxPayload = 16 << 10
	// MinServerVersion is the oldest nats-server that resets a consumer and names its stream, which
	// a site needs to continue where it was.
	MinServerVersion = "2.15.0"
)

// Problems returns what a hub of this kind lacks, a sentence each.
func (h HubInfo) Problems() (out []string) {
	if h.MaxPayload > 0 && h.MaxPayload < MinMaxPayload {
		out = append(out, fmt.Sprintf("max_payload of the hub is %d, at least %d is needed", h.MaxPayload, MinMaxPayload))
	}
	is, err := version.ParseGeneric(h.ServerVersion)
	if err == nil && is.LessThan(version.MustParseGeneric(MinServerVersion)) {
		out = append(out, fmt.Sprintf("nats-server of the hub is version %s, at least %s is needed", h.ServerVersion, MinServerVersion))
	}
	return out
}

// ServiceImports returns the subjects that the account of a site imports at the hub, each with what
// does not work without it.
func ServiceImports(site string) map[string]string {
	return map[string]string{
		ResetSubject(site):                             "desired state is not delivered",
		PullSubject(site):                              "desired state is not delivered",
		"$JS.ACK." + Desired + "." + site + ".>":       "desired state is delivered over and over",
		ReportedFilter(site):                           "status and Events stay at the site",
		TelemetryFilter(site):                          "samples stay at the site",
		PresenceSubject(site):                          "the site is shown as disconnected",
		requestPrefix + "." + EscapeToken(site) + ".>": "tokens, comparisons and positions are not answered",
		ReturnImport(site):                             "kubectl logs, exec and port-forward do not reach the site",
	}
}
