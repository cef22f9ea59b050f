package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/petiole-io/petiole/internal/lab/cgroup"
	"github.com/petiole-io/petiole/internal/lab/mounts"
)

const stopGrace = 15 * time.Second

// Down stops everything, and removes namespaces, devices, mounts and cgroups. The files
// in the lab's folder stay and the next Up uses them, unless purge is set: then
// all are deleted but the built programs. It continues after an error and returns all errors.
func (l *Lab) Down(purge bool) error {
	if err := l.adopt(); err != nil {
		return err
	}
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	for _, s := range l.sites() {
		note(l.stopSite(s))
	}
	for _, name := range []string{partBridge, partHub, partControlPlane, partRegistry} {
		note(l.daemons.Stop(name, stopGrace))
	}
	if err := errors.Join(errs...); err != nil {
		return err // what still runs needs the network and the files
	}
	for _, s := range l.sites() {
		note(l.net.DeleteSite(s.Site))
		note(s.crio.PowerCut(s.kubeletRoot()))
		note(os.RemoveAll(s.runDir))
		note(cgroup.Remove(s.cgroup))
		note(removeCNICache(s.Name))
	}
	note(l.net.DeleteBridge())
	if purge {
		note(l.purge())
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	l.out.say("nothing of the lab runs any more")
	return nil
}

// stopSite ends the leaf first, so that no kubelet starts containers again, then the
// containers, then what served them.
func (l *Lab) stopSite(s site) error {
	errs := []error{l.daemons.Stop("leaf-"+s.Name, stopGrace), cgroup.Kill(s.cgroup)}
	for _, name := range []string{"crio-" + s.Name, "modbus-" + s.Name} {
		errs = append(errs, l.daemons.Stop(name, stopGrace))
	}
	l.out.say("%s stopped", s.Name)
	return errors.Join(errs...)
}

// Reboot power-cycles a site: it kills leaf, kubelet, CRI-O and all
// containers at once, empties the folders that are in memory, and starts the site again. The link
// stays as it is. From then on the whole site, its pods and the processes of the gateway, has at
// most memory bytes, 0: as many as the machine has. The Modbus slave is not part of it.
func (l *Lab) Reboot(ctx context.Context, name string, memory int64) error {
	s, err := l.site(name)
	if err != nil {
		return err
	}
	if err := l.adopt(); err != nil {
		return err
	}
	for _, d := range []string{"leaf-" + name, "crio-" + name} {
		if err := l.daemons.Kill(d); err != nil {
			return err
		}
	}
	if err := cgroup.Kill(s.cgroup); err != nil {
		return err
	}
	if err := s.crio.PowerCut(s.kubeletRoot()); err != nil {
		return err
	}
	if err := s.DeleteDevice("cni0"); err != nil {
		return err
	}
	if err := cgroup.Remove(s.cgroup); err != nil {
		return err
	}
	l.out.say("%s has no power", name)
	if err := l.prepareSite(s); err != nil {
		return fmt.Errorf("prepare %s: %w", name, err)
	}
	if memory > 0 {
		if err := l.limit(&s, memory); err != nil {
			return fmt.Errorf("limit the memory of %s: %w", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := errors.Join(l.startRuntime(ctx, s)); err != nil {
		return err
	}
	if err := l.startLeaf(ctx, s); err != nil {
		return err
	}
	l.out.say("%s runs again, its link is %s", name, l.net.State(s.Site))
	return nil
}

// Restart kills a part (see Status for the names) with SIGKILL and starts it again. It
// does not wait until the part is ready: what it depends on may be stopped on purpose. A
// site's containers keep running.
func (l *Lab) Restart(name string) error {
	p, err := l.part(name)
	if err != nil {
		return err
	}
	if err := l.adopt(); err != nil {
		return err
	}
	if err := l.daemons.Kill(name); err != nil {
		return err
	}
	return l.start(p)
}

// purge deletes the files but not the programs.
func (l *Lab) purge() error {
	var dirs []string
	for _, s := range l.sites() {
		dirs = append(dirs, s.dir)
	}
	// A mount that is left would be emptied with the folder.
	left, err := mounts.Below(dirs...)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("remove files: still mounted: %s", strings.Join(left, " "))
	}
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("remove files: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != "bin" {
			errs = append(errs, os.RemoveAll(filepath.Join(l.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// removeCNICache deletes libcni's records of a site's pods from a folder that all
// users of CNI on the machine share.
func removeCNICache(site string) error {
	files, err := filepath.Glob("/var/lib/cni/results/petiole-" + site + "-*")
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		errs = append(errs, os.Remove(f))
	}
	return errors.Join(errs...)
}
