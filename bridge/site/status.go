package site

import (
	"errors"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/antientropy"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/hub"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/inventory"
)

// duplicateTime is the time for which a site stays unhealthy after two leaves were last seen.
const duplicateTime = 2 * time.Minute

// observation is the state of a site at one moment.
type observation struct {
	now, created time.Time

	connected bool
	since     time.Time
	last      streams.Presence
	duplicate time.Time

	nodes      nodesObservation
	unobserved int
	// unpublished is true if objects wait to be published for the site.
	unpublished bool
	// pending, oldest, lastAck and stored come from the site's consumer at the hub.
	pending uint64
	oldest  *time.Time
	lastAck *time.Time
	stored  uint64

	epoch string
	term  uint64
	// sync covers the time since this bridge became leader; earlierMismatches counts those
	// before.
	sync              antientropy.State
	earlierMismatches int64
}

// nodesObservation is what a site has registered, and may.
type nodesObservation struct {
	// count is the number of Nodes, owned are the names that the site has, conditions show what is
	// refused to it.
	count      int
	owned      []string
	conditions []metav1.Condition
}

// status returns the Site's status. Fields whose value is not known, such as those of the leaf
// before its first heartbeat, keep their value. It is a pure function.
func (o observation) status(before v1alpha1.SiteStatus) v1alpha1.SiteStatus {
	s := *before.DeepCopy()
	since := o.since
	if since.IsZero() {
		since = o.created
	}
	s.Connected, s.Since, s.Nodes = o.connected, wireTime(since), int32(o.nodes.count)
	s.Pending, s.Stored, s.Unobserved = int64(o.pending), int64(o.stored), int32(o.unobserved)
	s.OwnedNodes = o.nodes.owned
	s.OldestPending = nil
	if o.oldest != nil && o.pending > 0 {
		s.OldestPending = wireTime(*o.oldest)
	}
	if o.lastAck != nil {
		s.LastAck = wireTime(*o.lastAck)
	}
	o.applyHeartbeat(&s)
	if !o.duplicate.IsZero() {
		s.DuplicateSeen = wireTime(o.duplicate)
	}
	s.Epoch, s.Term = o.epoch, int64(o.term)
	o.applySyncState(&s)
	for _, c := range append([]metav1.Condition{o.connectedCondition(s), o.syncedCondition(s), o.healthyCondition(s)}, o.nodes.conditions...) {
		c.LastTransitionTime = *wireTime(o.now)
		if c.Type == v1alpha1.ConditionConnected {
			c.LastTransitionTime = *s.Since
		}
		meta.SetStatusCondition(&s.Conditions, c)
	}
	return s
}

// applyHeartbeat copies the content of the last heartbeat.
func (o observation) applyHeartbeat(s *v1alpha1.SiteStatus) {
	p := o.last
	if p.Time.IsZero() {
		return
	}
	s.Version, s.Boot = p.Version, p.Boot
	s.Unapplied, s.Applied, s.AppliedHub = int64(p.Unapplied), int64(p.Applied), int64(p.AppliedHub)
	s.ReportedPending, s.TelemetryPending = int64(p.ReportedPending), int64(p.TelemetryPending)
	s.Quarantined, s.Dropped = int64(p.Quarantined), int64(p.Dropped)
	s.Degraded = slices.Compact(slices.Sorted(slices.Values(p.Degraded)))
}

// applySyncState copies the results of comparisons and resyncs.
func (o observation) applySyncState(s *v1alpha1.SiteStatus) {
	r := o.sync
	if !r.LastCheck.IsZero() {
		s.LastCheck = &v1alpha1.SiteCheck{Time: *wireTime(r.LastCheck), Outcome: string(r.Outcome)}
	}
	s.Mismatches = o.earlierMismatches + int64(r.Mismatches)
	if r.Resynced.IsZero() && r.ResyncRequested == "" {
		return
	}
	if s.Resync == nil {
		s.Resync = &v1alpha1.SiteResync{}
	}
	if !r.Resynced.IsZero() {
		s.Resync.Time, s.Resync.Reason = *wireTime(r.Resynced), r.ResyncReason
	}
	if r.ResyncRequested != "" {
		s.Resync.Requested = r.ResyncRequested
	}
}

