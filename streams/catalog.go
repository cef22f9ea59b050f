package streams

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The streams of the hub and of a leaf. The names at the two ends differ because
// acknowledgement subjects carry the stream's name but no domain.
const (
	Desired   = "DESIRED"
	Reported  = "REPORTED"
	Telemetry = "TELEMETRY"

	SiteDesired   = "SITE_DESIRED"
	SiteReported  = "SITE_REPORTED"
	SiteTelemetry = "SITE_TELEMETRY"
	// SiteQuarantine holds the messages that a leaf could not read.
	SiteQuarantine = "SITE_QUARANTINE"
	// Quarantine holds the messages that the bridge could not read.
	Quarantine = "QUARANTINE"
)

// The durable consumers, by what they do.
const (
	// BridgeConsumer (on REPORTED) acknowledges what the API server has taken over.
	BridgeConsumer = "bridge"
	// ApplyConsumer (on SITE_DESIRED) acknowledges what the node API has taken over.
	ApplyConsumer = "apply"
	// DevicesConsumer (on SITE_DESIRED) acknowledges what the device worker has
	// taken over.
	DevicesConsumer = "devices"
	// ForwardConsumer (on SITE_REPORTED and SITE_TELEMETRY) acknowledges what the
	// hub has stored.
	ForwardConsumer = "forward"
)

// HubDomain is the JetStream domain of the hub.
const HubDomain = "hub"

// ResetSubject is where a leaf asks the hub to start its consumer again from what the
// leaf has acknowledged. It is a pseudo domain that the site's account maps to the
// hub's JetStream API: with the real domain's name the leaf connection's own mapping
// would capture the request.
func ResetSubject(site string) string {
	return "$JS.FABRIC.API.CONSUMER.RESET." + Desired + "." + site
}

// PullSubject is where a leaf asks the hub for the next deliveries of its consumer, in the
// pseudo domain of ResetSubject.
func PullSubject(site string) string {
	return "$JS.FABRIC.API.CONSUMER.MSG.NEXT." + Desired + "." + site
}

// HubLimits bounds the hub's streams. Zero is the default that is named.
type HubLimits struct {
	// MaxSites is the number of site consumers DESIRED may have; default 10,000.
	MaxSites int
	// TelemetryBytes bounds TELEMETRY, oldest dropped first; default 8 GiB.
	TelemetryBytes int64
	// Replicas of each stream; default 1.
	Replicas int
}

// HubStreams are the streams at the hub.
func HubStreams(l HubLimits) []jetstream.StreamConfig {
	maxSites := l.MaxSites
	if maxSites == 0 {
		maxSites = 10_000
	}
	telemetry := l.TelemetryBytes
	if telemetry == 0 {
		telemetry = 8 << 30
	}
	replicas := max(l.Replicas, 1)
	return []jetstream.StreamConfig{
		{
			Name: Desired, Description: "What the cloud wants at each site, one message per object",
			Subjects: []string{desiredPrefix + ".>"}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld,
			AllowDirect: true, AllowMsgTTL: true, AllowAtomicPublish: true, MaxConsumers: maxSites + 16, Replicas: replicas,
		},
		{
			Name: Reported, Description: "What is true at each site, newest state per object",
			Subjects: []string{reportedPrefix + ".>"}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld,
			AllowDirect: true, AllowMsgTTL: true, AllowAtomicPublish: true, Replicas: replicas,
		},
		{
			Name: Telemetry, Description: "Every sample, event and result of each site",
			Subjects: []string{telemetryPrefix + ".>"}, MaxBytes: telemetry, Discard: jetstream.DiscardOld,
			AllowDirect: true, AllowAtomicPublish: true, Replicas: replicas,
		},
		quarantine(Quarantine, "quarantine", replicas),
	}
}

// SyncHeartbeat is how often the hub tells a connected site, when nothing else
// happens, the sequence that it delivered last.
const SyncHeartbeat = 15 * time.Second

// SiteConsumer is a site's durable consumer on DESIRED. The leaf acknowledges what it
// has on disk, so that the consumer's acknowledgement floor is the site's position and
// its pending count the site's backlog. Only the bridge makes it. The leaf asks for as
// many bytes as its line carries (docs/decisions/0017-slow-lines.md).
//
// Each message is acknowledged for itself. With AckAll, and so with AckFlowControl, a
// message that is superseded between delivery and acknowledgement counts as an
// acknowledgement of all before it (docs/decisions/0008-replicator.md).
func SiteConsumer(site string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: site, Name: site, Description: "what site " + site + " has on disk",
		FilterSubject: DesiredFilter(site),
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		ReplayPolicy: jetstream.ReplayInstantPolicy,
		// The leaf resets the consumer when it connects; until then a message on a slow
		// link must not be sent twice.
		AckWait: 5 * time.Minute, MaxAckPending: 512,
	}
}

// MaxUnacked is how many messages of REPORTED, of all sites together, the hub delivers to
// the bridge before one of them is acknowledged.
const MaxUnacked = 1000

// ReportedConsumer is the bridge's consumer on REPORTED. A message that is not
// acknowledged is delivered again after ackWait.
func ReportedConsumer(ackWait time.Duration) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: BridgeConsumer, Name: BridgeConsumer, Description: "what the API server has accepted",
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxAckPending: MaxUnacked,
	}
}

// LeafLimits bounds a leaf's streams. Zero is the default that is named.
type LeafLimits struct {
	// TelemetryBytes bounds SITE_TELEMETRY, oldest dropped first; default 1 GiB.
	TelemetryBytes int64
}

// LeafStreams are the streams at a site's leaf. The leaf's replicator alone publishes
// to SITE_DESIRED, what it gets from DESIRED.
func LeafStreams(site string, l LeafLimits) []jetstream.StreamConfig {
	telemetry := l.TelemetryBytes
	if telemetry == 0 {
		telemetry = 1 << 30
	}
	return []jetstream.StreamConfig{
		{
			Name: SiteDesired, Description: "What the cloud wants here, one message per object",
			Subjects: []string{DesiredFilter(site)}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld,
			AllowDirect: true, AllowAtomicPublish: true,
		},
		{
			Name: SiteReported, Description: "What is true here, newest state per object; waits for the link",
			Subjects: []string{localReportedPrefix + ".>"}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld,
			AllowDirect: true, AllowMsgTTL: true, AllowAtomicPublish: true,
		},
		{
			Name: SiteTelemetry, Description: "Every sample, event and result; waits for the link",
			Subjects: []string{localTelemetryPrefix + ".>"}, MaxBytes: telemetry, Discard: jetstream.DiscardOld,
			AllowDirect: true, AllowAtomicPublish: true,
		},
		quarantine(SiteQuarantine, "local.quarantine", 1),
	}
}

// LocalConsumer is a durable, explicitly acknowledged consumer on a leaf's stream.
func LocalConsumer(name, description string, maxAckPending int, filters ...string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: name, Name: name, Description: description, FilterSubjects: filters,
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: 30 * time.Second, MaxAckPending: maxAckPending,
	}
}

func quarantine(name, subject string, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: name, Description: "Messages that could not be read, kept for people",
		Subjects: []string{subject + ".>"}, MaxBytes: 64 << 20, MaxMsgs: 10_000,
		Discard: jetstream.DiscardOld, Replicas: replicas,
	}
}
