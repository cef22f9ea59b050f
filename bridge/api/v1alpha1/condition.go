package v1alpha1

// The types of the conditions of a Site. Each is True in the normal state.
const (
	// ConditionConnected repeats SiteStatus.Connected with a reason.
	ConditionConnected = "Connected"
	// ConditionSynced is True if the site has stored and applied everything that was
	// published for it, and the last comparison found no difference.
	ConditionSynced = "Synced"
	// ConditionHealthy is True if the leaf's heartbeats report no problem.
	ConditionHealthy = "Healthy"
	// ConditionAccountReady is True if the hub has the site's account as the Site wants it, with
	// a gateway that may connect. It is absent if the bridge makes no accounts and the Site asks
	// for none.
	ConditionAccountReady = "AccountReady"
	// ConditionStorageReserved is True if the hub has streams for what the site reports, with
	// room of its own.
	ConditionStorageReserved = "StorageReserved"
)

// The reasons of ConditionStorageReserved. Without streams nobody answers the site, and its leaf
// keeps what it has.
const (
	ReasonReserved = "Reserved"
	// ReasonNoRoom means that the hub cannot reserve the room.
	ReasonNoRoom = "NoRoom"
	// ReasonTooManySites means that there are more Sites than the room is divided among.
	ReasonTooManySites = "TooManySites"
	// ReasonStreamsFailed means that the hub refuses the streams for another reason.
	ReasonStreamsFailed = "StreamsFailed"
)

const (
	// ConditionNodesAccepted is True if each node that registered in the last minutes was
	// accepted, and each name of SiteNodes.Names belongs to the site.
	ConditionNodesAccepted = "NodesAccepted"
	// ConditionWithinLimits is True if nothing that the site reported in the last minutes was left
	// out or delayed because it exceeds a limit of the site.
	ConditionWithinLimits = "WithinLimits"
)

// ConditionWithinBudget is True if nothing waits at the site because its link has carried too much
// today. It is absent if Spec.Link has no budget.
const ConditionWithinBudget = "WithinBudget"

// The reasons of ConditionWithinBudget, beside ReasonAsExpected.
const (
	// ReasonSamplesThinned: of the samples one of each device is sent every 15 minutes.
	ReasonSamplesThinned = "SamplesThinned"
	// ReasonSamplesWait: no samples and no Events are sent.
	ReasonSamplesWait = "SamplesWait"
	// ReasonReportsWait: no status, no Events and no samples are sent.
	ReasonReportsWait = "ReportsWait"
	// ReasonNotConfirmed: the leaf has not reported yet that it keeps this budget.
	ReasonNotConfirmed = "NotConfirmed"
)

// ConditionResourcesSelected is True if the site gets every object that Spec.Resources selects. It is
// absent if that is empty.
const ConditionResourcesSelected = "ResourcesSelected"

// The reasons of ConditionResourcesSelected, beside ReasonAsExpected.
const (
	// ReasonResourceNotFound: the API server has no such CustomResourceDefinition.
	ReasonResourceNotFound = "ResourceNotFound"
	// ReasonResourceNotSelectable: it is not a custom resource, or sites get it without a selection.
	ReasonResourceNotSelectable = "ResourceNotSelectable"
	// ReasonResourceForbidden: the bridge may not list and watch it.
	ReasonResourceForbidden = "ResourceForbidden"
	// ReasonResourceUnavailable: the API server does not answer for it. The site keeps what it has.
	ReasonResourceUnavailable = "ResourceUnavailable"
	// ReasonTooManyObjects: more objects are selected than a site can have; it has the oldest.
	ReasonTooManyObjects = "TooManyObjects"
)

// The reasons of ConditionNodesAccepted, beside ReasonAsExpected.
const (
	// ReasonNameTaken: the name belongs to another site, or to a Node that is no site's.
	ReasonNameTaken = "NameTaken"
	// ReasonNameNotAllowed: Spec.Nodes does not allow the name.
	ReasonNameNotAllowed = "NameNotAllowed"
	// ReasonTooManyNodes: the site has as many names as it can have.
	ReasonTooManyNodes = "TooManyNodes"
)

// The reasons of ConditionWithinLimits, beside ReasonAsExpected.
const (
	// ReasonPodAddress: a pod has an address that is not in SiteNodes.PodCIDRs.
	ReasonPodAddress = "PodAddress"
	// ReasonTooLarge: an object is larger than one of its kind may be.
	ReasonTooLarge = "TooLarge"
	// ReasonTooManyMirrorPods: a node has as many mirror pods as it can have.
	ReasonTooManyMirrorPods = "TooManyMirrorPods"
	// ReasonTooMuchState: the states of all the site's objects together are too large.
	ReasonTooMuchState = "TooMuchState"
	// ReasonEventRate: more Events than the site can report are dropped.
	ReasonEventRate = "EventRate"
	// ReasonWriteRate: more reports than the site can have written are delayed.
	ReasonWriteRate = "WriteRate"
)

// The reasons of ConditionConnected.
const (
	ReasonHeard     = "Heard"
	ReasonSilent    = "Silent"
	ReasonNeverSeen = "NeverSeen"
)

// The reasons of ConditionSynced.
const (
	ReasonUpToDate    = "UpToDate"
	ReasonUnpublished = "Unpublished"
	ReasonPending     = "Pending"
	ReasonUnapplied   = "Unapplied"
	ReasonDiffers     = "Differs"
)

// The reasons of ConditionHealthy, beside those of SiteStatus.Degraded.
const (
	ReasonAsExpected        = "AsExpected"
	ReasonDuplicateIdentity = "DuplicateIdentity"
	ReasonQuarantined       = "Quarantined"
	ReasonNotHeard          = "NotHeard"
)

// The reasons of ConditionAccountReady.
const (
	ReasonAccountStored  = "AccountStored"
	ReasonNoGateway      = "NoGateway"
	ReasonInvalidKey     = "InvalidKey"
	ReasonNotConfigured  = "NotConfigured"
	ReasonHubRefuses     = "HubRefuses"
	ReasonHubUnavailable = "HubUnavailable"
)
