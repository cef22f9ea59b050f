package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ResyncAnnotation on a Site requests a full resync; each new value requests one.
// SiteResync.Requested is the value for which the last resync was made.
const ResyncAnnotation = "petiole.dev/resync"

// Site is a location with its own leaf. Its name is the site ID: the account at the hub,
// the JetStream domain of the leaf, and the value of the label petiole.dev/site on
// its nodes.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type Site struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SiteSpec   `json:"spec,omitempty"`
	Status SiteStatus `json:"status,omitempty"`
}

// SiteList is a list of sites.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type SiteList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Site `json:"items"`
}

// SiteSpec holds the user's settings for a site.
type SiteSpec struct {
	// Description is free text for users.
	Description string `json:"description,omitempty"`
	// Gateways lists the public keys (nkeys, "U…") of the gateways that may connect to a hub in
	// operator mode: one, or two while a gateway is replaced. Without any nobody may: the site
	// is revoked.
	// +listType=set
	Gateways []string `json:"gateways,omitempty"`
	// Operators lists the public keys of people who may look at the site through the hub and
	// send commands to its devices.
	// +listType=set
	Operators []string `json:"operators,omitempty"`
	// Join is a token with which a gateway adds its own key to Gateways, once.
	Join *SiteJoin `json:"join,omitempty"`
	// Limits bounds what the site may use of what all sites share.
	Limits *SiteLimits `json:"limits,omitempty"`
	// Link is about the connection of the site to the hub.
	Link *SiteLink `json:"link,omitempty"`
	// Nodes bounds the nodes of the site. Without it, the site has one node: the first that
	// registers, or those that it had before this field existed.
	Nodes *SiteNodes `json:"nodes,omitempty"`
	// Resources selects custom resources that the site gets, for the pods and people there. The API
	// of its nodes serves them read-only, also without the link.
	// +listType=map
	// +listMapKey=group
	// +listMapKey=resource
	Resources []SiteResource `json:"resources,omitempty"`
}

// SiteResource selects objects of one custom resource. The site gets them in the version that the
// API server prefers, 1000 objects of all its resources together at most, the oldest of each.
type SiteResource struct {
	// Group and Resource are those of a CustomResourceDefinition, such as example.com and widgets.
	Group    string `json:"group"`
	Resource string `json:"resource"`
	// Namespaces are those whose objects are selected; default all. A resource of cluster scope has
	// none.
	// +listType=set
	Namespaces []string `json:"namespaces,omitempty"`
	// Selector selects by label; default all.
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// GroupResource returns the resource.
func (r SiteResource) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Resource}
}

// SiteJoin is a join token without its secret. kubectl petiole site create and rejoin write it.
type SiteJoin struct {
	// Key is the public key (nkey, "U…") of the token.
	Key string `json:"key"`
	// Expires is when the token ends.
	Expires metav1.Time `json:"expires"`
	// Replace is true if the gateway that joins takes the place of those in Gateways, which may
	// not connect any longer then.
	Replace bool `json:"replace,omitempty"`
	// UsedBy is the public key of the gateway that has joined with the token. The bridge writes
	// it together with Gateways. No other gateway can use the token from then on.
	UsedBy string `json:"usedBy,omitempty"`
}

// SiteLimits bounds what a site may use of what all sites share.
type SiteLimits struct {
	// HubStorage is the room for the site's reports and telemetry at the hub. It is at most, and
	// by default, the site's share of the hub's room (limits of the bridge's configuration).
	HubStorage *resource.Quantity `json:"hubStorage,omitempty"`
}

// SiteLink is about the connection of a site to the hub.
type SiteLink struct {
	// DailyBytes is what the link may carry on one day, in UTC by the bridge's clock, in both
	// directions. When three quarters are used, the site sends the newest sample of each device every
	// 15 minutes, from nine tenths on no samples, and after all no status and no Events, until the next
	// day. Desired state, commands and their results, heartbeats and sessions of the kubelet API never
	// wait. Without it nothing does.
	DailyBytes *resource.Quantity `json:"dailyBytes,omitempty"`
}

// SiteAccess is what gateways and operators of a site need to connect to a hub in operator mode.
type SiteAccess struct {
	// Account is the public key of the site's account.
	Account string `json:"account"`
	// Gateways and Operators are those of the spec.
	Gateways  []SiteUser `json:"gateways,omitempty"`
	Operators []SiteUser `json:"operators,omitempty"`
	// Join is for the token of the spec, until it expires.
	Join *SiteJoinAccess `json:"join,omitempty"`
}

