package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// Program is the name of the kubelet's program, which is in the folder of the leaf's.
const Program = "petiole-kubelet"

const (
	minRestartDelay = time.Second
	maxRestartDelay = 30 * time.Second
	// stableAfter is the running time after which the restart delay is reset to
	// minRestartDelay.
	stableAfter = time.Minute
	// stopGrace is the time that the kubelet gets to stop before it is killed.
	stopGrace = 10 * time.Second
)

// Kubelet is the child process. All fields but Args must be set before Run. Problem and Exits
// are safe for concurrent use.
type Kubelet struct {
	// Path is the kubelet's program; empty: Program, beside this one.
	Path string
	// Node is the node's name.
	Node string
	// ConfigFile is the KubeletConfiguration.
	ConfigFile string
	// Kubeconfig points at the node API.
	Kubeconfig string
	// ClientCAFile, CertFile and KeyFile are the credentials of the kubelet's port.
	ClientCAFile, CertFile, KeyFile string
	// Args holds additional flags, which are passed last.
	Args []string
	// Renewed returns when the kubelet last renewed the lease of its node, the zero time if it
	// never did.
	Renewed func() time.Time
	Log     *zap.Logger

	health health
}

// Problem returns a sentence about what is wrong with the kubelet, empty if nothing is: that it
// exits again and again, or runs and does not renew the lease of its node, and the last error in
// its log.
func (k *Kubelet) Problem() string { return k.health.problem(time.Now(), k.Renewed()) }

// Exits returns how often the kubelet has exited without being told to.
func (k *Kubelet) Exits() uint64 { return k.health.exited() }

// Run runs the kubelet until ctx ends, then stops it and waits for it. It restarts a kubelet
// that exits.
func (k *Kubelet) Run(ctx context.Context) error {
	delay := minRestartDelay
	flags := k.configFlags()
	for {
		err := k.runOnce(ctx, flags)
		if ctx.Err() != nil {
			return nil
		}
		ran, reason := k.health.exit(time.Now(), err)
		if ran > stableAfter {
			delay = minRestartDelay
		}
		k.Log.Warn("kubelet exited: restarting", zap.String("reason", reason), zap.Duration("ran", ran.Round(time.Millisecond)), zap.Duration("restart_in", delay))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, maxRestartDelay)
	}
}

// runOnce runs the kubelet until it exits. The kernel kills the child when the thread that
// started it ends, hence the locked thread: a leaf that is killed must not leave a kubelet
// behind that the next leaf does not know.
func (k *Kubelet) runOnce(ctx context.Context, flags []string) error {
	path, err := k.path()
	if err != nil {
		return err
	}
	args := slices.Concat([]string{
		"--config", k.ConfigFile, "--kubeconfig", k.Kubeconfig, "--hostname-override", k.Node,
		"--client-ca-file", k.ClientCAFile, "--tls-cert-file", k.CertFile, "--tls-private-key-file", k.KeyFile,
	}, flags, k.Args)
	cmd := exec.CommandContext(ctx, path, args...)
	log := &reasonWriter{to: os.Stderr}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = environment(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace

	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with this goroutine, after the child
		if err := cmd.Start(); err != nil {
			done <- fmt.Errorf("start kubelet: %w", err)
			return
		}
		k.health.start(time.Now(), log)
		k.Log.Info("kubelet started", zap.Int("pid", cmd.Process.Pid))
		done <- cmd.Wait()
	}()
	err = <-done
	if err == nil {
		return errors.New("exit code 0")
	}
	return err
}

func (k *Kubelet) path() (string, error) {
	if k.Path != "" {
		return k.Path, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the folder of the leaf's program: %w", err)
	}
	return filepath.Join(filepath.Dir(self), Program), nil
}

// environment returns env with GOGC=50 unless the operator has set GOGC: on a gateway memory is
// scarcer than CPU time.
func environment(env []string) []string {
	for _, v := range env {
		if strings.HasPrefix(v, "GOGC=") {
			return env
		}
	}
	return append(env, "GOGC=50")
}
