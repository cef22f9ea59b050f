// Package logonce logs a failure that repeats once, and once more when it is over.
//
// Loops that retry for hours pass the outcome of every attempt to a Reporter. The log then
// has one line for each change between working and failing, however many attempts there
// are; metrics count the rest. The caller decides which errors are failures: an error that
// is only the end of a context is not passed.
package logonce

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// Reporter logs the outcomes of operations that are retried. It is safe for concurrent
// use.
type Reporter struct {
	log      *zap.Logger
	onChange []func(operation string, failing bool)

	mu      sync.Mutex
	failing map[string]*failure
}

// failure is an operation that fails.
type failure struct {
	since    time.Time
	attempts int
	parts    map[string]bool
}

// New returns a Reporter under which every operation works. Each function of onChange is
// called when an operation starts to fail or has recovered, in that order and without
// concurrency; it must not call the Reporter.
func New(log *zap.Logger, onChange ...func(operation string, failing bool)) *Reporter {
	return &Reporter{log: log, onChange: onChange, failing: map[string]*failure{}}
}

// Report takes the outcome of one attempt at an operation, such as "write back to the API
// server". It logs a warning with err and the fields if the operation worked until now,
// and that the operation has recovered if it failed until now and err is nil.
func (r *Reporter) Report(operation string, err error, fields ...zap.Field) {
	r.ReportPart(operation, "", err, fields...)
}

// ReportPart is Report for an operation of several parts that fail and recover on their
// own. The operation fails while any of its parts does; only the first one is logged.
func (r *Reporter) ReportPart(operation, part string, err error, fields ...zap.Field) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.failing[operation]
	switch {
	case err != nil && f == nil:
		r.failing[operation] = &failure{since: time.Now(), attempts: 1, parts: map[string]bool{part: true}}
		if part != "" {
			fields = append(fields, zap.String("part", part))
		}
		r.log.Warn("operation fails and is retried", append(fields, zap.String("operation", operation), zap.Error(err))...)
		r.changed(operation, true)
	case err != nil:
		f.attempts++
		f.parts[part] = true
	case f != nil:
		delete(f.parts, part)
		if len(f.parts) > 0 {
			return
		}
		delete(r.failing, operation)
		r.log.Info("operation has recovered", append(fields, zap.String("operation", operation),
			zap.Duration("after", time.Since(f.since)), zap.Int("failed_attempts", f.attempts))...)
		r.changed(operation, false)
	}
}

// Failing reports whether the last attempt at an operation, or at any of its parts, failed.
func (r *Reporter) Failing(operation string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failing[operation] != nil
}

func (r *Reporter) changed(operation string, failing bool) {
	for _, f := range r.onChange {
		f(operation, failing)
	}
}
