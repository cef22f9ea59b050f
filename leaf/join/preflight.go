package join

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/petiole-io/petiole/leaf/node"
	"github.com/petiole-io/petiole/streams/join"
)

// ErrPreflight reports that the machine is not ready.
var ErrPreflight = errors.New("this gateway is not ready")

// minDisk is what must be free for the leaf's store and the kubelet.
const minDisk = 1 << 30

// The checks, by the names with which they can be ignored.
const (
	checkRoot    = "Root"
	checkClock   = "Clock"
	checkKubelet = "Kubelet"
	checkRuntime = "Runtime"
	checkCNI     = "CNI"
	checkCgroups = "Cgroups"
	checkDisk    = "Disk"
	checkPorts   = "Ports"
	checkKernel  = "Kernel"
)

// Checks are the names of all checks.
func Checks() []string {
	return []string{checkRoot, checkClock, checkKubelet, checkRuntime, checkCNI, checkCgroups, checkDisk, checkPorts, checkKernel}
}

// problems are the findings of the checks.
type problems struct {
	ignored []string
	list    []string
	log     func(format string, args ...any)
}

func (p *problems) add(check, format string, args ...any) {
	line := fmt.Sprintf("[%s] ", check) + fmt.Sprintf(format, args...)
	if slices.Contains(p.ignored, check) {
		p.log("ignored: %s", line)
		return
	}
	p.list = append(p.list, line)
}

// warn prints what keeps nobody from joining.
func (p *problems) warn(check, format string, args ...any) {
	if !slices.Contains(p.ignored, check) {
		p.log("warning: [%s] %s", check, fmt.Sprintf(format, args...))
	}
}

// err returns one error with a line for each problem.
func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	return fmt.Errorf("%w:\n  %s\nNothing was changed. Repair this and run the same command again; --ignore-preflight NAME,… skips checks", ErrPreflight, strings.Join(p.list, "\n  "))
}

// preflight checks everything that a join and the node need of the machine, and returns what is
// known about its runtime.
func (m Machine) preflight(ctx context.Context, token join.Token, endpoint string, running, services bool, p *problems) runtimeInfo {
	if m.UID != 0 {
		p.add(checkRoot, "the user is %d: run the command as root, as in sudo leaf join …", m.UID)
	}
	m.checkClock(token, p)
	if kubelet := filepath.Join(filepath.Dir(m.Executable), node.Program); !m.exists(kubelet) {
		p.add(checkKubelet, "%s is missing, the kubelet that the leaf runs: install it from the build that %s is from", kubelet, m.Executable)
	}
	info := m.checkRuntime(ctx, endpoint, p)
	m.checkCgroups(p)
	m.checkDisk(p)
	m.checkEviction(info, p)
	if !running {
		m.checkPorts(ctx, p)
	}
	if m.exists("/proc/sys/net/ipv4/ip_forward") && strings.TrimSpace(m.read("/proc/sys/net/ipv4/ip_forward")) != "1" {
		p.add(checkKernel, "net.ipv4.ip_forward is not 1, so pods reach nobody: echo net.ipv4.ip_forward=1 > /etc/sysctl.d/90-petiole.conf; sysctl --system")
	}
	if services {
		checkBridgeFilter(m, p)
	}
	return info
}

// checkBridgeFilter finds out whether kube-proxy sees what pods of this node, on one bridge device,
// send to each other: it has to translate the answers.
func checkBridgeFilter(m Machine, p *problems) {
	const setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if !m.exists(setting) || strings.TrimSpace(m.read(setting)) != "1" {
		p.add(checkKernel, "net.bridge.bridge-nf-call-iptables is not 1, so Services answer no pod of their own node if the pod network is a bridge: "+
			"echo br_netfilter > /etc/modules-load.d/petiole.conf; modprobe br_netfilter; echo net.bridge.bridge-nf-call-iptables=1 >> /etc/sysctl.d/90-petiole.conf; sysctl --system")
	}
}

// clockTolerance is how far the clocks of gateway and bridge may be apart.
const clockTolerance = 5 * time.Minute

