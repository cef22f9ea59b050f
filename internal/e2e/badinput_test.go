package e2e

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/petiole-io/petiole/streams"
)

// TestInvalidConfiguration: each bad field is named with its value, the exit code is 2,
// and nothing was started.
func TestInvalidConfiguration(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	for _, tc := range []struct{ name, binary, config string }{
		{"bridge", "bridge", `
kubernetes: {kubeconfig: /nowhere/kubeconfig, impersonation: pretended, qps: -3}
nats: {urls: ["ftp://hub"], replicas: 9}
leaderElection: {namespace: "Not A Label"}
log: {level: chatty}
`},
		{"leaf", "leaf", `
site: Plant.A
node: "no node"
dataDir: ` + data + `
logLevel: chatty
nats: {configFile: /nowhere/leaf.conf}
nodeAPI: {listen: "0.0.0.0:10441"}
kubelet: {configFile: /nowhere/kubelet.yaml}
storage: {telemetryBytes: 5}
`},
		{"bridge with an unknown key", "bridge", "nats: {urls: [\"nats://127.0.0.1:4222\"]}\nnonsense: 1\n"},
		{"leaf with an unknown key", "leaf", "site: plant-a\nnonsense: 1\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(dir, "config.yaml")
			must(t, os.WriteFile(file, []byte(tc.config), 0o600))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			out, err := lab.Command(ctx, lab.Bin(tc.binary), "--config", file).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 2 {
				t.Errorf("it ends with %v, want exit code 2", err)
			}
			t.Logf("%s", out)
			for _, want := range badFields[tc.name] {
				if !lineWith(string(out), want...) {
					t.Errorf("no line with %q", want)
				}
			}
			if _, err := os.Stat(data); !os.IsNotExist(err) {
				t.Errorf("the data folder was made: %v", err)
			}
		})
	}
}

// badFields are the words that one line of the output must have, for each bad field.
var badFields = map[string][][]string{
	"bridge": {
		{"kubernetes.kubeconfig", "/nowhere/kubeconfig"},
		{"kubernetes.impersonation", "pretended"},
		{"kubernetes.qps", "-3"},
		{"nats.urls[0]", "ftp://hub"},
		{"nats.replicas", "9"},
		{"leaderElection.namespace", "Not A Label"},
		{"log.level", "chatty"},
	},
	"leaf": {
		{"site", "Plant.A"},
		{"node", "no node"},
		{"logLevel", "chatty"},
		{"nats.configFile", "/nowhere/leaf.conf"},
		{"nodeAPI.listen", "0.0.0.0:10441"},
		{"kubelet.configFile", "/nowhere/kubelet.yaml"},
		{"storage.telemetryBytes", "5"},
	},
	"bridge with an unknown key": {{"nonsense"}},
	"leaf with an unknown key":   {{"nonsense"}},
}

func lineWith(text string, words ...string) bool {
	for line := range strings.Lines(text) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			return true
		}
	}
	return false
}

// TestBadDevices: a protocol that nobody speaks, an unknown register type or property is
// reported in the DeviceStatus and in an Event, and a good device beside them works on.
func TestBadDevices(t *testing.T) {
	site := lab.Sites[0]
	ns := newTank(t, site, "baddevice")
	protocol := strings.ReplaceAll(tankManifest("bad-protocol", site.Node, ""), "protocolName: modbus", "protocolName: smoke-signals")
	register := tankManifest("bad-register", site.Node, `
    - name: broken
      visitors: {protocolName: modbus, configData: {register: CashRegister, offset: "1", limit: "1"}}
`)
	property := tankManifest("bad-property", site.Node, `
    - name: colour
      visitors: {protocolName: modbus, configData: {register: HoldingRegister, offset: "1", limit: "1"}}
`)
	apply(t, ns, protocol, register, property)
	for _, tc := range []struct{ device, reason, event, what string }{
		{"bad-protocol", "NoMapper", "Offline", "smoke-signals"}, // a mapper for it may still come
		{"bad-register", "InvalidProperty", "InvalidProperty", "CashRegister"},
		{"bad-property", "PropertyNotInModel", "PropertyNotInModel", "colour"},
	} {
		t.Run(tc.device, func(t *testing.T) {
			eventually(t, 30*time.Second, "the DeviceStatus shows the reason", func(ctx context.Context) error {
				s, err := deviceStatus(ctx, ns, tc.device)
				if err != nil {
					return err
				}
				shown, err := json.Marshal(s.Status)
				if err != nil {
					return err
				}
				if s.Status.State == "" || !strings.Contains(string(shown), tc.reason) || !strings.Contains(string(shown), tc.what) {
					return fmt.Errorf("status is %s, want a state, %s and %q", shown, tc.reason, tc.what)
				}
				return nil
			})
			eventually(t, 30*time.Second, "an Event shows the reason", func(ctx context.Context) error {
				list, err := lab.Kube.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Device,involvedObject.name=" + tc.device})
				if err != nil {
					return err
				}
				for _, e := range list.Items {
					if e.Type == "Warning" && e.Reason == tc.event && strings.Contains(e.Message, tc.what) {
						return nil
					}
				}
				return fmt.Errorf("%d events, none is a warning %s about %q", len(list.Items), tc.event, tc.what)
			})
		})
	}
	must(t, site.Slave().Write(t.Context(), levelRegister, 99))
	for _, name := range []string{"tank", "bad-register", "bad-property"} {
		eventually(t, 20*time.Second, "the good properties of "+name+" are still read", reports(ns, name, "level", "99"))
	}
	desire(t, ns, "tank", "77")
	eventually(t, 20*time.Second, "the good device still takes desired values", registerIs(site, setpointRegister, 77))
}

