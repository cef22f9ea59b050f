package controlplane

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"github.com/petiole-io/petiole/internal/lab/cluster"
)

func (c *ControlPlane) runAPIServer(ctx context.Context) error {
	opts := options.NewServerRunOptions()
	err := parse(opts.Flags(), map[string]string{
		"bind-address": cmp.Or(c.cfg.BindAddress, "127.0.0.1"), "secure-port": strconv.Itoa(c.cfg.APIPort),
		"advertise-address":             c.cfg.AdvertiseAddress,
		"etcd-servers":                  c.etcdURL(),
		"tls-cert-file":                 c.creds.Server.CertFile,
		"tls-private-key-file":          c.creds.Server.KeyFile,
		"client-ca-file":                c.creds.CAFile,
		"kubelet-certificate-authority": c.creds.CAFile,
		"kubelet-client-certificate":    c.creds.KubeletClient.CertFile,
		"kubelet-client-key":            c.creds.KubeletClient.KeyFile,
		// For the API servers behind an APIService, such as a metrics-server.
		"proxy-client-cert-file":             c.creds.FrontProxy.CertFile,
		"proxy-client-key-file":              c.creds.FrontProxy.KeyFile,
		"requestheader-client-ca-file":       c.creds.FrontProxyCAFile,
		"requestheader-allowed-names":        cluster.FrontProxyName,
		"requestheader-username-headers":     "X-Remote-User",
		"requestheader-group-headers":        "X-Remote-Group",
		"requestheader-extra-headers-prefix": "X-Remote-Extra-",
		"service-cluster-ip-range":           cluster.ServiceCIDR,
		"service-account-issuer":             "https://kubernetes.default.svc",
		"service-account-key-file":           c.creds.SigningKey,
		"service-account-signing-key-file":   c.creds.SigningKey,
		"authorization-mode":                 "Node,RBAC",
		"enable-admission-plugins":           "NodeRestriction",
		"anonymous-auth":                     "false",
		"allow-privileged":                   "true", // as kubeadm's
	})
	if err != nil {
		return err
	}
	completed, err := opts.Complete(ctx)
	if err != nil {
		return err
	}
	if errs := completed.Validate(); len(errs) > 0 {
		return utilerrors.NewAggregate(errs)
	}
	return app.Run(ctx, completed)
}

// awaitHealthy blocks until the API server of cfg is ready.
func awaitHealthy(ctx context.Context, cfg *rest.Config) error {
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return err
	}
	return wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, cfg.Host+"/readyz", nil)
		if err != nil {
			return false, err
		}
		answer, err := client.Do(req)
		if err != nil {
			return false, nil // not listening yet
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK, nil
	})
}

// parse sets the options behind a component's flags.
func parse(sets cliflag.NamedFlagSets, flags map[string]string) error {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, s := range sets.FlagSets {
		all.AddFlagSet(s)
	}
	for name, value := range flags {
		if err := all.Set(name, value); err != nil {
			return fmt.Errorf("set --%s=%s: %w", name, value, err)
		}
	}
	return nil
}
