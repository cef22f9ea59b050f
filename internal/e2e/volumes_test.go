package e2e

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"

	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// authority signs certificates for pods.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: got[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}}
	a.pem = got[string](t)(a.sign(a.cert, a.key.Public()))
	return a
}

func (a *authority) sign(template *x509.Certificate, public crypto.PublicKey) (string, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), err
}

// issue signs the requests for certificates of a namespace.
func (a *authority) issue(ctx context.Context, ns string) error {
	client := lab.Kube.CertificatesV1().PodCertificateRequests(ns)
	all, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, r := range all.Items {
		if len(r.Status.Conditions) > 0 {
			continue
		}
		csr, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
		if err != nil {
			return err
		}
		before := metav1.NewTime(time.Now().Add(-time.Minute).Truncate(time.Second))
		after, refresh := metav1.NewTime(before.Add(2*time.Hour)), metav1.NewTime(before.Add(time.Hour))
		chain, err := a.sign(&x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: before.Time, NotAfter: after.Time}, csr.PublicKey)
		if err != nil {
			return err
		}
		r.Status = certificatesv1.PodCertificateRequestStatus{
			Conditions: []metav1.Condition{{
				Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue, Reason: "Issued", Message: "Issued", LastTransitionTime: metav1.Now(),
			}},
			CertificateChain: chain, NotBefore: &before, NotAfter: &after, BeginRefreshAt: &refresh,
		}
		if _, err := client.UpdateStatus(ctx, &r, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

const mounted = "/etc/mounted"

// readerPod is a pod that mounts a volume and serves its files.
func readerPod(site *rig.Site, name string, source corev1.VolumeSource) *corev1.Pod {
	pod := sleeperPod(site, name, true)
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}}
	pod.Spec.Containers = []corev1.Container{{
		Name: "web", Image: lab.Image("web"), Command: []string{"/bin/sh", "-c", "exec httpd -f -p " + webPort + " -h /"},
		VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: mounted}},
	}}
	return pod
}

func createPod(t *testing.T, ns string, pod *corev1.Pod) string {
	t.Helper()
	return string(got[*corev1.Pod](t)(lab.Kube.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})).UID)
}

func projection(s corev1.VolumeProjection) corev1.VolumeSource {
	return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{s}}}
}

// TestPodsGetWhatTheyMount starts pods that wait for objects which only they need.
func TestPodsGetWhatTheyMount(t *testing.T) {
	site := lab.Sites[0]
	ns := newNamespace(t, "mounts")
	ca, next := newAuthority(t), newAuthority(t)

	t.Run("a ClusterTrustBundle, and its changes", func(t *testing.T) {
		bundles := lab.Kube.CertificatesV1().ClusterTrustBundles()
		bundle := got[*certificatesv1.ClusterTrustBundle](t)(bundles.Create(t.Context(), &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: ca.pem},
		}, metav1.CreateOptions{}))
		t.Cleanup(func() { must(t, bundles.Delete(context.Background(), ns, metav1.DeleteOptions{})) })
		uid := createPod(t, ns, readerPod(site, "trust", projection(corev1.VolumeProjection{
			ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: &ns, Path: "ca.pem"},
		})))
		eventually(t, time.Minute, "the bundle is mounted", fileIs(site, uid, mounted+"/ca.pem", ca.pem))
		bundle.Spec.TrustBundle = next.pem
		_, err := bundles.Update(t.Context(), bundle, metav1.UpdateOptions{})
		must(t, err)
		// The kubelet looks at a mounted bundle about once a minute.
		eventually(t, 150*time.Second, "the other bundle is mounted", fileIs(site, uid, mounted+"/ca.pem", next.pem))
	})
	t.Run("a certificate of its own", func(t *testing.T) {
		uid := createPod(t, ns, readerPod(site, "certified", projection(corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{
			SignerName: "example.com/" + ns, KeyType: "ECDSAP256", CredentialBundlePath: "bundle.pem",
		}})))
		eventually(t, 2*time.Minute, "the certificate is mounted", func(ctx context.Context) error {
			if err := ca.issue(ctx, ns); err != nil {
				return err
			}
			bundle, err := readFile(ctx, site, uid, mounted+"/bundle.pem")
			if err == nil && (!strings.Contains(bundle, "PRIVATE KEY") || !strings.Contains(bundle, "BEGIN CERTIFICATE")) {
				err = fmt.Errorf("the bundle has %d bytes, and no key or no certificate", len(bundle))
			}
			return err
		})
	})
	t.Run("an immutable ConfigMap that was created again", func(t *testing.T) {
		maps, immutable := lab.Kube.CoreV1().ConfigMaps(ns), true
		create := func(value string) {
			t.Helper()
			_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "fixed"}, Immutable: &immutable, Data: map[string]string{"value": value}}, metav1.CreateOptions{})
			must(t, err)
		}
		source := corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "fixed"}}}
		create("one")
		older := createPod(t, ns, readerPod(site, "older", source))
		eventually(t, time.Minute, "the first is mounted", fileIs(site, older, mounted+"/value", "one"))
		must(t, maps.Delete(t.Context(), "fixed", metav1.DeleteOptions{}))
		create("two")
		newer := createPod(t, ns, readerPod(site, "newer", source))
		eventually(t, time.Minute, "the second is mounted in a new pod", fileIs(site, newer, mounted+"/value", "two"))
	})
}

