package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/petiole-io/petiole/internal/lab/host"
)

// builder runs the go command, once a module.
type builder struct {
	out     string // folder of the programs
	log     io.Writer
	logFile string
	stamp   string // linker flags that say which Kubernetes this is
	// collection sets how the compilers collect their garbage.
	collection []string
	progress   *progress
}

// build builds the modules in two lanes: one has all cores, the other one core, so that
// the cores are busy while a large program is linked. It returns the errors of all modules.
func (b *builder) build(ctx context.Context, selected []module) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var watching sync.WaitGroup
	watching.Go(func() { b.progress.run(ctx) })
	err := b.lanes(ctx, selected)
	cancel()
	watching.Wait()
	if err == nil {
		b.progress.finish()
	}
	return err
}

func (b *builder) lanes(ctx context.Context, selected []module) error {
	var main, beside []module
	for _, m := range selected {
		if m.beside {
			beside = append(beside, m)
		} else {
			main = append(main, m)
		}
	}
	parallel := host.Parallel(os.Getenv("GOFLAGS"), runtime.NumCPU())
	if parallel == 1 { // for want of memory: no linker beside another one
		return b.modules(ctx, selected, 1)
	}
	aside := parallel
	if len(main) > 0 {
		aside = 1
	}
	var wg sync.WaitGroup
	var mainErr, besideErr error
	wg.Go(func() { mainErr = b.modules(ctx, main, parallel) })
	wg.Go(func() { besideErr = b.modules(ctx, beside, aside) })
	wg.Wait()
	return errors.Join(mainErr, besideErr)
}

// modules builds one after the other with this many compilers at a time.
func (b *builder) modules(ctx context.Context, list []module, compilers int) error {
	var errs []error
	for _, m := range list {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		errs = append(errs, b.module(ctx, m, compilers))
	}
	return errors.Join(errs...)
}

func (b *builder) module(ctx context.Context, m module, compilers int) error {
	outputs := b.outputs(m)
	count, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { b.count(count, m) })
	err := b.goBuild(ctx, m, compilers, outputs)
	cancel()
	wg.Wait()
	if err != nil {
		return err
	}
	for _, p := range m.programs {
		if p.helper != nil {
			if err := b.compile(ctx, m, *p.helper); err != nil {
				return err
			}
		}
		b.progress.built(p.name)
	}
	return nil
}

func (b *builder) flags(m module) []string {
	ldflags := "-s -w"
	if m.kubernetes {
		ldflags += " " + b.stamp
	}
	flags := []string{"-ldflags", ldflags}
	if len(m.tags) > 0 {
		flags = append(flags, "-tags", strings.Join(m.tags, " "))
	}
	return flags
}

func (b *builder) goBuild(ctx context.Context, m module, compilers int, outputs []output) error {
	out := b.out + "/"
	if len(m.programs) == 1 {
		out = filepath.Join(b.out, m.programs[0].name)
	}
	args := append(m.command(), "-v", "-p", fmt.Sprint(compilers), "-o", out)
	args = append(args, b.flags(m)...)
	for _, p := range m.programs {
		args = append(args, p.pkg)
	}
	watch, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { b.watch(watch, outputs) })
	defer wg.Wait()
	defer stop()
	return b.run(ctx, m, "go", args...)
}

// output is a program's file, and the file that was there before the build.
type output struct {
	program string
	path    string
	before  os.FileInfo
}

func (b *builder) outputs(m module) []output {
	var list []output
	for _, p := range m.programs {
		o := output{program: p.name, path: filepath.Join(b.out, p.name)}
		o.before, _ = os.Stat(o.path) // nil where there is none
		list = append(list, o)
	}
	return list
}

// watch tells the progress of each file that was replaced, until ctx ends.
func (b *builder) watch(ctx context.Context, outputs []output) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, o := range outputs {
			now, err := os.Stat(o.path)
			if err == nil && (o.before == nil || !now.ModTime().Equal(o.before.ModTime())) {
				b.progress.built(o.program)
			}
		}
	}
}

