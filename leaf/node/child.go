// Package node runs the kubelet of this host as a child process.
//
// The child is this same binary under another command (package node/kubelet), so that
// code pages are shared. It is restarted whenever it exits and dies with its parent;
// containers belong to the container runtime and outlive both. The package knows the
// kubelet's flags and nothing of Kubernetes objects.
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

// Command is the name under which the leaf's binary is the kubelet.
const Command = "kubelet"

const (
	minRestart = time.Second
	maxRestart = 30 * time.Second
	// stable is after how long a run the restart delay starts again at minRestart.
	stable = time.Minute
	// stopGrace is how long the kubelet may take to end by itself.
	stopGrace = 10 * time.Second
)

// Kubelet is the child process. The zero value lacks its fields; set all that have no
// default before Run.
type Kubelet struct {
	// Node is the node's name.
	Node string
	// ConfigFile is the KubeletConfiguration.
	ConfigFile string
	// Kubeconfig points at the node API.
	Kubeconfig string
	// Args are further flags, after our own.
	Args []string
	Log  *zap.Logger
}

// Run keeps the kubelet running until ctx ends, then stops it and waits for it.
func (k *Kubelet) Run(ctx context.Context) error {
	delay := minRestart
	for {
		started := time.Now()
		err := k.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > stable {
			delay = minRestart
		}
		k.Log.Warn("kubelet exited", zap.Error(err), zap.Duration("restart in", delay))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, maxRestart)
	}
}

// once runs the kubelet until it exits. The kernel kills the child when the thread
// that started it ends, hence the locked thread: a leaf that is killed must not leave a
// kubelet behind that its successor does not know.
func (k *Kubelet) once(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	args := append([]string{
		Command, "--config", k.ConfigFile, "--kubeconfig", k.Kubeconfig, "--hostname-override", k.Node,
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

// environment makes the kubelet collect garbage twice as often as Go's default, unless
// the operator chose otherwise: on a gateway memory is scarcer than processor time.
func environment(env []string) []string {
	for _, v := range env {
		if strings.HasPrefix(v, "GOGC=") {
			return env
		}
	}
	return append(env, "GOGC=50")
}
