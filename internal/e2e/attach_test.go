package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	registrationv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/petiole-io/petiole/internal/e2e/csidriver"
	"github.com/petiole-io/petiole/internal/e2e/rig"
)

// storage is a CSI driver at a site: csidriver with what a real one has beside it, node-driver-registrar
// at the site and external-attacher in the cloud.
type storage struct {
	*csidriver.Driver
	registrationv1.UnimplementedRegistrationServer

	name, socket string
}

// startStorage serves a driver to the kubelet of a site until the test ends.
func startStorage(t *testing.T, site *rig.Site, name string) *storage {
	t.Helper()
	// A socket's path has 107 characters at most, so it is in no folder of the test.
	dir := got[string](t)(os.MkdirTemp("", "csi"))
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	s := &storage{Driver: got[*csidriver.Driver](t)(csidriver.New(name, site.Node, filepath.Join(dir, "volumes"))), name: name, socket: filepath.Join(dir, "csi.sock")}
	ctx, cancel := context.WithCancel(context.Background())
	registration := grpc.NewServer()
	registrationv1.RegisterRegistrationServer(registration, s)
	ended := make(chan error, 3)
	go func() { ended <- s.Serve(ctx, s.socket) }()
	l := got[net.Listener](t)(net.Listen("unix", filepath.Join(lab.Dir, "sites", site.Name, "kubelet/plugins_registry", name+".sock")))
	go func() { ended <- registration.Serve(l) }()
	go func() { ended <- s.attachAll(ctx) }()
	t.Cleanup(func() {
		cancel()
		registration.Stop()
		for range 3 {
			if err := <-ended; err != nil {
				t.Errorf("the CSI driver: %v", err)
			}
		}
		must(t, s.forget(context.Background()))
	})
	drivers, required := lab.Kube.StorageV1().CSIDrivers(), true
	_, err := drivers.Create(t.Context(), &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSIDriverSpec{AttachRequired: &required}}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, drivers.Delete(context.Background(), name, metav1.DeleteOptions{})) })
	return s
}

// GetInfo implements registrationv1.RegistrationServer.
func (s *storage) GetInfo(context.Context, *registrationv1.InfoRequest) (*registrationv1.PluginInfo, error) {
	return &registrationv1.PluginInfo{Type: registrationv1.CSIPlugin, Name: s.name, Endpoint: s.socket, SupportedVersions: []string{"1.0.0"}}, nil
}

// NotifyRegistrationStatus implements registrationv1.RegistrationServer.
func (s *storage) NotifyRegistrationStatus(context.Context, *registrationv1.RegistrationStatus) (*registrationv1.RegistrationStatusResponse, error) {
	return &registrationv1.RegistrationStatusResponse{}, nil
}

// attachAll does the work of external-attacher until ctx ends.
func (s *storage) attachAll(ctx context.Context) error {
	err := wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		all, err := lab.Kube.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for i := range all.Items {
			if a := &all.Items[i]; a.Spec.Attacher == s.name {
				if err := s.attach(ctx, a); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
					return false, err
				}
			}
		}
		return false, nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// forget deletes what a test that has failed leaves attached: nobody else would remove the finalizers.
