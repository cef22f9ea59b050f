package fabric

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
)

// hubProcess is a nats-server of its own that runs from the deployed configuration, and the
// nats command of a person who holds the system account's key.
type hubProcess struct {
	*world
	server string // its id
	system *nats.Conn
	log    string // path
}

// startHub builds a stock nats-server and runs the world's hub with it.
func (w *world) startHub(t *testing.T) *hubProcess {
	t.Helper()
	h := &hubProcess{world: w, log: filepath.Join(w.dir, "hub.log")}
	bin := filepath.Join(w.dir, "nats-server")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("build nats-server: %v: %s", err, out)
	}
	log, err := os.Create(h.log)
	must(t, err)
	cmd := exec.Command(bin, "-c", w.writeHub(t))
	cmd.Stderr = log
	must(t, cmd.Start())
	t.Cleanup(func() {
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
		must(t, log.Close())
	})
	polltest.Eventually(t, "the hub answers", func() bool {
		nc, err := nats.Connect(w.url, w.seed(t, "system"))
		if err == nil {
			h.system, h.server = nc, nc.ConnectedServerId()
		}
		return err == nil
	})
	t.Cleanup(h.system.Close)
	return h
}

// ask sends a request to the hub's system account, as `nats server …` does.
func (h *hubProcess) ask(t *testing.T, what, body string) []byte {
	t.Helper()
	m, err := h.system.Request("$SYS.REQ.SERVER."+h.server+"."+what, []byte(body), 10*time.Second)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	var answer struct {
		Error *struct{ Description string }
		Data  json.RawMessage
	}
	must(t, json.Unmarshal(m.Data, &answer))
	if answer.Error != nil {
		t.Fatalf("%s: %s", what, answer.Error.Description)
	}
	return answer.Data
}

// leaves are the ids of the leaf connections by account.
func (h *hubProcess) leaves(t *testing.T) map[string][]uint64 {
	t.Helper()
	var z struct {
		Leafs []struct {
			ID      uint64
			Account string
		}
	}
	must(t, json.Unmarshal(h.ask(t, "LEAFZ", ""), &z))
	out := map[string][]uint64{}
	for _, l := range z.Leafs {
		out[l.Account] = append(out[l.Account], l.ID)
	}
	return out
}

// refusals counts the connections that the hub has refused.
func (h *hubProcess) refusals(t *testing.T) int {
	t.Helper()
	log, err := os.ReadFile(h.log)
	must(t, err)
	return bytes.Count(log, []byte("authentication error"))
}

// TestHubTakesClientsOverTLS connects as deploy/kubernetes/bridge.yaml does, and without TLS.
func TestHubTakesClientsOverTLS(t *testing.T) {
	w := prepareWorld(t, "plant-a")
	w.hub.ClientTLS, w.url = true, "tls://"+w.hub.Listen
	run(t, w.writeHub(t))
	if _, err := w.connect(t, "bridge").TLSConnectionState(); err != nil {
		t.Errorf("the bridge's connection: %v", err)
	}
	if nc, err := nats.Connect("nats://"+w.hub.Listen, w.seed(t, "bridge")); err == nil {
		nc.Close()
		t.Error("a client connects without the hub's authority")
	}
}

// TestSilentConnectionsAreClosed opens connections that say nothing: the hub closes them, and
// accepts others meanwhile.
func TestSilentConnectionsAreClosed(t *testing.T) {
	const connections = 300
	w := prepareWorld(t, "plant-a")
	w.hub.ClientTLS, w.url = true, "tls://"+w.hub.Listen
	conf := w.writeHub(t)
	// Gateways on slow lines have 20 s for their handshake; this test has not.
	data, err := os.ReadFile(conf)
	must(t, err)
	if !bytes.Contains(data, []byte("timeout: 20")) {
		t.Fatal("the hub's configuration does not bound the handshakes of gateways by 20 s")
	}
	must(t, os.WriteFile(conf, bytes.ReplaceAll(data, []byte("timeout: 20"), []byte("timeout: 2")), 0o600))
	run(t, conf)
	for name, addr := range map[string]string{"clients": w.hub.Listen, "leaf nodes": w.hub.LeafListen} {
		began := time.Now()
		silent := make([]net.Conn, connections)
		for i := range silent {
			c, err := net.Dial("tcp", addr)
			must(t, err)
			t.Cleanup(func() { _ = c.Close() })
			must(t, c.SetReadDeadline(began.Add(polltest.Limit)))
			silent[i] = c
		}
		w.connect(t, "bridge").Close()
		t.Logf("%s: %d connections open and another one accepted after %v", name, connections, time.Since(began).Round(time.Millisecond))
		for i, c := range silent {
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%s: connection %d is open after %v", name, i, time.Since(began))
			}
		}
		t.Logf("%s: all closed after %v", name, time.Since(began).Round(time.Millisecond))
	}
}

