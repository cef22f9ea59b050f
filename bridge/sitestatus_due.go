package bridge

import (
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

const (
	// statusSpacing is how soon after a write of a Site's status another may follow.
	statusSpacing = 2 * time.Second
	// statusLazy is how soon a write may follow that says only what moves all the time.
	statusLazy = 10 * time.Second
)

// due says whether a Site's status is to be written now, when it was written last at a
// time. It is a pure function.
func statusDue(served, is v1alpha1.SiteStatus, written, now time.Time) bool {
	waited := now.Sub(written)
	switch {
	case equality.Semantic.DeepEqual(served, is):
		return false
	case waited < statusSpacing:
		return false
	case waited >= statusLazy:
		return true
	}
	return !equality.Semantic.DeepEqual(withoutVolatile(served), withoutVolatile(is))
}

// steady is a status without what moves all the time.
func withoutVolatile(s v1alpha1.SiteStatus) v1alpha1.SiteStatus {
	s.LastAck, s.Stored, s.Applied, s.AppliedHub = nil, 0, 0, 0
	s.ReportedPending, s.TelemetryPending, s.DuplicateSeen = 0, 0, nil
	if s.LastCheck != nil {
		s.LastCheck = &v1alpha1.SiteCheck{Time: metav1.Time{}, Outcome: s.LastCheck.Outcome}
	}
	return s
}
