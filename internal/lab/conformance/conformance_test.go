package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	upstream "k8s.io/kubernetes/test/utils/image"

	"github.com/petiole-io/petiole/internal/lab/registry"
	"github.com/petiole-io/petiole/internal/polltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var twoSkips = []skip{
	{Reason: "no such hardware", Specs: []string{`a .*`}},
	{Reason: "no network", Specs: []string{`b two`}},
}

func TestPartition(t *testing.T) {
	all := []string{"a one", "a two", "b two", "b two more"}
	run, skipped, err := partition([]string{"a two", "b two", "b two more"}, all, twoSkips)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(run, []string{"b two more"}) {
		t.Errorf("run %q", run)
	}
	if len(skipped) != 2 || skipped["a two"] != "no such hardware" || skipped["b two"] != "no network" {
		t.Errorf("skipped %q", skipped)
	}
}

func TestSkipThatMatchesNothingIsAnError(t *testing.T) {
	_, _, err := partition([]string{"a one"}, []string{"a one"}, twoSkips)
	if err == nil || !strings.Contains(err.Error(), `"b two"`) || strings.Contains(err.Error(), `"a .*"`) {
		t.Errorf("got %v", err)
	}
	if _, _, err := partition(nil, nil, []skip{{Reason: "r", Specs: []string{"("}}}); err == nil {
		t.Error("a pattern that is none was accepted")
	}
}

