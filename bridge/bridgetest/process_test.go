package bridgetest

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"sigs.k8s.io/yaml"
)

// process is a bridge in a process of its own, which can be stopped and killed.
type process struct {
	w    *world
	name string
	cmd  *exec.Cmd
	logs chan struct{}
	over bool
}

// run starts a bridge in a process of its own, which reaches the API server by the
// kubeconfig.
func (w *world) run(identity, kubeconfig string) *process {
	w.t.Helper()
	cfg := w.config(identity, w.hubAddr(), kubeconfig, "constrained")
	data, err := yaml.Marshal(cfg)
	w.must(err)
	path := filepath.Join(w.t.TempDir(), identity+".yaml")
	w.must(os.WriteFile(path, data, 0o600))
	self, err := os.Executable()
	w.must(err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childConfig+"="+path)
	out, err := cmd.StderrPipe()
	w.must(err)
	w.must(cmd.Start())
	p := &process{w: w, name: identity, cmd: cmd, logs: make(chan struct{})}
	go p.relay(out)
	w.t.Cleanup(p.kill)
	return p
}

// relay shows the process's log in the test's.
func (p *process) relay(out io.Reader) {
	defer close(p.logs)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		p.w.t.Logf("%s: %s", p.name, lines.Text())
	}
}

func (p *process) signal(s syscall.Signal) {
	p.w.t.Helper()
	p.w.must(p.cmd.Process.Signal(s))
}

// kill ends the process at once, if it has not ended.
func (p *process) kill() {
	if p.over {
		return
	}
	p.over = true
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.logs
	_ = p.cmd.Wait() // killed: always an error
}
