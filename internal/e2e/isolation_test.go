package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/leaf/credential"
	"github.com/petiole-io/petiole/streams"
)

// TestSitesAreIsolated holds the credentials of plant-b, its operator's and those of a gateway, as
// a thief would have them, and tries to read and write plant-a.
func TestSitesAreIsolated(t *testing.T) {
	victim, site := lab.Sites[0], lab.Sites[1]
	gateway := thief{Site: site, nc: stolenGateway(t, site), writes: streams.TelemetrySubject(site.Name, "probe", "e2e")}
	gateway.last = func(t *testing.T) { requestToken(t, gateway.nc, site, site.Node) }
	operator := thief{Site: site, nc: site.Operator, last: func(t *testing.T) {
		if _, err := site.Operator.Request("$JS."+site.Name+".API.INFO", nil, 30*time.Second); err != nil {
			t.Fatalf("%s does not answer its operator: %v", site.Name, err)
		}
	}}
	for name, by := range map[string]thief{"operator's credentials": operator, "gateway's credentials, stolen": gateway} {
		t.Run(name, func(t *testing.T) {
			// The other tests give the answers time to arrive.
			answers := sendForeignRequests(t, by.nc, victim)
			t.Run("writes nothing", func(t *testing.T) { testForeignWrites(t, by, victim) })
			t.Run("hears nothing", func(t *testing.T) { testForeignReads(t, by, victim) })
			if by.nc == gateway.nc { // an operator publishes no requests and no reports
				t.Run("gets no token of a foreign node", func(t *testing.T) { testForeignToken(t, by, victim) })
				t.Run("speaks for no foreign node", func(t *testing.T) { testForeignNode(t, by, victim) })
			}
			t.Run("gets no answer", func(t *testing.T) { testForeignAnswers(t, by, answers, victim) })
		})
	}
	t.Run("the gateway's credentials are no client's", func(t *testing.T) {
		if nc, err := nats.Connect(lab.Admin.ConnectedUrl(), nats.UserCredentials(lab.GatewayCreds(site))); err == nil {
			nc.Close()
			t.Error("a gateway's credentials connect as a client")
		}
	})
}

// thief is a connection with the credentials of another site.
type thief struct {
	*rig.Site
	nc *nats.Conn
	// writes is a subject that it can publish to, empty if there is none.
	writes string
	// last sends a request that is answered. The hub has carried out before what the connection
	// sent before, and has sent before what it sends to the connection.
	last func(t *testing.T)
}

