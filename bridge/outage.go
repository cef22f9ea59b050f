package bridge

import (
	"sync"

	"go.uber.org/zap"
)

// outage logs when an operation that is retried starts to fail, and when it works again: one
// line per change of state, regardless of the number of attempts and of parts that fail.
type outage struct {
	log  *zap.Logger
	what string
	// onChange is called at each change of state. It is set before the first use.
	onChange func(down bool)

	mu   sync.Mutex
	down map[string]bool
}

func newOutage(log *zap.Logger, what string) *outage {
	return &outage{log: log, what: what, onChange: func(bool) {}, down: map[string]bool{}}
}

// report takes the result of an attempt.
func (o *outage) report(err error) { o.reportPart("", err) }

// reportPart takes the result of an attempt at one part. The whole works if all parts do.
func (o *outage) reportPart(name string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := len(o.down)
	if err == nil {
		delete(o.down, name)
	} else {
		o.down[name] = true
	}
	switch {
	case before == 0 && len(o.down) > 0:
		fields := []zap.Field{zap.String("what", o.what), zap.Error(err)}
		if name != "" {
			fields = append(fields, zap.String("part", name))
		}
		o.log.Warn("unavailable, retrying", fields...)
		o.onChange(true)
	case before > 0 && len(o.down) == 0:
		o.log.Info("available again", zap.String("what", o.what))
		o.onChange(false)
	}
}
