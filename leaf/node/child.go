// Package node runs the kubelet of this host as a child process.
//
// The child runs the same binary with another command (package node/kubelet), so that both
// share code pages. It is restarted whenever it exits, and dies with its parent; containers
// belong to the container runtime and survive both. The package knows the kubelet's flags
// but no Kubernetes objects.
package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// Command is the command of the leaf's binary that runs the kubelet.
const Command = "kubelet"

const (
	minRestartDelay = time.Second
	maxRestartDelay = 30 * time.Second
	// stableAfter is the running time after which the restart delay is reset to
	// minRestartDelay.
	stableAfter = time.Minute
	// stopGrace is the time that the kubelet gets to stop before it is killed.
	stopGrace = 10 * time.Second
)

// Kubelet is the child process. All fields but Args must be set before Run.
type Kubelet struct {
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
	Log  *zap.Logger
}

// Run runs the kubelet until ctx ends, then stops it and waits for it. It restarts a kubelet
// that exits.
func (k *Kubelet) Run(ctx context.Context) error {
	delay := minRestartDelay
	for {
		started := time.Now()
		err := k.runOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > stableAfter {
			delay = minRestartDelay
		}
		k.Log.Warn("kubelet exited: restarting", zap.Error(err), zap.Duration("restart_in", delay))
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
func (k *Kubelet) runOnce(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	args := append([]string{
		Command, "--config", k.ConfigFile, "--kubeconfig", k.Kubeconfig, "--hostname-override", k.Node,
		"--client-ca-file", k.ClientCAFile, "--tls-cert-file", k.CertFile, "--tls-private-key-file", k.KeyFile,
	}, k.Args...)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
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
		k.Log.Info("kubelet started", zap.Int("pid", cmd.Process.Pid))
		done <- cmd.Wait()
	}()
	err = <-done
	if err == nil {
		return errors.New("exit code 0")
	}
	return err
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