// SiteJoinAccess is what a join token contains beside its secret.
type SiteJoinAccess struct {
	// Key is that of SiteJoin.
	Key string `json:"key"`
	// JWT is what the token presents to the hub.
	JWT string `json:"jwt"`
	// URL is how gateways reach the hub, absent if the bridge does not know it.
	URL string `json:"url,omitempty"`
	// Authorities are the certificates, PEM, that verify the hub's; absent: those that every
	// system knows.
	Authorities string `json:"authorities,omitempty"`
}

// SiteUser is a user of the hub. Its JWT is no secret: it is of no use without the private key.
type SiteUser struct {
	// Key is the public key.
	Key string `json:"key"`
	// JWT is what the user presents to the hub.
	JWT string `json:"jwt"`
}

// SiteNodes says which nodes a site can register, and what the cloud sets on them. Without
// Names and Pattern it is the first node that registers.
type SiteNodes struct {
	// Names are names of nodes. They belong to the site from the moment that they are listed,
	// unless another Site has them.
	// +listType=set
	Names []string `json:"names,omitempty"`
	// Pattern allows more names: those that begin with what is before its final asterisk. Such
	// a name belongs to the site from the moment that a node of that name registers.
	Pattern string `json:"pattern,omitempty"`
	// Max is how many names the site can have. It is needed with a Pattern; otherwise it is the
	// number of Names.
	Max int32 `json:"max,omitempty"`
	// Labels are set on each node of the site. The site cannot change them.
	Labels map[string]string `json:"labels,omitempty"`
	// Taints are set on each node of the site, from its registration on.
	// +listType=map
	// +listMapKey=key
	// +listMapKey=effect
	Taints []SiteTaint `json:"taints,omitempty"`
	// PodCIDRs are the ranges of the addresses of pods. An address that a site reports for a pod
	// is left out if it is in none of them and is none of the node's. Without ranges every
	// address is accepted, as from any kubelet.
	// +listType=set
	PodCIDRs []string `json:"podCIDRs,omitempty"`
}

// SiteTaint is a taint of a site's nodes.
type SiteTaint struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
	// Effect is NoSchedule, PreferNoSchedule or NoExecute.
	Effect string `json:"effect"`
}