// TestUndecodableMessages: an unreadable message is kept in quarantine, is
// counted, and later messages flow.
func TestUndecodableMessages(t *testing.T) {
	site := lab.Sites[0]
	t.Run("downward", func(t *testing.T) {
		before := got[int64](t)(siteStatus(t.Context(), site.Name, "quarantined"))
		subject := streams.DesiredSubject(site.Name, streams.Ref{Resource: "configmaps", Namespace: "default", Name: "e2e-undecodable"})
		t.Cleanup(func() {
			purge(t, lab.JS, streams.Desired, subject)
			purge(t, site.JS, streams.SiteDesired, subject)
		})
		put(t, lab.JS, subject)
		eventually(t, 30*time.Second, "it is in SITE_QUARANTINE with a reason", quarantined(site.JS, streams.SiteQuarantine, "local.quarantine."+subject))
		eventually(t, 30*time.Second, "the Site counts it", func(ctx context.Context) error {
			n, err := siteStatus(ctx, site.Name, "quarantined")
			if err == nil && n <= before {
				err = fmt.Errorf("quarantined is %d, before %d", n, before)
			}
			return err
		})
	})
	t.Run("upward", func(t *testing.T) {
		subject := streams.ReportedSubject(site.Name, streams.Ref{Node: site.Node, Resource: "pods", Namespace: "default", Name: "e2e-undecodable"})
		t.Cleanup(func() { purge(t, lab.JS, streams.Reported(site.Name), subject) })
		msg := undecodable(subject)
		_, err := site.Root.RequestMsg(msg, 10*time.Second)
		must(t, err)
		eventually(t, 30*time.Second, "it is in QUARANTINE with a reason", quarantined(lab.JS, streams.Quarantine, "quarantine."+subject))
		eventually(t, 30*time.Second, "the bridge goes on", dealtWith(site.Name))
	})
	t.Run("later messages flow in both directions", func(t *testing.T) {
		ns := newNamespace(t, "later")
		_, err := lab.Kube.CoreV1().Pods(ns).Create(t.Context(), sleeperPod(site, "later", false), metav1.CreateOptions{})
		must(t, err)
		eventually(t, time.Minute, "a pod made later is Ready", allReady(ns, "", 1))
	})
}

func undecodable(subject string) *nats.Msg {
	msg := nats.NewMsg(subject)
	msg.Header.Set(streams.HeaderOp, string(streams.OpPut))
	msg.Data = []byte(`{"metadata": {"name": "somebody-else`)
	return msg
}

func put(t *testing.T, js jetstream.JetStream, subject string) {
	t.Helper()
	_, err := js.PublishMsg(t.Context(), undecodable(subject))
	must(t, err)
}

// quarantined returns nil when the stream holds the message with a reason.
func quarantined(js jetstream.JetStream, stream, subject string) condition {
	return func(ctx context.Context) error {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		msg, err := s.GetLastMsgForSubject(ctx, subject)
		if err != nil {
			return fmt.Errorf("%s in %s: %w", subject, stream, err)
		}
		if msg.Header.Get("Petiole-Reason") == "" {
			return fmt.Errorf("%s in %s has no reason: %v", subject, stream, msg.Header)
		}
		return nil
	}
}

// dealtWith returns a condition that holds when the bridge has dealt with every report of a site.
func dealtWith(site string) condition {
	return func(ctx context.Context) error {
		stream, err := lab.JS.Stream(ctx, streams.Reported(site))
		if err != nil {
			return err
		}
		state, err := lab.JS.KeyValue(ctx, "bridge")
		if err != nil {
			return err
		}
		e, err := state.Get(ctx, "reported."+hex.EncodeToString([]byte(site)))
		if err != nil {
			return err
		}
		var created int64
		var seq uint64
		if _, err := fmt.Sscanf(string(e.Value()), "%d %d", &created, &seq); err != nil {
			return fmt.Errorf("%s is %q: %w", e.Key(), e.Value(), err)
		}
		if last := stream.CachedInfo().State.LastSeq; seq < last {
			return fmt.Errorf("reports are dealt with up to %d of %d", seq, last)
		}
		return nil
	}
}

// purge removes a test's message from a stream.
func purge(t *testing.T, js jetstream.JetStream, stream, subject string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err == nil {
		err = s.Purge(ctx, jetstream.WithPurgeSubject(subject))
	}
	if err != nil {
		t.Errorf("purge %s of %s: %v", subject, stream, err)
	}
}

func siteStatus(ctx context.Context, site, field string) (int64, error) {
	s, err := lab.Dynamic.Resource(sitesResource).Get(ctx, site, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	n, _, err := unstructured.NestedInt64(s.Object, "status", field)
	return n, err
}
