package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/streams"
)

// TestSitesAreIsolated holds the credentials of plant-b, its operator's and those of
// its gateway as a thief would have them, and tries to read and write plant-a.
func TestSitesAreIsolated(t *testing.T) {
	victim, thief := lab.Sites[0], lab.Sites[1]
	for name, nc := range map[string]*nats.Conn{
		"operator's credentials":        thief.Operator,
		"gateway's credentials, stolen": stolenGateway(t, thief),
	} {
		t.Run(name, func(t *testing.T) {
			// The other tests give the answers time to arrive.
			answers := sendForeignRequests(t, nc, victim)
			t.Run("writes nothing", func(t *testing.T) { testForeignWrites(t, nc, victim, thief) })
			t.Run("gets no token of a foreign node", func(t *testing.T) { testForeignToken(t, nc, victim, thief) })
			t.Run("hears nothing", func(t *testing.T) { testForeignReads(t, nc, victim, thief) })
			t.Run("speaks for no foreign node", func(t *testing.T) { testForeignNode(t, nc, victim, thief) })
			t.Run("gets no answer", func(t *testing.T) { testForeignAnswers(t, nc, answers, victim, thief) })
		})
	}
	t.Run("the gateway's credentials are no client's", func(t *testing.T) {
		seed, err := nats.NkeyOptionFromSeed(lab.SeedFile(thief.Name + "-leaf"))
		must(t, err)
		if nc, err := nats.Connect(lab.Admin.ConnectedUrl(), seed); err == nil {
			nc.Close()
			t.Error("a gateway's credentials connect as a client")
		}
	})
}

