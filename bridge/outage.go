package bridge

import (
	"go.uber.org/zap"

	"github.com/petiole-io/petiole/internal/logonce"
)

// outage reports when one operation that is retried starts to fail, and when it works again.
type outage struct {
	reporter  *logonce.Reporter
	operation string
}

// newOutage returns the outage of an operation. The functions of onChange are called at each
// change of state and must not call the outage.
func newOutage(log *zap.Logger, operation string, onChange ...func(down bool)) *outage {
	return &outage{operation: operation, reporter: logonce.New(log, func(_ string, failing bool) {
		for _, f := range onChange {
			f(failing)
		}
	})}
}

// report takes the result of an attempt.
func (o *outage) report(err error) { o.reporter.Report(o.operation, err) }

// reportPart takes the result of an attempt at one part. The whole works if all parts do.
func (o *outage) reportPart(name string, err error) { o.reporter.ReportPart(o.operation, name, err) }