// stolenGateway runs a leaf node of our own as a gateway of the site and returns a client of it.
// The site's own gateway stays connected, and with its key nobody else is let in: the thief has the
// key of the next one.
func stolenGateway(t *testing.T, site *rig.Site) *nats.Conn {
	t.Helper()
	creds := anotherGateway(t, site)
	conf := filepath.Join(t.TempDir(), "leaf.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, `
server_name: stolen
listen: "127.0.0.1:-1"
leafnodes { remotes: [ { url: "tls://%s", credentials: "%s", tls { ca_file: "%s" } } ] }
`, lab.HubLeafAddr, creds, lab.HubCAFile()), 0o600))
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
	nc, err := nats.Connect(s.ClientURL(), nats.CustomInboxPrefix("_INBOX_"+site.Name))
	must(t, err)
	t.Cleanup(nc.Close)
	return nc
}

// anotherGateway has the Site list the key of another gateway until the test ends, and returns the
// credentials of that.
func anotherGateway(t *testing.T, site *rig.Site) (creds string) {
	t.Helper()
	seed := filepath.Join(t.TempDir(), "link.nk")
	public, err := credential.Seed(seed)
	must(t, err)
	sites := lab.Dynamic.Resource(sitesResource)
	o, err := sites.Get(t.Context(), site.Name, metav1.GetOptions{})
	must(t, err)
	before, _, err := unstructured.NestedStringSlice(o.Object, "spec", "gateways")
	must(t, err)
	list := func(ctx context.Context, keys []string) {
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"gateways": keys}})
		must(t, err)
		_, err = sites.Patch(ctx, site.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		must(t, err)
	}
	t.Cleanup(func() { list(context.WithoutCancel(t.Context()), before) })
	list(t.Context(), append(slices.Clone(before), public))
	eventually(t, 30*time.Second, "the bridge lets the other gateway in", func(ctx context.Context) error {
		return cluster.WriteCredentials(ctx, lab.Dynamic, site.Name, seed)
	})
	return strings.TrimSuffix(seed, ".nk") + ".creds"
}

// testForeignWrites publishes on each of the victim's subjects. Whoever would hear it,
// the hub's account or the victim's site, hears only what the thief can publish, which comes
// after.
func testForeignWrites(t *testing.T, by thief, victim *rig.Site) {
	nonce := nats.NewInbox()
	var subs []*nats.Subscription
	for _, listener := range []*nats.Conn{lab.Admin, victim.Root} {
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
		streams.StoredPrefix + "." + streams.ReportedSubject(by.Name, pod), streams.StoredPrefix + "." + streams.ReportedSubject(victim.Name, pod),
	} {
		must(t, by.nc.Publish(subject, []byte(nonce)))
	}
	if by.writes != "" {
		must(t, by.nc.Publish(by.writes, []byte(nonce)))
	}
	by.last(t)
	must(t, lab.Admin.Flush())
	heard := false
	for _, msg := range received(t, subs[0]) {
		if string(msg.Data) == nonce && msg.Subject == by.writes {
			heard = true
		} else if string(msg.Data) == nonce {
			t.Errorf("%s of plant-b's making reaches the hub's account", msg.Subject)
		}
	}
	if !heard && by.writes != "" {
		t.Errorf("what the site can publish, %s, does not arrive", by.writes)
	}
	// The answer comes over the victim's link behind all that the hub has sent to it.
	requestToken(t, victim.Root, victim, victim.Node)
	must(t, victim.Root.Flush())
	for _, msg := range received(t, subs[1]) {
		if string(msg.Data) == nonce {
			t.Errorf("%s of plant-b's making reaches %s", msg.Subject, victim.Name)
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
func testForeignAnswers(t *testing.T, by thief, a foreignAnswers, victim *rig.Site) {
	by.last(t)
	must(t, by.nc.Flush())
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
func testForeignToken(t *testing.T, by thief, victim *rig.Site) {
	if token := requestToken(t, by.nc, by.Site, victim.Node); token.TokenRequest != nil || token.Status == nil {
		t.Errorf("%s gets a token in the name of %s: %+v", by.Name, victim.Node, token)
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
func testForeignReads(t *testing.T, by thief, victim *rig.Site) {
	nonce := nats.NewInbox()
	v := victim.Name
	var subs []*nats.Subscription
	for _, filter := range []string{
		">", "desired." + v + ".>", "reported." + v + ".>", "telemetry." + v + ".>", "sync." + v, "presence." + v, "request." + v + ".>",
		"$JS.FC.>", "$JS.ACK.>", "_INBOX.>", "_INBOX_" + v + ".>",
	} {
		sub, err := by.nc.SubscribeSync(filter)
		must(t, err)
		t.Cleanup(func() { unsubscribe(t, sub) })
		subs = append(subs, sub)
	}
	must(t, by.nc.Flush())
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
	by.last(t)
	must(t, by.nc.Flush())
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
func testForeignNode(t *testing.T, by thief, victim *rig.Site) {
	const forged = "forged-by-another-site"
	node, err := lab.Kube.CoreV1().Nodes().Get(t.Context(), victim.Node, metav1.GetOptions{})
	must(t, err)
	node.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
	node.Labels["e2e.petiole.dev/forged"] = forged
	node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{Type: forged, Status: corev1.ConditionTrue})
	body, err := json.Marshal(node)
	must(t, err)
	for _, reporter := range []string{victim.Node, by.Node} {
		ref := streams.Ref{Node: reporter, Resource: "nodes", Name: victim.Node}
		subject := streams.ReportedSubject(by.Name, ref)
		m := streams.Message{Ref: ref, Op: streams.OpPut, UID: string(node.UID), Object: body}.Encode(subject)
		answer, err := by.nc.RequestMsg(m, 10*time.Second)
		if err != nil {
			t.Fatalf("the hub does not store %s: %v", subject, err)
		}
		t.Logf("stored as %s", answer.Data)
		t.Cleanup(func() { purge(t, lab.JS, streams.Reported(by.Name), subject) })
	}
	eventually(t, 30*time.Second, "the bridge has dealt with the forged reports", dealtWith(by.Name))
	node, err = lab.Kube.CoreV1().Nodes().Get(t.Context(), victim.Node, metav1.GetOptions{})
	must(t, err)
	if nodeCondition(node, forged) != nil || node.Labels["e2e.petiole.dev/forged"] != "" {
		t.Errorf("%s changed the node of %s: labels %v, conditions %+v", by.Name, victim.Name, node.Labels, node.Status.Conditions)
	}
}

func unsubscribe(t *testing.T, sub *nats.Subscription) {
	if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("unsubscribe: %v", err)
	}
}
