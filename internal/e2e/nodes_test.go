package e2e

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// TestNodesAreReady: each site's node is Ready, with the site's labels and the runtime
// that really runs there.
func TestNodesAreReady(t *testing.T) {
	for _, site := range lab.Sites {
		eventually(t, time.Minute, site.Node+" is Ready", nodeReady(site.Node))
		node, err := lab.Kube.CoreV1().Nodes().Get(t.Context(), site.Node, metav1.GetOptions{})
		must(t, err)
		version := node.Status.NodeInfo.ContainerRuntimeVersion
		if want := got[string](t)(site.Runtime.Version(t.Context())); version != want || !strings.HasPrefix(version, "cri-o://1.34") {
			t.Errorf("%s has runtime %q, the runtime says %q, want cri-o://1.34…", site.Node, version, want)
		}
		if !strings.HasPrefix(node.Status.NodeInfo.KubeletVersion, "v1.37") {
			t.Errorf("%s has kubelet %q, want v1.37…", site.Node, node.Status.NodeInfo.KubeletVersion)
		}
		if node.Labels[v1alpha1.SiteLabel] != site.Name {
			t.Errorf("%s has label %s=%q, want %q", site.Node, v1alpha1.SiteLabel, node.Labels[v1alpha1.SiteLabel], site.Name)
		}
		if _, ok := node.Labels[v1alpha1.EdgeRoleLabel]; !ok {
			t.Errorf("%s lacks the label %s", site.Node, v1alpha1.EdgeRoleLabel)
		}
	}
	out := got[string](t)(lab.Output(t.Context(), "kubectl", "get", "nodes", "-o", "wide"))
	t.Logf("kubectl get nodes -o wide\n%s", out)
}

// TestSitesHaveNoWayToTheAPIServer: nothing inside a site can connect to the API
// server, at any address of the host, and nothing there is connected to it. That the
// hub can be reached the same way shows that the attempt is a fair one.
func TestSitesHaveNoWayToTheAPIServer(t *testing.T) {
	api, err := url.Parse(lab.REST.Host)
	must(t, err)
	for _, site := range lab.Sites {
		conn, err := site.Dial(t.Context(), "tcp", lab.HubLeafAddr)
		if err != nil {
			t.Fatalf("%s cannot reach the hub at %s: %v", site.Name, lab.HubLeafAddr, err)
		}
		must(t, conn.Close())
		for _, ip := range append(got[[]string](t)(hostAddresses()), serviceAddress(t)) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			conn, err := site.Dial(ctx, "tcp", net.JoinHostPort(ip, api.Port()))
			cancel()
			if err == nil {
				t.Errorf("%s reaches the API server at %s", site.Name, conn.RemoteAddr())
				must(t, conn.Close())
			}
		}
		must(t, noSocketTo(site, api.Port()))
	}
}

// noSocketTo reads the connection tables of the site's namespace, through its leaf.
func noSocketTo(site *rig.Site, port string) error {
	leaf, err := site.Leaf()
	if err != nil {
		return err
	}
	for _, table := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", leaf.PID, table))
		if err != nil {
			return fmt.Errorf("read connections of %s: %w", site.Name, err)
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[0] == "sl" {
				continue
			}
			var remote int
			if i := strings.LastIndexByte(f[2], ':'); i < 0 {
				continue
			} else if _, err := fmt.Sscanf(f[2][i+1:], "%X", &remote); err != nil {
				return fmt.Errorf("read connections of %s: %q: %w", site.Name, line, err)
			}
			if fmt.Sprint(remote) == port {
				return fmt.Errorf("%s has a connection to port %s: %s", site.Name, port, line)
			}
		}
	}
	return nil
}

func hostAddresses() ([]string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range addrs {
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && !ip.IsLinkLocalUnicast() && ip.To4() != nil {
			out = append(out, ip.String())
		}
	}
	return out, nil
}