// count finds out how many packages are still to be compiled, for builds that take longer
// than a moment. The build goes on without it when it does not work.
func (b *builder) count(ctx context.Context, m module) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(3 * time.Second):
	}
	args := append([]string{"list", "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}"}, b.flags(m)...)
	if m.tests {
		args = append(args, "-test")
	}
	for _, p := range m.programs {
		args = append(args, p.pkg)
	}
	cmd := b.command(ctx, m, "go", args...)
	data, err := cmd.Output()
	if err != nil {
		if ctx.Err() == nil {
			fmt.Fprintf(b.log, "count packages of %s: %v\n", m.dir, err)
		}
		return
	}
	for pkg := range strings.FieldsSeq(string(data)) {
		b.progress.expect(m.key(pkg))
	}
}

// compile builds a helper with gcc.
func (b *builder) compile(ctx context.Context, m module, h helper) error {
	data, err := b.command(ctx, m, "go", "list", "-m", "-f", "{{.Dir}}", h.module).Output()
	if err != nil {
		return fmt.Errorf("find the source of %s: %w", h.name, err)
	}
	sources, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(data)), h.sources))
	if err != nil {
		return err
	}
	return b.run(ctx, m, "gcc", append([]string{"-O2", "-static", "-o", filepath.Join(b.out, h.name)}, sources...)...)
}

func (b *builder) command(ctx context.Context, m module, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = m.dir
	cmd.Env = os.Environ()
	if os.Getenv("GOGC") == "" {
		cmd.Env = append(cmd.Env, b.collection...)
	}
	if m.cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	// The go command stops its compilers when it is asked to; a Ctrl-C reaches this
	// program alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// run runs a command whose output goes to the log. The error ends in what it printed that
// is not progress.
func (b *builder) run(ctx context.Context, m module, name string, args ...string) error {
	cmd := b.command(ctx, m, name, args...)
	fmt.Fprintf(b.log, "# in %s: %s %s\n", m.dir, name, strings.Join(args, " "))
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	defer read.Close()
	cmd.Stdout, cmd.Stderr = write, write
	err = cmd.Start()
	write.Close()
	if err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	var complaint []string
	lines := bufio.NewScanner(read)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Fprintln(b.log, lines.Text())
		if !b.heard(m, lines.Text()) {
			complaint = append(complaint, lines.Text())
		}
	}
	readErr := lines.Err()
	if err := cmd.Wait(); err != nil {
		last := complaint[max(0, len(complaint)-30):]
		return fmt.Errorf("%s %s in %s: %w; %s has everything:\n%s", name, args[0], m.dir, err, b.logFile, strings.Join(last, "\n"))
	}
	return readErr
}

var (
	packageLine  = regexp.MustCompile(`^[\w.~/+-]+$`)
	downloadLine = regexp.MustCompile(`^go: downloading (\S+) (\S+)$`)
)

// heard reports whether a line of the go command is progress.
func (b *builder) heard(m module, line string) bool {
	if m := downloadLine.FindStringSubmatch(line); m != nil {
		b.progress.downloading(m[1] + " " + m[2])
		return true
	}
	if packageLine.MatchString(line) {
		b.progress.compiling(m.key(line))
		return true
	}
	return false
}

// kubernetesStamp returns the linker flags with which Kubernetes' own build writes its
// version, which nodes and clients report.
func kubernetesStamp(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	cmd.Stderr = os.Stderr
	data, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the version of k8s.io/kubernetes: %w", err)
	}
	version := strings.TrimSpace(string(data))
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("version %q of k8s.io/kubernetes: want vMAJOR.MINOR.PATCH", version)
	}
	const pkg = "-X k8s.io/component-base/version."
	return fmt.Sprintf("%sgitVersion=%s %sgitTreeState=clean %sgitMajor=%s %sgitMinor=%s",
		pkg, version, pkg, pkg, parts[0], pkg, parts[1]), nil
}
