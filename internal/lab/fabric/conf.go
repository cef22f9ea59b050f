package fabric

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/petiole-io/petiole/internal/lab/render"
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

// Hub is what the hub's configuration says. Addresses are host:port; keys are public
// nkeys.
type Hub struct {
	Listen, Monitor, LeafListen string
	Store, CertFile, KeyFile    string
	Bridge, Admin               string
	Sites                       []Site
}

// Site is one site's account at the hub.
type Site struct {
	Name string
	// Leaf may connect as a leaf node only, Operator as a client.
	Leaf, Operator string
}

// Leaf is what a leaf's configuration says.
type Leaf struct {
	Site, Listen, Store string
	// MQTT is where the leaf listens for MQTT; empty: nowhere.
	MQTT string
	// URL is the hub's leaf listener, for example "tls://10.98.0.1:7422".
	URL string
	// SeedFile holds the seed of the site's leaf user, CAFile the hub's authority.
	SeedFile, CAFile string
}

// WriteHub renders the hub's configuration to path.
func (t Templates) WriteHub(path string, h Hub) error { return render.File(t.Hub, path, h) }

// WriteLeaf renders a leaf's configuration to path. The seed is copied beside it, in
// the form that the configuration includes.
func (t Templates) WriteLeaf(path string, l Leaf) error {
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
	return render.File(t.Leaf, path, l)
}
