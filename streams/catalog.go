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

// SourceAPIPrefix is where a leaf sends consumer requests about DESIRED. It is a
// pseudo domain that the site's account maps to the hub's JetStream API: with the
// real domain's name the leaf connection's own mapping would capture the request.
const SourceAPIPrefix = "$JS.FABRIC.API"

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
			AllowDirect: true, AllowMsgTTL: true, MaxConsumers: maxSites + 16, Replicas: replicas,
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

// SiteConsumer is a site's durable consumer on DESIRED. Its acknowledgement floor is
// what the site has on disk: the leaf's stream answers flow control after storing
// (ADR-60). Only the bridge makes it.
func SiteConsumer(site string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: site, Name: site, Description: "what site " + site + " has stored",
		DeliverSubject: SyncSubject(site), FilterSubject: DesiredFilter(site),
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckFlowControlPolicy,
		ReplayPolicy: jetstream.ReplayInstantPolicy,
		FlowControl:  true, IdleHeartbeat: time.Second, MaxAckPending: 1000,
	}
}

// ReportedConsumer is the bridge's consumer on REPORTED. A message that is not
// acknowledged is delivered again after ackWait.
func ReportedConsumer(ackWait time.Duration) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: BridgeConsumer, Name: BridgeConsumer, Description: "what the API server has accepted",
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: ackWait, MaxAckPending: 1000,
	}
}

// LeafLimits bounds a leaf's streams. Zero is the default that is named.
type LeafLimits struct {
	// TelemetryBytes bounds SITE_TELEMETRY, oldest dropped first; default 1 GiB.
	TelemetryBytes int64
}

// LeafStreams are the streams at a site's leaf. SITE_DESIRED has no subjects of its
// own: it sources DESIRED through the site's durable consumer.
func LeafStreams(site string, l LeafLimits) []jetstream.StreamConfig {
	telemetry := l.TelemetryBytes
	if telemetry == 0 {
		telemetry = 1 << 30
	}
	return []jetstream.StreamConfig{
		{
			Name: SiteDesired, Description: "What the cloud wants here, one message per object",
			MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld, AllowDirect: true, AllowMsgTTL: true,
			// The window would drop a republished message id; ordering is by UID and version.
			Duplicates: 100 * time.Millisecond,
			Sources: []*jetstream.StreamSource{{
				Name:     Desired,
				External: &jetstream.ExternalStream{APIPrefix: SourceAPIPrefix},
				Consumer: &jetstream.StreamConsumerSource{Name: site, DeliverSubject: SyncSubject(site)},
			}},
		},
		{
			Name: SiteReported, Description: "What is true here, newest state per object; waits for the link",
			Subjects: []string{localReportedPrefix + ".>"}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld,
			AllowDirect: true, AllowMsgTTL: true,
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