// TestANewSiteIsTwoReloads adds a site as docs/install.md says: edit, reload, reload again.
func TestANewSiteIsTwoReloads(t *testing.T) {
	h := prepareWorld(t, "plant-a").startHub(t)
	ctx := t.Context()
	bridge := h.connect(t, "bridge")
	_, err := bridge.Subscribe("request.*.*", func(m *nats.Msg) { must(t, m.Respond([]byte("heard"))) })
	must(t, err)
	flush(t, bridge)

	h.addSite(t, "plant-b")
	h.writeHub(t)
	h.ask(t, "RELOAD", "")
	h.ask(t, "RELOAD", "")
	h.hubJetStream(t, ctx)
	atSite := h.startLeaf(t, ctx, "plant-b", h.hub.LeafListen)
	polltest.Eventually(t, "the new site is connected", func() bool { return len(h.leaves(t)["plant-b"]) == 1 })
	polltest.Eventually(t, "the bridge answers the new site", func() bool {
		m, err := atSite.Request("request.plant-b.position", nil, time.Second)
		return err == nil && string(m.Data) == "heard"
	})
	_, err = atSite.Subscribe("command.plant-b.*.*", func(m *nats.Msg) { must(t, m.Respond([]byte("done"))) })
	must(t, err)
	flush(t, atSite)
	polltest.Eventually(t, "a command reaches the new site", func() bool {
		m, err := bridge.Request("command.plant-b.default.pump", nil, time.Second)
		return err == nil && string(m.Data) == "done"
	})
}

// TestRevokedSiteIsGone revokes a site as docs/install.md says: take its gateway's user
// out, reload, end its connection. It is gone within 10 s and stays out, and what it had is
// of no use to it as a client either.
func TestRevokedSiteIsGone(t *testing.T) {
	h := prepareWorld(t, "plant-a", "plant-b").startHub(t)
	ctx := t.Context()
	h.hubJetStream(t, ctx)
	line := natstest.NewLine(t, h.hub.LeafListen)
	atSite := h.startLeaf(t, ctx, "plant-b", line.Addr())
	h.startLeaf(t, ctx, "plant-a", h.hub.LeafListen)
	polltest.Eventually(t, "both sites are connected", func() bool { return len(h.leaves(t)) == 2 })
	bridge := h.connect(t, "bridge")
	heard, err := bridge.SubscribeSync("presence.plant-b")
	must(t, err)
	flush(t, bridge)
	presence := func(text string) bool {
		must(t, atSite.Publish("presence.plant-b", []byte(text)))
		m, err := heard.NextMsg(300 * time.Millisecond)
		return err == nil && string(m.Data) == text
	}
	polltest.Eventually(t, "the hub hears the site", func() bool { return presence("before") })

	start := time.Now()
	conf := filepath.Join(h.dir, "hub.conf")
	data, err := os.ReadFile(conf)
	must(t, err)
	lines := strings.Split(string(data), "\n")
	gateway := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, h.key(t, "plant-b-leaf")) })
	must(t, os.WriteFile(conf, []byte(strings.Join(slices.Delete(lines, gateway, gateway+1), "\n")), 0o600))
	h.ask(t, "RELOAD", "")
	ids := h.leaves(t)["plant-b"]
	t.Logf("after the reload plant-b has %d connections", len(ids))
	for _, id := range ids {
		h.ask(t, "KICK", fmt.Sprintf(`{"cid":%d}`, id))
	}
	before := h.refusals(t)
	polltest.Eventually(t, "the revoked site has no connection", func() bool { return len(h.leaves(t)["plant-b"]) == 0 })
	took := time.Since(start)
	t.Logf("MEASURED revoked → gone: %s", took.Round(time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("the revoked site is gone after %s, want 10 s at most", took)
	}
	polltest.Eventually(t, "it has tried three times to come back", func() bool {
		if len(h.leaves(t)["plant-b"]) != 0 {
			t.Fatal("the revoked site is back")
		}
		return h.refusals(t) >= before+3
	})
	// Whatever the site publishes has had another attempt to get through.
	must(t, atSite.Publish("presence.plant-b", []byte("after")))
	flush(t, atSite)
	refusals := h.refusals(t)
	polltest.Eventually(t, "it has tried once more", func() bool { return h.refusals(t) > refusals })
	flush(t, bridge)
	if received(t, heard, "after") {
		t.Error("the hub hears the revoked site")
	}
	if len(h.leaves(t)["plant-a"]) != 1 {
		t.Error("the other site has lost its connection")
	}
}
