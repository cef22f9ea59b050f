package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/crio"
	"github.com/petiole-io/petiole/internal/lab/host"
)

// What the machines of the walk have in common with those of a reader of docs/install.md: names and
// addresses.
const (
	hubName        = "hub.example.com"
	hubAddress     = "10.77.0.1"
	gatewayAddress = "10.77.0.2"
	deviceAddress  = "192.0.2.20"
	walkSuite      = "bookworm"
	// given is the folder of what the document takes as given: the programs of a cluster, of a
	// container runtime and of a device.
	given = "/opt/given"
)

// blockTime bounds a block of the document. The first builds programs.
const blockTime = 20 * time.Minute

// walk runs docs/install.md, then upgrades, removes and purges the package, and powers the gateway off, on
// two bare machines with systemd: the hub, which is the reader's machine, too, and a gateway.
func (g tester) walk(ctx context.Context, repo repository) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done within %v", timeout))
	defer cancel()
	document, err := os.ReadFile(filepath.Join(repo.dir, "docs/install.md"))
	if err != nil {
		return err
	}
	found, err := matchSteps(string(document))
	if err != nil {
		return err
	}
	// The kernel ends a box with the thread that has created it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out := newProgress("install")
	w := walker{repo: repo, out: out, shells: map[string]*shell{}, roots: map[string]box{}, machines: map[string]*running{}}
	packages := map[string][]string{
		onHub:     nil,
		onGateway: {"busybox-static", "conmon", "runc", "containernetworking-plugins", "iptables"},
	}
	for _, name := range []string{onHub, onGateway} {
		stop, startErr := w.start(ctx, g, name, append([]string{"systemd-sysv", "dbus", "iproute2", "procps"}, packages[name]...))
		if stop != nil {
			defer func() { err = errors.Join(err, stop()) }()
		}
		if startErr != nil {
			return startErr
		}
	}
	if err := w.give(ctx); err != nil {
		return fmt.Errorf("prepare what the document takes as given: %w", err)
	}
	printed := ""
	for i, s := range walkSteps {
		if s.on == "" {
			out.say("not run: %s (%s): %s", s.first, s.heading, s.reason)
			continue
		}
		text := found[i].text
		if s.printed {
			if text, err = printedCommand(printed, s.first); err != nil {
				return err
			}
		}
		if s.on == onGateway && printed == "" {
			return fmt.Errorf("the gateway is reached before the site is created")
		}
		output, err := w.shells[s.on].run(text, blockTime)
		if err != nil {
			return err
		}
		if strings.Contains(output, "leaf join ") {
			printed = output
		}
		if s.printed {
			if _, err := w.shells[onGateway].run(allowFullDisk, time.Minute); err != nil {
				return err
			}
		}
		if s.heading == "Programs" {
			if err := w.carryPackage(walkedVersion); err != nil {
				return err
			}
		}
	}
	out.say("every command of docs/install.md works")
	if err := w.upgrade(); err != nil {
		return err
	}
	return w.powerOff(ctx)
}

// allowFullDisk keeps pods on the gateway: its disk is the one of this machine, and may be fuller than a
// kubelet allows by default, which evicts them then.
const allowFullDisk = `# the disk may be full
echo 'evictionHard: {memory.available: 50Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}' >> /etc/petiole/kubelet.yaml
systemctl restart petiole-leaf`

// printedCommand returns the line that begins like the document's command.
func printedCommand(printed, command string) (string, error) {
	for line := range strings.Lines(printed) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, command) {
			return line, nil
		}
	}
	return "", fmt.Errorf("nothing was printed that begins with %q, but:\n%s", command, printed)
}

// walker has the machines.
type walker struct {
	repo     repository
	out      progress
	roots    map[string]box
	machines map[string]*running
	shells   map[string]*shell
	pids     []int
}

