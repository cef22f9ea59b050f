package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/streams"
)

var sitesResource = schema.GroupVersionResource{Group: "petiole.dev", Version: "v1alpha1", Resource: "sites"}

// TestBacklogIsVisible: the stock nats command shows a row for each site and objects
// that a person can read.
func TestBacklogIsVisible(t *testing.T) {
	report := got[string](t)(lab.Output(t.Context(), "nats", "consumer", "report", streams.Desired))
	t.Logf("nats consumer report DESIRED\n%s", report)
	for _, s := range lab.Sites {
		if !strings.Contains(report, s.Name) {
			t.Errorf("no row for %s", s.Name)
		}
	}
	view := got[string](t)(firstPage(t.Context(), "nats stream view "+streams.Desired+" 25"))
	for _, want := range []string{`"apiVersion":`, `"kind":"Node"`, `"metadata":`, "desired.plant-"} {
		if !strings.Contains(view, want) {
			t.Errorf("nats stream view DESIRED shows no %s: %.500s", want, view)
		}
	}
	t.Logf("nats stream view DESIRED: %.600s…", view)
}

// firstPage runs a command that pages on a terminal of its own, which it insists on,
// and returns what it shows before it asks for the next page.
func firstPage(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := lab.Command(ctx, "script", "-qec", command, "/dev/null")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	// Kept open: at the end of its input the terminal would hang up.
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("run %s: %w", command, err)
	}
	var page strings.Builder
	for buffer := make([]byte, 4096); !strings.Contains(page.String(), "Next Page?"); {
		n, err := out.Read(buffer)
		page.Write(buffer[:n])
		if err != nil {
			break // it has ended: all is shown
		}
	}
	cancel()
	cmd.Wait() // it was ended on purpose, what counts is the page
	return page.String(), nil
}

// TestSiteGetsWhatItNeedsAndNothingElse compares the streams of both sites with what
// the API wants there, computed independently.
func TestSiteGetsWhatItNeedsAndNothingElse(t *testing.T) {
	for _, site := range lab.Sites {
		eventually(t, 30*time.Second, site.Name+" has exactly what the API wants", converged(site))
	}
}

// TestLargeObjectArrives sends a ConfigMap that is larger than max_payload as JSON.
func TestLargeObjectArrives(t *testing.T) {
	site := lab.Sites[0]
	ns := newNamespace(t, "large")
	// Line ends take two bytes in JSON and one in the API server's limit of 1 MiB.
	value := strings.Repeat("0123456789abcd\n", 1_040_000/15)
	limit := lab.Admin.MaxPayload()
	if size := int64(len(value) + strings.Count(value, "\n")); size <= limit {
		t.Fatalf("the object is %d bytes of JSON, want more than max_payload, %d", size, limit)
	}
	configMap(t, ns, "large", map[string]string{"file": value})
	pod := sleeperPod(site, "large", true)
	pod.Spec.Containers[0].Image, pod.Spec.Containers[0].Command = lab.Image("web"), []string{"/bin/httpd", "-f", "-p", webPort, "-h", "/"}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "large", MountPath: "/large"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "large", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "large"}}}}}
	made, err := lab.Kube.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})
	must(t, err)
	eventually(t, time.Minute, "the pod is Ready", allReady(ns, "", 1))
	file := got[string](t)(readFile(t.Context(), site, string(made.UID), "/large/file"))
	if digest(file) != digest(value) {
		t.Errorf("the container sees %d bytes with digest %s, want %d and %s", len(file), digest(file), len(value), digest(value))
	}
	// A new version replaces all its parts.
	value = strings.ReplaceAll(value, "abcd", "wxyz")
	setConfigMap(t, ns, "large", map[string]string{"file": value})
	eventually(t, time.Minute, "the container sees the new version", func(ctx context.Context) error {
		file, err := readFile(ctx, site, string(made.UID), "/large/file")
		if err == nil && digest(file) != digest(value) {
			err = fmt.Errorf("%d bytes with digest %s, want %d and %s", len(file), digest(file), len(value), digest(value))
		}
		return err
	})
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

// backlogIs returns nil when the backlog of the site equals the number of distinct
// objects that differ from before in the API, by all three accounts: the stream's
// subjects above the acknowledgement floor, the consumer's own count, the Site.
func backlogIs(site *rig.Site, before content) func(context.Context) error {
	return func(ctx context.Context) error {
		now, err := wanted(ctx, site.Name)
		if err != nil {
			return err
		}
		changed := now.ChangedSince(before)
		info, err := site.Consumer(ctx)
		if err != nil {
			return err
		}
		stream, err := lab.Desired(ctx)
		if err != nil {
			return err
		}
		subjects := map[string]bool{}
		err = rig.EachMessage(ctx, stream, streams.DesiredFilter(site.Name), info.AckFloor.Stream+1, func(m rig.StoredMessage) error {
			if m.Sequence > info.AckFloor.Stream {
				subjects[streams.ObjectSubject(m.Subject)] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
		shown, err := shownPending(ctx, site.Name)
		if err != nil {
			return err
		}
		count := int64(info.NumPending) + int64(info.NumAckPending)
		if n := int64(len(changed)); int64(len(subjects)) != n || count != n || shown != n {
			only := difference(site.Name, changed, subjects)
			return fmt.Errorf("%d distinct objects changed in the API, %d subjects are above the floor %d, the consumer counts %d (pending %d, unacknowledged %d), the Site shows %d; in one of the first two only: %s",
				n, len(subjects), info.AckFloor.Stream, count, info.NumPending, info.NumAckPending, shown, strings.Join(only[:min(len(only), 10)], ", "))
		}
		return nil
	}
}

// difference returns the names that only one of both has.
func difference(site string, changed []streams.Ref, subjects map[string]bool) []string {
	var only []string
	expected := map[string]bool{}
	for _, r := range changed {
		subject := streams.DesiredSubject(site, r)
		expected[subject] = true
		if !subjects[subject] {
			only = append(only, subject+" (API)")
		}
	}
	for subject := range subjects {
		if !expected[subject] {
			only = append(only, subject+" (stream)")
		}
	}
	return only
}

func shownPending(ctx context.Context, site string) (int64, error) {
	s, err := lab.Dynamic.Resource(sitesResource).Get(ctx, site, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	n, _, err := unstructured.NestedInt64(s.Object, "status", "pending")
	return n, err
}

// siteConnected returns nil when the Site and its node say so.
func siteConnected(site *rig.Site, want bool) func(context.Context) error {
	return func(ctx context.Context) error {
		s, err := lab.Dynamic.Resource(sitesResource).Get(ctx, site.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		is, _, err := unstructured.NestedBool(s.Object, "status", "connected")
		if err != nil {
			return err
		}
		node, err := lab.Kube.CoreV1().Nodes().Get(ctx, site.Node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		status := corev1.ConditionFalse
		if want {
			status = corev1.ConditionTrue
		}
		c := nodeCondition(node, "petiole.dev/SiteConnected")
		if c == nil {
			return errors.New("the node lacks the condition petiole.dev/SiteConnected")
		}
		if is != want || c.Status != status {
			return fmt.Errorf("Site %s says connected=%t, node %s %s=%s, want %t", site.Name, is, site.Node, c.Type, c.Status, want)
		}
		return nil
	}
}
