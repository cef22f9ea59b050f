package host

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Package is a Debian package that something here needs.
type Package struct {
	Name string
	// Use says why it is needed.
	Use string
	// try runs the programs that will be run of it. That a package is installed proves nothing:
	// half of what a program needs may be a recommendation, and a file may be another
	// package's.
	try func() error
}

// Paths of files in Debian's packages.
const (
	Busybox    = "/bin/busybox"
	Conmon     = "/usr/bin/conmon"
	Runc       = "/usr/sbin/runc"
	CNIPlugins = "/usr/lib/cni"
	Netcat     = "/bin/nc.openbsd"
	// python is Debian's, whatever else is in the path.
	python = "/usr/bin/python3"
)

// Lab returns the packages that building and running the lab needs.
func Lab() []Package {
	return []Package{
		{"gcc", "builds CRI-O and its helper pinns", run("gcc", "--version")},
		{"libc6-dev", "builds CRI-O and pinns, which is linked statically", compile("#include <stdlib.h>\nint main(void) { return 0; }", "-static")},
		{"pkg-config", "finds libseccomp for CRI-O", run("pkg-config", "--version")},
		{"libseccomp-dev", "lets CRI-O filter system calls", compile("#include <seccomp.h>\nint main(void) { return seccomp_api_get() == 0; }", "-lseccomp")},
		{"conmon", "watches a container for CRI-O", run(Conmon, "--version")},
		{"runc", "runs containers", run(Runc, "--version")},
		{"containernetworking-plugins", "connects pods to the network of their site", cniPlugins("bridge", "host-local", "loopback")},
		{"iproute2", "creates the namespaces and links of the sites", run("ip", "netns", "list")},
		{"nftables", "drops the packets of a link that is cut silently", run("nft", "list", "tables")},
		{"busybox-static", "is what the lab's images are made of", static(Busybox)},
	}
}

// Tests returns the packages that the tests need besides those of the lab.
func Tests() []Package {
	return []Package{
		{"python3-pymodbus", "a Modbus slave that is not ours", imports("pymodbus")},
		{"python3-serial", "the serial line of that slave", imports("serial")},
		// Before version 3.1, Debian 12's, the slave does not start without it on TCP either.
		{"python3-serial-asyncio", "the same, for the pymodbus of Debian 12", imports("pymodbus.server")},
		{"libmodbus5", "another Modbus slave that is not ours", imports("ctypes; ctypes.CDLL('libmodbus.so.5')")},
		{"mbpoll", "a Modbus master that is not ours", run("mbpoll", "-V")},
		{"e2fsprogs", "makes the disks that fail and fill up", run("mkfs.ext4", "-V")},
		{"git", "copies the tree for the run on a fresh Debian", run("git", "--version")},
		{"debootstrap", "creates the fresh Debian", run("debootstrap", "--version")},
		{"curl", "is in the images that upstream's conformance specs run", run("curl", "--version")},
		{"netcat-openbsd", "is in these images as well", run(Netcat, "-h")},
	}
}

// Lack is a package that must be installed, with the error that showed it.
type Lack struct {
	Package
	Err error
}

// Missing returns those of the packages that do not work here.
func Missing(all []Package) []Lack {
	var lacks []Lack
	for _, p := range all {
		if err := p.try(); err != nil {
			lacks = append(lacks, Lack{p, err})
		}
	}
	return lacks
}

// Names returns the names of the packages.
func Names(lacks []Lack) []string {
	names := make([]string, len(lacks))
	for i, l := range lacks {
		names[i] = l.Name
	}
	return names
}

// run succeeds when the program does.
func run(program string, args ...string) func() error {
	return func() error { return execute("", program, args...) }
}

func execute(stdin, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w%s", filepath.Base(program), strings.Join(args, " "), err, lastLine(out))
	}
	return nil
}

// lastLine returns the last line, where programs write why they failed.
func lastLine(out []byte) string {
	out = bytes.TrimSpace(out)
	if len(out) == 0 {
		return ""
	}
	return ": " + string(out[bytes.LastIndexByte(out, '\n')+1:])
}

// compile succeeds when gcc compiles the source.
func compile(source string, flags ...string) func() error {
	return func() error {
		dir, err := os.MkdirTemp("", "petiole-preflight-")
		if err != nil {
			return fmt.Errorf("try gcc: %w", err)
		}
		defer os.RemoveAll(dir)
		return execute(source, "gcc", append([]string{"-x", "c", "-o", filepath.Join(dir, "program"), "-"}, flags...)...)
	}
}

// imports succeeds when Debian's Python does.
func imports(module string) func() error { return run(python, "-c", "import "+module) }

// cniPlugins succeeds when each plugin runs and knows the version that the lab's network
// configuration is written in.
func cniPlugins(names ...string) func() error {
	const version = "1.0.0"
	return func() error {
		for _, name := range names {
			cmd := exec.Command(filepath.Join(CNIPlugins, name))
			cmd.Env = []string{"CNI_COMMAND=VERSION"}
			cmd.Stdin = strings.NewReader(`{"cniVersion":"` + version + `"}`)
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("CNI plugin %s: %w", name, err)
			}
			var answer struct {
				SupportedVersions []string `json:"supportedVersions"`
			}
			if err := json.Unmarshal(out, &answer); err != nil {
				return fmt.Errorf("CNI plugin %s: decode its versions: %w", name, err)
			}
			if !slices.Contains(answer.SupportedVersions, version) {
				return fmt.Errorf("CNI plugin %s: knows versions %v, not %s", name, answer.SupportedVersions, version)
			}
		}
		return nil
	}
}

// static succeeds when the program runs and needs no shared libraries: Debian's package
// busybox has the same path and is dynamic.
func static(path string) func() error {
	return func() error {
		f, err := elf.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		libs, err := f.ImportedLibraries()
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if len(libs) > 0 {
			return errors.New(path + " is linked dynamically")
		}
		return execute("", path, "true")
	}
}
