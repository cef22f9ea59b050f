package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/nats-io/nats.go"
)

// active is the number of sites with an account, which publish; of the others there are only
// the streams.
const active = 100

// shutdownWait bounds a graceful shutdown: nats-server needed 106 s with 10,000 consumers.
const shutdownWait = 5 * time.Minute

// conf has its accounts in the configuration, unlike hubs that users install: what is measured is
// JetStream, and the clients that flood it take the place of leaf nodes, which are all that the
// account of a Site lets in.
var conf = template.Must(template.New("hub").Parse(`
server_name: hub
listen: "127.0.0.1:{{.Client}}"
http: "127.0.0.1:{{.Monitor}}"
prof_port: {{.Profile}}
jetstream { domain: hub, store_dir: "{{.Dir}}/js", sync_interval: always, max_file_store: 1000TB }
max_pending: 256MB
accounts {
  FABRIC {
    jetstream: enabled
    users: [ { user: bridge, password: secret } ]
    exports: [
      { service: "reported.*.>", account_token_position: 2 }
      { service: "telemetry.*.>", account_token_position: 2 }
    ]
  }
{{- range .Sites}}
  "{{.}}" {
    users: [ { user: "{{.}}", password: secret } ]
    imports: [
      { service: { account: FABRIC, subject: "reported.{{.}}.>" } }
      { service: { account: FABRIC, subject: "telemetry.{{.}}.>" } }
    ]
  }
{{- end}}
}
`))

// process is a nats-server that runs.
type process struct {
	cmd                      *exec.Cmd
	client, monitor, profile int
	ended                    chan error
}

func writeConf(dir string) (process, error) {
	var p process
	for _, port := range []*int{&p.client, &p.monitor, &p.profile} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return p, fmt.Errorf("find a port: %w", err)
		}
		defer l.Close()
		*port = l.Addr().(*net.TCPAddr).Port
	}
	var b bytes.Buffer
	sites := make([]string, active)
	for i := range sites {
		sites[i] = siteName(i)
	}
	if err := conf.Execute(&b, map[string]any{"Dir": dir, "Client": p.client, "Monitor": p.monitor, "Profile": p.profile, "Sites": sites}); err != nil {
		return p, err
	}
	return p, os.WriteFile(filepath.Join(dir, "hub.conf"), b.Bytes(), 0o600)
}

// start starts the server and returns how long it took until it was healthy.
func (p *process) start(ctx context.Context, binary, dir string) (time.Duration, error) {
	log, err := os.OpenFile(filepath.Join(dir, "hub.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	p.cmd = exec.Command(binary, "-c", filepath.Join(dir, "hub.conf"))
	p.cmd.Stdout, p.cmd.Stderr = log, log
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", binary, err)
	}
	p.ended = make(chan error, 1)
	go func() { p.ended <- p.cmd.Wait() }()
	for ctx.Err() == nil && time.Since(began) < shutdownWait {
		select {
		case err := <-p.ended:
			return 0, fmt.Errorf("nats-server ended: %w; see %s", err, log.Name())
		case <-time.After(20 * time.Millisecond):
		}
		if _, err := p.get(p.monitor, "/healthz"); err == nil {
			return time.Since(began), nil
		}
	}
	return 0, errors.Join(ctx.Err(), errors.New("nats-server does not become healthy"))
}

// stop stops the server in order and returns how long that took.
func (p *process) stop() (time.Duration, error) {
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	select {
	case err := <-p.ended:
		return time.Since(began), err
	case <-time.After(shutdownWait):
		return 0, errors.Join(fmt.Errorf("nats-server did not stop within %v", shutdownWait), p.cmd.Process.Kill())
	}
}

func (p *process) get(port int, path string) (string, error) {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(b), err
}

func (p *process) connect(user string) (*nats.Conn, error) {
	return nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", p.client), nats.UserInfo(user, "secret"), nats.Timeout(30*time.Second), nats.MaxReconnects(-1))
}

// usage is what the server uses.
type usage struct {
	rss               int64
	goroutines, files int
	cpu               time.Duration
}

func (p *process) usage() (usage, error) {
	var u usage
	root := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	status, err := os.ReadFile(filepath.Join(root, "status"))
	if err != nil {
		return u, err
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscan(rest, &u.rss); err != nil {
		return u, fmt.Errorf("read VmRSS: %w", err)
	}
	u.rss <<= 10
	files, err := os.ReadDir(filepath.Join(root, "fd"))
	if err != nil {
		return u, err
	}
	u.files = len(files)
	profile, err := p.get(p.profile, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return u, err
	}
	if _, err := fmt.Sscanf(profile, "goroutine profile: total %d", &u.goroutines); err != nil {
		return u, fmt.Errorf("read the goroutine profile: %w", err)
	}
	stat, err := os.ReadFile(filepath.Join(root, "stat"))
	if err != nil {
		return u, err
	}
	f := strings.Fields(string(stat))
	for _, i := range []int{13, 14} {
		ticks, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return u, fmt.Errorf("read CPU time: %w", err)
		}
		u.cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	return u, nil
}
