// Package host checks whether this machine can run the lab, and installs the Debian
// packages that it lacks.
package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// ErrUnfit marks a machine or a caller that cannot run the lab.
var ErrUnfit = errors.New("this machine cannot run the lab")

// Check returns everything that is missing and that no package provides, as one error.
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
			if need := Missing(Lab()); len(need) > 0 {
				missing = append(missing, "apt-get (Debian or Ubuntu), or these packages by hand: "+strings.Join(Names(need), " "))
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%w; missing:\n  - %s", ErrUnfit, strings.Join(missing, "\n  - "))
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
	_, err := os.Stat("/sys/fs/cgroup/hugetlb")
	return err == nil
}
