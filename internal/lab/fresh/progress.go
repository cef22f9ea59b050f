package main

import (
	"fmt"
	"os"
	"time"
)

// progress prints a line for each step, with the suite and the time since the start.
type progress struct {
	suite string
	start time.Time
}

func newProgress(suite string) progress { return progress{suite: suite, start: time.Now()} }

func (p progress) say(format string, args ...any) {
	since := time.Since(p.start).Round(time.Second)
	fmt.Fprintf(os.Stdout, "%s %2d:%02d  %s\n", p.suite, int(since.Minutes()), int(since.Seconds())%60, fmt.Sprintf(format, args...))
}
