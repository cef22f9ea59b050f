package kubeletapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	nodeutil "k8s.io/component-helpers/node/util"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/streams/tunnel"
)

// node is a node at a site.
type node struct{ name, site string }

// host is the host of the node's URLs. A site's name has no dots.
func (n *node) host() string { return n.site + "." + n.name }

// nodeOf returns the node that a pod is bound to.
func (s *Server) nodeOf(ctx context.Context, t Target) (string, error) {
	pod, err := s.cfg.Client.CoreV1().Pods(t.Namespace).Get(ctx, t.Pod, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", &statusError{http.StatusNotFound, fmt.Sprintf("pod %q not found in namespace %q", t.Pod, t.Namespace)}
	case err != nil:
		return "", fmt.Errorf("find the node of pod %s/%s: %w", t.Namespace, t.Pod, err)
	case pod.Spec.NodeName == "":
		return "", &statusError{http.StatusBadRequest, fmt.Sprintf("pod %s/%s is bound to no node yet", t.Namespace, t.Pod)}
	}
	return pod.Spec.NodeName, nil
}

// node returns a node at a site. Others are not served here.
func (s *Server) node(ctx context.Context, name string) (*node, error) {
	n, err := s.cfg.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, &statusError{http.StatusNotFound, fmt.Sprintf("node %q not found", name)}
	case err != nil:
		return nil, fmt.Errorf("find the site of node %s: %w", name, err)
	}
	site := n.Labels[v1alpha1.SiteLabel]
	if site == "" {
		return nil, &statusError{http.StatusNotFound, fmt.Sprintf("node %q is at no site: its label %s is empty", name, v1alpha1.SiteLabel)}
	}
	return &node{name: name, site: site}, nil
}

// explain returns the error of a request to a node in the words of who can mend it.
func (n *node) explain(ctx context.Context, s *Server, err error) error {
	switch {
	case errors.Is(err, tunnel.ErrNotConnected):
		return fmt.Errorf("node %s: its site %s is away%s", n.name, n.site, s.since(ctx, n))
	case errors.Is(err, tunnel.ErrSilent):
		return fmt.Errorf("node %s: its site %s does not answer%s: the link may be down", n.name, n.site, s.since(ctx, n))
	}
	return fmt.Errorf("node %s at site %s: %w", n.name, n.site, err)
}

// since returns a clause with the time since when a site has been disconnected, if that is known.
func (s *Server) since(ctx context.Context, n *node) string {
	o, err := s.cfg.Client.CoreV1().Nodes().Get(ctx, n.name, metav1.GetOptions{})
	if err != nil {
		return ""
	}
	_, c := nodeutil.GetNodeCondition(&o.Status, v1alpha1.SiteConnectedCondition)
	if c == nil || c.Status == corev1.ConditionTrue {
		return ""
	}
	return " since " + c.LastTransitionTime.UTC().Format(time.RFC3339)
}
