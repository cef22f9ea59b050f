package kubeletapi

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

// forwardedURI is where the API server's node proxy repeats the path that its client asked for. It
// replaces what the client sent.
const forwardedURI = "X-Forwarded-Uri"

// Target is what a request is for.
type Target struct {
	// Node is empty if the pod names it.
	Node string
	// Namespace and Pod are those of a path that names a pod.
	Namespace, Pod string
	// Proxied is the node whose proxy of the API server the request came through, empty if it came
	// another way. A client may use the proxies of some nodes only.
	Proxied string
	// Path is the path of the request at the kubelet.
	Path string
}

// podPaths are the first segments of a kubelet's paths that a namespace and a pod follow.
var podPaths = map[string]bool{
	"attach": true, "checkpoint": true, "containerLogs": true, "exec": true, "portForward": true, "run": true,
}

// TargetOf returns what a request is for.
func TargetOf(r *http.Request) (Target, error) {
	path := r.URL.Path
	t := Target{Path: path, Proxied: proxiedNode(r.Header.Get(forwardedURI))}
	if rest, ok := strings.CutPrefix(path, v1alpha1.KubeletPathPrefix); ok {
		if node, at, ok := strings.Cut(rest, "/"); ok && node != "" {
			t.Node, t.Path = node, "/"+at
			return t, t.check(r)
		}
	}
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if len(segments) >= 3 && podPaths[segments[0]] && segments[1] != "" && segments[2] != "" {
		t.Namespace, t.Pod = segments[1], segments[2]
		return t, nil
	}
	if t.Proxied != "" {
		t.Node = t.Proxied
		return t, t.check(r)
	}
	return Target{}, &statusError{http.StatusNotFound, "this is the kubelet API of all nodes at sites: a path must name a pod, or begin with /nodes/<node>/, or come through the API server's node proxy"}
}

// check returns an error if a request that names a node may come from somebody who may not use that
// node: one that came through the proxy of another, and one that asks for another protocol, for
// which the API server passes on what its client said about the proxy.
func (t Target) check(r *http.Request) error {
	switch {
	case t.Proxied != "" && t.Proxied != t.Node:
		return &statusError{http.StatusNotFound, fmt.Sprintf("node %q does not serve node %q", t.Proxied, t.Node)}
	case r.Header.Get("Upgrade") != "":
		return &statusError{http.StatusBadRequest, "only paths that name a pod, such as /exec/<namespace>/<pod>/<container>, can change the protocol"}
	}
	return nil
}

// proxiedNode returns the node in /api/v1/nodes/<scheme:node:port>/proxy/…, empty if it is no such
// path.
func proxiedNode(uri string) string {
	rest, ok := strings.CutPrefix(uri, "/api/v1/nodes/")
	if !ok {
		return ""
	}
	id, rest, _ := strings.Cut(rest, "/")
	if rest != "proxy" && !strings.HasPrefix(rest, "proxy/") {
		return ""
	}
	id, err := url.PathUnescape(id)
	if err != nil {
		return ""
	}
	_, node, _, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return ""
	}
	return node
}
