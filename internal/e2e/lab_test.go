package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// TestLabGoesOn: a start during which a part fails names it with the end of its log and
// leaves the others alone, the status of the half-started lab shows it, and the next start
// goes on, even when the record of a running part is damaged.
func TestLabGoesOn(t *testing.T) {
	site := lab.Sites[1]
	slave := "modbus-" + site.Name
	others := func() map[string]rig.Process {
		found := map[string]rig.Process{}
		for _, name := range []string{rig.BridgeDaemon, rig.HubDaemon, site.LeafDaemon()} {
			found[name] = got[rig.Process](t)(lab.Daemon(name))
		}
		return found
	}
	before := others()
	unharmed := func() {
		t.Helper()
		for name, p := range others() {
			if !p.Same(before[name]) {
				t.Errorf("%s was started again", name)
			}
		}
	}

	writes := filepath.Join(lab.Dir, "sites", site.Name, "modbus-writes.jsonl")
	must(t, os.Rename(writes, writes+".kept"))
	t.Cleanup(func() {
		// Reached as well when the test ends in the middle.
		if _, err := os.Stat(writes + ".kept"); err == nil {
			must(t, os.Remove(writes))
			must(t, os.Rename(writes+".kept", writes))
		}
		if text, code := labCommand(context.WithoutCancel(t.Context()), t, "up"); code != 0 {
			t.Errorf("lab up ends with code %d:\n%s", code, text)
		}
	})
	must(t, os.Mkdir(writes, 0o755)) // the slave cannot write its log there
	must(t, got[rig.Process](t)(lab.Daemon(slave)).Kill(t.Context()))

	text, code := labCommand(t.Context(), t, "up")
	expect(t, "the start", text, code, 1,
		slave+": ended by itself", lab.Log(slave), "is a directory", "These parts keep running: ", "go tool task lab ")
	text, code = labCommand(t.Context(), t, "status")
	expect(t, "the status", text, code, 1, "9 of 10 parts work", slave+" (ended)", "is a directory")
	unharmed()

	must(t, os.Remove(writes))
	must(t, os.Rename(writes+".kept", writes))
	must(t, os.Truncate(filepath.Join(lab.Dir, "run", rig.HubDaemon+".json"), 3))
	text, code = labCommand(t.Context(), t, "up")
	expect(t, "the next start", text, code, 0, slave+" had ended, started again")
	text, code = labCommand(t.Context(), t, "status")
	expect(t, "the status", text, code, 0, slave)
	unharmed()
}

// labCommand runs the lab's command and returns what it prints and its exit code.
func labCommand(ctx context.Context, t *testing.T, args ...string) (string, int) {
	t.Helper()
	out, err := lab.Command(ctx, lab.Bin("lab"), args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		return string(out), exit.ExitCode()
	}
	return string(out), 0
}

func expect(t *testing.T, what, text string, code, wantCode int, want ...string) {
	t.Helper()
	if code != wantCode {
		t.Errorf("%s ends with code %d, want %d:\n%s", what, code, wantCode, text)
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s does not say %q:\n%s", what, w, text)
		}
	}
}
