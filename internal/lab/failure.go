package lab

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// errEnded reports that a part was started and no longer runs.
var errEnded = errors.New("ended by itself")

// PartError reports a part of the lab that does not work.
type PartError struct {
	Part string
	Err  error
	// Logs are the lines that may show the cause.
	Logs []LogEnd
}

// LogEnd is the end of a log.
type LogEnd struct {
	File  string
	Lines []string
}

func (e *PartError) Unwrap() error { return e.Err }

func (e *PartError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %v", e.Part, e.Err)
	for _, l := range e.Logs {
		if len(l.Lines) == 0 {
			fmt.Fprintf(&b, "\n  %s has no lines since the start", l.File)
			continue
		}
		fmt.Fprintf(&b, "\n  %s ends with:\n    %s", l.File, strings.Join(l.Lines, "\n    "))
	}
	return b.String()
}

// StartError reports the parts that did not become ready.
type StartError struct {
	Failed []error
	// Running are the parts whose processes keep running.
	Running []string
}

func (e *StartError) Unwrap() []error { return e.Failed }

func (e *StartError) Error() string {
	var b strings.Builder
	b.WriteString("the lab is only partly up\n")
	for _, err := range e.Failed {
		fmt.Fprintf(&b, "\n%v\n", err)
	}
	if len(e.Running) > 0 {
		fmt.Fprintf(&b, "\nThese parts keep running: %s\n", strings.Join(e.Running, " "))
	}
	return strings.TrimRight(b.String(), "\n")
}

// failures collects the failures of parts while independent parts continue.
type failures struct {
	l   *Lab
	mu  sync.Mutex
	all []error
}

// note prints and keeps a failure. It reports whether err is nil.
func (f *failures) note(err error) bool {
	if err == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, err)
	if !errors.Is(err, context.Canceled) {
		first, _, _ := strings.Cut(err.Error(), "\n")
		f.l.out.say("%s", first)
	}
	return false
}

// result returns the error of a start: one interruption, or all failures.
func (f *failures) result(ctx context.Context) error {
	switch {
	case len(f.all) == 0:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return &StartError{Failed: []error{interrupted{}}, Running: f.l.running()}
	}
	return &StartError{Failed: f.all, Running: f.l.running()}
}

// interrupted is a context.Canceled whose message suits a person who pressed Ctrl-C.
type interrupted struct{}

func (interrupted) Error() string { return "interrupted" }

func (interrupted) Is(target error) bool { return target == context.Canceled }

func (l *Lab) running() []string {
	var names []string
	for _, p := range l.parts() {
		if _, running := l.daemons.PID(p.Name); running {
			names = append(names, p.Name)
		}
	}
	return names
}

// ended returns the error of a part that ended, with its last lines.
func (l *Lab) ended(name string) *PartError {
	return &PartError{Part: name, Err: errEnded, Logs: []LogEnd{l.logEnd(name, lastLines)}}
}

// idle returns the error of a part that runs and does not work, with the last errors of the
// parts that may be the cause.
func (l *Lab) idle(err error, names ...string) *PartError {
	e := &PartError{Part: names[0], Err: err, Logs: []LogEnd{l.logEnd(names[0], lastErrors)}}
	for _, n := range names[1:] {
		if end := l.logEnd(n, onlyErrors); len(end.Lines) > 0 {
			e.Logs = append(e.Logs, end)
		}
	}
	return e
}

// logEnd returns the lines that choose takes of those that a part wrote since it was started.
func (l *Lab) logEnd(name string, choose func([]string) []string) LogEnd {
	lines, err := l.daemons.Log(name)
	if err != nil {
		lines = []string{err.Error()}
	}
	lines = choose(lines)
	for i, line := range lines {
		if len(line) > widest {
			lines[i] = strings.ToValidUTF8(line[:widest], "") + " …"
		}
	}
	return LogEnd{File: l.daemons.LogFile(name), Lines: lines}
}

const (
	shownLines = 15
	// widest bounds how much of a line is shown, in bytes.
	widest = 400
)

func lastLines(lines []string) []string { return lines[max(0, len(lines)-shownLines):] }

// errorLine matches errors of klog, zap, logrus and nats-server, the warnings of our own
// programs, and what Go and Python write when they give up. The warnings of Kubernetes and
// etcd are many and mean little.
var errorLine = regexp.MustCompile(`^[EF]\d{4} |"level":"(warn|error|dpanic|panic|fatal)".*"msg"|level="?(error|fatal|panic)"?|\[(ERR|FTL)\]|^panic: |^fatal error: |^\w*(Error|Exception)\b`)

// etcd matches the lines of etcd, which names its callers.
var etcd = regexp.MustCompile(`"level":"warn".*"caller":`)

// fewLines is the number of lines shown of the log of a part that still runs.
const fewLines = 8

// lastErrors returns the last errors, or the last lines if there are none.
func lastErrors(lines []string) []string {
	if found := onlyErrors(lines); len(found) > 0 {
		return found
	}
	return lines[max(0, len(lines)-fewLines):]
}

// onlyErrors returns the last errors. Of lines that differ only in numbers, such as
// times, it returns the last.
func onlyErrors(lines []string) []string {
	var found []string
	seen := map[string]bool{}
	for i := len(lines) - 1; i >= 0 && len(found) < fewLines; i-- {
		key := digits.ReplaceAllString(lines[i], "#")
		if errorLine.MatchString(lines[i]) && !etcd.MatchString(lines[i]) && !seen[key] {
			seen[key] = true
			found = append([]string{lines[i]}, found...)
		}
	}
	return found
}

var digits = regexp.MustCompile(`\d+`)
