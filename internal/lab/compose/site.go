package compose

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/render"
)

// The site of the gateway, and its node.
const (
	site = "plant-a"
	node = "plant-a-1"
)

// Apply waits for the API server and applies the manifests of an installation.
func (c Cloud) Apply(ctx context.Context) error {
	cfg, err := cluster.Config(c.adminKubeconfig())
	if err != nil {
		return err
	}
	if err := cluster.AwaitReady(ctx, cfg); err != nil {
		return err
	}
	applier, err := cluster.NewApplier(cfg)
	if err != nil {
		return err
	}
	manifests := filepath.Join(c.Assets, "deploy/kubernetes")
	_, err = applier.Apply(ctx, filepath.Join(manifests, "crds"), filepath.Join(manifests, "rbac.yaml"), filepath.Join(manifests, "tolerations-policy.yaml"), filepath.Join(manifests, "devices-policy.yaml"))
	return err
}

// Invite creates the Site with plugin, the program kubectl-petiole, and writes the join token to a
// file for the gateway. It does nothing if the file exists.
func (c Cloud) Invite(ctx context.Context, plugin, file string) error {
	switch _, err := os.Stat(file); {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("find the join token: %w", err)
	}
	exists, err := c.siteExists(ctx)
	if err != nil {
		return err
	}
	args := []string{"site", "create", site, "--node", node}
	if exists { // an earlier run was interrupted before the token was written
		args = []string{"site", "rejoin", site}
	}
	cmd := exec.CommandContext(ctx, plugin, append(args, "--print-token", "--ttl", "168h")...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.adminKubeconfig())
	cmd.Stderr = os.Stderr
	token, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("create the join token: %w", err)
	}
	if err := render.Secret(file, token); err != nil {
		return fmt.Errorf("write the join token: %w", err)
	}
	return nil
}

func (c Cloud) siteExists(ctx context.Context) (bool, error) {
	cfg, err := cluster.Config(c.adminKubeconfig())
	if err != nil {
		return false, err
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return false, fmt.Errorf("create client: %w", err)
	}
	_, err = client.Resource(v1alpha1.Sites).Get(ctx, site, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}