func TestSkipsNeedReasons(t *testing.T) {
	for _, bad := range []string{`[{specs: [a]}]`, `[{reason: r}]`, `[{reason: r, specs: [a], why: b}]`, `{`} {
		if _, err := readSkips([]byte(bad)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
	if _, err := readSkips(skipsFile); err != nil {
		t.Errorf("skips.yaml: %v", err)
	}
}

func TestShortSelectionKnowsItsSpecs(t *testing.T) {
	if _, err := readShort([]byte(`[a, b]`), []string{"a"}); err == nil || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("got %v", err)
	}
}

// Ginkgo matches the expression against the name of the suite, a space, and that of the spec.
func TestFocus(t *testing.T) {
	re := regexp.MustCompile(focus([]string{"[sig-node] Pods should (not) run", "b"}))
	for name, want := range map[string]bool{
		"suite [sig-node] Pods should (not) run":      true,
		"suite [sig-node] Pods should (not) run fast": false,
		"suite b":  true,
		"suite ab": false,
	} {
		if got := re.MatchString(name); got != want {
			t.Errorf("%q matches: %v, want %v", name, got, want)
		}
	}
}

const report = `[{"SpecReports":[
 {"LeafNodeType":"SynchronizedBeforeSuite","State":"passed"},
 {"ContainerHierarchyTexts":["A"],"ContainerHierarchyLabels":[["Conformance"]],"LeafNodeType":"It","LeafNodeText":"one","State":"passed","NumAttempts":2,"RunTime":1500000000},
 {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"two","LeafNodeLabels":["Slow"],"State":"failed","NumAttempts":1,"Failure":{"Message":"it\n did not"}},
 {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"three","State":"skipped","Failure":{"Message":"needs gce"}},
 {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"four","State":"skipped"},
 {"LeafNodeType":"ReportAfterSuite","State":"failed","Failure":{"Message":"no disk"}}
]}]`

func TestOutcome(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(path, []byte(report), 0o600); err != nil {
		t.Fatal(err)
	}
	specs, around, err := readReport(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(specs) != 3 || len(around) != 1 || !strings.Contains(around[0], "no disk") {
		t.Fatalf("specs %v, around them %q", sorted(specs), around)
	}
	o := outcome{specs: specs, plan: plan{
		run:     []string{"A one", "A two", "A three", "A lost"},
		skipped: map[string]string{"A five [Conformance]": "no network"},
	}}
	all, conformance, failed, skipped := o.count()
	if want := (tally{listed: 5, passed: 1, again: 1, failed: 1, unfinished: 1, skipped: 2}); all != want {
		t.Errorf("all: %+v, want %+v", all, want)
	}
	if want := (tally{listed: 2, passed: 1, again: 1, skipped: 1}); conformance != want {
		t.Errorf("conformance: %+v, want %+v", conformance, want)
	}
	if !slices.Equal(failed, []string{"A two", "A lost"}) || skipped["the suite: needs gce"] != 1 || skipped["no network"] != 1 {
		t.Errorf("failed %q, skipped %v", failed, skipped)
	}
	var out bytes.Buffer
	if err := o.print(&out); err == nil || !strings.Contains(err.Error(), "1 specs failed and 1 did not finish") {
		t.Errorf("print returns %v", err)
	}
	for _, want := range []string{"failed after 0s: A two\n    it did not", "not run after 0s: A lost", "skipped 1: no network"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
	o.around = []string{"BeforeSuite: failed"}
	if err := o.print(&out); err == nil {
		t.Error("a suite that failed before its specs is no failure")
	}
	o = outcome{specs: specs, plan: plan{run: []string{"A one"}}}
	if err := o.print(&out); err != nil {
		t.Errorf("all passed: %v", err)
	}
}

// The suite must be of the version that the lab's nodes and API server are.
func TestSuiteHasTheVersionOfTheNodes(t *testing.T) {
	version := func(path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`(?m)^\s*(?:require )?k8s\.io/kubernetes (v\S+)`).FindSubmatch(data)
		if m == nil {
			t.Fatalf("%s does not require k8s.io/kubernetes", path)
		}
		return string(m[1])
	}
	if suite, nodes := version("upstream/go.mod"), version("../../../go.mod"); suite != nodes {
		t.Errorf("the suite is of %s, the nodes are of %s: change internal/lab/conformance/upstream/go.mod", suite, nodes)
	}
}

func TestTags(t *testing.T) {
	if got, want := labTag("registry.k8s.io/e2e-test-images/agnhost:2.66.1"), "conformance/e2e-test-images/agnhost:2.66.1"; got != want {
		t.Errorf("tag %q, want %q", got, want)
	}
	if got := labTag(upstream.GetE2EImage(upstream.Pause)); !strings.HasPrefix(got, "conformance/pause:") {
		t.Errorf("pause is %q", got)
	}
}

func TestImagesAreWhole(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"agnhost", "pause", "nonewprivs", "regression-issue-74839"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	base := []registry.File{{Name: "bin/", Kind: tar.TypeDir, Mode: 0o755}}
	all, err := images(bin, base)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []upstream.ImageID{upstream.Agnhost, upstream.AgnhostPrev, upstream.BusyBox, upstream.NonRoot, upstream.Nginx, upstream.Pause} {
		if all[labTag(upstream.GetE2EImage(id))] == nil {
			t.Errorf("there is no %s among %v", upstream.GetE2EImage(id), sorted(all))
		}
	}
	if _, err := images(t.TempDir(), base); err == nil || !strings.Contains(err.Error(), "PROGRAMS=agnhost") {
		t.Errorf("without programs: %v", err)
	}
}

func TestNoFileIsThereTwice(t *testing.T) {
	files, err := baseFiles()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range files {
		if seen[f.Name] {
			t.Errorf("%s is there twice", f.Name)
		}
		seen[f.Name] = true
	}
	for _, name := range []string{"bin/sh", "bin/bash", "bin/sleep", "usr/bin/curl", "tmp/"} {
		if !seen[name] {
			t.Errorf("there is no %s", name)
		}
	}
}

func TestAgnhostHasACertificate(t *testing.T) {
	files, err := certificateFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	content := map[string][]byte{}
	for _, f := range files {
		content[f.Name] = f.Data
	}
	if _, err := tls.X509KeyPair(content["localhost.crt"], content["localhost.key"]); err != nil {
		t.Errorf("localhost.crt and localhost.key: %v", err)
	}
}

func TestLibraries(t *testing.T) {
	got := libraries("\tlinux-vdso.so.1 (0x0)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x0)\n\t/lib64/ld.so.2 (0x0)\n")
	if !slices.Equal(got, []string{"/lib/x/libc.so.6", "/lib64/ld.so.2"}) {
		t.Errorf("got %q", got)
	}
}

func TestWhichStopsAreLong(t *testing.T) {
	id := strings.Repeat("0f", 32)
	line := func(seconds int) string {
		return fmt.Sprintf("time=\"…\" level=info msg=\"Stopping container: %s (timeout: %ds)\" file=\"x\"\n", id, seconds)
	}
	if got, found := toEnd(line(30)); !found || got != id {
		t.Errorf("30 s: %q %v", got, found)
	}
	for _, other := range []string{line(9), "Stopped container " + id} {
		if _, found := toEnd(other); found {
			t.Errorf("found a long stop in %q", other)
		}
	}
}

func TestDeaf(t *testing.T) {
	term := fmt.Sprintf("%016x", 1<<(unix.SIGTERM-1))
	for name, c := range map[string]struct {
		status string
		want   bool
	}{
		"sleep as the first process":       {"Name:\tsleep\nNSpid:\t77\t1\nSigCgt:\t0000000000000000\n", true},
		"one that catches SIGTERM":         {"NSpid:\t77\t1\nSigCgt:\t" + term + "\n", false},
		"not the first":                    {"NSpid:\t77\t3\nSigCgt:\t0000000000000000\n", false},
		"the first process of the machine": {"NSpid:\t1\nSigCgt:\t0000000000000000\n", false},
		"damaged":                          {"NSpid:\t77\t1\nSigCgt:\tx\n", false},
	} {
		if got := deaf(c.status); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// A process that is deaf to SIGTERM needs a PID namespace, which only root creates; one that is
// not must live on.
func TestAProcessThatNoticesTheStopIsLeftAlone(t *testing.T) {
	process := exec.Command("/bin/sleep", "60")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
	})
	dir, id := t.TempDir(), strings.Repeat("0f", 32)
	if err := os.MkdirAll(filepath.Join(dir, id), 0o700); err != nil {
		t.Fatal(err)
	}
	state := fmt.Sprintf(`{"init_process_pid": %d}`, process.Process.Pid)
	if err := os.WriteFile(filepath.Join(dir, id, "state.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	s := stopping{runtime: dir}
	if pid, err := s.pid(id); err != nil || pid != process.Process.Pid {
		t.Fatalf("process %d, %v", pid, err)
	}
	if s.endIfDeaf(context.Background(), id) {
		t.Error("it was ended")
	}
}

// What follows the log ends with its context.
func TestFollowingEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "crio.log")
	if err := os.WriteFile(path, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := stopping{log: path, runtime: t.TempDir()}.run(ctx)
		done <- err
	}()
	cancel()
	polltest.NoError(t, "it ends with the context", func(context.Context) error {
		select {
		case err := <-done:
			return err
		case <-time.After(time.Second):
			return context.DeadlineExceeded
		}
	})
	if _, err := (stopping{log: path + ".gone"}).run(context.Background()); err == nil {
		t.Error("a log that is not there is no error")
	}
}
