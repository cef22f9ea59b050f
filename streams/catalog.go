package streams

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The streams of the hub and of a leaf. The names at the two ends differ because
// acknowledgement subjects carry the stream's name but no domain.
const (
	Desired = "DESIRED"

	SiteDesired   = "SITE_DESIRED"
	SiteReported  = "SITE_REPORTED"
	SiteTelemetry = "SITE_TELEMETRY"
	// SiteQuarantine holds the messages that a leaf could not read.
	SiteQuarantine = "SITE_QUARANTINE"
	// Quarantine holds the messages that the bridge could not read.
	Quarantine = "QUARANTINE"
)

// The names of the durable consumers.
const (
	// ApplyConsumer (on SITE_DESIRED) acknowledges what the node API has applied.
	ApplyConsumer = "apply"
	// DevicesConsumer (on SITE_DESIRED) acknowledges what the device worker has applied.
	DevicesConsumer = "devices"
	// ForwardConsumer (on SITE_REPORTED and SITE_TELEMETRY) acknowledges what the
	// hub has stored.
	ForwardConsumer = "forward"
)

// Reported returns the name of the hub's stream with the reports of a site.
func Reported(site string) string { return "REPORTED_" + site }

// AllReported matches the reports of all sites. Their streams republish the headers of what they
// have stored below StoredPrefix, by which the bridge follows them.
const (
	AllReported  = reportedPrefix + ".>"
	StoredPrefix = "stored"
)

// Telemetry returns the name of the hub's stream with the records of a site.
func Telemetry(site string) string { return "TELEMETRY_" + site }

// HubDomain is the JetStream domain of the hub.
const HubDomain = "hub"

// ResetSubject is the subject on which a leaf asks the hub to reset its consumer to what the
// leaf has acknowledged. It uses a pseudo domain that the site's account maps to the hub's
// JetStream API: with the name of the real domain, the leaf connection's own mapping would
// capture the request (nats-server 2.15.2; docs/upstream.md, 19).
func ResetSubject(site string) string {
	return "$JS.FABRIC.API.CONSUMER.RESET." + Desired + "." + site
}

// PullSubject is the subject on which a leaf asks the hub for the next messages of its
// consumer, in the pseudo domain of ResetSubject.
func PullSubject(site string) string {
	return "$JS.FABRIC.API.CONSUMER.MSG.NEXT." + Desired + "." + site
}

// HubLimits bounds the hub's streams. A zero field stands for its default.
type HubLimits struct {
	// MaxSites is the number of site consumers DESIRED may have; default, and least, 10,000.
	MaxSites int
	// Replicas of each stream; default 1.
	Replicas int
}

// HubStreams returns the configuration of the hub's streams that all sites share.
func HubStreams(l HubLimits) []jetstream.StreamConfig {
	maxSites := max(l.MaxSites, 10_000)
	replicas := max(l.Replicas, 1)
	return []jetstream.StreamConfig{
		{
			Name: Desired, Description: "What the cloud wants at each site, one message per object",
			Subjects: []string{desiredPrefix + ".>"}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld,
			AllowDirect: true, AllowMsgTTL: true, AllowAtomicPublish: true, MaxConsumers: maxSites + 16, Replicas: replicas,
		},
		quarantine(Quarantine, "quarantine", replicas),
	}
}

// SiteLimits bounds the streams of one site at the hub. A zero field stands for its default.
type SiteLimits struct {
	// Bytes is the room for all of them, which the hub reserves at each server that has them; a
	// fifth is for reports, the rest for telemetry. Default DefaultSiteBytes.
	Bytes int64
	// Replicas of each stream; default 1.
	Replicas int
}

const (
	// DefaultSiteBytes is the default room for a site at the hub: 16 MiB of reports and 64 MiB of
	// telemetry.
	DefaultSiteBytes = 80 << 20
	// MinSiteBytes is the least room that is useful: 4 MiB of reports have the largest object
	// twice, and a site's usual telemetry of an hour.
	MinSiteBytes = 20 << 20
)

// maxRecords bounds the records of a site at the hub: each may have a subject of its own, which
// takes 336 bytes of the hub's memory (nats-server 2.15.2).
const maxRecords = 200_000

// maxReports bounds the reports of a site, parts of large ones included: the objects of
// MaxSiteNodes nodes with their parts are fewer.
const maxReports = 50_000

// SiteStreams returns the configuration of the hub's streams of a site. nats-server bounds what
// sites may send only for each stream, so a site that floods its own harms no other
// (docs/decisions/0019-streams-per-site.md).
func SiteStreams(site string, l SiteLimits) []jetstream.StreamConfig {
	bytes := l.Bytes
	if bytes == 0 {
		bytes = DefaultSiteBytes
	}
	return []jetstream.StreamConfig{{
		Name: Reported(site), Description: "What is true at site " + site + ", newest state per object",
		Subjects: []string{ReportedFilter(site)}, MaxMsgsPerSubject: 1, MaxMsgs: maxReports, MaxBytes: bytes / 5, Discard: jetstream.DiscardNew,
		AllowDirect: true, AllowMsgTTL: true, AllowAtomicPublish: true, Replicas: max(l.Replicas, 1),
		RePublish: &jetstream.RePublish{Source: ReportedFilter(site), Destination: StoredPrefix + "." + ReportedFilter(site), HeadersOnly: true},
	}, {
		Name: Telemetry(site), Description: "Every sample, event and result of site " + site,
		Subjects: []string{TelemetryFilter(site)}, MaxBytes: bytes - bytes/5, MaxMsgs: maxRecords, Discard: jetstream.DiscardOld,
		AllowDirect: true, AllowAtomicPublish: true, Replicas: max(l.Replicas, 1),
	}}
}

// SyncHeartbeat is the interval at which the hub tells an idle connected site the sequence
// that it delivered last.
const SyncHeartbeat = 15 * time.Second

// SiteConsumer returns the configuration of a site's durable consumer on DESIRED. The leaf
// acknowledges what it has on disk, so that the consumer's acknowledgement floor is the
// site's position and its pending count is the site's backlog. Only the bridge creates it.
// The leaf requests as many bytes as its line carries (docs/decisions/0017-slow-lines.md).
//
// Each message is acknowledged on its own. With AckAll, and so with AckFlowControl, a
// message that is superseded between delivery and acknowledgement counts as an
// acknowledgement of all messages before it (nats-server 2.15.2; docs/upstream.md, 8).
func SiteConsumer(site string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: site, Name: site, Description: "what site " + site + " has on disk",
		FilterSubject: DesiredFilter(site),
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		ReplayPolicy: jetstream.ReplayInstantPolicy,
		// The leaf resets the consumer when it connects; until then a slow link must not
		// carry a message twice.
		AckWait: 5 * time.Minute, MaxAckPending: 512,
	}
}

// LeafLimits bounds a leaf's streams. A zero field stands for its default.
type LeafLimits struct {
	// TelemetryBytes bounds SITE_TELEMETRY, oldest dropped first; default 1 GiB.
	TelemetryBytes int64
}

// LeafStreams returns the configuration of the streams at a site's leaf. Only the leaf's
// replicator publishes to SITE_DESIRED, what it receives from DESIRED.
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

// LocalConsumer returns the configuration of a durable consumer with explicit
// acknowledgements on a leaf's stream.
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
