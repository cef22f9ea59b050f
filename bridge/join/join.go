package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/client-go/util/retry"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/bridge/names"
	"github.com/petiole-io/petiole/bridge/requests"
	"github.com/petiole-io/petiole/streams"
	"github.com/petiole-io/petiole/streams/join"
)

// What one site may ask for: so many requests a second, and at the same time.
const (
	requestRate  = 2
	requestBurst = 10
	workers      = 4
	backlog      = 64
	perSite      = 2
)

// Cache returns the last known state of an object, nil if there is none.
type Cache interface {
	Get(k kube.Key) *unstructured.Unstructured
}

// Config is what the handler needs.
type Config struct {
	// Keys sign; nil if the bridge makes no accounts.
	Keys   *accounts.Keys
	Cache  Cache
	Client dynamic.Interface
	// Authorities is the PEM file that gateways verify the hub with, "" for those of the system.
	Authorities string
	Log         *zap.Logger
}

// handler answers the requests of gateways.
type handler struct {
	cfg   Config
	sites dynamic.ResourceInterface

	mu     sync.Mutex
	limits map[string]flowcontrol.RateLimiter
}

// Handler returns the handler of the verb join.Verb.
func Handler(cfg Config) requests.Handler {
	h := &handler{cfg: cfg, sites: cfg.Client.Resource(v1alpha1.Sites), limits: map[string]flowcontrol.RateLimiter{}}
	return requests.Handler{
		Workers: workers, Backlog: backlog, PerSite: perSite, MaxBytes: join.MaxRequest,
		Answer: func(ctx context.Context, site string, data []byte) any { return h.answer(ctx, site, data) },
		Refuse: func(reason string) any { return join.Unsigned(reason) },
	}
}

// answer decides about one request and signs the answer. What it cannot sign says only that the
// gateway may ask again.
func (h *handler) answer(ctx context.Context, site string, data []byte) join.SignedAnswer {
	spec, ok := h.open(site)
	if !ok {
		return join.Unsigned(fmt.Sprintf("site %s has no open join token", site))
	}
	if !h.limiter(site).TryAccept() {
		return join.Unsigned(fmt.Sprintf("too many requests to join site %s", site))
	}
	r, err := join.ParseRequest(data)
	if err != nil {
		return join.Unsigned(err.Error())
	}
	answer := h.decide(ctx, site, spec, r)
	signer, err := h.cfg.Keys.JoinSigner(site, r.Token)
	if err != nil {
		return join.Unsigned(err.Error())
	}
	signed, err := answer.Sign(r, signer)
	if err != nil {
		return join.Unsigned(err.Error())
	}
	return signed
}

// open returns the token of a Site as the cache has it. Without one there is nothing to decide.
func (h *handler) open(site string) (v1alpha1.SiteJoin, bool) {
	var s v1alpha1.Site
	if h.cfg.Keys == nil || kube.Decode(h.cfg.Cache.Get(kube.SiteKey(site)), &s) != nil || s.Spec.Join == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.limits, site)
		return v1alpha1.SiteJoin{}, false
	}
	return *s.Spec.Join, true
}

// limiter returns the rate of a site.
func (h *handler) limiter(site string) flowcontrol.RateLimiter {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.limits[site]
	if l == nil {
		l = flowcontrol.NewTokenBucketRateLimiter(requestRate, requestBurst)
		h.limits[site] = l
	}
	return l
}

func (h *handler) decide(ctx context.Context, site string, cached v1alpha1.SiteJoin, r join.Received) join.Answer {
	log := h.cfg.Log.With(zap.String("site", site), zap.String("gateway", r.Gateway), zap.String("host", r.Host))
	if r.Token != cached.Key {
		return refuse(join.Withdrawn, withdrawn(site))
	}
	if err := r.Verify(); err != nil || r.Site != site {
		log.Warn("request to join refused: it is not signed by the holder of the token and of the gateway's key", zap.Error(err))
		return refuse(join.Invalid, "the request is not signed by the holder of the token and of the gateway's key for this site")
	}
	if cached.UsedBy != "" && cached.UsedBy != r.Gateway {
		log.Warn("request to join refused: the token was used", zap.String("usedBy", cached.UsedBy))
		return refuse(join.Used, used(site, cached.UsedBy))
	}
	answer, err := h.consume(ctx, site, r)
	switch {
	case err != nil:
		log.Warn("request to join not decided, the gateway tries again", zap.Error(err))
		return refuse(join.Unavailable, err.Error())
	case answer.Code != join.Accepted:
		log.Warn("request to join refused", zap.String("code", string(answer.Code)), zap.String("why", answer.Message))
	default:
		log.Info("gateway has joined", zap.String("node", answer.Node), zap.String("version", r.Version))
	}
	return answer
}

func refuse(code join.Code, message string) join.Answer {
	return join.Answer{Code: code, Message: message}
}

