package leaf

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/streams"
)

// maxFlipBytes bounds what one change of a pod's readiness costs in both directions of the
// link, with the protocols of NATS and JetStream.
const maxFlipBytes = 3000

// TestReadinessFlipIsSmallOnTheLink changes the readiness of a pod of a Deployment some times,
// as a kubelet does, and measures what crosses the link for it until the leaf knows that the
// hub has the report. The pod's specification does not cross it again.
func TestReadinessFlipIsSmallOnTheLink(t *testing.T) {
	s, ctx := newSite(t)
	respond(t, s)
	pod, raw := podOfDeployment(t)
	ref := streams.Ref{Node: "plant-a-1", Resource: "pods", Namespace: pod.Namespace, Name: pod.Name}
	m := streams.Message{Ref: ref, Op: streams.OpPut, UID: string(pod.UID), Version: "10", Epoch: "1-e", Object: raw}
	if _, err := streams.Put(ctx, s.hub, streams.DesiredSubject("plant-a", ref), m); err != nil {
		t.Fatal(err)
	}
	w := startWhole(t, ctx, s)
	polltest.Eventually(t, "applied", func() bool {
		_, body := w.get(t, "/metrics")
		return strings.Contains(body, "petiole_leaf_applied_sequence 1\n")
	})
	// The leaf writes it once the node API is ready, which is after the API has loaded the pod.
	var kubeconfig *rest.Config
	polltest.Eventually(t, "kubeconfig", func() bool {
		var err error
		kubeconfig, err = clientcmd.BuildConfigFromFlags("", filepath.Join(s.cfg.DataDir, KubeconfigName))
		return err == nil
	})
	client, err := kubernetes.NewForConfig(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	reported, err := s.hub.Stream(ctx, streams.Reported("plant-a"))
	if err != nil {
		t.Fatal(err)
	}
	flip := func(n int) {
		t.Helper()
		ready := corev1.ConditionStatus([]string{"True", "False"}[n%2])
		patch := fmt.Sprintf(`{"metadata":{"uid":%q},"status":{"conditions":[{"type":"Ready","status":%q,"lastTransitionTime":%q}]}}`,
			pod.UID, ready, metav1.Unix(1_700_000_000+int64(n), 0).UTC().Format(time.RFC3339))
		if _, err := client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
		polltest.Eventually(t, "report at the hub", func() bool {
			raw, err := reported.GetLastMsgForSubject(ctx, streams.ReportedSubject("plant-a", ref))
			if err != nil {
				return false
			}
			_, m, err := streams.Load(ctx, reported, raw.Subject, raw.Header, raw.Data)
			var got corev1.Pod
			if err != nil || json.Unmarshal(m.Object, &got) != nil {
				return false
			}
			return got.Status.Conditions[0].Status == ready && len(got.Status.ContainerStatuses) == len(pod.Status.ContainerStatuses)
		})
	}
	flip(1)
	// A heartbeat that happens to be sent between the two counts as well: there is one in ten
	// seconds.
	const flips = 20
	before := [2]int64{s.line.Moved(natstest.Upward), s.line.Moved(natstest.Downward)}
	for n := range flips {
		flip(n + 2)
	}
	up, down := (s.line.Moved(natstest.Upward)-before[0])/flips, (s.line.Moved(natstest.Downward)-before[1])/flips
	t.Logf("a change of readiness: %d bytes up, %d bytes down; the pod has %d bytes", up, down, len(raw))
	if up+down > maxFlipBytes {
		t.Errorf("a change of readiness takes %d bytes up and %d bytes down, the limit is %d", up, down, maxFlipBytes)
	}
}

// podOfDeployment returns a running pod with what the API server and the usual controllers
// add to it, and its JSON.
func podOfDeployment(t *testing.T) (*corev1.Pod, []byte) {
	t.Helper()
	started, yes := metav1.Unix(1_700_000_000, 0), true
	mount := corev1.VolumeMount{Name: "kube-api-access-x7k2p", ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}
	probe := func(path string) *corev1.Probe {
		p := &corev1.Probe{PeriodSeconds: 10, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3}
		p.HTTPGet = &corev1.HTTPGetAction{Path: path, Scheme: corev1.URISchemeHTTP}
		p.HTTPGet.Port.IntVal = 8080
		return p
	}
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "production", Name: "line-controller-6d5c7f9b84-x7k2p", GenerateName: "line-controller-6d5c7f9b84-", UID: "5f0b6a52-6c0e-4f7e-9b1f-6d1c7a0f2b11",
			ResourceVersion: "10", Generation: 1, CreationTimestamp: started,
			Labels:          map[string]string{"app.kubernetes.io/name": "line-controller", "app.kubernetes.io/part-of": "plant", "pod-template-hash": "6d5c7f9b84"},
			Annotations:     map[string]string{"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z", "prometheus.io/scrape": "true", "prometheus.io/port": "8080"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "line-controller-6d5c7f9b84", UID: "0b9a7d1e-93a5-49f0-8a35-0d1f3d4c5b6a", Controller: &yes, BlockOwnerDeletion: &yes}},
		},
		Spec: corev1.PodSpec{
			NodeName: "plant-a-1", RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, ServiceAccountName: "line-controller", SchedulerName: corev1.DefaultSchedulerName,
			EnableServiceLinks: &yes, SecurityContext: &corev1.PodSecurityContext{},
			Tolerations: []corev1.Toleration{
				{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
				{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
			},
			Volumes: []corev1.Volume{
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "line-controller"}}}},
				{Name: mount.Name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
				}}}},
			},
		},
		Status: corev1.PodStatus{
			ObservedGeneration: 1, Phase: corev1.PodRunning, HostIP: "192.168.10.4", PodIP: "10.42.0.17", StartTime: &started, QOSClass: corev1.PodQOSBurstable,
			HostIPs: []corev1.HostIP{{IP: "192.168.10.4"}}, PodIPs: []corev1.PodIP{{IP: "10.42.0.17"}},
		},
	}
	for _, c := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady, corev1.PodInitialized, corev1.PodReadyToStartContainers, corev1.PodScheduled} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: started, ObservedGeneration: 1})
	}
	for _, name := range []string{"controller", "exporter"} {
		image := "registry.example.com/plant/" + name + ":1.14.2"
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{
			Name: name, Image: image, ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePath: corev1.TerminationMessagePathDefault, TerminationMessagePolicy: corev1.TerminationMessageReadFile,
			Args: []string{"--config=/etc/" + name + "/config.yaml", "--log-level=info"}, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
			Env:          []corev1.EnvVar{{Name: "LINE", Value: "7"}, {Name: "NODE", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "spec.nodeName"}}}},
			VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/" + name}, mount}, LivenessProbe: probe("/healthz"), ReadinessProbe: probe("/readyz"),
		})
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: name, Ready: true, Started: &yes, Image: image, ImageID: "registry.example.com/plant/" + name + "@sha256:3b7f1d0c9c0e4f6b8a2d5e7f90123456789abcdef0123456789abcdef0123456",
			ContainerID: "cri-o://9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}},
		})
	}
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return pod, raw
}
