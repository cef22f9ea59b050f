package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// TestDeployment runs a usual Deployment: it becomes Ready, its containers see their
// ConfigMap, Secret and token, an edited ConfigMap reaches the mounted file at once,
// and a deleted pod ends with its final state in the API.
func TestDeployment(t *testing.T) {
	site := lab.Sites[0]
	ns := newNamespace(t, "workload")
	configMap(t, ns, settingsName, map[string]string{"greeting": "one"})
	secret(t, ns, credentialsName, map[string]string{"password": "open sesame"})
	_, err := lab.Kube.AppsV1().Deployments(ns).Create(t.Context(), webDeployment(site, "web", 2), metav1.CreateOptions{})
	must(t, err)

	took := eventually(t, time.Minute, "the deployment is Ready", func(ctx context.Context) error {
		d, err := lab.Kube.AppsV1().Deployments(ns).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Status.ReadyReplicas != 2 {
			return fmt.Errorf("%d of 2 replicas are ready: %w", d.Status.ReadyReplicas, allReady(ns, "app=web", 2)(ctx))
		}
		return nil
	})
	t.Logf("MEASURED deployment of 2 pods with probes create → Ready: %s", took.Round(time.Millisecond))
	pods := got[[]corev1.Pod](t)(podsOf(t.Context(), ns, "app=web"))
	uid := string(pods[0].UID)

	t.Run("the container sees its ConfigMap, Secret and tokens", func(t *testing.T) {
		must(t, fileIs(site, uid, settingsDir+"greeting", "one")(t.Context()))
		must(t, fileIs(site, uid, passwordFile, "open sesame")(t.Context()))
		for _, path := range []string{tokenFile, defaultToken} {
			token := got[string](t)(readFile(t.Context(), site, uid, path))
			claims := got[tokenClaims](t)(parseToken(token))
			if want := "system:serviceaccount:" + ns + ":default"; claims.Subject != want {
				t.Errorf("token %s is for %q, want %q", path, claims.Subject, want)
			}
			if claims.Kubernetes.Pod.UID != uid || claims.Kubernetes.Node.Name != site.Node {
				t.Errorf("token %s is bound to pod %q on node %q, want %q on %q", path, claims.Kubernetes.Pod.UID, claims.Kubernetes.Node.Name, uid, site.Node)
			}
		}
	})

	t.Run("an edited ConfigMap changes the mounted file", func(t *testing.T) {
		for i := range 3 {
			value := fmt.Sprintf("edit %d", i)
			setConfigMap(t, ns, settingsName, map[string]string{"greeting": value})
			took := eventually(t, 90*time.Second, "the mounted file has the new value", fileIs(site, uid, settingsDir+"greeting", value))
			measured(t, "ConfigMap edit → mounted file", took, 2*time.Second)
		}
		unrestarted(t, pods, got[[]corev1.Pod](t)(podsOf(t.Context(), ns, "app=web")))
	})

	t.Run("a deleted pod's final state is seen", func(t *testing.T) { testFinalState(t, ns, pods[1].Name) })
}

// testFinalState deletes a pod and watches it end: the last status before it is gone
// has no running container and a final phase.
func testFinalState(t *testing.T, ns, name string) {
	w, err := lab.Kube.CoreV1().Pods(ns).Watch(t.Context(), metav1.SingleObject(metav1.ObjectMeta{Name: name}))
	must(t, err)
	defer w.Stop()
	start := time.Now()
	must(t, lab.Kube.CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{}))
	var last *corev1.Pod
	for timeout := time.After(30 * time.Second); ; {
		select {
		case <-timeout:
			t.Fatalf("pod %s is not gone after 30 s; last seen %s %s", name, last.Status.Phase, containerStates(last))
		case e, open := <-w.ResultChan():
			if !open {
				t.Fatal("the watch ended")
			}
			if pod, ok := e.Object.(*corev1.Pod); ok {
				last = pod
			}
			if e.Type != watch.Deleted {
				continue
			}
		}
		break
	}
	t.Logf("MEASURED pod delete → gone in the API (grace 1 s): %s (stock kubelet 3.0 s)", time.Since(start).Round(time.Millisecond))
	if last.Status.Phase != corev1.PodSucceeded && last.Status.Phase != corev1.PodFailed {
		t.Errorf("the final phase is %s, want Succeeded or Failed", last.Status.Phase)
	}
	for _, c := range last.Status.ContainerStatuses {
		if c.State.Terminated == nil {
			t.Errorf("container %s was last seen as %+v, want terminated", c.Name, c.State)
		}
	}
}

// unrestarted fails the test when a container of before has another id in after.
func unrestarted(t *testing.T, before, after []corev1.Pod) {
	t.Helper()
	ids := map[string]string{}
	for _, p := range before {
		for _, c := range p.Status.ContainerStatuses {
			ids[string(p.UID)+"/"+c.Name] = c.ContainerID
		}
	}
	for _, p := range after {
		for _, c := range p.Status.ContainerStatuses {
			if was, ok := ids[string(p.UID)+"/"+c.Name]; ok && was != c.ContainerID {
				t.Errorf("container %s of pod %s was restarted: %s, before %s", c.Name, p.Name, c.ContainerID, was)
			}
		}
	}
}

type tokenClaims struct {
	Subject    string `json:"sub"`
	Expiry     int64  `json:"exp"`
	Kubernetes struct {
		Pod struct {
			UID string `json:"uid"`
		} `json:"pod"`
		Node struct {
			Name string `json:"name"`
		} `json:"node"`
	} `json:"kubernetes.io"`
}

// parseToken reads the claims of a service account token (RFC 7519). Nothing is
// verified: the API server is asked for that.
func parseToken(token string) (tokenClaims, error) {
	var claims tokenClaims
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims, fmt.Errorf("%d parts where a token has 3", len(parts))
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return claims, fmt.Errorf("decode token: %w", err)
	}
	if err := json.Unmarshal(data, &claims); err != nil {
		return claims, fmt.Errorf("decode token: %w", err)
	}
	return claims, nil
}