// stolenGateway runs a leaf node of our own with the credentials of the site's gateway,
// and returns a client of it.
func stolenGateway(t *testing.T, thief *rig.Site) *nats.Conn {
	t.Helper()
	seed, err := os.ReadFile(lab.SeedFile(thief.Name + "-leaf"))
	must(t, err)
	conf := filepath.Join(t.TempDir(), "leaf.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `
server_name: stolen
listen: "127.0.0.1:-1"
leafnodes { remotes: [ { url: "tls://%s", nkey: "%s", tls { ca_file: "%s" } } ] }
`, lab.HubLeafAddr, strings.TrimSpace(string(seed)), lab.HubCAFile()), 0o600))
	opts, err := server.ProcessConfigFile(conf)
	must(t, err)
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	must(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	// Without that connection the test would prove nothing.
	eventually(t, 15*time.Second, "the stolen gateway is connected", func(context.Context) error {
		if s.NumLeafNodes() == 0 {
			return errors.New("it is not")
		}
		return nil
	})
	nc, err := nats.Connect(s.ClientURL())
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// testForeignWrites publishes on each of the victim's subjects. Whoever would hear it,
// the hub's account, the victim's account or the victim's own site, hears only the
// proof that comes behind.
func testForeignWrites(t *testing.T, nc *nats.Conn, victim, thief *rig.Site) {
	nonce := nats.NewInbox()
	var subs []*nats.Subscription
	for _, listener := range []*nats.Conn{lab.Admin, victim.Operator} {
		sub, err := listener.SubscribeSync(">")
		must(t, err)
		t.Cleanup(func() { unsubscribe(t, sub) })
		must(t, listener.Flush())
		subs = append(subs, sub)
	}
	pod := streams.Ref{Node: victim.Node, Resource: "pods", Namespace: "default", Name: "forged"}
	for _, subject := range []string{
		streams.DesiredSubject(victim.Name, pod), streams.ReportedSubject(victim.Name, pod),
		streams.TelemetrySubject(victim.Name, "sample", "default", "forged"),
		streams.PresenceSubject(victim.Name), streams.SyncSubject(victim.Name), streams.RequestSubject(victim.Name, streams.RequestToken),
		"quarantine.forged", "$JS.FC.DESIRED." + victim.Name + ".forged", "$JS.ACK.DESIRED." + victim.Name + ".1.1.1.1.1",
		"$JS.ACK.hub._.DESIRED." + victim.Name + ".1.1.1.1.1",
		streams.StoredPrefix + "." + streams.ReportedSubject(thief.Name, pod), streams.StoredPrefix + "." + streams.ReportedSubject(victim.Name, pod),
	} {
		must(t, nc.Publish(subject, []byte(nonce)))
	}
	// An allowed message follows on the same connection.
	proof := streams.TelemetrySubject(thief.Name, "probe", "e2e")
	must(t, nc.Publish(proof, []byte(nonce)))
	deadline := time.Now().Add(10 * time.Second)
	for heard := false; !heard; {
		msg, err := subs[0].NextMsg(time.Until(deadline))
		if err != nil {
			t.Fatalf("what the site may publish does not arrive: %v", err)
		}
		if string(msg.Data) != nonce {
			continue
		}
		if heard = msg.Subject == proof; !heard {
			t.Errorf("%s of plant-b's making reaches the hub's account", msg.Subject)
		}
	}
	// The hub has routed the proof, and everything before it; it sends that before the answer to
	// the flush.
	must(t, victim.Operator.Flush())
	for _, msg := range received(t, subs[1]) {
		if string(msg.Data) == nonce {
			t.Errorf("%s of plant-b's making reaches the account of %s", msg.Subject, victim.Name)
		}
	}
}

// noResponders is the status of a message that the server sends when nobody may answer.
const noResponders = "503"

// received returns the messages of a subscription that have arrived.
func received(t *testing.T, sub *nats.Subscription) (all []*nats.Msg) {
	t.Helper()
	for {
		n, _, err := sub.Pending()
		must(t, err)
		if n == 0 {
			return all
		}
		msg, err := sub.NextMsg(time.Second)
		must(t, err)
		all = append(all, msg)
	}
}

// foreignAnswers are the answers to requests for data of the victim or of the hub.
type foreignAnswers struct {
	messages chan *nats.Msg
	subjects map[string]string // inbox of the answer → subject of the request
}

// sendForeignRequests sends requests for data of the victim or of the hub and returns without
// waiting for answers.
func sendForeignRequests(t *testing.T, nc *nats.Conn, victim *rig.Site) foreignAnswers {
	t.Helper()
	v, inbox := victim.Name, nc.NewInbox()
	a := foreignAnswers{messages: make(chan *nats.Msg, 1000), subjects: map[string]string{}}
	sub, err := nc.ChanSubscribe(inbox+".*", a.messages)
	must(t, err)
	t.Cleanup(func() { unsubscribe(t, sub) })
	for subject, body := range map[string]string{
		"$JS.API.INFO": "", "$JS.API.STREAM.NAMES": "", "$JS.API.STREAM.INFO.DESIRED": "",
		"$JS.hub.API.STREAM.INFO.DESIRED":                           "",
		"$JS.API.STREAM.MSG.GET.DESIRED":                            `{"last_by_subj":"desired.` + v + `.>"}`,
		"$JS.hub.API.STREAM.MSG.GET.DESIRED":                        `{"last_by_subj":"desired.` + v + `.>"}`,
		"$JS.API.DIRECT.GET.DESIRED":                                `{"last_by_subj":"desired.` + v + `.>"}`,
		"$JS.hub.API.DIRECT.GET.DESIRED":                            `{"last_by_subj":"desired.` + v + `.>"}`,
		"$JS.API.CONSUMER.INFO.DESIRED." + v:                        "",
		"$JS.API.CONSUMER.RESET.DESIRED." + v:                       `{"seq":1}`,
		"$JS.FABRIC.API.CONSUMER.RESET.DESIRED." + v:                `{"seq":1}`,
		"$JS.hub.API.CONSUMER.RESET.DESIRED." + v:                   `{"seq":1}`,
		"$JS.API.CONSUMER.MSG.NEXT.DESIRED." + v:                    "1",
		"$JS.FABRIC.API.CONSUMER.MSG.NEXT.DESIRED." + v:             "1",
		"$JS.API.CONSUMER.CREATE.DESIRED.thief.desired." + v + ".>": `{"stream_name":"DESIRED","config":{"name":"thief","deliver_subject":"thief"}}`,
		"$JS.hub.API.CONSUMER.DELETE.DESIRED." + v:                  "",
		"$JS." + v + ".API.STREAM.INFO." + streams.SiteDesired:      "",
		"$JS." + v + ".API.STREAM.MSG.GET." + streams.SiteDesired:   `{"seq":1}`,
		"$JS." + v + ".API.STREAM.PURGE." + streams.SiteDesired:     "",
		streams.RequestSubject(v, streams.RequestToken):             `{}`,
		"$SYS.REQ.SERVER.PING":                                      "",
		"$SYS.REQ.ACCOUNT." + v + ".CONNZ":                          "",
		"$JS.API.STREAM.DELETE.DESIRED":                             "",
		"$JS.hub.API.STREAM.DELETE.DESIRED":                         "",
		"$JS.API.STREAM.SNAPSHOT.DESIRED":                           `{"deliver_subject":"thief"}`,
		"$JS.API.STREAM.MSG.GET." + streams.Reported(v):             `{"seq":1}`,
		"$JS.API.DIRECT.GET." + streams.Reported(v):                 `{"last_by_subj":"reported.` + v + `.>"}`,
		"$JS.API.DIRECT.GET." + streams.Telemetry(v):                `{"last_by_subj":"telemetry.` + v + `.>"}`,
		"$JS.API.STREAM.PURGE." + streams.Reported(v):               "",
		"$JS.hub.API.STREAM.PURGE." + streams.Telemetry(v):          "",
		"$JS.API.STREAM.DELETE." + streams.Reported(v):              "",
		"$JS.hub.API.STREAM.DELETE." + streams.Telemetry(v):         "",
	} {
		reply := fmt.Sprintf("%s.%d", inbox, len(a.subjects))
		a.subjects[reply] = subject
		must(t, nc.PublishRequest(subject, reply, []byte(body)))
	}
	return a
}

// testForeignAnswers fails if a request of sendForeignRequests was answered other than by an
// error. A request of the thief's own comes after them on the same connection and is answered.
func testForeignAnswers(t *testing.T, nc *nats.Conn, a foreignAnswers, victim, thief *rig.Site) {
	requestToken(t, nc, thief, thief.Node)
	must(t, nc.Flush())
	for len(a.messages) > 0 {
		answer := <-a.messages
		var refused struct {
			Error any `json:"error"`
		}
		if answer.Header.Get("Status") != noResponders && (json.Unmarshal(answer.Data, &refused) != nil || refused.Error == nil) {
			t.Errorf("%s is answered: %.300s", a.subjects[answer.Subject], answer.Data)
		}
	}
	if _, err := victim.Consumer(t.Context()); err != nil {
		t.Errorf("after the attempts: %v", err)
	}
}

// testForeignToken requests a token for the victim's node on the thief's own subject.
func testForeignToken(t *testing.T, nc *nats.Conn, victim, thief *rig.Site) {
	if token := requestToken(t, nc, thief, victim.Node); token.TokenRequest != nil || token.Status == nil {
		t.Errorf("%s gets a token in the name of %s: %+v", thief.Name, victim.Node, token)
	}
}

// requestToken requests a service account token of a node on a site's own subject and returns
// the bridge's answer.
func requestToken(t *testing.T, nc *nats.Conn, site *rig.Site, node string) (token streams.TokenAnswer) {
	t.Helper()
	query, err := json.Marshal(streams.TokenQuery{Node: node, Namespace: "default", ServiceAccount: "default"})
	must(t, err)
	answer, err := nc.Request(streams.RequestSubject(site.Name, streams.RequestToken), query, 30*time.Second)
	if err != nil {
		t.Fatalf("the bridge does not answer %s: %v", site.Name, err)
	}
	must(t, json.Unmarshal(answer.Data, &token))
	return token
}

// testForeignReads listens with every filter that could match while the victim's
// objects, states and heartbeats pass by.
func testForeignReads(t *testing.T, nc *nats.Conn, victim, thief *rig.Site) {
	nonce := nats.NewInbox()
	v := victim.Name
	var subs []*nats.Subscription
	for _, filter := range []string{
		">", "desired." + v + ".>", "reported." + v + ".>", "telemetry." + v + ".>", "sync." + v, "presence." + v, "request." + v + ".>",
		"$JS.FC.>", "$JS.ACK.>", "_INBOX.>", "_INBOX_" + v + ".>",
	} {
		sub, err := nc.SubscribeSync(filter)
		must(t, err)
		t.Cleanup(func() { unsubscribe(t, sub) })
		subs = append(subs, sub)
	}
	must(t, nc.Flush())
	heard, err := lab.Admin.SubscribeSync(">")
	must(t, err)
	t.Cleanup(func() { unsubscribe(t, heard) })
	must(t, lab.Admin.Flush())

	ns := newNamespace(t, "overheard")
	configMap(t, ns, settingsName, map[string]string{"nonce": nonce})
	pod := sleeperPod(victim, "overheard", true)
	pod.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: settingsName}}}}
	_, err = lab.Kube.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})
	must(t, err)
	eventually(t, time.Minute, "the victim's pod is Ready", allReady(ns, "", 1))

	// That the hub's account hears it all shows that there was something to hear.
	seen := map[string]bool{}
	for deadline := time.Now().Add(30 * time.Second); len(seen) < 3; {
		msg, err := heard.NextMsg(time.Until(deadline))
		if err != nil {
			t.Fatalf("in the hub's account there is only %v: %v", seen, err)
		}
		switch {
		case strings.HasPrefix(msg.Subject, "desired."+v+".") && strings.Contains(string(msg.Data), nonce):
			seen["desired"] = true
		case strings.HasPrefix(msg.Subject, "reported."+v+"."):
			seen["reported"] = true
		case msg.Subject == "presence."+v:
			seen["presence"] = true
		}
	}
	// An answer comes over the same link behind all that the hub has sent.
	requestToken(t, nc, thief, thief.Node)
	must(t, nc.Flush())
	for _, sub := range subs {
		for _, msg := range received(t, sub) {
			if strings.Contains(msg.Subject, v) || strings.Contains(string(msg.Data), nonce) {
				t.Errorf("with filter %s it hears %s: %.200s", sub.Subject, msg.Subject, msg.Data)
			}
		}
	}
}

// testForeignNode reports, on the thief's own subjects, a state of the victim's node
// and pod: the bridge must not write it.
func testForeignNode(t *testing.T, nc *nats.Conn, victim, thief *rig.Site) {
	const forged = "forged-by-another-site"
	node, err := lab.Kube.CoreV1().Nodes().Get(t.Context(), victim.Node, metav1.GetOptions{})
	must(t, err)
	node.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
	node.Labels["e2e.petiole.dev/forged"] = forged
	node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{Type: forged, Status: corev1.ConditionTrue})
	body, err := json.Marshal(node)
	must(t, err)
	for _, reporter := range []string{victim.Node, thief.Node} {
		ref := streams.Ref{Node: reporter, Resource: "nodes", Name: victim.Node}
		subject := streams.ReportedSubject(thief.Name, ref)
		m := streams.Message{Ref: ref, Op: streams.OpPut, UID: string(node.UID), Object: body}.Encode(subject)
		answer, err := nc.RequestMsg(m, 10*time.Second)
		if err != nil {
			t.Fatalf("the hub does not store %s: %v", subject, err)
		}
		t.Logf("stored as %s", answer.Data)
		t.Cleanup(func() { purge(t, lab.JS, streams.Reported(thief.Name), subject) })
	}
	eventually(t, 30*time.Second, "the bridge has dealt with the forged reports", dealtWith(thief.Name))
	node, err = lab.Kube.CoreV1().Nodes().Get(t.Context(), victim.Node, metav1.GetOptions{})
	must(t, err)
	if nodeCondition(node, forged) != nil || node.Labels["e2e.petiole.dev/forged"] != "" {
		t.Errorf("%s changed the node of %s: labels %v, conditions %+v", thief.Name, victim.Name, node.Labels, node.Status.Conditions)
	}
}

func unsubscribe(t *testing.T, sub *nats.Subscription) {
	if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("unsubscribe: %v", err)
	}
}