func serviceAddress(t *testing.T) string {
	t.Helper()
	s, err := lab.Kube.CoreV1().Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	must(t, err)
	return s.Spec.ClusterIP
}

// TestSiteColumns: `kubectl get sites` shows what the bridge knows of each site.
func TestSiteColumns(t *testing.T) {
	eventually(t, 30*time.Second, "kubectl get sites shows both sites connected", func(ctx context.Context) error {
		out, err := lab.Output(ctx, "kubectl", "get", "sites", "-o", "wide")
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		for _, column := range []string{"CONNECTED", "SINCE", "NODES", "PENDING", "LAST-ACK", "APPLIED", "VERSION"} {
			if !strings.Contains(lines[0], column) {
				return fmt.Errorf("no column %s in %q", column, lines[0])
			}
		}
		for _, s := range lab.Sites {
			if row := rowOf(lines, s.Name); !strings.Contains(row, "true") {
				return fmt.Errorf("row of %s is %q", s.Name, row)
			}
		}
		return nil
	})
	t.Logf("kubectl get sites -o wide\n%s", got[string](t)(lab.Output(t.Context(), "kubectl", "get", "sites", "-o", "wide")))
}

// TestNodeNameWithDots registers a site's gateway under a fully qualified name, as that of a host often
// is: it is a node like any other, and kubectl reaches its pods.
func TestNodeNameWithDots(t *testing.T) {
	site := lab.Sites[1]
	node := site.Name + "-gw." + site.Name + ".example"
	ns := newNamespace(t, "dots")
	t.Cleanup(func() { // after the leaf has its former name
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		must(t, rig.Poll(ctx, "the node is not Ready", func(ctx context.Context) error { // until then the bridge brings it back
			n, err := lab.Kube.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if c := nodeCondition(n, corev1.NodeReady); c != nil && c.Status == corev1.ConditionTrue {
				return fmt.Errorf("Ready is %+v", c)
			}
			return nil
		}))
		must(t, lab.Kube.CoreV1().Nodes().Delete(ctx, node, metav1.DeleteOptions{}))
	})
	was, restart := configOf(t, site, "leaf.yaml")
	config := strings.Replace(string(was), "node: "+site.Node+"\n", "node: "+node+"\n", 1)
	restart(t.Context(), []byte(config))
	eventually(t, time.Minute, "the node is Ready", nodeReady(node))
	configMap(t, ns, settingsName, map[string]string{"greeting": "hello"})
	pod := readerPod(site, "dotted", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: settingsName}}})
	pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	uid := createPod(t, ns, pod)
	t.Cleanup(func() { // while its node is there: no other kubelet ends it
		if _, errs, err := kubectl(context.Background(), nil, "-n", ns, "delete", "pod", "dotted", "--grace-period=1", "--timeout=1m"); err != nil {
			t.Errorf("%v: %s", err, errs)
		}
	})
	eventually(t, time.Minute, "its pod runs", allReady(ns, "app=dotted", 1))
	must(t, fileIs(site, uid, mounted+"/greeting", "hello")(t.Context()))
	setConfigMap(t, ns, settingsName, map[string]string{"greeting": "goodbye"})
	eventually(t, 90*time.Second, "a change arrives", fileIs(site, uid, mounted+"/greeting", "goodbye"))
	out, errs, err := kubectl(t.Context(), nil, "-n", ns, "exec", "dotted", "--", "cat", mounted+"/greeting")
	if err != nil || out != "goodbye" {
		t.Errorf("exec: %v, %q, %s", err, out, errs)
	}
	if out, errs, err := kubectl(t.Context(), nil, "get", "--raw", "/api/v1/nodes/"+node+"/proxy/healthz"); err != nil || out != "ok" {
		t.Errorf("the node's proxy: %v, %q, %s", err, out, errs)
	}
}

func rowOf(lines []string, name string) string {
	for _, l := range lines {
		if strings.HasPrefix(l, name+" ") {
			return l
		}
	}
	return ""
}
