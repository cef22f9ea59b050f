package chart

import (
	"archive/tar"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/bridge/accounts"
	"github.com/petiole-io/petiole/internal/bench"
	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/host"
	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/lab/registry"
)

const (
	hubImage = "petiole/hub"
	hubPod   = "hub-0"
	hubClaim = "data-hub-0"
	hubName  = "hub." + namespace + ".svc"
)

// hub is the chart's hub in a pod of the node in the cloud.
type hub struct {
	*world
	node *bench.CloudNode
	// dir has the files that `bridge hub init` has made.
	dir, caFile string
}

// prepareHub makes what docs/install.md has a user make for the chart's hub: its keys, a certificate, a
// Secret of them and an image; and the volume, which a cluster provides.
func (w *world) prepareHub(node *bench.CloudNode) *hub {
	w.Helper()
	h := &hub{world: w, node: node, dir: w.TempDir()}
	w.must(w.run("bridge", "hub", "init", "--dir", h.dir, "--data", "/data"))
	ca, err := pki.NewAuthority(w.TempDir(), "nats-ca")
	w.must(err)
	cert, err := ca.Issue(w.TempDir(), "hub", pki.Subject{Name: "hub", Hosts: []string{hubName}})
	w.must(err)
	h.caFile = ca.CertFile
	data := map[string][]byte{}
	for name, file := range map[string]string{"operator.conf": filepath.Join(h.dir, accounts.OperatorConf), "hub.crt": cert.CertFile, "hub.key": cert.KeyFile} {
		data[name], err = os.ReadFile(file)
		w.must(err)
	}
	core := w.lab.Kube.CoreV1()
	_, err = core.Secrets(namespace).Create(w.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "hub"}, Data: data}, metav1.CreateOptions{})
	w.must(err)
	volume, err := os.MkdirTemp(w.lab.Dir, "hub-volume")
	w.must(err)
	w.must(os.Chown(volume, 65532, 65532))
	_, err = core.PersistentVolumes().Create(w.ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "hub"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("5Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		ClaimRef:                      &corev1.ObjectReference{Namespace: namespace, Name: hubClaim},
		PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: volume}},
	}}, metav1.CreateOptions{})
	w.must(err)
	w.Cleanup(func() {
		ctx := context.WithoutCancel(w.ctx)
		claimErr := core.PersistentVolumeClaims(namespace).Delete(ctx, hubClaim, metav1.DeleteOptions{})
		if apierrors.IsNotFound(claimErr) && w.Failed() { // before the hub was installed
			claimErr = nil
		}
		w.must(errors.Join(claimErr, core.Secrets(namespace).Delete(ctx, "hub", metav1.DeleteOptions{}),
			core.PersistentVolumes().Delete(ctx, "hub", metav1.DeleteOptions{}), os.RemoveAll(volume)))
	})
	program, err := natsImage(w.lab.Bin("nats-server"))
	w.must(err)
	w.must(registry.Push(w.ctx, rig.Registry, hubImage+":1", program))
	return h
}

// natsImage returns an image as that of nats-server on Alpine: with a shell and wget.
func natsImage(program string) (v1.Image, error) {
	binary, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	busybox, err := os.ReadFile(host.Busybox)
	if err != nil {
		return nil, err
	}
	layer, err := registry.Layer([]registry.File{
		{Name: "bin/", Kind: tar.TypeDir, Mode: 0o755},
		{Name: "etc/", Kind: tar.TypeDir, Mode: 0o755},
		{Name: "bin/busybox", Kind: tar.TypeReg, Data: busybox, Mode: 0o755},
		{Name: "bin/sh", Kind: tar.TypeSymlink, Link: "busybox", Mode: 0o777},
		{Name: "bin/wget", Kind: tar.TypeSymlink, Link: "busybox", Mode: 0o777},
		{Name: "bin/nats-server", Kind: tar.TypeReg, Data: binary, Mode: 0o755},
	})
	if err != nil {
		return nil, err
	}
	return registry.Image(v1.Config{Env: []string{"PATH=/bin"}}, layer)
}