// TestImagePullWhileCut restarts a container with imagePullPolicy Always while no registry can be
// reached.
func TestImagePullWhileCut(t *testing.T) {
	site := lab.Sites[0]
	ns := newNamespace(t, "pull")
	pod := shell(site, "always", "sleep 12; exit 1")
	pod.Spec.Containers[0].ImagePullPolicy = corev1.PullAlways
	uid := createPod(t, ns, pod)
	running := func(after time.Time) condition {
		return func(ctx context.Context) error {
			all, err := site.Runtime.Containers(ctx, ns)
			if err != nil {
				return err
			}
			for _, c := range all {
				if c.PodUID == uid && c.StartedAt.After(after) {
					return nil
				}
			}
			return errors.New("no container has started")
		}
	}
	eventually(t, time.Minute, "the container runs", running(time.Time{}))
	must(t, lab.Cut(t.Context(), site))
	t.Cleanup(func() { must(t, lab.Heal(context.Background(), site)) })
	cutAt := time.Now()
	// The node API takes the link for lost after 5 s.
	eventually(t, 3*time.Minute, "the container was started again without a registry", running(cutAt.Add(10*time.Second)))
}

// driver is a DRA driver at a site with one device.
type driver struct {
	mu       sync.Mutex
	prepared map[types.UID]string
}

const driverName = "camera.example.com"

func (d *driver) PrepareResourceClaims(_ context.Context, claims []*resourcev1.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[types.UID]kubeletplugin.PrepareResult{}
	for _, c := range claims {
		var r kubeletplugin.PrepareResult
		for _, a := range c.Status.Allocation.Devices.Results {
			r.Devices = append(r.Devices, kubeletplugin.Device{Requests: []string{a.Request}, PoolName: a.Pool, DeviceName: a.Device})
			d.prepared[c.UID] = a.Device
		}
		out[c.UID] = r
	}
	return out, nil
}

func (d *driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[types.UID]error{}
	for _, c := range claims {
		delete(d.prepared, c.UID)
		out[c.UID] = nil
	}
	return out, nil
}

func (d *driver) HandleError(context.Context, error, string) {}

func (d *driver) WatchHealthStatus(context.Context, chan<- kubeletplugin.DeviceHealthReport) error {
	return kubeletplugin.ErrHealthNotSupported
}

func (d *driver) devices() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out bytes.Buffer
	for _, device := range d.prepared {
		out.WriteString(device)
	}
	return out.String()
}

// TestResourceClaim starts a pod with a device that the scheduler allocates and a driver at the
// site prepares.
func TestResourceClaim(t *testing.T) {
	site := lab.Sites[0]
	ns := newNamespace(t, "claim")
	d := &driver{prepared: map[types.UID]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	root := filepath.Join(lab.Dir, "sites", site.Name, "kubelet")
	helper := got[*kubeletplugin.Helper](t)(kubeletplugin.Start(ctx, d,
		kubeletplugin.DriverName(driverName), kubeletplugin.KubeClient(lab.Kube), kubeletplugin.NodeName(site.Node),
		kubeletplugin.RegistrarDirectoryPath(filepath.Join(root, "plugins_registry")), kubeletplugin.PluginDataDirectoryPath(t.TempDir()),
	))
	defer helper.Stop()
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: resourcev1.DeviceClassSpec{
		Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.driver == "` + driverName + `"`}}},
	}}
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: resourcev1.ResourceSliceSpec{
		Driver: driverName, NodeName: &site.Node, Pool: resourcev1.ResourcePool{Name: site.Node, ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "camera-0"}},
	}}
	api := lab.Kube.ResourceV1()
	_, err := api.DeviceClasses().Create(t.Context(), class, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, api.DeviceClasses().Delete(context.Background(), ns, metav1.DeleteOptions{})) })
	_, err = api.ResourceSlices().Create(t.Context(), slice, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, api.ResourceSlices().Delete(context.Background(), ns, metav1.DeleteOptions{})) })
	template := resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
		Name: "camera", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: ns},
	}}}}
	_, err = api.ResourceClaimTemplates(ns).Create(t.Context(), &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Name: "camera"}, Spec: resourcev1.ResourceClaimTemplateSpec{Spec: template},
	}, metav1.CreateOptions{})
	must(t, err)

	name := "camera"
	pod := sleeperPod(site, "viewer", true)
	pod.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "c", ResourceClaimTemplateName: &name}}
	pod.Spec.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "c"}}
	createPod(t, ns, pod)
	eventually(t, 2*time.Minute, "the pod with the device runs", allReady(ns, "app=viewer", 1))
	if got := d.devices(); got != "camera-0" {
		t.Errorf("the driver has prepared %q", got)
	}
	must(t, lab.Kube.CoreV1().Pods(ns).Delete(t.Context(), "viewer", metav1.DeleteOptions{}))
	eventually(t, time.Minute, "the driver has the device back, and the claim is gone", func(ctx context.Context) error {
		claims, err := api.ResourceClaims(ns).List(ctx, metav1.ListOptions{})
		if err == nil && (d.devices() != "" || len(claims.Items) > 0) {
			err = fmt.Errorf("the driver has %q, the API %d claims", d.devices(), len(claims.Items))
		}
		return err
	})
}
