package node

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"sync"
	"unicode"
)

const (
	// maxLine bounds the part of a line of the kubelet's log that is looked at.
	maxLine = 4096
	// maxReason bounds the reason, in bytes.
	maxReason = 320
)

var (
	// logHeader matches the header of an error or a fatal error in klog's text format.
	logHeader = regexp.MustCompile(`^([EF])\d{4} \S+ +\d+ [^\]]*\] `)
	// errField matches the error of such a line.
	errField = regexp.MustCompile(`\berr="((?:[^"\\]|\\.)*)"`)
)

// reasonWriter passes the kubelet's log on and remembers the last line that says why the kubelet
// fails. It is safe for concurrent use.
type reasonWriter struct {
	to io.Writer

	mu   sync.Mutex
	line []byte
	// severity is that of reason: 0 for any line, 1 for an error, 2 for the end of the process.
	severity int
	reason   string
}

// Write implements io.Writer.
func (w *reasonWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		w.line = append(w.line, line[:min(len(line), maxLine-min(len(w.line), maxLine))]...)
		if ended {
			w.note(string(w.line))
			w.line = w.line[:0]
		}
		rest = after
	}
	w.mu.Unlock()
	return w.to.Write(p)
}

// note remembers a line unless a more severe one is known. Only the first line of a panic or of a
// fatal error counts: stacks follow it.
func (w *reasonWriter) note(line string) {
	severity, reason := severityOf(line)
	if reason == "" || severity < w.severity || severity == 2 && w.severity == 2 {
		return
	}
	w.severity, w.reason = severity, reason
}

// severityOf returns the severity of a line and what it says, without klog's header.
func severityOf(line string) (int, string) {
	if m := logHeader.FindStringSubmatch(line); m != nil {
		text := line[len(m[0]):]
		if e := errField.FindStringSubmatch(text); e != nil {
			text = strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\n`, " ", `\t`, " ").Replace(e[1])
		}
		if m[1] == "F" || strings.HasPrefix(line[len(m[0]):], `"command failed"`) {
			return 2, clean(text)
		}
		return 1, clean(text)
	}
	if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
		return 2, clean(line)
	}
	if strings.HasPrefix(line, "Error: ") {
		return 1, clean(line)
	}
	return 0, clean(line)
}

// clean returns a text that fits a condition's message: printable, and not too long.
func clean(text string) string {
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, text))
	for i := range text {
		if i > maxReason {
			return text[:i] + "…"
		}
	}
	return text
}

// last returns the reason, empty if nothing was written.
func (w *reasonWriter) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reason
}

// lastError returns the reason if it was logged as an error.
func (w *reasonWriter) lastError() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.severity == 0 {
		return ""
	}
	return w.reason
}
