package fabric

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/petiole-io/petiole/internal/lab/render"
	"github.com/petiole-io/petiole/leaf/credential"
)

// Templates are the configuration templates of deploy/, by their paths.
type Templates struct{ Hub, Leaf string }

// RepoTemplates are the templates in the repository at root.
func RepoTemplates(root string) Templates {
	return Templates{
		Hub:  filepath.Join(root, "deploy/nats/hub.conf.tmpl"),
		Leaf: filepath.Join(root, "deploy/leaf/leaf.conf.tmpl"),
	}
}

// Hub holds the values of the hub's configuration. Addresses are host:port; keys are public
// nkeys.
type Hub struct {
	Listen, Monitor, LeafListen string
	// WebSocket is where leaves connect by wss://; empty: nowhere.
	WebSocket                string
	Store, CertFile, KeyFile string
	// ClientTLS has Listen speak TLS only, with the certificate that LeafListen has.
	ClientTLS bool
	// Operator is the file that `bridge hub init` creates, relative to the configuration; the rest
	// is not used then.
	Operator string
	// System is a user of the system account.
	Bridge, Admin, System string
	// MaxFileStore is what streams may take of the disk, such as "4GB"; MaxBatches is Batches of the
	// number of sites.
	MaxFileStore string
	MaxBatches   int
	Sites        []Site
}

// The bounds of a hub with a disk of 4 GB and the bridge's default limits.
const (
	SmallHub      = "3GB"
	SmallHubSites = 100
)

// batchesPerStream is max_inflight_per_stream of the hub's configuration.
const batchesPerStream = 16

// Batches returns the number of atomic batches that a hub has to have open at the same time: as
// many as its streams may have, two for each site and DESIRED.
func Batches(sites int) int { return batchesPerStream * (2*sites + 1) }

// Site is one site's account at the hub.
type Site struct {
	Name string
	// Leaf may connect as a leaf node only, Operator as a client.
	Leaf, Operator string
}

// The users of a leaf's configuration.
const (
	// UserOperator authenticates by nkey and looks only.
	UserOperator = "operator"
	// UserApplication authenticates by password, over NATS and MQTT.
	UserApplication = "application"
	// UserLeaf authenticates by password and may do what the leaf may.
	UserLeaf = "leaf"
)

// Leaf holds the values of a leaf's configuration.
type Leaf struct {
	Site, Store string
	// Listen and MQTT are where the server listens for NATS clients and for MQTT; empty:
	// nowhere, if the server is embedded.
	Listen, MQTT string
	// LeafUser creates UserLeaf, which a leaf needs whose server is not embedded.
	LeafUser bool
	// URL is the hub's leaf listener, for example "tls://10.98.0.1:7422".
	URL string
	// Credentials is the path of the gateway's credentials at a hub in operator mode; otherwise
	// SeedFile holds the seed of the site's leaf user. CAFile is the hub's authority; empty: one
	// that the system knows.
	Credentials, SeedFile, CAFile string
	// ProxyFile, beside the configuration, has the HTTP proxy on the way; empty: none.
	ProxyFile string
}

// WriteHub renders the hub's configuration to path.
func (t Templates) WriteHub(path string, h Hub) error { return render.File(t.Hub, path, h) }

// UsersDir is the folder beside a leaf's configuration that holds its users' credentials,
// as package credential creates them.
func UsersDir(conf string) string { return filepath.Join(filepath.Dir(conf), "users") }

// WriteLeaf renders a leaf's configuration to path. A seed is copied beside it, in
// the form that the configuration includes, and its users get credentials.
func (t Templates) WriteLeaf(path string, l Leaf) error {
	if l.Credentials == "" {
		if err := includeSeed(path, &l); err != nil {
			return err
		}
	}
	if err := writeUsers(UsersDir(path), l); err != nil {
		return err
	}
	return render.File(t.Leaf, path, l)
}

// includeSeed copies the seed beside the configuration at path.
func includeSeed(path string, l *Leaf) error {
	seed, err := os.ReadFile(l.SeedFile)
	if err != nil {
		return fmt.Errorf("read seed of the leaf: %w", err)
	}
	const include = "link.key"
	line := "nkey: " + strings.TrimSpace(string(seed)) + "\n"
	if err := render.Secret(filepath.Join(filepath.Dir(path), include), []byte(line)); err != nil {
		return fmt.Errorf("write seed of the leaf: %w", err)
	}
	l.SeedFile = include
	return nil
}

// writeUsers creates the credentials of the users that l has.
func writeUsers(dir string, l Leaf) error {
	if l.LeafUser {
		if err := credential.PasswordUser(dir, UserLeaf); err != nil {
			return err
		}
	}
	if l.Listen == "" && l.MQTT == "" {
		return nil
	}
	if err := credential.KeyUser(dir, UserOperator); err != nil {
		return err
	}
	return credential.PasswordUser(dir, UserApplication)
}
