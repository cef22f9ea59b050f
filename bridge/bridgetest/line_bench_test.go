package bridgetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/kubelet/configmap"

	"github.com/petiole-io/petiole/internal/natstest"
)

// BenchmarkKubeletLine gives a stock kubelet's ConfigMap manager and its watch for pods the job of
// BenchmarkLine in package leaf: 40 ConfigMaps that change while the line is cut, and a pod that is created
// beside them 10 s after the line is back.
func BenchmarkKubeletLine(b *testing.B) {
	a := launchAPI(b, b, b.TempDir())
	for i, line := range natstest.SlowLines() {
		b.Run(line.String(), func(b *testing.B) { benchKubelet(b, a, fmt.Sprintf("line-%d", i), line) })
	}
}

// kubeletPatience is how long a line may take.
const kubeletPatience = 5 * time.Minute

func benchKubelet(b *testing.B, a *api, namespace string, slow natstest.SlowLine) {
	const objects = 40
	size := 40 * slow.Rate / objects // 40 s of the line
	ctx := b.Context()
	createNamespace(b, ctx, a, namespace)
	for i := range objects {
		if _, err := a.admin.CoreV1().ConfigMaps(namespace).Create(ctx, valuedMap(i, "before"), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	line := natstest.NewLine(b, a.addr)
	client := kubeletClient(b, a, line)
	maps := configmap.NewWatchingConfigMapManager(client, time.Hour)
	mounts := podOfMaps(namespace, objects)
	maps.RegisterPod(mounts)
	defer maps.UnregisterPod(mounts)
	pods := cache.NewStore(cache.MetaNamespaceKeyFunc)
	following, end := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		lw := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "pods", namespace, fields.OneTermEqualSelector("spec.nodeName", "gateway"))
		cache.NewReflector(lw, &corev1.Pod{}, pods, 0).RunWithContext(following)
	}()
	defer func() { end(); <-done }()
	have := func(want func(i int) string) (n int) {
		for i := range objects {
			if m, err := maps.GetConfigMap(namespace, mapName(i)); err == nil && m.Data["v"] == want(i) {
				n++
			}
		}
		return n
	}
	if !reached(b, time.Minute, func() bool { return have(func(int) string { return "before" }) == objects }) {
		b.Fatalf("%d of %d ConfigMaps are known before the line is cut", have(func(int) string { return "before" }), objects)
	}
	line.Cut()
	want := make([]string, objects)
	for i := range objects {
		want[i] = natstest.Noise(size)
		if _, err := a.admin.CoreV1().ConfigMaps(namespace).Update(ctx, valuedMap(i, want[i]), metav1.UpdateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	start, down := time.Now(), line.Moved(natstest.Downward)
	line.Slow(slow)
	reached(b, 10*time.Second, func() bool { return have(func(i int) string { return want[i] }) > objects/4 })
	created := time.Now()
	if _, err := a.admin.CoreV1().Pods(namespace).Create(ctx, podOfMaps(namespace, 0), metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	if reached(b, kubeletPatience, func() bool { return len(pods.List()) == 1 }) {
		b.ReportMetric(time.Since(created).Seconds(), "urgent-s")
	}
	if reached(b, kubeletPatience-time.Since(start), func() bool { return have(func(i int) string { return want[i] }) == objects }) {
		took := time.Since(start)
		b.ReportMetric(took.Seconds(), "s")
		b.ReportMetric(100*float64(objects*size)/float64(slow.Rate)/took.Seconds(), "%line")
		b.ReportMetric(100*float64(line.Moved(natstest.Downward)-down)/float64(objects*size)-100, "%overhead")
	}
	b.ReportMetric(float64(objects-have(func(i int) string { return want[i] })), "missing")
}

// kubeletClient returns a client as a kubelet has it, over a line.
func kubeletClient(b *testing.B, a *api, line *natstest.Line) kubernetes.Interface {
	b.Helper()
	cfg := rest.CopyConfig(a.config)
	cfg.Host = "https://" + line.Addr()
	cfg.ContentType, cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	cfg.QPS, cfg.Burst = 50, 100 // a kubelet's defaults
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		b.Fatal(err)
	}
	return client
}

func createNamespace(b *testing.B, ctx context.Context, a *api, namespace string) {
	b.Helper()
	if _, err := a.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	if _, err := a.admin.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
}

func mapName(i int) string { return fmt.Sprintf("cm-%d", i) }

func valuedMap(i int, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: mapName(i)}, Data: map[string]string{"v": value}}
}

// podOfMaps is a pod of the gateway with so many of the ConfigMaps.
func podOfMaps(namespace string, n int) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "late", UID: "u"},
		Spec: corev1.PodSpec{
			NodeName: "gateway", AutomountServiceAccountToken: new(bool), Containers: []corev1.Container{{Name: "c", Image: "busybox"}},
		},
	}
	for i := range n {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: mapName(i), VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: mapName(i)}},
		}})
	}
	return pod
}

// reached polls until cond holds. It returns false if that takes too long.
func reached(b *testing.B, most time.Duration, cond func() bool) bool {
	b.Helper()
	for start := time.Now(); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Since(start) > most {
			return false
		}
	}
	return true
}