// start creates and boots a machine. stop removes it, if it is not nil.
func (w *walker) start(ctx context.Context, g tester, name string, packages []string) (stop func() error, err error) {
	mirror, err := findMirror(ctx, walkSuite)
	if err != nil {
		return nil, err
	}
	b, err := newBox(g.dir, name, walkSuite)
	if err != nil {
		return nil, err
	}
	stop = func() error {
		if g.keep {
			return nil
		}
		return b.remove()
	}
	w.out.say("creating the machine %s", name)
	if err := b.makeRoot(ctx, mirror, w.out); err != nil {
		return stop, err
	}
	s := settings{Started: w.out.start, Boot: packages}
	if name == onHub {
		if err := w.repo.copyTo(ctx, b.path(home, "petiole"), ""); err != nil {
			return stop, err
		}
		if s.Mounts, err = goFolders(ctx); err != nil {
			return stop, err
		}
	}
	hosts, err := os.OpenFile(b.path("etc/hosts"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return stop, err
	}
	if _, err := fmt.Fprintf(hosts, "%s %s\n", hubAddress, hubName); err != nil {
		return stop, err
	}
	if err := hosts.Close(); err != nil {
		return stop, err
	}
	log, err := w.repo.logFile("install-" + name)
	if err != nil {
		return stop, err
	}
	machine, err := b.start(ctx, mirror, s, log)
	if err != nil {
		return stop, err
	}
	removed := stop
	ended := func() error {
		return errors.Join(machine.end(), log.Close(), removed())
	}
	stop = ended
	if err := machine.awaitSystemd(ctx); err != nil {
		return stop, err
	}
	w.pids = append(w.pids, machine.process.Process.Pid)
	w.roots[name], w.machines[name] = b, machine
	if w.shells[name], err = machine.newShell(ctx, w.out, log); err != nil {
		return stop, err
	}
	return func() error {
		w.shells[name].stop()
		return ended()
	}, nil
}

// give provides what the document takes as given, and the line between the machines.
func (w *walker) give(ctx context.Context) error {
	hub, gateway := w.roots[onHub], w.roots[onGateway]
	line := []string{"link", "add", "eth0", "netns", fmt.Sprint(w.pids[0]), "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(w.pids[1])}
	if err := command(ctx, "ip", line...); err != nil {
		return err
	}
	for name, b := range w.roots {
		for _, program := range []string{"lab", "kubectl"} {
			if err := w.copyProgram(b, program); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if err := os.Symlink(filepath.Join(given, "kubectl"), b.path("usr/local/bin/kubectl")); err != nil {
			return err
		}
	}
	for _, program := range []string{"crio", "pinns", "ociwrap"} {
		if err := w.copyProgram(gateway, program); err != nil {
			return err
		}
	}
	credentials, err := cluster.NewCredentials(hub.path(given, "cluster"), apiPort)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(hub.path(home, ".kube"), 0o700); err != nil {
		return err
	}
	if err := os.Rename(credentials.Admin, hub.path(home, ".kube/config")); err != nil {
		return err
	}
	if err := w.giveRuntime(gateway); err != nil {
		return err
	}
	for _, c := range []struct{ on, commands string }{
		{onHub, fmt.Sprintf(`ip addr add %s/24 dev eth0; ip link set eth0 up; ip route add default via %s
systemd-run --unit cluster %s/lab controlplane --dir %s/cluster --advertise %s
until kubectl get --raw /readyz > /dev/null 2>&1; do sleep 0.5; done`, hubAddress, gatewayAddress, given, given, hubAddress)},
		{onGateway, fmt.Sprintf(`ip addr add %s/24 dev eth0; ip link set eth0 up; ip route add default via %s; ip addr add %s/32 dev lo
systemd-run --unit registry %s/lab registry --listen %s
systemd-run --unit device %s/lab modbus-slave --listen %s:502 --writes /var/log/device
systemd-run --unit crio --property Delegate=yes %s/crio --config /var/lib/crio/crio.conf --config-dir ""
until [ -S /run/crio/crio.sock ]; do sleep 0.1; done`, gatewayAddress, hubAddress, deviceAddress, given, registryAddress, given, deviceAddress, given)},
	} {
		if _, err := w.shells[c.on].run("# what the document takes as given\n"+c.commands, time.Minute); err != nil {
			return err
		}
	}
	return nil
}

const (
	apiPort         = 6443
	registryAddress = "127.0.0.1:5000"
)

// registries has the images of Docker's registry come from the one of the walk.
const registries = `[[registry]]
prefix = "docker.io/library/busybox"
location = "` + registryAddress + `/petiole/sleeper"
insecure = true
`

// giveRuntime configures the container runtime of the gateway.
func (w *walker) giveRuntime(b box) error {
	cfg := crio.Config{
		Site: "given", StateDir: "/var/lib/crio", RunDir: "/run/crio", PodSubnet: "10.85.0.0/24", Registry: registryAddress,
		Conmon: host.Conmon, Pinns: filepath.Join(given, "pinns"), Runtime: host.Runc, CNIPlugins: host.CNIPlugins,
		StorageDriver: "overlay", PolicyFile: "/etc/containers/policy.json",
	}
	wrap, err := host.NeedsWrapper()
	if err != nil {
		return err
	}
	if wrap {
		cfg.Runtime = filepath.Join(given, "ociwrap")
	}
	templates := filepath.Join(w.repo.dir, "deploy/lab")
	if err := cfg.WriteTo(templates, b.root); err != nil {
		return err
	}
	policy, err := os.ReadFile(filepath.Join(templates, "policy.json"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.path("etc/containers"), 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(b.path("etc/containers/policy.json"), policy, 0o644),
		os.WriteFile(b.path("etc/containers/registries.conf"), []byte(registries), 0o644),
	)
}

// copyProgram copies a program of the lab.
func (w *walker) copyProgram(b box, name string) error {
	return copyFile(filepath.Join(w.repo.dir, ".lab/bin", name), b.path(given, name), 0o755)
}

// carryPackage copies a package from the machine that has built it to the gateway.
func (w *walker) carryPackage(version string) error {
	name := fmt.Sprintf("petiole-leaf_%s_amd64.deb", version)
	return copyFile(w.roots[onHub].path(home, "petiole/.lab/packages", name), w.roots[onGateway].path(home, name), 0o644)
}

func copyFile(from, to string, mode os.FileMode) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, data, mode)
}