// SiteStatus is the state of a site, written by the bridge. Values that come from the leaf
// are those of its last heartbeat. Values that change all the time are written every 10 s
// at most.
type SiteStatus struct {
	// Connected is true if a heartbeat of the leaf arrived within the last 25 seconds.
	Connected bool `json:"connected"`
	// Since is when Connected last changed.
	Since *metav1.Time `json:"since,omitempty"`
	// Nodes counts the Node objects that belong to the site.
	Nodes int32 `json:"nodes"`
	// OwnedNodes are the names of nodes that belong to the site, whether a Node of that name
	// exists or not. No other site can register them. They are free again when the Site is
	// deleted, or when no such Node exists and Spec.Nodes no longer allows them or the Site is
	// revoked: no gateway is listed any longer.
	// +listType=set
	OwnedNodes []string `json:"ownedNodes,omitempty"`

	// Pending counts the objects that the site has not stored yet.
	Pending int64 `json:"pending"`
	// OldestPending is when the oldest pending object was published.
	OldestPending *metav1.Time `json:"oldestPending,omitempty"`
	// LastAck is when the site last confirmed that it has stored something.
	LastAck *metav1.Time `json:"lastAck,omitempty"`
	// Stored is the sequence of the hub's stream DESIRED up to which the site has
	// stored everything.
	Stored int64 `json:"stored,omitempty"`

	// Unapplied counts the stored messages that the site's node API or device worker has
	// not applied yet.
	Unapplied int64 `json:"unapplied"`
	// Applied is the last sequence of the leaf's own stream SITE_DESIRED that its node
	// API has applied.
	Applied int64 `json:"applied,omitempty"`
	// AppliedHub is the same position as a sequence of DESIRED, absent if unknown.
	AppliedHub int64 `json:"appliedHub,omitempty"`

	// Unobserved counts the pods and devices of the site whose status in the API belongs
	// to an older version.
	Unobserved int32 `json:"unobserved"`

	// ReportedPending and TelemetryPending count the reports and the telemetry records
	// that wait at the site for the link.
	ReportedPending  int64 `json:"reportedPending,omitempty"`
	TelemetryPending int64 `json:"telemetryPending,omitempty"`
	// Quarantined counts the messages that the leaf could not read since it started.
	Quarantined int64 `json:"quarantined"`
	// Dropped counts the records that the site dropped at a limit before the hub received
	// them, since its store was created.
	Dropped int64 `json:"dropped,omitempty"`
	// Degraded lists the present problems of the leaf, such as DiskFull.
	// +listType=set
	Degraded []string `json:"degraded,omitempty"`

	// Version is the version of the leaf.
	Version string `json:"version,omitempty"`
	// Boot changes at each start of the leaf.
	Boot string `json:"boot,omitempty"`
	// DuplicateSeen is when heartbeats of two leaves with the name of this site were last
	// received.
	DuplicateSeen *metav1.Time `json:"duplicateSeen,omitempty"`

	// Traffic is what the link carried, absent before the leaf's first report.
	Traffic *SiteTraffic `json:"traffic,omitempty"`

	// Access is absent if the bridge makes no accounts.
	Access *SiteAccess `json:"access,omitempty"`

	// Epoch identifies the API server's storage. It changes when the storage is restored
	// or replaced.
	Epoch string `json:"epoch,omitempty"`
	// Term is the term of the bridge that wrote this.
	Term int64 `json:"term,omitempty"`
	// LastCheck is the last comparison of the site's content with what was published.
	LastCheck *SiteCheck `json:"lastCheck,omitempty"`
	// Mismatches counts the comparisons that found a difference. Each is repaired.
	Mismatches int64 `json:"mismatches,omitempty"`
	// Resync is the last full resync.
	Resync *SiteResync `json:"resync,omitempty"`

	// Conditions holds ConditionConnected, ConditionSynced, ConditionHealthy,
	// ConditionStorageReserved, ConditionNodesAccepted and ConditionWithinLimits, with a budget of
	// the link ConditionWithinBudget, and with selected resources ConditionResourcesSelected.
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SiteTraffic is what the link of a site carried, as the leaf counts it. The leaf reports it when its
// link comes up, and every hour, or every six hours with the metered profile.
type SiteTraffic struct {
	// Time is when the leaf reported, by the bridge's clock.
	Time metav1.Time `json:"time,omitzero"`
	// Date is the last day of which the leaf has reported, in UTC by the bridge's clock.
	Date string `json:"date"`
	// Bytes is what the link carried on that day in both directions, rounded up to kilobytes.
	Bytes resource.Quantity `json:"bytes"`
	// DailyBytes is the budget of which the leaf knows, absent if it has none.
	DailyBytes *resource.Quantity `json:"dailyBytes,omitempty"`
	// Days are the last days, the newest first.
	// +listType=map
	// +listMapKey=date
	Days []SiteTrafficDay `json:"days,omitempty"`
}

// SiteTrafficDay is what the link carried on one day.
type SiteTrafficDay struct {
	// Date is the day in UTC.
	Date string `json:"date"`
	// Estimated is true if the connection's own bytes were not known for a part of the day: messages
	// count with their size before compression then, and the protocol is missing.
	Estimated bool `json:"estimated,omitempty"`
	// Kinds divide the bytes of the connection among the kinds of messages.
	// +listType=map
	// +listMapKey=kind
	Kinds []SiteTrafficKind `json:"kinds,omitempty"`
}

// SiteTrafficKind is what messages of one kind took of the link.
type SiteTrafficKind struct {
	// Kind is desired, reported, telemetry, heartbeats, requests, commands, sessions or protocol.
	Kind string `json:"kind"`
	// Up and Down are bytes to and from the hub.
	Up   int64 `json:"up"`
	Down int64 `json:"down"`
}

// SiteCheck is a comparison of a site's inventory with the bridge's.
type SiteCheck struct {
	Time metav1.Time `json:"time"`
	// Outcome is equal, or repairing if the differences are published again.
	Outcome string `json:"outcome"`
}

// SiteResync is a full resync.
type SiteResync struct {
	Time metav1.Time `json:"time,omitzero"`
	// Reason is Requested, or the reason for an automatic resync.
	Reason string `json:"reason,omitempty"`
	// Requested is the value of ResyncAnnotation for which the last resync was made.
	Requested string `json:"requested,omitempty"`
}
