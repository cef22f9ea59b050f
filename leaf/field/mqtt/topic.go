package mqtt

import "strings"

// The topics are KubeEdge's. nats-server maps a topic to a subject: "/" becomes ".", and a
// "." within a level, as in the names of Kubernetes objects, becomes "//".
const (
	devicePrefix = "$hw.events.device."
	nodePrefix   = "$hw.events.node."
	dataPrefix   = "$ke.events.device."

	twinGet           = "twin.get"
	twinGetResult     = "twin.get.result"
	twinUpdate        = "twin.update"
	twinResult        = "twin.update.result"
	twinDelta         = "twin.update.delta"
	twinDocument      = "twin.update.document"
	stateGet          = "state.get"
	stateGetResult    = "state.get.result"
	stateUpdate       = "state.update"
	stateResult       = "state.update.result"
	membershipGet     = "membership.get"
	membershipList    = "membership.get.result"
	membershipUpdated = "membership.updated"
	dataUpdate        = "data.update"
	deviceWildcards   = "*.*."
)

// escapeLevel returns the token of a subject for a name.
func escapeLevel(name string) string { return strings.ReplaceAll(name, ".", "//") }

func deviceSubject(namespace, name, what string) string {
	return devicePrefix + escapeLevel(namespace) + "." + escapeLevel(name) + "." + what
}

func dataSubject(namespace, name string) string {
	return dataPrefix + escapeLevel(namespace) + "." + escapeLevel(name) + "." + dataUpdate
}

func nodeSubject(node, what string) string { return nodePrefix + escapeLevel(node) + "." + what }

// parseDevice is the inverse of deviceSubject.
func parseDevice(subject string) (namespace, name, what string, ok bool) {
	rest, ok := strings.CutPrefix(subject, devicePrefix)
	parts := strings.SplitN(rest, ".", 3)
	if !ok || len(parts) != 3 {
		return "", "", "", false
	}
	unescape := func(s string) string { return strings.ReplaceAll(s, "//", ".") }
	return unescape(parts[0]), unescape(parts[1]), parts[2], true
}
