package breaker

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/petiole-io/petiole/internal/breaker/check"
)

// recorder writes the history and passes it to the judge. Its methods are safe for concurrent
// use; the order of the calls is the order of the history.
type recorder struct {
	start time.Time
	out   io.Writer

	mu         sync.Mutex
	file       *os.File
	buf        *bufio.Writer
	judge      *check.Judge
	violations []check.Violation
	counts     map[check.Kind]int
	err        error
}

func newRecorder(path string, out io.Writer) (*recorder, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	return &recorder{start: time.Now(), out: out, file: f, buf: bufio.NewWriterSize(f, 1<<16), judge: check.NewJudge(), counts: map[check.Kind]int{}}, nil
}

// now returns the time since the start of the history.
func (r *recorder) now() time.Duration { return time.Since(r.start) }

// add appends an event and sets its time.
func (r *recorder) add(e check.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.At = r.now()
	line, err := json.Marshal(e)
	if err == nil {
		_, err = r.buf.Write(append(line, '\n'))
	}
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("write history: %w", err)
	}
	r.counts[e.Kind]++
	r.addViolations(r.judge.Observe(e))
}

// finish adds the violations that the judge finds at the end.
func (r *recorder) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addViolations(r.judge.Finish())
}

func (r *recorder) addViolations(found []check.Violation) {
	for _, v := range found {
		if len(r.violations) < maxViolations {
			fmt.Fprintf(r.out, "%7.1fs  VIOLATION %s: %s\n", v.At.Seconds(), v.Invariant, v.What)
		}
		r.violations = append(r.violations, v)
	}
}

// maxViolations bounds the number printed; all are counted.
const maxViolations = 100

func (r *recorder) printf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "%7.1fs  %s\n", r.now().Seconds(), fmt.Sprintf(format, args...))
}

// eventCounts returns the number of events of each kind so far. Bridges that still run go on
// adding some.
func (r *recorder) eventCounts() map[check.Kind]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}

// violationCount returns the number of violations so far.
func (r *recorder) violationCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.violations)
}

// withJudge calls f with the judge while no event is added.
func (r *recorder) withJudge(f func(*check.Judge)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.judge)
}

func (r *recorder) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.err, r.buf.Flush(), r.file.Close())
}
