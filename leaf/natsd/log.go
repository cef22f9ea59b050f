package natsd

import (
	"fmt"
	"time"

	"go.uber.org/zap"
)

// logger gives nats-server's log to zap.
type logger struct {
	log      *zap.SugaredLogger
	attempts *attempts
}

func (l logger) Noticef(format string, v ...any) {
	if l.attempts.observe(format, v) {
		l.log.Infof(format, v...)
	}
}

func (l logger) Errorf(format string, v ...any) {
	if line := fmt.Sprintf(format, v...); l.attempts.observeError(line) {
		l.log.Errorf("%s: the clock of this gateway says %s; if that is wrong set it, as with NTP", line, time.Now().UTC().Format(time.RFC3339))
		return
	}
	if l.attempts.observe(format, v) {
		l.log.Errorf(format, v...)
	}
}

func (l logger) Warnf(format string, v ...any)  { l.log.Warnf(format, v...) }
func (l logger) Debugf(format string, v ...any) { l.log.Debugf(format, v...) }
func (l logger) Tracef(format string, v ...any) { l.log.Debugf(format, v...) }

// Fatalf only logs: the leaf decides whether the process ends.
func (l logger) Fatalf(format string, v ...any) { l.log.Errorf(format, v...) }