func (s *storage) forget(ctx context.Context) error {
	client := lab.Kube.StorageV1().VolumeAttachments()
	all, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range all.Items {
		a := &all.Items[i]
		if a.Spec.Attacher != s.name {
			continue
		}
		a.Finalizers = nil
		if _, err := client.Update(ctx, a, metav1.UpdateOptions{}); err != nil {
			return err
		}
		if err := client.Delete(ctx, a.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func (s *storage) attach(ctx context.Context, a *storagev1.VolumeAttachment) error {
	client, finalizer := lab.Kube.StorageV1().VolumeAttachments(), "external-attacher/"+s.name
	pv, err := lab.Kube.CoreV1().PersistentVolumes().Get(ctx, *a.Spec.Source.PersistentVolumeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	id := pv.Spec.CSI.VolumeHandle
	if a.DeletionTimestamp != nil {
		if _, err := s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: a.Spec.NodeName}); err != nil {
			return err
		}
		a.Finalizers = slices.DeleteFunc(a.Finalizers, func(f string) bool { return f == finalizer })
		_, err := client.Update(ctx, a, metav1.UpdateOptions{})
		return err
	}
	if a.Status.Attached {
		return nil
	}
	if !slices.Contains(a.Finalizers, finalizer) {
		a.Finalizers = append(a.Finalizers, finalizer)
		if a, err = client.Update(ctx, a, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	if _, err := s.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: id, NodeId: a.Spec.NodeName, VolumeCapability: &csi.VolumeCapability{},
	}); err != nil {
		return err
	}
	a.Status.Attached = true
	_, err = client.UpdateStatus(ctx, a, metav1.UpdateOptions{})
	return err
}

// claim creates a volume of the driver with a file, and a claim that is bound to it.
func (s *storage) claim(t *testing.T, ns, file, text string) (id string) {
	t.Helper()
	v := got[*csi.CreateVolumeResponse](t)(s.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: ns, VolumeCapabilities: []*csi.VolumeCapability{{}}}))
	id = v.Volume.VolumeId
	must(t, os.WriteFile(filepath.Join(s.Folder(id), file), []byte(text), 0o644))
	class, size := ns, corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	volumes := lab.Kube.CoreV1().PersistentVolumes()
	_, err := volumes.Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: ns},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, StorageClassName: class, ClaimRef: &corev1.ObjectReference{Namespace: ns, Name: "data"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: s.name, VolumeHandle: id}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, volumes.Delete(context.Background(), ns, metav1.DeleteOptions{})) })
	_, err = lab.Kube.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec:       corev1.PersistentVolumeClaimSpec{AccessModes: modes, StorageClassName: &class, VolumeName: ns, Resources: corev1.VolumeResourceRequirements{Requests: size}},
	}, metav1.CreateOptions{})
	must(t, err)
	return id
}

// TestAttachedVolume starts a pod with a volume of a CSI driver that has to be attached: it is attached
// in the cloud, staged and published at the site, there again after a reboot while the link is cut, and
// detached when the pod is deleted.
func TestAttachedVolume(t *testing.T) {
	site := lab.Sites[0]
	ns := newNamespace(t, "attach")
	s := startStorage(t, site, ns+".example.com")
	id := s.claim(t, ns, "greeting", "from the volume")
	pod := readerPod(site, "user", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}})
	pod.Spec.Containers[0].Command = []string{"/bin/sh", "-c", "echo started >> " + mounted + "/starts; exec httpd -f -p " + webPort + " -h /"}
	start := time.Now()
	uid := createPod(t, ns, pod)
	eventually(t, 2*time.Minute, "the volume is mounted", fileIs(site, uid, mounted+"/greeting", "from the volume"))
	t.Logf("MEASURED pod with a volume to attach, create → the container serves its file: %s", time.Since(start).Round(time.Millisecond))
	if s.Calls("NodeStageVolume") == 0 || s.Calls("NodePublishVolume") == 0 {
		t.Error("the kubelet has not asked the driver")
	}
	eventually(t, time.Minute, "the node names the volume as attached", func(ctx context.Context) error {
		n, err := lab.Kube.CoreV1().Nodes().Get(ctx, site.Node, metav1.GetOptions{})
		if err == nil && len(n.Status.VolumesAttached) == 0 {
			err = errors.New("volumesAttached is empty")
		}
		return err
	})

	p := &plant{site: site, ns: ns}
	p.cut(t)
	published := s.Calls("NodePublishVolume")
	must(t, lab.Reboot(t.Context(), site))
	eventually(t, 2*time.Minute, "the volume is mounted again without a link", func(ctx context.Context) error {
		return fileIs(site, uid, mounted+"/starts", "started\nstarted\n")(ctx)
	})
	must(t, fileIs(site, uid, mounted+"/greeting", "from the volume")(t.Context()))
	if s.Calls("NodePublishVolume") == published {
		t.Error("the driver was not asked after the reboot: the mount is an old one, and nothing is tested")
	}
	must(t, lab.Heal(t.Context(), site))
	eventually(t, time.Minute, "the pod is Ready in the API", allReady(ns, "app=user", 1))

	must(t, lab.Kube.CoreV1().Pods(ns).Delete(t.Context(), "user", metav1.DeleteOptions{}))
	took := eventually(t, 2*time.Minute, "the volume is detached", func(ctx context.Context) error {
		all, err := lab.Kube.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, a := range all.Items {
			if a.Spec.Attacher == s.name {
				return fmt.Errorf("%s is there, attached %t", a.Name, a.Status.Attached)
			}
		}
		return nil
	})
	t.Logf("MEASURED pod delete → volume detached: %s", took.Round(time.Millisecond))
	if s.Calls("NodeUnpublishVolume") == 0 || s.Calls("NodeUnstageVolume") == 0 {
		t.Error("it was detached before it was unmounted")
	}
	_, err := s.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}) // which fails for one that is attached
	must(t, err)
}
