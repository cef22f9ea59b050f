// Package host says whether this machine can be a lab, and installs the Debian
// packages that it lacks.
package host

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// ErrUnfit marks a machine or a caller that cannot run the lab.
var ErrUnfit = errors.New("this machine cannot run the lab")

// Paths of what Debian's packages bring.
const (
	Busybox    = "/bin/busybox"
	Python     = "/usr/bin/python3"
	CNIPlugins = "/usr/lib/cni"
)

// Check reports everything that no package can cure, at once.
func Check() error {
	var missing []string
	if runtime.GOOS != "linux" {
		missing = append(missing, "Linux: network namespaces and containers are needed, this is "+runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		missing = append(missing, "root: run it with sudo, for namespaces, bridges and containers")
	}
	if runtime.GOOS == "linux" {
		if _, err := exec.LookPath("apt-get"); err != nil {
			if need := Missing(); len(need) > 0 {
				missing = append(missing, "apt-get (Debian or Ubuntu), or these packages by hand: "+strings.Join(need, " "))
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w; missing:\n  - %s", ErrUnfit, strings.Join(missing, "\n  - "))
}

// needs are the packages by what proves that they are there.
var needs = []struct {
	pkg   string
	there func() bool
}{
	{"conmon", program("conmon")},
	{"runc", program("runc")},
	{"containernetworking-plugins", file(filepath.Join(CNIPlugins, "bridge"))},
	{"iproute2", program("ip")},
	{"nftables", program("nft")},
	{"iptables", program("iptables")},
	{"util-linux", program("nsenter")},
	{"procps", program("sysctl")},
	{"gcc", program("gcc")},
	{"libc6-dev", file("/usr/include/stdlib.h")},
	{"pkg-config", program("pkg-config")},
	{"libseccomp-dev", file("/usr/include/seccomp.h")},
	{"busybox-static", static(Busybox)},
	{"python3-pymodbus", func() bool { return exec.Command(Python, "-c", "import pymodbus").Run() == nil }},
	{"mbpoll", program("mbpoll")},
}

// Missing names the packages that must be installed.
func Missing() []string {
	var pkgs []string
	for _, n := range needs {
		if !n.there() {
			pkgs = append(pkgs, n.pkg)
		}
	}
	return pkgs
}

// Install installs the packages and shows apt's progress on out.
func Install(out io.Writer, pkgs []string) error {
	if len(pkgs) == 0 {
		return nil
	}
	for _, args := range [][]string{
		{"update", "-q"},
		append([]string{"install", "-y", "-q", "--no-install-recommends"}, pkgs...),
	} {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("apt-get %s: %w", strings.Join(args, " "), err)
		}
	}
	return nil
}

// NeedsWrapper reports whether root here lacks what runc needs for the kubelet's
// containers: CAP_SYS_RESOURCE, and the hugetlb controller.
func NeedsWrapper() (bool, error) {
	const capSysResource = 24
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false, fmt.Errorf("read capabilities: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		value, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		caps, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return false, fmt.Errorf("read capabilities: %w", err)
		}
		return caps&(1<<capSysResource) == 0 || !hugetlb(), nil
	}
	return false, errors.New("read capabilities: /proc/self/status has no CapEff")
}

func hugetlb() bool {
	if data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return slices.Contains(strings.Fields(string(data)), "hugetlb")
	}
	return file("/sys/fs/cgroup/hugetlb")()
}

func program(name string) func() bool {
	return func() bool {
		_, err := exec.LookPath(name)
		return err == nil
	}
}

func file(path string) func() bool {
	return func() bool {
		_, err := os.Stat(path)
		return err == nil
	}
}

// static reports whether the program needs no shared libraries: Debian's package
// busybox has the same path and is dynamic.
func static(path string) func() bool {
	return func() bool {
		f, err := elf.Open(path)
		if err != nil {
			return false
		}
		defer f.Close()
		libs, err := f.ImportedLibraries()
		return err == nil && len(libs) == 0
	}
}
