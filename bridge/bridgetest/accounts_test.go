package bridgetest

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap/zaptest"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/bridge"
	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/siege"
	"github.com/petiole-io/petiole/streams"
)

// TestAccounts runs what makes the accounts of Sites.
func TestAccounts(t *testing.T) {
	runAll(t, []sharing{
		{"FollowTheSites", accountsFollowTheSites},
		{"NeedKeys", accountsNeedKeys},
		{"TokensEndWithTheSite", tokensEndWithTheSite},
	})
}

// accountsFollowTheSites has a bridge make the accounts of Sites at a hub in operator mode: a Site
// that is applied is served, one that is revoked or deleted loses its connection within 10 s.
func accountsFollowTheSites(t *testing.T, a *api) {
	w := newWorld(t, a)
	h := natstest.StartOperatorHub(t)
	cfg := w.config("a", "", w.kubeconfig, bridge.ImpersonationConstrained)
	cfg.NATS.URLs, cfg.NATS.CredentialsFile = []string{h.URL()}, h.File(accounts.BridgeCreds)
	cfg.NATS.Accounts = bridge.AccountsConfig{
		CredentialsFile: h.File(accounts.AccountsCreds), OperatorKeyFile: h.File(accounts.SigningKeyFile), SiteKeyFile: h.File(accounts.SiteKeyFile),
	}
	w.must(cfg.Validate())
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	b := bridge.New(cfg, zaptest.NewLogger(t))
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		w.must(<-done)
	})
	u := natstest.NewUser(t)
	polltest.Eventually(t, "the bridge leads", func() bool { return b.Counters().SiteRounds > 0 })

	apply := func() *server.Server {
		t.Helper()
		start := time.Now()
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "petiole.dev/v1alpha1", "kind": "Site", "metadata": map[string]any{"name": "plant-a"}, "spec": map[string]any{"gateways": []any{u.Public}},
		}}
		_, err := w.dynamic.Resource(sitesGVR).Create(w.ctx, o, metav1.CreateOptions{})
		w.must(err)
		creds := w.gatewayCreds(u)
		t.Logf("MEASURED applied → credentials in the status: %s", time.Since(start).Round(time.Millisecond))
		leaf := natstest.StartServer(t, natstest.OperatorLeafConf(t, "plant-a", h.LeafAddr(), creds))
		polltest.Eventually(t, "the gateway is connected", func() bool { return leaf.NumLeafNodes() == 1 })
		took := time.Since(start)
		t.Logf("MEASURED applied → connected: %s", took.Round(time.Millisecond))
		siege.CheckServed(t, took)
		w.accountReason("plant-a", v1alpha1.ReasonAccountStored)
		return leaf
	}
	leaf := apply()
	gone := func(what string, start time.Time) {
		t.Helper()
		polltest.Eventually(t, "the gateway is not connected", func() bool { return leaf.NumLeafNodes() == 0 })
		siege.CheckRevoked(t, what+" → gone", time.Since(start))
	}
	start := time.Now()
	w.patchGateways("plant-a")
	gone("revoked", start)
	w.accountReason("plant-a", v1alpha1.ReasonNoGateway)
	w.patchGateways("plant-a", u.Public)
	polltest.Eventually(t, "the gateway is connected again", func() bool { return leaf.NumLeafNodes() == 1 })
	start = time.Now()
	w.must(w.dynamic.Resource(sitesGVR).Delete(w.ctx, "plant-a", metav1.DeleteOptions{}))
	gone("deleted", start)
	// Applied again, the gateway connects with what it has.
	leaf.Shutdown()
	leaf = apply()
}

// accountsNeedKeys: a Site that asks for an account of a bridge without keys says so.
func accountsNeedKeys(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("a")
	w.patchGateways("plant-a", natstest.NewUser(t).Public)
	w.accountReason("plant-a", v1alpha1.ReasonNotConfigured)
	w.patchGateways("plant-a")
	polltest.Eventually(t, "the condition is gone", func() bool {
		return meta.FindStatusCondition(w.siteStatus("plant-a").Conditions, v1alpha1.ConditionAccountReady) == nil
	})
}

// tokensEndWithTheSite: the nodes of a deleted Site get no tokens any longer, although they have
// its label.
func tokensEndWithTheSite(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a")
	w.start("a")
	s := w.site("plant-a")
	s.register("a1")
	w.configMap("settings", "1")
	pod := w.pod("web", "a1", "settings")
	q := streams.TokenQuery{Node: "a1", Namespace: w.namespace, ServiceAccount: "default"}
	q.TokenRequest.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	data, err := json.Marshal(q)
	w.must(err)
	var answer streams.TokenAnswer
	polltest.Eventually(t, "a token", func() bool { s.request(streams.RequestToken, string(data), &answer); return answer.TokenRequest != nil })
	w.must(w.dynamic.Resource(sitesGVR).Delete(w.ctx, "plant-a", metav1.DeleteOptions{}))
	polltest.Eventually(t, "no token", func() bool {
		answer = streams.TokenAnswer{}
		s.request(streams.RequestToken, string(data), &answer)
		return answer.Status != nil && answer.Status.Reason == metav1.StatusReasonForbidden
	})
}

// gatewayCreds waits for the JWT in the status of plant-a and writes the credentials.
func (w *world) gatewayCreds(u natstest.User) (path string) {
	w.t.Helper()
	polltest.Eventually(w.t, "the status has the gateway's JWT", func() bool {
		access := w.siteStatus("plant-a").Access
		if access == nil || len(access.Gateways) != 1 || access.Gateways[0].Key != u.Public {
			return false
		}
		path = natstest.WriteCreds(w.t, access.Gateways[0].JWT, u)
		return true
	})
	return path
}

func (w *world) patchGateways(site string, keys ...string) {
	w.t.Helper()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"gateways": keys}})
	w.must(err)
	_, err = w.dynamic.Resource(sitesGVR).Patch(w.ctx, site, types.MergePatchType, patch, metav1.PatchOptions{})
	w.must(err)
}

// accountReason waits until the condition of the account has a reason.
func (w *world) accountReason(site, want string) {
	w.t.Helper()
	polltest.Eventually(w.t, "AccountReady is "+want, func() bool {
		c := meta.FindStatusCondition(w.siteStatus(site).Conditions, v1alpha1.ConditionAccountReady)
		return c != nil && c.Reason == want
	})
}
