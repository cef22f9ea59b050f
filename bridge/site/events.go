package site

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams"
)

// The reasons of the Events about a Site.
const (
	EventConnected         = "Connected"
	EventDisconnected      = "Disconnected"
	EventLeafStarted       = "LeafStarted"
	EventManifestMismatch  = "ManifestMismatch"
	EventResync            = "Resync"
	EventNewEpoch          = "NewEpoch"
	EventQuarantined       = "Quarantined"
	EventDropped           = "Dropped"
	EventDegraded          = "Degraded"
	EventRecovered         = "Recovered"
	EventDuplicateIdentity = "DuplicateIdentity"
)

// siteEvent is an Event about a site.
type event struct {
	kind, reason, message string
}

func normal(reason, format string, args ...any) event {
	return event{corev1.EventTypeNormal, reason, fmt.Sprintf(format, args...)}
}

func warning(reason, format string, args ...any) event {
	return event{corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)}
}

// eventsOf returns the Events that follow from two statuses of a site, the one in the API and
// the one being written, so that successive bridges do not repeat them. It is a pure function.
func eventsOf(was, is v1alpha1.SiteStatus) []event {
	events := linkEvents(was, is)
	if is.Mismatches > was.Mismatches {
		events = append(events, warning(EventManifestMismatch, "the content of the site differed from what was published; the differences are published again"))
	}
	if r := is.Resync; r != nil && !r.Time.IsZero() && (was.Resync == nil || !was.Resync.Time.Equal(&r.Time)) {
		events = append(events, normal(EventResync, "full resync started: %s", r.Reason))
	}
	if was.Epoch != "" && is.Epoch != was.Epoch {
		events = append(events, warning(EventNewEpoch, "the API server's storage was restored or replaced; everything is published again"))
	}
	if n := growth(was.Quarantined, is.Quarantined); n > 0 {
		events = append(events, warning(EventQuarantined, "the leaf could not read %d messages and moved them to its stream %s", n, streams.SiteQuarantine))
	}
	if n := growth(was.Dropped, is.Dropped); n > 0 {
		events = append(events, warning(EventDropped, "the site dropped %d records at a limit before the hub received them", n))
	}
	if names := without(is.Degraded, was.Degraded); len(names) > 0 {
		events = append(events, warning(EventDegraded, "the leaf reports: %s%s", strings.Join(names, ", "), details(is)))
	}
	if names := without(was.Degraded, is.Degraded); len(names) > 0 {
		events = append(events, normal(EventRecovered, "the leaf no longer reports: %s", strings.Join(names, ", ")))
	}
	if duplicate(is) && !duplicate(was) {
		events = append(events, warning(EventDuplicateIdentity, "two leaves use the name of this site; stop one of them"))
	}
	return append(events, boundsEvents(was, is)...)
}

// details returns what the condition Healthy says about the present problems besides their names,
// with a separator, or nothing.
func details(s v1alpha1.SiteStatus) string {
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionHealthy)
	if c == nil || c.Status != metav1.ConditionFalse {
		return ""
	}
	if _, more, ok := strings.Cut(c.Message, "; "); ok {
		return "; " + more
	}
	return ""
}

// boundsEvents returns an Event for each condition that shows something else that is refused to
// the site.
func boundsEvents(was, is v1alpha1.SiteStatus) []event {
	var events []event
	for _, t := range []string{v1alpha1.ConditionNodesAccepted, v1alpha1.ConditionWithinLimits} {
		c, before := meta.FindStatusCondition(is.Conditions, t), meta.FindStatusCondition(was.Conditions, t)
		if c == nil || c.Status != metav1.ConditionFalse || before != nil && before.Message == c.Message {
			continue
		}
		events = append(events, warning(c.Reason, "%s", c.Message))
	}
	return events
}

// linkEvents returns the Events about the connection and the leaf's starts.
func linkEvents(was, is v1alpha1.SiteStatus) []event {
	var events []event
	switch {
	case is.Connected && !was.Connected && was.Boot == "":
		events = append(events, normal(EventConnected, "connected for the first time"))
	case is.Connected && !was.Connected && was.Since != nil && is.Since != nil:
		events = append(events, normal(EventConnected, "connected again after %s", duration.HumanDuration(is.Since.Sub(was.Since.Time))))
	case !is.Connected && was.Connected:
		events = append(events, warning(EventDisconnected, "no heartbeat received from the leaf; %d objects wait to be stored at the site", is.Pending))
	}
	if was.Boot != "" && is.Boot != was.Boot && !duplicate(is) {
		events = append(events, normal(EventLeafStarted, "the leaf restarted, version %s", is.Version))
	}
	return events
}

func duplicate(s v1alpha1.SiteStatus) bool {
	c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionHealthy)
	return c != nil && c.Reason == v1alpha1.ReasonDuplicateIdentity
}

// growth returns by how much a counter has grown that restarts at 0 with its owner.
func growth(was, is int64) int64 {
	if is < was {
		return is
	}
	return is - was
}

// without returns the names in a that are not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}
