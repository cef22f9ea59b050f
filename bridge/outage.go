package bridge

import (
	"sync"

	"go.uber.org/zap"
)

// outage logs when something that is tried again and again stops working, and when it
// works again: one line for each change of state, however many attempts there are, and
// however many parts of it fail at once.
type outage struct {
	log  *zap.Logger
	what string
	// note is told of each change of state; it is set before the first use.
	onChange func(down bool)

	mu   sync.Mutex
	down map[string]bool
}

func newOutage(log *zap.Logger, what string) *outage {
	return &outage{log: log, what: what, onChange: func(bool) {}, down: map[string]bool{}}
}

// report takes in the outcome of one attempt.
func (o *outage) report(err error) { o.reportPart("", err) }

// part takes in the outcome of one attempt at a part. The whole works when all its
// parts do.
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
		o.log.Warn("unavailable, trying again", fields...)
		o.onChange(true)
	case before > 0 && len(o.down) == 0:
		o.log.Info("available again", zap.String("what", o.what))
		o.onChange(false)
	}
}
