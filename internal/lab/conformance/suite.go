package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/petiole-io/petiole/internal/lab"
)

// suite is upstream's suite with what it needs of the lab.
type suite struct {
	options
	lab  *lab.Lab
	node string
	// dir has the reports and the output.
	dir string
}

func newSuite(l *lab.Lab, o options) (*suite, error) {
	s := &suite{options: o, lab: l, node: o.site + "-1", dir: filepath.Join(l.Dir(), "conformance")}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, fmt.Errorf("create folder of the reports: %w", err)
	}
	return s, nil
}

func (s *suite) bin(name string) string { return filepath.Join(s.lab.Dir(), "bin", name) }

// plan is which specs run, and why the others do not.
type plan struct {
	run     []string
	skipped map[string]string
}

// plan lists the specs and divides them. It starts nothing of the lab.
func (s *suite) plan(ctx context.Context) (plan, error) {
	report := filepath.Join(s.dir, "list.json")
	list := exec.CommandContext(ctx, s.bin("e2e.test"), "--provider=skeleton", "--kubeconfig=/nonexistent", "--ginkgo.dry-run",
		"--ginkgo.json-report="+report)
	if err := s.execute(list, "list.log"); err != nil {
		return plan{}, fmt.Errorf("list the specs: %w", err)
	}
	specs, _, err := readReport(report)
	if err != nil {
		return plan{}, err
	}
	all := sorted(specs)
	skips, err := readSkips(skipsFile)
	if err != nil {
		return plan{}, err
	}
	names, err := s.wanted(ctx, all)
	if err != nil {
		return plan{}, err
	}
	var p plan
	p.run, p.skipped, err = partition(names, all, skips)
	if err == nil && len(p.run) == 0 {
		err = errors.New("no spec is left to run") // an empty focus would be all
	}
	return p, err
}

// wanted returns the names of the specs that the options select.
func (s *suite) wanted(ctx context.Context, all []string) ([]string, error) {
	if s.short {
		return readShort(shortFile, all)
	}
	only, err := regexp.Compile(s.only)
	if err != nil {
		return nil, fmt.Errorf("--only: %w", err)
	}
	report := filepath.Join(s.dir, "labels.json")
	list := exec.CommandContext(ctx, s.bin("e2e.test"), "--provider=skeleton", "--kubeconfig=/nonexistent", "--ginkgo.dry-run",
		"--ginkgo.label-filter="+s.labels, "--ginkgo.json-report="+report)
	if err := s.execute(list, "labels.log"); err != nil {
		return nil, fmt.Errorf("list the specs of --labels %q: %w", s.labels, err)
	}
	specs, _, err := readReport(report)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range sorted(specs) {
		if only.MatchString(n) {
			names = append(names, n)
		}
	}
	return names, nil
}

// judge runs the specs of the plan against the lab, which is up.
func (s *suite) judge(ctx context.Context, p plan) (outcome, error) {
	base, err := baseFiles()
	if err != nil {
		return outcome{}, fmt.Errorf("collect the base of the images: %w", err)
	}
	certificate, err := certificateFiles(s.dir)
	if err != nil {
		return outcome{}, err
	}
	images, err := images(s.bin(""), append(base, certificate...))
	if err != nil {
		return outcome{}, err
	}
	if err := push(ctx, lab.ImagesAddress, images); err != nil {
		return outcome{}, err
	}
	if err := forget(ctx, filepath.Join(s.runDir(), "crio.sock"), lab.ImagesAddress, images); err != nil {
		return outcome{}, err
	}
	repositories, err := repositories(lab.ImagesAddress)
	if err != nil {
		return outcome{}, err
	}
	if err := os.WriteFile(s.repositoryList(), repositories, 0o644); err != nil {
		return outcome{}, fmt.Errorf("write the list of repositories: %w", err)
	}
	undo, err := s.prepare(ctx)
	if err != nil {
		return outcome{}, err
	}
	report := filepath.Join(s.dir, "report.json")
	if err := os.RemoveAll(report); err != nil {
		return outcome{}, fmt.Errorf("remove the last report: %w", err)
	}
	following, stop := context.WithCancel(ctx)
	ended, followed := 0, make(chan error, 1)
	go func() {
		var err error
		ended, err = s.stopping().run(following)
		followed <- err
	}()
	began := time.Now()
	runErr := s.ginkgo(ctx, p.run, report)
	took := time.Since(began)
	stop()
	err = errors.Join(<-followed, undo(context.WithoutCancel(ctx)))
	specs, around, reportErr := readReport(report)
	if reportErr != nil {
		return outcome{}, errors.Join(err, runErr, reportErr)
	}
	return outcome{plan: p, specs: specs, around: around, ended: ended, took: took, output: s.output()}, err
}

func (s *suite) stopping() stopping {
	return stopping{
		log:     filepath.Join(s.lab.Dir(), "log", "crio-"+s.site+".log"),
		runtime: filepath.Join(s.runDir(), "runc"), patience: patience,
	}
}

// runDir returns the run directory of the site's CRI-O.
func (s *suite) runDir() string { return filepath.Join("/run/petiole-lab", s.site, "crio") }

func (s *suite) repositoryList() string { return filepath.Join(s.dir, "repositories.yaml") }

func (s *suite) output() string { return filepath.Join(s.dir, "output.log") }

// ginkgo runs the specs, Serial ones after the others. An error is the suite's as well when a
// spec fails: the report says which.
func (s *suite) ginkgo(ctx context.Context, specs []string, report string) error {
	cmd := exec.CommandContext(ctx, s.bin("ginkgo"), "run",
		fmt.Sprintf("--procs=%d", s.procs), fmt.Sprintf("--flake-attempts=%d", s.retry),
		"--timeout="+s.timeout.String(), "--no-color", "--silence-skips", "--keep-going",
		"--focus="+focus(specs), "--output-dir="+s.dir, "--json-report="+filepath.Base(report),
		s.bin("e2e.test"), "--",
		"--provider=skeleton", "--kubeconfig="+s.lab.Kubeconfig(), "--kubectl-path="+s.bin("kubectl"),
		"--kube-test-repo-list="+s.repositoryList(), "--node-os-distro=custom", "--minStartupPods=0",
		"--system-pods-startup-timeout=1m", "--node-schedulable-timeout=1m",
		"--disable-log-dump", "--dump-logs-on-failure=false", "--e2e-output-dir="+s.dir,
	)
	cmd.Env = append(os.Environ(), "KUBE_TEST_REPO_LIST="+s.repositoryList())
	return s.execute(cmd, filepath.Base(s.output()))
}

// execute runs a command with its output in a file of the folder.
func (s *suite) execute(cmd *exec.Cmd, output string) (err error) {
	f, err := os.Create(filepath.Join(s.dir, output))
	if err != nil {
		return fmt.Errorf("create the output of %s: %w", filepath.Base(cmd.Path), err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	cmd.Stdout, cmd.Stderr = f, f
	// Ginkgo interrupts its specs when it is interrupted, and they clean up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w; see %s", filepath.Base(cmd.Path), err, f.Name())
	}
	return nil
}
