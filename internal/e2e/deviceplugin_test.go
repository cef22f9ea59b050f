package e2e

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	labregistry "github.com/petiole-io/petiole/internal/lab/registry"
)

// sampleDevice is the resource of upstream's sample-device-plugin, which has the devices Dev-1 and Dev-2
// and mounts a file of that name in /tmp.
const sampleDevice = "example.com/resource"

// devicePlugin is a pod with upstream's sample-device-plugin.
func devicePlugin(t *testing.T, site *rig.Site) *corev1.Pod {
	t.Helper()
	const binary = "sample-device-plugin"
	program, err := os.ReadFile(lab.Bin(binary))
	if err != nil {
		t.Fatalf("%v: `go tool task build PROGRAMS=%s` builds it", err, binary)
	}
	pod := sleeperPod(site, "plugin", true)
	c := &pod.Spec.Containers[0]
	c.Command = []string{"/" + binary}
	c.ImagePullPolicy = corev1.PullAlways // the lab may have that of another version
	c.Image = push(t, binary, imageOf(t, v1.Config{Cmd: c.Command},
		labregistry.File{Name: binary, Kind: tar.TypeReg, Data: program, Mode: 0o755},
		// With this file it leaves its registration to the kubelet, which finds its socket. The kubelets of
		// all sites of the lab have the other socket, that of the registration, in the same place.
		labregistry.File{Name: strings.TrimPrefix(pluginapi.DevicePluginPath, "/") + "DEPRECATION", Kind: tar.TypeReg, Mode: 0o644}))
	c.Env = []corev1.EnvVar{{Name: "PLUGIN_SOCK_DIR", Value: "/sockets"}}
	for name, path := range map[string][2]string{
		"sockets": {filepath.Join(lab.Dir, "sites", site.Name, "kubelet/plugins_registry"), "/sockets"}, "devices": {"/tmp", "/tmp"},
	} {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path[0]}}})
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path[1]})
	}
	return pod
}

// TestDevicePlugin gives two pods a device each, as a GPU's plugin does; the first one keeps its own
// while the leaf is started again, with its kubelet.
func TestDevicePlugin(t *testing.T) {
	site := lab.Sites[0]
	ns := newNamespace(t, "device-plugin")
	t.Cleanup(func() {
		for _, d := range []string{"/tmp/Dev-1", "/tmp/Dev-2"} {
			if err := os.Remove(d); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
		}
	})
	createPod(t, ns, devicePlugin(t, site))
	available := func(want string) condition {
		return func(ctx context.Context) error {
			node, err := lab.Kube.CoreV1().Nodes().Get(ctx, site.Node, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if q := node.Status.Allocatable[sampleDevice]; q.String() != want {
				return fmt.Errorf("the node has %s of %s", q.String(), sampleDevice)
			}
			return nil
		}
	}
	eventually(t, time.Minute, "the node has two devices", available("2"))
	device := func(name string) string {
		t.Helper()
		out, errs, err := kubectl(t.Context(), nil, "-n", ns, "exec", name, "--", "ls", "/tmp")
		if err != nil {
			t.Fatalf("%v: %s", err, errs)
		}
		return strings.TrimSpace(out)
	}
	// use creates a pod with one device and returns the device's name.
	use := func(name string) string {
		t.Helper()
		pod := sleeperPod(site, name, true)
		pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{sampleDevice: resource.MustParse("1")}
		createPod(t, ns, pod)
		eventually(t, time.Minute, "the pod with the device runs", allReady(ns, "app="+name, 1))
		return device(name)
	}
	first := use("first")
	before := got[[]corev1.Pod](t)(podsOf(t.Context(), ns, ""))
	kubelet := got[rig.Process](t)(site.Kubelet())
	must(t, lab.Restart(t.Context(), site.LeafDaemon()))
	eventually(t, time.Minute, "another kubelet runs", func(context.Context) error {
		now, err := site.Kubelet()
		if err == nil && now.Same(kubelet) {
			err = fmt.Errorf("kubelet %d still runs", now.PID)
		}
		return err
	})
	// Until the plugin has registered again, the kubelet has no device that it could give to a pod.
	eventually(t, time.Minute, "the plugin has registered with both kubelets", func(ctx context.Context) error {
		out, errs, err := kubectl(ctx, nil, "-n", ns, "logs", "plugin")
		if n := strings.Count(out, "] \"GetInfo\""); err != nil || n < 2 {
			return fmt.Errorf("%d times: %w: %s", n, err, errs)
		}
		return nil
	})
	eventually(t, time.Minute, "the node has two devices again", available("2"))
	second := use("second")
	if !strings.HasPrefix(first, "Dev-") || !strings.HasPrefix(second, "Dev-") || first == second || device("first") != first {
		t.Errorf("the pods have devices %q and %q; the first has %q after the restart", first, second, device("first"))
	}
	unrestarted(t, before, got[[]corev1.Pod](t)(podsOf(t.Context(), ns, "")))
}
