package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/daemon"
	"github.com/petiole-io/petiole/streams"
)

// reconnectWait is the interval at which a client tries to reach a hub that was killed.
const reconnectWait = 200 * time.Millisecond

// Rig is a running lab.
type Rig struct {
	// Root is the repository, Dir the lab's folder in it.
	Root, Dir string
	// REST reaches the API server as an administrator.
	REST    *rest.Config
	Kube    kubernetes.Interface
	Dynamic dynamic.Interface
	// Admin is a connection to the hub's account FABRIC, and JS its JetStream.
	Admin *nats.Conn
	JS    jetstream.JetStream
	// Sites by their order: plant-a, plant-b.
	Sites []*Site
	// HubLeafAddr is the address at which the sites reach the hub.
	HubLeafAddr string

	env     environment
	daemons daemon.Set
}

// FindRoot returns the repository that holds the working folder.
func FindRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find repository: %w", err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("find repository: no go.mod above the working folder")
}

// Open connects to the lab of the repository at root, which must be up.
func Open(ctx context.Context, root string) (*Rig, error) {
	dir := filepath.Join(root, labDir)
	r := &Rig{Root: root, Dir: dir, HubLeafAddr: hubLeafAddr, daemons: daemon.Set{RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "log")}}
	var err error
	if r.env, err = readEnvironment(ctx, filepath.Join(dir, "env")); err != nil {
		return nil, err
	}
	if r.REST, err = cluster.Config(r.env.get("KUBECONFIG")); err != nil {
		return nil, err
	}
	if r.Kube, err = kubernetes.NewForConfig(r.REST); err != nil {
		return nil, fmt.Errorf("create client: %w", err)
	}
	if r.Dynamic, err = dynamic.NewForConfig(r.REST); err != nil {
		return nil, fmt.Errorf("create client: %w", err)
	}
	if r.Admin, err = r.natsContext(hubContext); err != nil {
		return nil, err
	}
	if r.JS, err = jetstream.New(r.Admin); err != nil {
		return nil, err
	}
	for _, s := range sites {
		site, err := r.openSite(s)
		if err != nil {
			return nil, errors.Join(err, r.Close())
		}
		r.Sites = append(r.Sites, site)
	}
	return r, nil
}

// Close ends the connections. The lab keeps running.
func (r *Rig) Close() error {
	var errs []error
	for _, s := range r.Sites {
		errs = append(errs, s.close())
	}
	if r.Admin != nil {
		r.Admin.Close()
	}
	return errors.Join(errs...)
}

// Desired returns the hub's stream DESIRED.
func (r *Rig) Desired(ctx context.Context) (jetstream.Stream, error) {
	return r.JS.Stream(ctx, streams.Desired)
}

// Log returns the path of a daemon's log.
func (r *Rig) Log(name string) string { return r.daemons.LogFile(name) }

// Daemon returns the process of one of the lab's daemons.
func (r *Rig) Daemon(name string) (Process, error) {
	pid, running := r.daemons.PID(name)
	if !running {
		return Process{}, fmt.Errorf("find daemon %s: %w", name, os.ErrProcessDone)
	}
	return FindProcess(pid)
}
