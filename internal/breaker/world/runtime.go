package world

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/petiole-io/petiole/internal/lab/cgroup"
	"github.com/petiole-io/petiole/internal/lab/crio"
	"github.com/petiole-io/petiole/internal/lab/daemon"
	"github.com/petiole-io/petiole/internal/lab/host"
	"github.com/petiole-io/petiole/internal/lab/render"
)

const (
	registryPort = 5000
	runtimeGroup = "petiole-breaker"
	podSubnet    = "10.97.1.0/24"
)

// Runtime is the CRI-O of a full site, with the files that its kubelet needs.
type Runtime struct {
	// CRIO is the process; it outlives the leaf.
	CRIO *Process

	world *World
	dir   string
	cfg   crio.Config
}

// Image returns the image of the containers of full sites, which run for ever.
func (w *World) Image() string { return w.registry() + "/petiole/sleeper:1" }

func (w *World) registry() string { return fmt.Sprintf("%s:%d", w.net.Address(), registryPort) }

// newRuntime returns the runtime of a site. It starts nothing.
func (w *World) newRuntime(s *Site) *Runtime {
	r := &Runtime{world: w, dir: s.dir, cfg: crio.Config{
		Site: "breaker", StateDir: filepath.Join(s.dir, "crio"), RunDir: "/run/petiole-breaker/crio", PodSubnet: podSubnet, Registry: w.registry(),
		Conmon: host.Conmon, Pinns: filepath.Join(w.bin, "pinns"), Runtime: host.Runc, CNIPlugins: host.CNIPlugins,
		StorageDriver: "overlay", PolicyFile: filepath.Join(w.opts.Root, "deploy/lab/policy.json"),
	}}
	r.CRIO = newProcess(w.set, daemon.Daemon{Name: "crio", Path: filepath.Join(w.bin, "crio"), Args: r.cfg.Args(), NetNS: s.Namespace()})
	return r
}

// Socket returns the CRI endpoint.
func (r *Runtime) Socket() string { return r.cfg.Socket() }

func (r *Runtime) kubeletRoot() string   { return filepath.Join(r.dir, "kubelet") }
func (r *Runtime) kubeletConfig() string { return filepath.Join(r.dir, "kubelet.yaml") }

// prepare writes the configuration and creates the cgroup.
func (r *Runtime) prepare() error {
	wrap, err := host.NeedsWrapper()
	if err != nil {
		return err
	}
	if wrap {
		r.cfg.Runtime = filepath.Join(r.world.bin, "ociwrap")
	}
	if err := cgroup.Create(runtimeGroup); err != nil {
		return err
	}
	templates := filepath.Join(r.world.opts.Root, "deploy/lab")
	if err := r.cfg.Write(templates); err != nil {
		return err
	}
	static := filepath.Join(r.dir, "static-pods")
	if err := os.MkdirAll(static, 0o755); err != nil {
		return fmt.Errorf("create folder of static pods: %w", err)
	}
	return render.File(filepath.Join(templates, "kubelet.yaml.tmpl"), r.kubeletConfig(), map[string]string{
		"RunDir": r.cfg.RunDir, "CgroupRoot": "/" + runtimeGroup, "PodLogsDir": filepath.Join(r.dir, "pod-logs"), "StaticPods": static,
	})
}

// start runs CRI-O and returns when it answers.
func (r *Runtime) start(ctx context.Context) error {
	if err := r.CRIO.Start(); err != nil {
		return err
	}
	return await(ctx, "CRI-O", func(ctx context.Context) error {
		if r.CRIO.Crashed() {
			return fmt.Errorf("CRI-O ended, see %s", r.CRIO.Log())
		}
		return r.cfg.Probe(ctx)
	})
}

// destroy ends all containers, and CRI-O, whose leaf must have ended.
func (r *Runtime) destroy() error {
	errs := []error{cgroup.Kill(runtimeGroup), r.world.set.Kill(r.CRIO.Name()), r.cfg.PowerCut(r.kubeletRoot()), cgroup.Remove(runtimeGroup)}
	// libcni remembers pods in a folder that all users of CNI on the machine share.
	files, err := filepath.Glob("/var/lib/cni/results/petiole-breaker-*")
	errs = append(errs, err)
	for _, f := range files {
		errs = append(errs, os.Remove(f))
	}
	return errors.Join(errs...)
}

// KillKubelet ends the kubelet that is the child of the site's leaf; the leaf starts
// another.
func (s *Site) KillKubelet() error {
	leaf, running := s.Leaf.PID()
	if !running {
		return fmt.Errorf("kill kubelet of %s: the leaf does not run", s.Name)
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return err
	}
	for _, f := range stats {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // it ended meanwhile
		}
		var pid, parent int
		var state string
		rest := string(data)[strings.LastIndexByte(string(data), ')')+1:]
		if _, err := fmt.Sscan(rest, &state, &parent); err != nil || parent != leaf {
			continue
		}
		if _, err := fmt.Sscan(filepath.Base(filepath.Dir(f)), &pid); err != nil {
			return err
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill kubelet of %s: %w", s.Name, err)
		}
		return nil
	}
	return fmt.Errorf("kill kubelet of %s: the leaf has no child", s.Name)
}

// fullSite returns the site with a runtime, or nil if there is none.
func (w *World) fullSite() *Site {
	for _, s := range w.Sites {
		if s.Runtime != nil {
			return s
		}
	}
	return nil
}
