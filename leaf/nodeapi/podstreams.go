package nodeapi

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/petiole-io/petiole/leaf/nodeapi/codec"
)

// kubelet forwards requests for logs and commands of pods to the kubelet of this node, also while
// the cloud cannot be reached.
type kubelet struct {
	transport *http.Transport
	log       *zap.Logger
}

// newKubelet returns a kubelet that is reached by dial, nil if dial is nil.
func newKubelet(dial func(context.Context) (net.Conn, error), log *zap.Logger) *kubelet {
	if dial == nil {
		return nil
	}
	return &kubelet{log: log, transport: &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		IdleConnTimeout: time.Second, DisableCompression: true,
	}}
}

// streamsPod reports whether a request is for a pod's log or for a command in one.
func (q *request) streamsPod() bool {
	return q.Group == "" && q.Resource == "pods" && slices.Contains([]string{"log", "exec", "attach", "portforward"}, q.Sub)
}

// streamPod answers a request for a pod's log, or for a command in it.
func (h *handler) streamPod(w http.ResponseWriter, q *request) error {
	if h.kubelet == nil {
		return q.resource.Refuse(q.Name)
	}
	o := h.store.Get(q.resource.GroupResource(), q.Key)
	if o == nil {
		return apierrors.NewNotFound(q.resource.GroupResource(), q.Name)
	}
	obj, err := codec.Typed(q.resource.GVK(), o.JSON)
	if err != nil {
		return err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("%s is a %T", q.Name, obj)
	}
	if pod.Spec.NodeName != h.node {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s is on node %q, and this is the node API of %s", q.Name, pod.Spec.NodeName, h.node))
	}
	if strings.EqualFold(q.Header.Get("Upgrade"), "websocket") {
		// kubectl tries SPDY then, which is what kubelets speak.
		return apierrors.NewBadRequest("this is a site's node API, which upgrades to SPDY/3.1 and not to WebSocket")
	}
	to, err := kubeletURL(q.Sub, pod, q.URL.Query())
	if err != nil {
		return err
	}
	h.kubelet.forward(w, q.Request, to)
	return nil
}

// forward passes a request to the kubelet, and its answer back. Upgraded connections are copied.
func (k *kubelet) forward(w http.ResponseWriter, r *http.Request, to *url.URL) {
	proxy := httputil.ReverseProxy{
		Transport: k.transport, FlushInterval: -1, ErrorLog: zap.NewStdLog(k.log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = to
			p.Out.Header.Del("Authorization")
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			_ = codec.WriteError(w, apierrors.NewInternalError(err)) // the client may have gone away
		},
	}
	proxy.ServeHTTP(w, r)
}

// kubeletURL returns where a kubelet serves a subresource of a pod, as the API server translates
// it.
func kubeletURL(sub string, pod *corev1.Pod, query url.Values) (*url.URL, error) {
	to := &url.URL{Scheme: "http", Host: "kubelet"}
	if sub == "portforward" {
		to.Path = "/portForward/" + pod.Namespace + "/" + pod.Name
		to.RawQuery = only(query, map[string]string{"ports": "port"}).Encode()
		return to, nil
	}
	container, err := containerOf(pod, query.Get("container"))
	if err != nil {
		return nil, err
	}
	path, params := sub, map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty", "command": "command"}
	if sub == "log" {
		path, params = "containerLogs", map[string]string{}
		for _, name := range []string{"follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"} {
			params[name] = name
		}
	}
	to.Path = "/" + strings.Join([]string{path, pod.Namespace, pod.Name, container}, "/")
	values := only(query, params)
	if sub != "log" {
		for _, name := range []string{"input", "output", "error", "tty"} {
			switch values.Get(name) {
			case "true", "1":
				values.Set(name, "1")
			default:
				values.Del(name)
			}
		}
	}
	to.RawQuery = values.Encode()
	return to, nil
}

// only returns the parameters that are listed, under their names at the kubelet.
func only(query url.Values, names map[string]string) url.Values {
	out := url.Values{}
	for from, to := range names {
		if v := query[from]; len(v) > 0 {
			out[to] = v
		}
	}
	return out
}

// containerOf returns the container that a request names, or the only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	var all []string
	for _, c := range pod.Spec.InitContainers {
		all = append(all, c.Name)
	}
	for _, c := range pod.Spec.Containers {
		all = append(all, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		all = append(all, c.Name)
	}
	switch {
	case name == "" && len(pod.Spec.Containers) == 1:
		return pod.Spec.Containers[0].Name, nil
	case name == "":
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", pod.Name, all))
	case !slices.Contains(all, name):
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	return name, nil
}
