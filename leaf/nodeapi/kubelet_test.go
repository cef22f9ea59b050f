package nodeapi

import (
	"context"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/streams"
)

// TestWhatTheKubeletAsksFor sends every kind of request that the kubelet v1.37.2 sends, with
// the place in its source: each succeeds, or is rejected with the reason. The requests depend
// on each other. Service account tokens have tests of their own.
func TestWhatTheKubeletAsksFor(t *testing.T) {
	t.Parallel()
	l := newLeaf(t)
	l.cloudNode("n1", "5")
	l.pod(newPod("web", "u1", "10"))
	l.pod(newPod("old", "u3", "12", func(p *corev1.Pod) {
		now := metav1.Now()
		p.DeletionTimestamp = &now
	}))
	l.configMap(newConfigMap("settings", "u2", "11", "x"))
	l.send(streams.Ref{Resource: "persistentvolumes", Name: "disk"}, streams.OpPut, "u5", "14",
		&corev1.PersistentVolume{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"}, ObjectMeta: metav1.ObjectMeta{Name: "disk", UID: "u5"}})
	l.send(streams.Ref{Resource: "persistentvolumeclaims", Namespace: "default", Name: "data"}, streams.OpPut, "u6", "15",
		&corev1.PersistentVolumeClaim{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data", UID: "u6"}})
	r := l.start(t.TempDir())
	all, get, own := metav1.ListOptions{}, metav1.GetOptions{}, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node}
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	merge := types.StrategicMergePatchType
	status := []byte(`{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`)
	mirror := newPod("static", "", "", func(p *corev1.Pod) { p.Annotations = map[string]string{mirrorAnnotation: "hash"} })
	gone := func(err error) error {
		if apierrors.IsNotFound(err) {
			return nil // there is no such object; a request that is not served is forbidden, or has no path
		}
		return err
	}
	watched := func(w interface{ Stop() }, err error) error {
		if err == nil {
			w.Stop()
		}
		return err
	}
	type kube = kubernetes.Interface
	for _, request := range []struct {
		what, source string
		do           func(context.Context, kube) error
		// refused is a part of the reason, empty if the request succeeds.
		refused string
	}{
		{"nodes create", "pkg/kubelet/kubelet_node_status.go tryRegisterWithAPIServer", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		}, ""},
		{"nodes get", "pkg/kubelet/kubelet_nodecache.go", func(ctx context.Context, c kube) error { _, err := c.CoreV1().Nodes().Get(ctx, node, get); return err }, ""},
		{"nodes list", "pkg/kubelet/kubelet.go NewMainKubelet, informer", func(ctx context.Context, c kube) error { _, err := c.CoreV1().Nodes().List(ctx, all); return err }, ""},
		{"nodes watch", "pkg/kubelet/kubelet.go NewMainKubelet, informer", func(ctx context.Context, c kube) error { return watched(c.CoreV1().Nodes().Watch(ctx, all)) }, ""},
		{"nodes patch", "pkg/volume/csi/nodeinfomanager tryUpdateNode", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().Nodes().Patch(ctx, node, merge, []byte(`{"metadata":{"annotations":{"csi.volume.kubernetes.io/nodeid":"{}"}}}`), metav1.PatchOptions{})
			return err
		}, ""},
		{"nodes/status patch", "pkg/kubelet/kubelet_node_status.go patchNodeStatus", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().Nodes().Patch(ctx, node, merge, status, metav1.PatchOptions{}, "status")
			return err
		}, ""},
		{"leases create", "k8s.io/component-helpers/apimachinery/lease", func(ctx context.Context, c kube) error {
			_, err := c.CoordinationV1().Leases(nodeLeases).Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: node}}, metav1.CreateOptions{})
			return err
		}, ""},
		{"leases update", "k8s.io/component-helpers/apimachinery/lease", func(ctx context.Context, c kube) error {
			lease, err := c.CoordinationV1().Leases(nodeLeases).Get(ctx, node, get)
			if err == nil {
				_, err = c.CoordinationV1().Leases(nodeLeases).Update(ctx, lease, metav1.UpdateOptions{})
			}
			return err
		}, ""},
		{"pods list", "pkg/kubelet/config/apiserver.go", func(ctx context.Context, c kube) error { _, err := c.CoreV1().Pods("").List(ctx, own); return err }, ""},
		{"pods watch", "pkg/kubelet/config/apiserver.go", func(ctx context.Context, c kube) error { return watched(c.CoreV1().Pods("").Watch(ctx, own)) }, ""},
		{"pods get", "pkg/kubelet/status/status_manager.go syncPod", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().Pods("default").Get(ctx, "web", get)
			return err
		}, ""},
		{"pods/status patch", "pkg/kubelet/status/status_manager.go syncPod", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().Pods("default").Patch(ctx, "web", merge, []byte(`{"status":{"phase":"Running"}}`), metav1.PatchOptions{}, "status")
			return err
		}, ""},
		{"pods delete, the last word", "pkg/kubelet/status/status_manager.go syncPod", func(ctx context.Context, c kube) error {
			return c.CoreV1().Pods("default").Delete(ctx, "old", now)
		}, ""},
		{"pods create, a mirror", "pkg/kubelet/pod/mirror_client.go CreateMirrorPod", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().Pods("default").Create(ctx, mirror, metav1.CreateOptions{})
			return err
		}, ""},
		{"pods delete, a mirror", "pkg/kubelet/pod/mirror_client.go DeleteMirrorPod", func(ctx context.Context, c kube) error {
			return c.CoreV1().Pods("default").Delete(ctx, "static", now)
		}, ""},
		{"configmaps get", "pkg/kubelet/configmap/configmap_manager.go", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().ConfigMaps("default").Get(ctx, "settings", get)
			return err
		}, ""},
		{"configmaps list", "pkg/kubelet/configmap/configmap_manager.go", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=settings"})
			return err
		}, ""},
		{"configmaps watch", "pkg/kubelet/configmap/configmap_manager.go", func(ctx context.Context, c kube) error {
			return watched(c.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=settings"}))
		}, ""},
		{"secrets get", "pkg/kubelet/secret/secret_manager.go", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().Secrets("default").Get(ctx, "none", get)
			return gone(err)
		}, ""},
		{"secrets watch", "pkg/kubelet/secret/secret_manager.go", func(ctx context.Context, c kube) error { return watched(c.CoreV1().Secrets("default").Watch(ctx, all)) }, ""},
		{"services list", "pkg/kubelet/kubelet.go NewMainKubelet, informer", func(ctx context.Context, c kube) error { _, err := c.CoreV1().Services("").List(ctx, all); return err }, ""},
		{"serviceaccounts get", "pkg/kubelet/kubelet.go NewMainKubelet", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().ServiceAccounts("default").Get(ctx, "none", get)
			return gone(err)
		}, ""},
		{"persistentvolumes get", "pkg/kubelet/volumemanager/populator", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().PersistentVolumes().Get(ctx, "disk", get)
			return err
		}, ""},
		{"persistentvolumeclaims get", "pkg/kubelet/volumemanager/populator", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().PersistentVolumeClaims("default").Get(ctx, "data", get)
			return err
		}, ""},
		{"persistentvolumes patch", "pkg/volume/util/resize_util.go UpdatePVSize", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().PersistentVolumes().Patch(ctx, "disk", merge, []byte(`{"spec":{"capacity":{"storage":"2Gi"}}}`), metav1.PatchOptions{})
			return err
		}, "not expanded at a site"},
		{"persistentvolumeclaims/status patch", "pkg/volume/util/resize_util.go PatchPVCStatus", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().PersistentVolumeClaims("default").Patch(ctx, "data", merge, []byte(`{"status":{"phase":"Bound"}}`), metav1.PatchOptions{}, "status")
			return err
		}, "not expanded at a site"},
		{"events create", "k8s.io/client-go/tools/record", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().Events("default").CreateWithEventNamespaceWithContext(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web.1"}, Count: 1})
			return err
		}, ""},
		{"events patch", "k8s.io/client-go/tools/record", func(ctx context.Context, c kube) error {
			_, err := c.CoreV1().Events("default").Patch(ctx, "web.1", merge, []byte(`{"count":2}`), metav1.PatchOptions{})
			return err
		}, ""},
		{"csinodes create", "pkg/volume/csi/nodeinfomanager CreateCSINode", func(ctx context.Context, c kube) error {
			_, err := c.StorageV1().CSINodes().Create(ctx, csiNodeOf("n1"), metav1.CreateOptions{})
			return err
		}, ""},
		{"csinodes get and update", "pkg/volume/csi/nodeinfomanager installDriverToCSINode", func(ctx context.Context, c kube) error {
			n, err := c.StorageV1().CSINodes().Get(ctx, node, get)
			if err != nil {
				return err
			}
			n.Spec.Drivers = []storagev1.CSINodeDriver{{Name: "nfs", NodeID: node}}
			_, err = c.StorageV1().CSINodes().Update(ctx, n, metav1.UpdateOptions{})
			return err
		}, ""},
		{"csinodes/status update", "pkg/volume/csi/nodeinfomanager tryUpdateCSINodeStorageHealth", func(ctx context.Context, c kube) error {
			n, err := c.StorageV1().CSINodes().Get(ctx, node, get)
			if err != nil {
				return err
			}
			_, err = c.StorageV1().CSINodes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
			return err
		}, "CSIVolumeHealth"},
		{"csinodes delete", "pkg/volume/csi/nodeinfomanager DeleteCSINode", func(ctx context.Context, c kube) error {
			return c.StorageV1().CSINodes().Delete(ctx, node, metav1.DeleteOptions{})
		}, ""},
		{"csidrivers list", "pkg/kubelet/volume_host.go, informer", func(ctx context.Context, c kube) error {
			_, err := c.StorageV1().CSIDrivers().List(ctx, all)
			return err
		}, ""},
		{"csidrivers watch", "pkg/kubelet/volume_host.go, informer", func(ctx context.Context, c kube) error { return watched(c.StorageV1().CSIDrivers().Watch(ctx, all)) }, ""},
		{"volumeattachments get", "pkg/volume/csi/csi_plugin.go, csi_attacher.go", func(ctx context.Context, c kube) error {
			_, err := c.StorageV1().VolumeAttachments().Get(ctx, "none", get)
			return gone(err)
		}, ""},
		{"volumeattachments create", "pkg/volume/csi/csi_attacher.go Attach", func(ctx context.Context, c kube) error {
			_, err := c.StorageV1().VolumeAttachments().Create(ctx, &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
			return err
		}, "enableControllerAttachDetach"},
		{"volumeattachments delete", "pkg/volume/csi/csi_attacher.go Detach", func(ctx context.Context, c kube) error {
			return c.StorageV1().VolumeAttachments().Delete(ctx, "a", metav1.DeleteOptions{})
		}, "enableControllerAttachDetach"},
		{"runtimeclasses list", "pkg/kubelet/runtimeclass, informer", func(ctx context.Context, c kube) error {
			_, err := c.NodeV1().RuntimeClasses().List(ctx, all)
			return err
		}, ""},
		{"resourceclaims get", "pkg/kubelet/cm/dra/manager.go", func(ctx context.Context, c kube) error {
			_, err := c.ResourceV1().ResourceClaims("default").Get(ctx, "none", get)
			return gone(err)
		}, ""},
		{"resourceslices deletecollection", "pkg/kubelet/cm/dra/plugin/dra_plugin_manager.go", func(ctx context.Context, c kube) error {
			return c.ResourceV1().ResourceSlices().DeleteCollection(ctx, metav1.DeleteOptions{}, own)
		}, ""},
		{"clustertrustbundles list", "pkg/kubelet/clustertrustbundle, informer", func(ctx context.Context, c kube) error {
			_, err := c.CertificatesV1().ClusterTrustBundles().List(ctx, all)
			return err
		}, ""},
		{"podcertificaterequests list", "pkg/kubelet/podcertificate, informer", func(ctx context.Context, c kube) error {
			_, err := c.CertificatesV1().PodCertificateRequests("").List(ctx, own)
			return err
		}, ""},
		{"podcertificaterequests create", "pkg/kubelet/podcertificate/podcertificatemanager.go", func(ctx context.Context, c kube) error {
			_, err := c.CertificatesV1().PodCertificateRequests("default").Create(ctx, podCertificateRequest("web", "u1"), metav1.CreateOptions{})
			if apierrors.IsServiceUnavailable(err) {
				return nil // there is no cloud here; see TestPodCertificateRequests
			}
			return err
		}, ""},
		{"certificatesigningrequests create", "pkg/kubelet/certificate, with rotateCertificates", func(ctx context.Context, c kube) error {
			_, err := c.CertificatesV1().CertificateSigningRequests().Create(ctx, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
			return err
		}, "serverTLSBootstrap"},
		{"certificatesigningrequests watch", "pkg/kubelet/certificate, with rotateCertificates", func(ctx context.Context, c kube) error {
			_, err := c.CertificatesV1().CertificateSigningRequests().Watch(ctx, all)
			return err
		}, "serverTLSBootstrap"},
		{"tokenreviews create", "cmd/kubelet/app/auth.go BuildAuth", func(ctx context.Context, c kube) error {
			_, err := c.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "x"}}, metav1.CreateOptions{})
			return err
		}, ""},
		{"subjectaccessreviews create", "cmd/kubelet/app/auth.go BuildAuth", func(ctx context.Context, c kube) error {
			_, err := c.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User: "system:node:" + node, NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/healthz", Verb: "get"},
			}}, metav1.CreateOptions{})
			return err
		}, ""},
	} {
		t.Run(request.what, func(t *testing.T) {
			err := request.do(t.Context(), r.proto())
			switch {
			case request.refused == "" && err != nil:
				t.Errorf("%v; the kubelet needs it: %s", err, request.source)
			case request.refused != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), request.refused)):
				t.Errorf("%v, want a refusal that names %s; the kubelet asks for it in %s", err, request.refused, request.source)
			}
		})
	}
}
