package site

import (
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

const (
	// statusSpacing is the minimum time between two writes of a Site's status.
	statusSpacing = 2 * time.Second
	// statusLazy is the minimum time before a write that only updates volatile fields.
	statusLazy = 10 * time.Second
)

// statusDue reports whether a Site's status, last written at a given time, must be written
// now. It is a pure function.
func statusDue(served, is v1alpha1.SiteStatus, written, now time.Time) bool {
	waited := now.Sub(written)
	switch {
	case equality.Semantic.DeepEqual(served, is):
		return false
	case !equality.Semantic.DeepEqual(served.Access, is.Access):
		return true // a gateway waits for it
	case waited < statusSpacing:
		return false
	case waited >= statusLazy:
		return true
	}
	return !equality.Semantic.DeepEqual(withoutVolatile(served), withoutVolatile(is))
}

// withoutVolatile returns a status without the fields that change all the time.
func withoutVolatile(s v1alpha1.SiteStatus) v1alpha1.SiteStatus {
	s.LastAck, s.Stored, s.Applied, s.AppliedHub = nil, 0, 0, 0
	s.ReportedPending, s.TelemetryPending, s.DuplicateSeen = 0, 0, nil
	if s.LastCheck != nil {
		s.LastCheck = &v1alpha1.SiteCheck{Time: metav1.Time{}, Outcome: s.LastCheck.Outcome}
	}
	return s
}
