package compose

import (
	"fmt"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/lab/render"
)

// The services of deploy/compose/compose.yaml, which are the hosts' names.
const (
	hostHub          = "hub"
	hostControlPlane = "controlplane"
	hostBridge       = "bridge"
	hostGateway      = "gateway"
)

// Cloud is the folder of all that the parts in the cloud read. They have it at the same path.
type Cloud struct {
	// Dir is the folder.
	Dir string
	// Assets is the folder that holds deploy/ of the repository.
	Assets string
	// APIPort is the port of the API server.
	APIPort int
	// HubData is the folder of the hub's streams and accounts, which only the hub has.
	HubData string
}

// ControlPlaneDir returns the folder of the control plane's credentials and data.
func (c Cloud) ControlPlaneDir() string { return filepath.Join(c.Dir, "controlplane") }

func (c Cloud) adminKubeconfig() string { return filepath.Join(c.Dir, "admin.kubeconfig") }

func (c Cloud) bridgeKubeconfig() string { return filepath.Join(c.Dir, "bridge", "kubeconfig") }

func (c Cloud) hubDir() string { return filepath.Join(c.Dir, "hub") }

func (c Cloud) operator() fabric.Operator {
	return fabric.Operator(filepath.Join(c.hubDir(), "operator"))
}

// Init creates the credentials of the control plane and the configuration of hub and bridge, and
// keeps keys and certificates that exist.
func (c Cloud) Init() error {
	creds, err := c.credentials()
	if err != nil {
		return err
	}
	caFile, err := c.initHub()
	if err != nil {
		return err
	}
	for from, to := range map[string]string{creds.Admin: c.adminKubeconfig(), creds.Bridge: c.bridgeKubeconfig()} {
		data, err := kubeconfig(from, fmt.Sprintf("https://%s:%d", hostControlPlane, c.APIPort))
		if err != nil {
			return err
		}
		if err := render.Secret(to, data); err != nil {
			return fmt.Errorf("write %s: %w", to, err)
		}
	}
	hub := c.operator()
	return render.File(filepath.Join(c.Assets, "deploy/lab/bridge.yaml.tmpl"), filepath.Join(c.Dir, "bridge", "bridge.yaml"), map[string]string{
		"Kubeconfig": c.bridgeKubeconfig(), "HubURL": "tls://" + hostHub + ":4222", "HubCAFile": caFile,
		"Credentials": hub.File(accounts.BridgeCreds), "AccountsCredentials": hub.File(accounts.AccountsCreds),
		"OperatorKey": hub.File(accounts.SigningKeyFile), "SiteKey": hub.File(accounts.SiteKeyFile),
		"GatewaysURL": "tls://" + hostHub + ":7422", "MetricsListen": ":10442",
		"KubeletsAddress": hostBridge, "KubeletsListen": ":10250",
		"CertFile": creds.Kubelets.CertFile, "KeyFile": creds.Kubelets.KeyFile, "CAFile": creds.CAFile,
	})
}

func (c Cloud) credentials() (cluster.Credentials, error) {
	creds, err := cluster.NewCredentials(c.ControlPlaneDir(), c.APIPort, hostControlPlane, hostBridge)
	if err != nil {
		return creds, fmt.Errorf("create credentials: %w", err)
	}
	return creds, nil
}

// initHub returns the file of the hub's certificate authority.
func (c Cloud) initHub() (string, error) {
	if err := c.operator().Create(filepath.Join(c.HubData, "accounts")); err != nil {
		return "", err
	}
	ca, err := pki.NewAuthority(c.hubDir(), "nats-ca")
	if err != nil {
		return "", err
	}
	cert, err := ca.Issue(c.hubDir(), "hub", pki.Subject{Name: "hub", Hosts: []string{hostHub, "localhost", "127.0.0.1"}})
	if err != nil {
		return "", err
	}
	return ca.CertFile, fabric.RepoTemplates(c.Assets).WriteHub(filepath.Join(c.hubDir(), "hub.conf"), fabric.Hub{
		Operator:     filepath.Join("operator", accounts.OperatorConf),
		MaxFileStore: fabric.SmallHub, MaxBatches: fabric.Batches(fabric.SmallHubSites),
		Listen: "0.0.0.0:4222", ClientTLS: true, Monitor: "127.0.0.1:8222", LeafListen: "0.0.0.0:7422",
		Store: filepath.Join(c.HubData, "jetstream"), CertFile: cert.CertFile, KeyFile: cert.KeyFile,
	})
}

// Kubeconfig returns the administrator's kubeconfig for the API server at the URL server.
func (c Cloud) Kubeconfig(server string) ([]byte, error) {
	creds, err := c.credentials()
	if err != nil {
		return nil, err
	}
	return kubeconfig(creds.Admin, server)
}

// kubeconfig returns a kubeconfig with the server in place of its own.
func kubeconfig(file, server string) ([]byte, error) {
	cfg, err := clientcmd.LoadFromFile(file)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	for _, known := range cfg.Clusters {
		known.Server = server
	}
	data, err := clientcmd.Write(*cfg)
	if err != nil {
		return nil, fmt.Errorf("encode kubeconfig: %w", err)
	}
	return data, nil
}
