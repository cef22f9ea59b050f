package reported

import (
	"fmt"
	"time"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/bounds"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

// Limits bound what the bridge writes for each site. Problems show that a site is beyond one.
type Limits struct {
	Writes, Events *bounds.Rate
	Problems       *bounds.Problems
	// OnLimited is called for each report of a site that is dropped or delayed at a rate. It must
	// not block.
	OnLimited func(site, limit string)
}

// The limits at which reports are dropped or delayed, as they are counted.
const (
	limitEvents = "event_rate"
	limitWrites = "write_rate"
)

// minDelay is the time between two looks at whether a delayed report may be written.
const minDelay = 200 * time.Millisecond

// dropEvent reports whether a report is an Event beyond the site's rate.
func (l Limits) dropEvent(site string, m streams.Message) bool {
	if m.Ref.Resource != "events" || l.Events.Take(site, len(m.Object)) == 0 {
		return false
	}
	l.Problems.Add(site, v1alpha1.ConditionWithinLimits, v1alpha1.ReasonEventRate, "", "the site reports Events faster than it may; those beyond its rate are dropped")
	l.OnLimited(site, limitEvents)
	return true
}

// delay returns the time for which a new report has to wait, because its site is beyond its rate
// of writes. What is written again, because others have changed the object, is not limited.
func (l Limits) delay(k Key, r *report) time.Duration {
	if !r.pending {
		return 0
	}
	wait := l.Writes.Take(k.Site, len(r.msg.Object))
	if wait == 0 {
		return 0
	}
	l.Problems.Add(k.Site, v1alpha1.ConditionWithinLimits, v1alpha1.ReasonWriteRate, "", "the site reports changes faster than they may be written; they are written later")
	l.OnLimited(k.Site, limitWrites)
	return max(wait, minDelay)
}

// refuseState records that a site has reported more state than it may, and returns the error.
func (l Limits) refuseState(site string, ref streams.Ref) error {
	message := fmt.Sprintf("the states of the site's objects have more than %d MiB", maxStateBytes>>20)
	l.Problems.Add(site, v1alpha1.ConditionWithinLimits, v1alpha1.ReasonTooMuchState, "", message)
	return fmt.Errorf("%w: %s: %s", kube.ErrRefused, ref, message)
}
