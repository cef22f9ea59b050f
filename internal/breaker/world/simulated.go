package world

import (
	"fmt"
	"path/filepath"

	"github.com/petiole-io/petiole/internal/lab/fabric"
)

// SimulatedName returns the name of the simulated site i, from 0.
func SimulatedName(i int) string { return fmt.Sprintf("v%03d", i) }

// SimulatedConfig writes the nats-server configuration of a simulated site's leaf, which
// runs on the host, to dir, and returns its path. Nothing listens.
func (w *World) SimulatedConfig(i int, dir string) (string, error) {
	name := SimulatedName(i)
	conf := filepath.Join(dir, "leaf.conf")
	return conf, fabric.RepoTemplates(w.opts.Root).WriteLeaf(conf, fabric.Leaf{
		Site: name, Store: filepath.Join(dir, "store"), URL: "tls://" + w.hubLeaves(),
		Credentials: w.gatewayCreds(name), CAFile: w.natsCA.CertFile,
	})
}

// CutSimulated answers everything between the simulated sites and the hub with a TCP
// reset, until HealSimulated.
func (w *World) CutSimulated() error {
	l := w.simulatedLink()
	rule := fmt.Sprintf("tcp dport %d reject with tcp reset", hubLeafPort)
	return l.filter(rule, rule)
}

// HealSimulated ends a CutSimulated.
func (w *World) HealSimulated() error { return w.simulatedLink().DeleteFilter() }

// simulatedLink returns a Link for the host's own connections to the hub.
func (w *World) simulatedLink() *Link { return &Link{net: w.net, address: w.net.Address()} }
