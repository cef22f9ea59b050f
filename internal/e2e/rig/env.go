package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"
)

// environment is the environment of a shell after `source .lab/env`.
type environment []string

func readEnvironment(ctx context.Context, file string) (environment, error) {
	cmd := exec.CommandContext(ctx, "bash", "-c", `set -e; source "$1"; env -0`, "bash", file)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", file, explain(err))
	}
	var env environment
	for _, v := range bytes.Split(bytes.TrimRight(out, "\x00"), []byte{0}) {
		env = append(env, string(v))
	}
	return env, nil
}

func (e environment) get(name string) string {
	for _, v := range e {
		if rest, ok := strings.CutPrefix(v, name+"="); ok {
			return rest
		}
	}
	return ""
}

// natsContext connects as the lab's nats command does with a context.
func (r *Rig) natsContext(name string, opts ...nats.Option) (*nats.Conn, error) {
	path := filepath.Join(r.natsConfigHome(), "nats", "context", name+".json")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read nats context: %w", err)
	}
	var c struct {
		URL      string `json:"url"`
		Creds    string `json:"creds"`
		User     string `json:"user"`
		Password string `json:"password"`
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("read nats context %s: %w", path, err)
	}
	opts = append([]nats.Option{nats.Name("petiole-e2e"), nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait)}, opts...)
	if c.Creds != "" {
		opts = append(opts, nats.UserCredentials(c.Creds))
	} else {
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	}
	nc, err := nats.Connect(c.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect with nats context %s: %w", name, err)
	}
	return nc, nil
}

// Command prepares a command as a person runs it in the lab's environment.
func (r *Rig) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	path := name
	if !strings.ContainsRune(name, filepath.Separator) {
		path = r.lookPath(name)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Args[0] = name
	cmd.Env, cmd.Dir = r.env, r.Root
	return cmd
}

// Output runs a command in the lab's environment and returns what it prints. The error
// of a failed command holds its standard error.
func (r *Rig) Output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := r.Command(ctx, name, args...).Output()
	if err != nil {
		return string(out), fmt.Errorf("run %s %s: %w", name, strings.Join(args, " "), explain(err))
	}
	return string(out), nil
}

func (r *Rig) lookPath(name string) string {
	for _, dir := range filepath.SplitList(r.env.get("PATH")) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 && !info.IsDir() {
			return path
		}
	}
	return name
}

// explain adds what a failed command printed to its error.
func explain(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}
