package natsd

import "go.uber.org/zap"

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
	e := explain(format, v)
	l.attempts.observeError(e.text)
	if l.attempts.observe(format, v) {
		l.log.Error(e.line())
	}
}

func (l logger) Warnf(format string, v ...any)  { l.log.Warnf(format, v...) }
func (l logger) Debugf(format string, v ...any) { l.log.Debugf(format, v...) }
func (l logger) Tracef(format string, v ...any) { l.log.Debugf(format, v...) }

// Fatalf only logs: the leaf decides whether the process ends.
func (l logger) Fatalf(format string, v ...any) { l.log.Errorf(format, v...) }
