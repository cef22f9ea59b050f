// Command ociwrap stands between CRI-O and runc on machines whose root may not do what
// the kubelet asks for: without CAP_SYS_RESOURCE runc cannot lower oom_score_adj, and
// without a hugetlb controller it cannot set huge page limits. It takes the limits, and an
// oomScoreAdj that is lower than its own, out of the bundle's config.json before `create`,
// then becomes runc.
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
	if slices.Contains(args, "create") {
		own, err := oomScoreAdj()
		if err != nil {
			return err
		}
		if err := relax(filepath.Join(bundle(args), "config.json"), own); err != nil {
			return err
		}
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

// bundle returns the value of --bundle or -b, or the working folder without it.
func bundle(args []string) string {
	for i, a := range args {
		if value, ok := strings.CutPrefix(a, "--bundle="); ok {
			return value
		}
		if (a == "--bundle" || a == "-b") && i+1 < len(args) {
			return args[i+1]
		}
	}
	return "."
}

// oomScoreAdj returns the oom_score_adj of this process. Containers inherit it, and cannot have
// a lower one.
func oomScoreAdj() (int, error) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("read oom_score_adj: %w", err)
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("read oom_score_adj: %w", err)
	}
	return own, nil
}

// relax removes linux.resources.hugepageLimits, and process.oomScoreAdj if it is lower than own.
// The rest of the file stays as it is.
func relax(path string, own int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read bundle: %w", err)
	}
	var spec map[string]json.RawMessage
	if err := json.Unmarshal(data, &spec); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	fields := [][]string{{"linux", "resources", "hugepageLimits"}}
	var process struct {
		OOMScoreAdj int `json:"oomScoreAdj"`
	}
	if raw, ok := spec["process"]; ok {
		if err := json.Unmarshal(raw, &process); err != nil {
			return fmt.Errorf("decode process of %s: %w", path, err)
		}
	}
	if process.OOMScoreAdj < own {
		fields = append(fields, []string{"process", "oomScoreAdj"})
	}
	for _, field := range fields {
		if err := remove(spec, field); err != nil {
			return fmt.Errorf("edit %s: %w", path, err)
		}
	}
	if data, err = json.Marshal(spec); err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

func remove(object map[string]json.RawMessage, field []string) error {
	raw, ok := object[field[0]]
	if !ok {
		return nil
	}
	if len(field) == 1 {
		delete(object, field[0])
		return nil
	}
	var inner map[string]json.RawMessage
	if err := json.Unmarshal(raw, &inner); err != nil {
		return err
	}
	if inner == nil {
		return nil
	}
	if err := remove(inner, field[1:]); err != nil {
		return err
	}
	data, err := json.Marshal(inner)
	object[field[0]] = data
	return err
}
