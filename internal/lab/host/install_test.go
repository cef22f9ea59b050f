package host

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fakeApt is an apt-get that cannot install some packages, which real sources cannot be
// made to do. It records what it installs.
func fakeApt(t *testing.T, script string) (installed func() string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "installed")
	text := "#!/bin/sh\nlog=" + log + `
while [ "$1" != update ] && [ "$1" != install ]; do shift; done
verb=$1; shift
` + script
	if err := os.WriteFile(filepath.Join(dir, "apt-get"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		data, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(string(data)), " ")
	}
}

// TestAPackageIsRefused: the error names it with apt's reason, and the others are installed.
func TestAPackageIsRefused(t *testing.T) {
	installed := fakeApt(t, `
[ $verb = update ] && exit 0
for p; do case $p in
  -*) ;;
  mbpoll) echo "Reading package lists..."; echo "E: Failed to fetch http://example.test/mbpoll.deb  403  Forbidden" >&2
          echo "E: Unable to fetch some archives" >&2; exit 100;;
  *) names="$names $p";;
esac; done
echo $names >> $log`)
	err := Install(t.Context(), io.Discard, []string{"conmon", "mbpoll", "runc"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"1 of 3 packages", "mbpoll: Failed to fetch http://example.test/mbpoll.deb  403  Forbidden", "These are installed: conmon runc"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "conmon:") || strings.Contains(err.Error(), "lists could not") {
		t.Errorf("blames what works: %v", err)
	}
	if got := installed(); got != "conmon runc" {
		t.Errorf("installed: %q", got)
	}
}

// TestNoPackageSource: without a network the error names the packages, and why the lists
// could not be read.
func TestNoPackageSource(t *testing.T) {
	fakeApt(t, `
if [ $verb = update ]; then echo "E: Could not resolve 'example.test'" >&2; exit 100; fi
for p; do :; done
echo "E: Unable to locate package $p" >&2; exit 100`)
	err := Install(t.Context(), io.Discard, []string{"conmon", "runc"})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"2 of 2 packages", "conmon: Unable to locate package conmon", "runc: Unable to locate", "Could not resolve 'example.test'", "/etc/apt"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// TestOldPackageListsSuffice: lists that cannot be updated are no error when all can be
// installed.
func TestOldPackageListsSuffice(t *testing.T) {
	fakeApt(t, "[ $verb = install ]")
	if err := Install(t.Context(), io.Discard, []string{"conmon"}); err != nil {
		t.Error(err)
	}
}

// TestInterruptedInstallation: what dpkg left undone is finished first, as apt demands.
func TestInterruptedInstallation(t *testing.T) {
	was := dpkgJournal
	dpkgJournal = t.TempDir()
	t.Cleanup(func() { dpkgJournal = was })
	left := filepath.Join(dpkgJournal, "0001")
	installed := fakeApt(t, `
[ -e `+left+` ] && { echo "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem." >&2; exit 100; }
[ $verb = update ] || echo done >> $log`)
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		t.Fatal(err)
	}
	dpkg := "#!/bin/sh\n[ \"$*\" = \"--configure -a\" ] && rm " + left + "\n"
	if err := os.WriteFile(filepath.Join(filepath.Dir(apt), "dpkg"), []byte(dpkg), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Install(t.Context(), io.Discard, []string{"conmon"}); err != nil {
		t.Fatal(err)
	}
	if got := installed(); got != "done" {
		t.Errorf("installed: %q", got)
	}
}

func TestDownloadError(t *testing.T) {
	answer := []byte(`{"Path":"a.test/x","Version":"v1.0.0","Error":"a.test/x@v1.0.0: Get \"https://proxy.test\": no such host"}
{"Path":"a.test/y","Version":"v1.1.0"}
`)
	err := downloadError("deploy/crio", answer, errors.New("exit status 1"))
	for _, want := range []string{"go mod download in deploy/crio", "1 of 2 modules", `a.test/x@v1.0.0: Get "https://proxy.test": no such host`, "GOPROXY"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if err := downloadError(".", []byte(`{"Path":"a.test/y","Version":"v1.1.0"}`), nil); err != nil {
		t.Errorf("all is there: %v", err)
	}
	err = downloadError(".", nil, errors.New("go: cel.dev/expr@v0.25.2: no such host"))
	if err == nil || !strings.Contains(err.Error(), "cel.dev/expr@v0.25.2") || !strings.Contains(err.Error(), "GOPROXY") {
		t.Errorf("an error of the go command is lost: %v", err)
	}
}
