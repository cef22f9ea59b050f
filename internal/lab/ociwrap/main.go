// Command ociwrap stands between CRI-O and runc on machines whose root may not do what
// the kubelet asks for: without CAP_SYS_RESOURCE runc cannot lower oom_score_adj, nor give
// that capability to a privileged container, and without a hugetlb controller it cannot set
// huge page limits. Before `create` it takes the limits out of the bundle's config.json, and of
// its process an oomScoreAdj that is lower than its own and the capabilities that it lacks;
// before `exec` it does the same with the process that is to start. Then it becomes runc.
//
// It belongs to the lab: sandboxes of CI need it, gateways do not.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ociwrap:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	own, err := ownBounds()
	if err != nil {
		return err
	}
	switch {
	case slices.Contains(args, "create"):
		err = edit(filepath.Join(option(args, "--bundle", "-b", "."), "config.json"), own.relax)
	case slices.Contains(args, "exec"):
		if path := option(args, "--process", "-p", ""); path != "" {
			err = edit(path, own.relaxProcess)
		}
	}
	if err != nil {
		return err
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return fmt.Errorf("find runc: %w", err)
	}
	if err := syscall.Exec(runc, append([]string{runc}, args...), os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", runc, err)
	}
	return nil
}

// option returns the value of an option with this name or this short one, or a default.
func option(args []string, name, short, otherwise string) string {
	for i, a := range args {
		if value, ok := strings.CutPrefix(a, name+"="); ok {
			return value
		}
		if (a == name || a == short) && i+1 < len(args) {
			return args[i+1]
		}
	}
	return otherwise
}

// bounds are what no container of this process can go beyond.
type bounds struct {
	// oomScoreAdj is the lowest that a container can have.
	oomScoreAdj int
	// lacked are the capabilities that it cannot have.
	lacked map[string]bool
}

func ownBounds() (bounds, error) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return bounds{}, fmt.Errorf("read oom_score_adj: %w", err)
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return bounds{}, fmt.Errorf("read oom_score_adj: %w", err)
	}
	lacked, err := lackedCapabilities()
	return bounds{oomScoreAdj: own, lacked: lacked}, err
}

// object is a JSON object whose fields stay as they are unless they are changed.
type object = map[string]json.RawMessage

// relax changes the config.json of a bundle.
func (b bounds) relax(spec object) error {
	if err := within(spec, []string{"process"}, b.relaxProcess); err != nil {
		return err
	}
	return within(spec, []string{"linux", "resources"}, func(resources object) error {
		delete(resources, "hugepageLimits")
		return nil
	})
}

// relaxProcess changes a process of a bundle.
func (b bounds) relaxProcess(process object) error {
	if raw, ok := process["oomScoreAdj"]; ok {
		var asked int
		if err := json.Unmarshal(raw, &asked); err != nil {
			return fmt.Errorf("oomScoreAdj: %w", err)
		}
		if asked < b.oomScoreAdj {
			delete(process, "oomScoreAdj")
		}
	}
	return within(process, []string{"capabilities"}, func(sets object) error {
		for set, raw := range sets {
			var names []string
			if err := json.Unmarshal(raw, &names); err != nil {
				return fmt.Errorf("capabilities.%s: %w", set, err)
			}
			names = slices.DeleteFunc(names, func(name string) bool { return b.lacked[name] })
			data, err := json.Marshal(names)
			if err != nil {
				return fmt.Errorf("capabilities.%s: %w", set, err)
			}
			sets[set] = data
		}
		return nil
	})
}

// edit changes the object in a file.
func edit(path string, change func(object) error) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read bundle: %w", err)
	}
	var root object
	if err := json.Unmarshal(data, &root); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	if err := change(root); err != nil {
		return fmt.Errorf("edit %s: %w", path, err)
	}
	if data, err = json.Marshal(root); err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

// within changes the object at a path of fields, unless one of them is missing or null.
func within(outer object, path []string, change func(object) error) error {
	if len(path) == 0 {
		return change(outer)
	}
	raw, ok := outer[path[0]]
	if !ok {
		return nil
	}
	var inner object
	if err := json.Unmarshal(raw, &inner); err != nil {
		return fmt.Errorf("%s: %w", path[0], err)
	}
	if inner == nil {
		return nil
	}
	if err := within(inner, path[1:], change); err != nil {
		return err
	}
	data, err := json.Marshal(inner)
	outer[path[0]] = data
	return err
}