// checkClock compares the clock with the times in the token. With a wrong one no certificate can be
// verified.
func (m Machine) checkClock(token join.Token, p *problems) {
	const remedy = "set it (timedatectl set-ntp true, or date -s), it must also be right after a power cut"
	now, issued := m.Now(), token.Issued()
	if now.Before(issued.Add(-clockTolerance)) {
		p.add(checkClock, "the clock says %s, and the token was made at %s: %s", now.UTC().Format(time.RFC3339), issued.UTC().Format(time.RFC3339), remedy)
	}
}

// checkCgroups finds out whether the kernel can bound what containers use.
func (m Machine) checkCgroups(p *problems) {
	const remedy = "on a Raspberry Pi add cgroup_enable=memory to the line in /boot/firmware/cmdline.txt and reboot"
	if m.cgroupV1() {
		for line := range strings.Lines(m.read("/proc/cgroups")) {
			if f := strings.Fields(line); len(f) == 4 && slices.Contains([]string{"memory", "cpu", "pids"}, f[0]) && f[3] != "1" {
				p.add(checkCgroups, "the kernel has the cgroup controller %s switched off: %s", f[0], remedy)
			}
		}
		return
	}
	have := strings.Fields(m.read("/sys/fs/cgroup/cgroup.controllers"))
	for _, want := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(have, want) {
			p.add(checkCgroups, "the kernel has no cgroup controller %s: %s", want, remedy)
		}
	}
}

func (m Machine) cgroupV1() bool { return !m.exists("/sys/fs/cgroup/cgroup.controllers") }

func (m Machine) checkDisk(p *problems) {
	for _, dir := range []string{m.DataDir, m.ConfigDir} {
		free, err := freeBytes(dir)
		want := uint64(minDisk)
		if dir == m.ConfigDir {
			want = reserveBytes
		}
		switch {
		case err != nil:
			p.add(checkDisk, "%s: %v", dir, err)
		case free < want:
			p.add(checkDisk, "%s has %d MiB free, want at least %d: make room, or mount a larger disk there", dir, free>>20, want>>20)
		}
	}
}

// kubeletDir is where the kubelet keeps its pods.
const kubeletDir = "/var/lib/kubelet"

// checkEviction warns of a disk on which the kubelet would run no pods. The shares are those of its
// defaults for evictionHard; the devices of the site need none of them.
func (m Machine) checkEviction(info runtimeInfo, p *problems) {
	for _, disk := range []struct {
		dir     string
		percent uint64
	}{{m.Root + kubeletDir, 10}, {info.Images, 15}} {
		if disk.dir == "" {
			continue
		}
		st, err := statfs(disk.dir)
		switch {
		case err != nil:
			p.warn(checkDisk, "%s: %v", disk.dir, err)
		case st.Bavail*100 < st.Blocks*disk.percent:
			p.warn(checkDisk, "the disk of %s has %d %% free, and with less than %d %% the kubelet starts no pods and evicts those that run: make room, or set evictionHard in %s when this gateway has joined",
				disk.dir, st.Bavail*100/st.Blocks, disk.percent, m.config(kubeletYAML))
		}
	}
}

// freeBytes returns what is free on the disk of a folder, which need not exist yet.
func freeBytes(dir string) (uint64, error) {
	st, err := statfs(dir)
	return st.Bavail * uint64(st.Bsize), err
}

// statfs describes the disk of a folder, which need not exist yet.
func statfs(dir string) (st syscall.Statfs_t, err error) {
	for {
		err := syscall.Statfs(dir, &st)
		if err == nil {
			return st, nil
		}
		if !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir) {
			return st, fmt.Errorf("free space: %w", err)
		}
		dir = filepath.Dir(dir)
	}
}

func (m Machine) checkPorts(ctx context.Context, p *problems) {
	for _, address := range m.Addresses {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			_, port, _ := net.SplitHostPort(address)
			p.add(checkPorts, "%v: end what listens there (ss -tlnp 'sport = :%s'); an earlier kubelet, perhaps", err, port)
			continue
		}
		_ = l.Close() // it was only tried
	}
}
