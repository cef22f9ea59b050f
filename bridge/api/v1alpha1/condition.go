package v1alpha1

// The types of the conditions of a Site. Each is True when all is well.
const (
	// ConditionConnected repeats SiteStatus.Connected with a reason.
	ConditionConnected = "Connected"
	// ConditionSynced says that the site has stored and taken over everything that is
	// wanted there, and that the last comparison found no difference.
	ConditionSynced = "Synced"
	// ConditionHealthy says that nothing is wrong with the leaf as far as it is heard.
	ConditionHealthy = "Healthy"
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
