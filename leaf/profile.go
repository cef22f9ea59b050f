package leaf

import (
	"time"

	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

// The values of LinkConfig.Profile.
const (
	profileDefault = "default"
	profileMetered = "metered"
)

// profile is what an idle link costs, and how late what goes wrong on it is noticed.
type profile struct {
	// presence is the time between two heartbeats. A site counts as disconnected after two and a
	// half of them, and not before streams.PresenceTimeout.
	presence time.Duration
	// ping is the time between two pings of the leaf connection, 0 for that of the nats-server's
	// configuration. A silent line is noticed after three.
	ping time.Duration
	// compression is that of the leaf connection, "" for nats-server's default.
	compression string
	// sync is the time between two heartbeats of the hub's consumer.
	sync time.Duration
	// comparison is the time between two comparisons of inventories, and two checks of the hub.
	comparison time.Duration
	// idle is the time between two requests of a forwarder that has nothing to do: nats-server tells
	// the hub of the inbox of each.
	idle time.Duration
	// gather is how long records wait for others.
	gather time.Duration
	// nodeStatus is how long a node's status is not reported while only its times change.
	nodeStatus time.Duration
	// traffic is the time between two reports of what the link carried.
	traffic time.Duration
}

// profiles are what docs/install.md, Metered lines, has the prices of.
var profiles = map[string]profile{
	profileDefault: {presence: streams.PresenceInterval, sync: 4 * streams.SyncHeartbeat, idle: 5 * time.Minute, comparison: inventory.Interval, nodeStatus: time.Hour, traffic: time.Hour},
	profileMetered: {
		presence: 2 * time.Minute, ping: time.Minute, compression: "s2_best", sync: 5 * time.Minute, idle: 30 * time.Minute, comparison: 6 * time.Hour, gather: time.Minute, nodeStatus: 6 * time.Hour,
		traffic: 6 * time.Hour,
	},
}

// profile returns the profile of a valid configuration.
func (c Config) profile() profile { return profiles[c.Link.Profile] }
