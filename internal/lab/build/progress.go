package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// quiet is how long a build may take without a word: one that has nothing to do.
	quiet = 3 * time.Second
	// every is the time between two lines about the share, where lines cannot be replaced.
	every = 15 * time.Second
)

// progress prints how far the build is.
type progress struct {
	out     io.Writer
	live    bool // lines can be replaced
	logFile string
	began   time.Time
	all     int // programs

	mu sync.Mutex
	// left are the programs that are not built yet, in the order of the build.
	left     []string
	compiled map[string]bool // packages
	// waiting are the packages that were to be compiled when they were counted.
	waiting  map[string]bool
	download string // what is being downloaded, "" once something was compiled
	said     bool   // something was printed
}

func newProgress(out io.Writer, programs []string, logFile string) *progress {
	return &progress{
		out: out, live: terminal(out), logFile: logFile, began: time.Now(),
		all: len(programs), left: slices.Clone(programs),
		compiled: map[string]bool{}, waiting: map[string]bool{},
	}
}

func terminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// run prints the share from time to time until ctx ends.
func (p *progress) run(ctx context.Context) {
	step := time.Second
	if !p.live {
		step = every
	}
	first := time.After(quiet)
	tick := time.NewTicker(step)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-first:
		case <-tick.C:
		}
		p.mu.Lock()
		if time.Since(p.began) >= quiet {
			p.introduce()
			p.status()
		}
		p.mu.Unlock()
	}
}

func (p *progress) compiling(pkg string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.compiled[pkg] = true
	p.download = ""
}

func (p *progress) downloading(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.download = what
}

// expect notes a package that is still to be compiled.
func (p *progress) expect(pkg string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[pkg] = true
}

// built notes that a program is there. Whether it was built or was there already is the
// same to the user; one that took no time gets no line.
func (p *progress) built(program string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.left, program)
	if i < 0 {
		return
	}
	p.left = slices.Delete(p.left, i, i+1)
	if time.Since(p.began) < quiet {
		return
	}
	p.introduce()
	p.line(fmt.Sprintf("%s built, %d of %d%s", program, p.all-len(p.left), p.all, p.next()), false)
}

func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.said {
		p.line(fmt.Sprintf("%d programs built", p.all), false)
	}
}

func (p *progress) introduce() {
	if p.said {
		return
	}
	p.said = true
	fmt.Fprintf(p.out, "building %d programs; the packages go to %s\n", p.all, p.logFile)
}

func (p *progress) status() {
	if p.download != "" {
		p.line("downloading "+p.download, true)
		return
	}
	done, total := len(p.compiled), len(p.union())
	if len(p.waiting) == 0 {
		p.line(fmt.Sprintf("%d packages compiled%s", done, p.next()), true)
		return
	}
	p.line(fmt.Sprintf("%d %%, %d of %d packages compiled%s", 100*done/max(1, total), done, total, p.next()), true)
}

// union is what was compiled and what waits.
func (p *progress) union() map[string]bool {
	all := make(map[string]bool, len(p.waiting))
	for pkg := range p.compiled {
		all[pkg] = true
	}
	for pkg := range p.waiting {
		all[pkg] = true
	}
	return all
}

func (p *progress) next() string {
	switch len(p.left) {
	case 0:
		return ""
	case 1, 2, 3:
		return "; next: " + strings.Join(p.left, ", ")
	}
	return fmt.Sprintf("; next: %s and %d more", strings.Join(p.left[:2], ", "), len(p.left)-2)
}

// line prints one line with the time since the start. Where lines can be replaced, a
// passing one takes the place of the passing one before it.
func (p *progress) line(text string, passing bool) {
	seconds := int(time.Since(p.began).Seconds())
	text = fmt.Sprintf("%3d:%02d  %s", seconds/60, seconds%60, text)
	switch {
	case !p.live:
		fmt.Fprintln(p.out, text)
	case passing:
		fmt.Fprintf(p.out, "\r\033[K%s", text)
	default:
		fmt.Fprintf(p.out, "\r\033[K%s\n", text)
	}
}
