package cluster

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/petiole-io/petiole/internal/lab/pki"
)

// ServiceIP is the address of default/kubernetes, the first of ServiceCIDR.
const (
	ServiceCIDR = "10.96.0.0/16"
	ServiceIP   = "10.96.0.1"
)

// KubeletsAddress is where the API server reaches the kubelets of the sites: the bridge. No site has
// a route to it, and it is not a loopback address, to which the API server proxies nothing.
const KubeletsAddress = "10.98.255.1"

// Credentials are the files of the control plane's identities.
type Credentials struct {
	CAFile    string
	CAKeyFile string
	Server    pki.Pair
	// Kubelets is the serving certificate of the kubelet API, KubeletClient the API server's
	// certificate as its client.
	Kubelets, KubeletClient pki.Pair
	// FrontProxyCAFile is the authority of FrontProxy, the API server's certificate as the client of
	// the API servers that it aggregates. It signs nothing else: who has a certificate of it can act
	// as everybody there.
	FrontProxyCAFile string
	FrontProxy       pki.Pair
	SigningKey       string
	// Kubeconfigs of the administrator and of the components.
	Admin, Scheduler, ControllerManager, Bridge string
}

// BridgeUser is the bridge's name at the API server: that of the service account it
// has inside a cluster, so that the same RBAC binds both.
const BridgeUser = "system:serviceaccount:petiole-system:bridge"

// FrontProxyName is the name in the API server's certificate as the client of the API servers that
// it aggregates.
const FrontProxyName = "front-proxy-client"

// NewCredentials creates in dir the missing credentials for the API server at
// 127.0.0.1:port, and keeps the rest. The certificates of the API server and of the kubelet API are
// also for hosts.
func NewCredentials(dir string, port int, hosts ...string) (Credentials, error) {
	ca, err := pki.NewAuthority(dir, "kubernetes-ca")
	if err != nil {
		return Credentials{}, err
	}
	c := Credentials{CAFile: ca.CertFile, CAKeyFile: ca.KeyFile}
	c.Server, err = ca.Issue(dir, "kube-apiserver", pki.Subject{Name: "kube-apiserver", Hosts: append([]string{
		"127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", ServiceIP,
	}, hosts...)})
	if err != nil {
		return Credentials{}, err
	}
	c.Kubelets, err = ca.Issue(dir, "kubelets", pki.Subject{Name: "petiole-bridge", Hosts: append([]string{KubeletsAddress}, hosts...)})
	if err != nil {
		return Credentials{}, err
	}
	c.KubeletClient, err = ca.Issue(dir, "kubelet-client", pki.Subject{Name: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}})
	if err != nil {
		return Credentials{}, err
	}
	frontProxyCA, err := pki.NewAuthority(dir, "front-proxy-ca")
	if err != nil {
		return Credentials{}, err
	}
	c.FrontProxyCAFile = frontProxyCA.CertFile
	if c.FrontProxy, err = frontProxyCA.Issue(dir, "front-proxy-client", pki.Subject{Name: FrontProxyName}); err != nil {
		return Credentials{}, err
	}
	if c.SigningKey, err = pki.SigningKey(dir, "service-accounts"); err != nil {
		return Credentials{}, err
	}
	url := fmt.Sprintf("https://127.0.0.1:%d", port)
	for _, u := range []struct {
		path    *string
		file    string
		subject pki.Subject
	}{
		{&c.Admin, "admin", pki.Subject{Name: "lab-admin", Groups: []string{"system:masters"}}},
		{&c.Scheduler, "scheduler", pki.Subject{Name: "system:kube-scheduler"}},
		{&c.ControllerManager, "controller-manager", pki.Subject{Name: "system:kube-controller-manager"}},
		{&c.Bridge, "bridge", pki.Subject{Name: BridgeUser, Groups: []string{
			"system:serviceaccounts", "system:serviceaccounts:petiole-system",
		}}},
	} {
		pair, err := ca.Issue(dir, u.file, u.subject)
		if err != nil {
			return Credentials{}, err
		}
		*u.path = filepath.Join(dir, u.file+".kubeconfig")
		if err := writeKubeconfig(*u.path, url, u.subject.Name, ca.CertFile, pair); err != nil {
			return Credentials{}, err
		}
	}
	return c, nil
}

// writeKubeconfig embeds the certificates, so that the file can be copied.
func writeKubeconfig(path, url, user, caFile string, pair pki.Pair) error {
	var data [3][]byte
	for i, f := range []string{caFile, pair.CertFile, pair.KeyFile} {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("write kubeconfig %s: %w", path, err)
		}
		data[i] = b
	}
	const name = "petiole-lab"
	cfg := api.NewConfig()
	cfg.Clusters[name] = &api.Cluster{Server: url, CertificateAuthorityData: data[0]}
	cfg.AuthInfos[user] = &api.AuthInfo{ClientCertificateData: data[1], ClientKeyData: data[2]}
	cfg.Contexts[name] = &api.Context{Cluster: name, AuthInfo: user}
	cfg.CurrentContext = name
	if err := clientcmd.WriteToFile(*cfg, path); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	return nil
}
