package fabric

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/streams"
)

// TestWebSocketAsDeployed has a leaf of the template reach the WebSocket listener of the template: it
// takes an object and acknowledges it, and what crosses the line is compressed.
func TestWebSocketAsDeployed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w := prepareWorld(t, "plant-a")
	w.hub.WebSocket = porttest.Addr(t)
	run(t, w.writeHub(t))
	hubJS := w.hubJetStream(t, ctx)
	line := natstest.NewLine(t, w.hub.WebSocket)
	conf, listen := filepath.Join(w.dir, "plant-a", "leaf.conf"), porttest.Addr(t)
	must(t, w.templates.WriteLeaf(conf, Leaf{
		Site: "plant-a", Listen: listen, LeafUser: true, Store: filepath.Join(w.dir, "plant-a", "js"),
		URL: "wss://" + line.Addr(), SeedFile: w.keyFile("plant-a-leaf"), CAFile: w.authority.CertFile,
	}))
	run(t, conf)
	password, err := credential.ReadPassword(filepath.Join(UsersDir(conf), UserLeaf+".conf"))
	must(t, err)
	atSite, err := nats.Connect("nats://"+listen, nats.UserInfo(UserLeaf, password))
	must(t, err)
	t.Cleanup(atSite.Close)
	js, err := jetstream.New(atSite)
	must(t, err)
	must(t, streams.Ensure(ctx, js, streams.LeafStreams("plant-a", streams.LeafLimits{})))
	stored, pull := storeDeliveries(t, atSite)
	linked(t, atSite, "plant-a")
	pull()
	before := line.Moved(natstest.Downward)
	const size = 200_000
	putConfigMap(t, ctx, hubJS, "plant-a", "one", fmt.Sprintf("%0*d", size, 0))
	polltest.Eventually(t, "the parts of the object are at the site, and acknowledged", func() bool { return stored() > 0 && pending(t, ctx, hubJS, "plant-a") == 0 })
	moved := line.Moved(natstest.Downward) - before
	t.Logf("MEASURED %d bytes of zeros crossed the line as %d", size, moved)
	if moved > size/2 {
		t.Errorf("%d bytes of zeros crossed the line as %d: not compressed", size, moved)
	}
}