// values are those of the chart that run the hub.
func (h *hub) values() []string {
	return []string{
		"--set", "hub.enabled=true,hub.gateways.type=ClusterIP", "--set-string", "hub.image.repository=" + rig.Registry + "/" + hubImage + ",hub.image.tag=1",
	}
}

// works checks that administrators and gateways reach the hub by TLS, and that what it stores is there
// after its pod was replaced.
func (h *hub) works() {
	h.Helper()
	h.withJetStream(func(js jetstream.JetStream) error {
		if _, err := js.CreateStream(h.ctx, jetstream.StreamConfig{Name: "CHART", Subjects: []string{"chart"}, MaxBytes: 1 << 20}); err != nil {
			return err
		}
		_, err := js.Publish(h.ctx, "chart", []byte("stays"))
		return err
	})
	h.acceptsGateways()
	was, err := h.lab.Kube.CoreV1().Pods(namespace).Get(h.ctx, hubPod, metav1.GetOptions{})
	h.must(err)
	h.must(h.lab.Kube.CoreV1().Pods(namespace).Delete(h.ctx, hubPod, metav1.DeleteOptions{}))
	h.eventually("another pod of the hub", func(ctx context.Context) error {
		p, err := h.lab.Kube.CoreV1().Pods(namespace).Get(ctx, hubPod, metav1.GetOptions{})
		if err == nil && p.UID == was.UID {
			err = fmt.Errorf("it is the former one")
		}
		return err
	})
	h.withJetStream(func(js jetstream.JetStream) error {
		s, err := js.Stream(h.ctx, "CHART")
		if err != nil {
			return err
		}
		m, err := s.GetLastMsgForSubject(h.ctx, "chart")
		if err == nil && string(m.Data) != "stays" {
			err = fmt.Errorf("the message is %q", m.Data)
		}
		return err
	})
}

// address returns the address of a port of the pod, as soon as it is ready.
func (h *hub) address(port int) (address string) {
	h.Helper()
	h.eventually("the hub's pod", func(ctx context.Context) error {
		p, err := h.lab.Kube.CoreV1().Pods(namespace).Get(ctx, hubPod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
				address = fmt.Sprintf("%s:%d", p.Status.PodIP, port)
				return nil
			}
		}
		return fmt.Errorf("it is %s: %+v", p.Status.Phase, p.Status.ContainerStatuses)
	})
	return address
}

// withJetStream calls use as the administrator of the hub's JetStream.
func (h *hub) withJetStream(use func(jetstream.JetStream) error) {
	h.Helper()
	nc, err := nats.Connect("tls://"+h.address(4222), nats.SetCustomDialer(h.node), nats.UserCredentials(filepath.Join(h.dir, accounts.AdminCreds)),
		nats.Secure(h.tls()), nats.Timeout(30*time.Second))
	h.must(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	h.must(err)
	h.must(use(js))
}

func (h *hub) tls() *tls.Config {
	h.Helper()
	pem, err := os.ReadFile(h.caFile)
	h.must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: hubName, RootCAs: pool}
}

// acceptsGateways checks that the leaf listener tells those who connect that it wants TLS.
func (h *hub) acceptsGateways() {
	h.Helper()
	conn, err := h.node.Dial("tcp", h.address(7422))
	h.must(err)
	defer conn.Close()
	h.must(conn.SetDeadline(time.Now().Add(30 * time.Second)))
	info := make([]byte, 4<<10)
	n, err := conn.Read(info)
	h.must(err)
	if text := string(info[:n]); !strings.HasPrefix(text, "INFO ") || !strings.Contains(text, `"tls_required":true`) {
		h.Fatalf("the leaf listener says %q", text)
	}
}