func (o observation) connectedCondition(s v1alpha1.SiteStatus) metav1.Condition {
	switch {
	case s.Connected:
		return condition(v1alpha1.ConditionConnected, metav1.ConditionTrue, v1alpha1.ReasonHeard, "the leaf sends heartbeats")
	case s.Boot == "" && o.since.IsZero():
		return condition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonNeverSeen, "no heartbeat has been received yet")
	}
	return condition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonSilent, "no heartbeat received from the leaf")
}

// syncedCondition has no numbers in its messages: they are in the status, and would change the
// condition all the time.
func (o observation) syncedCondition(s v1alpha1.SiteStatus) metav1.Condition {
	const t = v1alpha1.ConditionSynced
	var outcome inventory.State
	if s.LastCheck != nil {
		outcome = inventory.State(s.LastCheck.Outcome)
	}
	switch {
	case outcome == inventory.Repairing:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonDiffers, "the content of the site differs from what was published and is being repaired")
	case o.unpublished:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonUnpublished, "objects wait to be published for the site")
	case s.Pending > 0:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonPending, "objects wait to be stored at the site")
	case s.Unapplied > 0:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonUnapplied, "the site has stored objects that it has not applied")
	}
	return condition(t, metav1.ConditionTrue, v1alpha1.ReasonUpToDate, "the site has stored and applied everything")
}

func (o observation) healthyCondition(s v1alpha1.SiteStatus) metav1.Condition {
	const t = v1alpha1.ConditionHealthy
	switch {
	case s.DuplicateSeen != nil && o.now.Sub(s.DuplicateSeen.Time) < duplicateTime:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonDuplicateIdentity, "two leaves use the name of this site")
	case !s.Connected:
		return condition(t, metav1.ConditionUnknown, v1alpha1.ReasonNotHeard, "no heartbeat received from the leaf")
	case len(s.Degraded) > 0:
		message := "the leaf reports: " + strings.Join(append([]string{strings.Join(s.Degraded, ", ")}, o.last.Details...), "; ")
		return condition(t, metav1.ConditionFalse, s.Degraded[0], message)
	case s.Quarantined > 0:
		return condition(t, metav1.ConditionFalse, v1alpha1.ReasonQuarantined, "the leaf could not read messages and moved them to its stream "+streams.SiteQuarantine)
	}
	return condition(t, metav1.ConditionTrue, v1alpha1.ReasonAsExpected, "the leaf reports no problems")
}

// storageCondition returns the condition about a site's streams at the hub. problem is the reason
// for which it does not have them, or nil.
func storageCondition(problem error, now time.Time) metav1.Condition {
	c := condition(v1alpha1.ConditionStorageReserved, metav1.ConditionFalse, v1alpha1.ReasonStreamsFailed, "")
	switch {
	case problem == nil:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonReserved
		c.Message = "the hub has streams with room of its own for what the site reports"
	case errors.Is(problem, hub.ErrTooManySites):
		c.Reason = v1alpha1.ReasonTooManySites
	case hub.IsNoRoom(problem):
		c.Reason = v1alpha1.ReasonNoRoom
	}
	if problem != nil {
		c.Message = problem.Error()
	}
	c.LastTransitionTime = *wireTime(now)
	return c
}

// normalMessages are the messages of the conditions about bounds in the normal state.
var normalMessages = map[string]string{
	v1alpha1.ConditionNodesAccepted: "each node that registers is accepted",
	v1alpha1.ConditionWithinLimits:  "the site's reports are within its limits",
}

func condition(t string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: t, Status: status, Reason: reason, Message: message}
}

// wireTime returns a time with the precision of the API, whole seconds.
func wireTime(t time.Time) *metav1.Time {
	m := metav1.NewTime(t.Truncate(time.Second).Local())
	return &m
}