func withdrawn(site string) string {
	return fmt.Sprintf("the token is not, or no longer, that of site %s: a newer one was made, or it was withdrawn; make one with 'kubectl petiole site rejoin %s'", site, site)
}

func used(site, by string) string {
	return fmt.Sprintf("the gateway %s has joined site %s with this token, and a token is good for one gateway; if that was not you, run 'kubectl petiole site revoke %s' now; "+
		"otherwise make another one with 'kubectl petiole site rejoin %s'", by, site, site, site)
}

// consume adds the gateway to the Site and records that it has used the token, in one write.
func (h *handler) consume(ctx context.Context, site string, r join.Received) (answer join.Answer, err error) {
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		o, err := h.sites.Get(ctx, site, metav1.GetOptions{})
		if err != nil {
			return kube.Classify(err)
		}
		var s v1alpha1.Site
		if err := kube.Decode(o, &s); err != nil {
			return err
		}
		var gateways []string
		if answer, gateways = judge(s, r, time.Now()); answer.Code != join.Accepted || gateways == nil {
			return nil
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": kube.Preconditions(o.GetUID(), o.GetResourceVersion()),
			"spec":     map[string]any{"gateways": gateways, "join": map[string]any{"usedBy": r.Gateway}},
		})
		if err != nil {
			return err
		}
		_, err = h.sites.Patch(ctx, site, types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	})
	switch {
	case errors.Is(err, kube.ErrGone):
		return refuse(join.Withdrawn, fmt.Sprintf("site %s does not exist any longer", site)), nil
	case err != nil:
		return join.Answer{}, fmt.Errorf("add the gateway to site %s: %w", site, err)
	case answer.Code != join.Accepted:
		return answer, nil
	}
	answer.Authorities = h.cfg.Authorities
	answer.JWT, err = h.cfg.Keys.GatewayToken(site, r.Gateway, "")
	return answer, err
}

// judge decides about a request whose signatures are valid. It returns the gateways that the Site
// must list, nil if it lists the gateway already because of this token.
func judge(s v1alpha1.Site, r join.Received, now time.Time) (join.Answer, []string) {
	j := s.Spec.Join
	listed := slices.Contains(s.Spec.Gateways, r.Gateway)
	switch {
	case j == nil || j.Key != r.Token:
		return refuse(join.Withdrawn, withdrawn(s.Name)), nil
	case j.UsedBy != "" && j.UsedBy != r.Gateway:
		return refuse(join.Used, used(s.Name, j.UsedBy)), nil
	case j.UsedBy != "" && !listed:
		return refuse(join.Revoked, fmt.Sprintf("this gateway had joined site %s and was revoked; make a token with 'kubectl petiole site rejoin %s'", s.Name, s.Name)), nil
	case j.UsedBy == "" && !now.Before(j.Expires.Time):
		return refuse(join.Expired, fmt.Sprintf("the token has expired at %s; make one with 'kubectl petiole site rejoin %s'", j.Expires.UTC().Format(time.RFC3339), s.Name)), nil
	}
	node, refusal := chooseNode(s, r)
	if refusal != "" {
		return refuse(join.NodeNotAllowed, refusal), nil
	}
	accepted := join.Answer{Code: join.Accepted, Node: node}
	switch {
	case j.UsedBy != "":
		return accepted, nil
	case j.Replace:
		return accepted, []string{r.Gateway}
	case listed:
		return accepted, s.Spec.Gateways
	case len(s.Spec.Gateways) >= accounts.MaxGateways:
		return refuse(join.TooManyGateways, fmt.Sprintf("site %s has %d gateways, as many as it can; let the new one replace them: 'kubectl petiole site rejoin %s --only'",
			s.Name, len(s.Spec.Gateways), s.Name)), nil
	}
	return accepted, append(slices.Clone(s.Spec.Gateways), r.Gateway)
}

// chooseNode returns the name of the gateway's node, or why it cannot have the one that it wants.
// A gateway that takes the place of another takes its node, too, if it does not say otherwise.
func chooseNode(s v1alpha1.Site, r join.Received) (node, refusal string) {
	owned := s.Status.OwnedNodes
	if s.Spec.Nodes != nil {
		owned = slices.Concat(owned, s.Spec.Nodes.Names)
		slices.Sort(owned)
		owned = slices.Compact(owned)
	}
	node = r.Node
	switch {
	case node != "":
	case len(owned) == 1:
		node = owned[0]
	default:
		node = r.Host
	}
	if problems := streams.CheckNodeName(node); len(problems) > 0 {
		return "", fmt.Sprintf("the gateway's node cannot be named %q: %s; choose a name with 'leaf join --node NAME'", node, problems[0])
	}
	if err := names.Allowed(s.Spec.Nodes, owned, node); err != nil {
		return "", err.Error() + "; choose a name with 'leaf join --node NAME', or change spec.nodes of the Site"
	}
	return node, ""
}
