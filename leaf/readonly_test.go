package leaf

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
)

// readOnlyVariable has the configuration of the leaf that runs in a root of its own, and the only
// folder that is writable there.
const readOnlyVariable = "PETIOLE_TEST_READ_ONLY_ROOT"

type readOnlyRoot struct {
	Config   Config
	Writable string
}

// TestReadOnlyRoot runs a leaf, with its devices, where nothing but one folder is writable: it becomes
// ready, stores, and starts again.
func TestReadOnlyRoot(t *testing.T) {
	if os.Getenv(readOnlyVariable) != "" {
		runReadOnly(t)
		return
	}
	t.Parallel()
	s, ctx := newSite(t)
	respond(t, s)
	dir := t.TempDir()
	s.cfg.DataDir, s.cfg.NATS.ConfigFile = filepath.Join(dir, "data"), natstest.LeafConfIn(t, dir, "plant-a", s.line.Addr())
	s.cfg.NodeAPI.Listen, s.cfg.Metrics.Listen = porttest.Addr(t), porttest.Addr(t)
	s.cfg.Devices.DMISocket = filepath.Join(dir, "dmi.sock")
	setting, err := json.Marshal(readOnlyRoot{s.cfg, dir})
	if err != nil {
		t.Fatal(err)
	}
	w := &whole{site: s}
	for range 2 {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestReadOnlyRoot$", "-test.timeout=2m")
		cmd.Env = append(os.Environ(), readOnlyVariable+"="+string(setting))
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		end, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		polltest.Eventually(t, "the leaf is ready", func() bool { code, _ := w.get(t, "/readyz"); return code == 200 })
		polltest.Eventually(t, "it stores", func() bool { code, _ := w.get(t, "/healthz"); return code == 200 })
		polltest.Eventually(t, "its files", func() bool {
			_, err := os.Stat(filepath.Join(s.cfg.DataDir, KubeconfigName))
			return err == nil
		})
		if err := errors.Join(end.Close(), cmd.Wait()); err != nil {
			t.Fatalf("%v:\n%s", err, out.String())
		}
		cancel()
	}
}

// runReadOnly runs a leaf in this process, which has mounts of its own, until its input ends.
func runReadOnly(t *testing.T) {
	var r readOnlyRoot
	if err := json.Unmarshal([]byte(os.Getenv(readOnlyVariable)), &r); err != nil {
		t.Fatal(err)
	}
	err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")
	if err == nil {
		err = unix.Mount(r.Writable, r.Writable, "", unix.MS_BIND, "")
	}
	if err == nil {
		err = unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	if err == nil {
		err = unix.MountSetattr(unix.AT_FDCWD, r.Writable, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.Writable+".x", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Fatalf("write outside of the folder: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent
		cancel()
	}()
	if err := New(r.Config, "v1", zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))).Run(ctx); err != nil {
		t.Fatal(err)
	}
}
