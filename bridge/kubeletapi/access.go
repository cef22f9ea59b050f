package kubeletapi

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
)

// The times for which a kubelet remembers the API server's answers by default.
const (
	tokenTTL, allowTTL, denyTTL = 2 * time.Minute, 5 * time.Minute, 30 * time.Second
	reviewTimeout               = 10 * time.Second
)

// Where the API server publishes the authority of its clients' certificates.
const (
	authenticationNamespace = "kube-system"
	authenticationConfigMap = "extension-apiserver-authentication"
	authenticationKey       = "client-ca-file"
)

// access decides who may do what, as a kubelet does with authentication and authorization by
// webhook.
type access struct {
	ca            caProvider
	authenticator authenticator.Request
	authorizer    authorizer.UnconditionalAuthorizer
}

type caProvider interface {
	dynamiccertificates.CAContentProvider
	dynamiccertificates.ControllerRunner
}

// reviewBackoff returns how often a review is asked for again.
func reviewBackoff() *wait.Backoff {
	return &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 5}
}

func newAccess(client kubernetes.Interface, clientCAFile string) (*access, error) {
	a := &access{}
	var err error
	if clientCAFile != "" {
		a.ca, err = dynamiccertificates.NewDynamicCAContentFromFile("kubelet-api-client-ca", clientCAFile)
	} else {
		a.ca, err = dynamiccertificates.NewDynamicCAFromConfigMapController("kubelet-api-client-ca", authenticationNamespace, authenticationConfigMap, authenticationKey, client)
	}
	if err != nil {
		return nil, fmt.Errorf("authority of the kubelet API's clients: %w", err)
	}
	a.authenticator, _, err = authenticatorfactory.DelegatingAuthenticatorConfig{
		TokenAccessReviewClient: client.AuthenticationV1(), TokenAccessReviewTimeout: reviewTimeout, WebhookRetryBackoff: reviewBackoff(), CacheTTL: tokenTTL,
		ClientCertificateCAContentProvider: a.ca,
	}.New()
	if err != nil {
		return nil, fmt.Errorf("authenticate the kubelet API's clients: %w", err)
	}
	a.authorizer, err = authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client.AuthorizationV1(), AllowCacheTTL: allowTTL, DenyCacheTTL: denyTTL, WebhookRetryBackoff: reviewBackoff(),
	}.New()
	if err != nil {
		return nil, fmt.Errorf("authorize the kubelet API's clients: %w", err)
	}
	return a, nil
}

// run keeps the authority up to date until ctx ends.
func (a *access) run(ctx context.Context) { a.ca.Run(ctx, 1) }

// authenticate returns the user of a request, or answers it with 401.
func (a *access) authenticate(w http.ResponseWriter, r *http.Request) (user.Info, bool) {
	answer, ok, err := a.authenticator.AuthenticateRequest(r)
	if err != nil || !ok {
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return nil, false
	}
	return answer.User, true
}

// authorize reports whether a user may do what a request asks for, or answers it with 403: any of
// the subresources is enough.
func (a *access) authorize(w http.ResponseWriter, r *http.Request, u user.Info, t Target) bool {
	subresources := subresources(t.Path)
	for _, sub := range subresources {
		decision, _, err := a.authorizer.Authorize(r.Context(), authorizer.AttributesRecord{
			User: u, Verb: verb(r.Method), APIVersion: "v1", Resource: "nodes", Subresource: sub, Name: t.Node, ResourceRequest: true, Path: t.Path,
		})
		if err != nil {
			http.Error(w, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s): %v", u.GetName(), verb(r.Method), sub, err), http.StatusInternalServerError)
			return false
		}
		if decision == authorizer.DecisionAllow {
			return true
		}
	}
	http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v, node=%s)", u.GetName(), verb(r.Method), subresources, t.Node), http.StatusForbidden)
	return false
}

func verb(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodGet:
		return "get"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return ""
}

// subresources returns the subresources of a node of which one must be allowed, as upstream's
// kubelet has them (pkg/kubelet/server/auth.go, KubeletFineGrainedAuthz).
func subresources(path string) []string {
	below := func(prefix string) bool {
		return path == prefix || strings.HasPrefix(path, prefix+"/")
	}
	switch {
	case below("/pods"), below("/allocatedPods"), below("/runningpods"):
		return []string{"pods", "proxy"}
	case below("/healthz"):
		return []string{"healthz", "proxy"}
	case below("/configz"):
		return []string{"configz", "proxy"}
	case below("/stats"):
		return []string{"stats"}
	case below("/metrics"):
		return []string{"metrics"}
	case below("/logs"):
		return []string{"log"}
	case below("/checkpoint"):
		return []string{"checkpoint"}
	case below("/statusz"):
		return []string{"statusz"}
	case below("/flagz"):
		return []string{"configz"}
	}
	return []string{"proxy"}
}
