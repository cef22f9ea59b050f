package nodeapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/petiole-io/petiole/streams"
)

// withKubelet returns a node API with the pods web, of two containers, and other, of one, and a
// kubelet that answers with the URL that it was asked for, or echoes after an upgrade.
func withKubelet(t *testing.T) *running {
	t.Helper()
	kubelet := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the kubelet got the token of the node API")
		}
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, r.URL)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	}))
	t.Cleanup(kubelet.Close)
	l := newLeaf(t)
	l.dialKubelet = func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", kubelet.Listener.Addr().String())
	}
	r := l.start(t.TempDir())
	two := newPod("web", "u1", "1", func(p *corev1.Pod) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "helper", Image: "busybox"})
	})
	var seq uint64
	for _, p := range []*corev1.Pod{two, newPod("other", "u2", "1")} {
		seq = l.send(streams.Ref{Node: node, Resource: "pods", Namespace: "default", Name: p.Name}, streams.OpPut, string(p.UID), p.ResourceVersion, p)
	}
	r.applied(seq)
	return r
}

// A pod's log comes from the kubelet of this node, without the cloud.
func TestLogsComeFromTheKubelet(t *testing.T) {
	t.Parallel()
	pods := withKubelet(t).json().CoreV1().Pods("default")
	lines := int64(5)
	for _, c := range []struct {
		pod  string
		opts corev1.PodLogOptions
		want string
	}{
		{"other", corev1.PodLogOptions{}, "/containerLogs/default/other/main"},
		{"web", corev1.PodLogOptions{Container: "helper", Follow: true, Previous: true, TailLines: &lines}, "/containerLogs/default/web/helper?follow=true&previous=true&tailLines=5"},
	} {
		if got, err := pods.GetLogs(c.pod, &c.opts).DoRaw(t.Context()); err != nil || string(got) != c.want {
			t.Errorf("log of %s: %q, %v, want %q", c.pod, got, err, c.want)
		}
	}
	if _, err := pods.GetLogs("web", &corev1.PodLogOptions{}).Stream(t.Context()); err == nil || !strings.Contains(err.Error(), "a container name must be specified for pod web, choose one of: [main helper]") {
		t.Errorf("no container: %v", err)
	}
	if _, err := pods.GetLogs("web", &corev1.PodLogOptions{Container: "nosuch"}).DoRaw(t.Context()); !apierrors.IsBadRequest(err) {
		t.Errorf("an unknown container: %v", err)
	}
	if _, err := pods.GetLogs("gone", &corev1.PodLogOptions{}).DoRaw(t.Context()); !apierrors.IsNotFound(err) {
		t.Errorf("an unknown pod: %v", err)
	}
}

// An exec is upgraded to SPDY; kubectl tries that after WebSocket was refused.
func TestExecIsUpgraded(t *testing.T) {
	t.Parallel()
	r := withKubelet(t)
	cfg := r.restConfig()
	for _, protocol := range []string{"websocket", "SPDY/3.1"} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(cfg.Host, "https://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		must(t, err)
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "POST /api/v1/namespaces/default/pods/other/exec?command=cat&stdin=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", cfg.BearerToken, protocol)
		must(t, err)
		in := bufio.NewReader(conn)
		answer, err := http.ReadResponse(in, nil)
		must(t, err)
		answer.Body.Close()
		if protocol == "websocket" {
			if answer.StatusCode != http.StatusBadRequest {
				t.Errorf("WebSocket: %s", answer.Status)
			}
			continue
		}
		if answer.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("SPDY: %s", answer.Status)
		}
		_, err = io.WriteString(conn, "ping\n")
		must(t, err)
		if line, err := in.ReadString('\n'); err != nil || line != "ping\n" {
			t.Errorf("%q, %v", line, err)
		}
	}
}

// The parameters of the Kubernetes API become those of a kubelet.
func TestKubeletURL(t *testing.T) {
	t.Parallel()
	pod := newPod("web", "u1", "1")
	for _, c := range []struct{ sub, query, want string }{
		{"exec", "command=sh&command=-c&stdin=true&stdout=true&stderr=false&tty=true", "http://kubelet/exec/default/web/main?command=sh&command=-c&input=1&output=1&tty=1"},
		{"attach", "container=main&stdout=true&stderr=true", "http://kubelet/attach/default/web/main?error=1&output=1"},
		{"portforward", "ports=8080", "http://kubelet/portForward/default/web?port=8080"},
		{"log", "follow=true&unknown=1", "http://kubelet/containerLogs/default/web/main?follow=true"},
	} {
		query, err := url.ParseQuery(c.query)
		must(t, err)
		if got, err := kubeletURL(c.sub, pod, query); err != nil || got.String() != c.want {
			t.Errorf("%s?%s: %v, %v, want %s", c.sub, c.query, got, err, c.want)
		}
	}
}
