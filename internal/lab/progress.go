package lab

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progress prints one line per step, with the seconds since the command started.
type progress struct {
	mu    *sync.Mutex
	out   io.Writer
	start time.Time
}

func newProgress(out io.Writer) progress {
	return progress{mu: &sync.Mutex{}, out: out, start: time.Now()}
}

func (p progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%5.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}
