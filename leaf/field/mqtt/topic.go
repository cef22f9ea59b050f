package mqtt

import "strings"

// The topics are KubeEdge's. nats-server makes a subject of a topic: "/" becomes ".", and
// a "." within a level, as in the names of Kubernetes objects, becomes "//".
const (
	devicePrefix = "$hw.events.device."
	nodePrefix   = "$hw.events.node."
	dataPrefix   = "$ke.events.device."

	twinGet         = "twin.get"
	twinGetResult   = "twin.get.result"
	twinUpdate      = "twin.update"
	twinResult      = "twin.update.result"
	twinDelta       = "twin.update.delta"
	twinDocument    = "twin.update.document"
	stateGet        = "state.get"
	stateGetResult  = "state.get.result"
	stateUpdate     = "state.update"
	stateResult     = "state.update.result"
	membershipGet   = "membership.get"
	membershipList  = "membership.get.result"
	membershipNews  = "membership.updated"
	dataUpdate      = "data.update"
	deviceWildcards = "*.*."
)

// level makes one level of a subject of a name.
func level(name string) string { return strings.ReplaceAll(name, ".", "//") }

func deviceSubject(namespace, name, what string) string {
	return devicePrefix + level(namespace) + "." + level(name) + "." + what
}

func dataSubject(namespace, name string) string {
	return dataPrefix + level(namespace) + "." + level(name) + "." + dataUpdate
}

func nodeSubject(node, what string) string { return nodePrefix + level(node) + "." + what }

// parseDevice is the inverse of deviceSubject.
func parseDevice(subject string) (namespace, name, what string, ok bool) {
	rest, ok := strings.CutPrefix(subject, devicePrefix)
	parts := strings.SplitN(rest, ".", 3)
	if !ok || len(parts) != 3 {
		return "", "", "", false
	}
	unlevel := func(s string) string { return strings.ReplaceAll(s, "//", ".") }
	return unlevel(parts[0]), unlevel(parts[1]), parts[2], true
}
