package bridgetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/streams"
)

// authority is a certificate authority of a test, the signer of its pods' certificates.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}}
	a.pem = a.sign(a.cert, key.Public())
	return a
}

func (a *authority) sign(template *x509.Certificate, public any) string {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// podWithSpec creates a pod on a node.
func (w *world) podWithSpec(name, node string, change func(*corev1.PodSpec)) *corev1.Pod {
	w.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "default", AutomountServiceAccountToken: new(bool),
			Containers: []corev1.Container{{Name: "c", Image: "busybox"}},
		},
	}
	change(&p.Spec)
	p, err := w.admin.CoreV1().Pods(w.namespace).Create(w.ctx, p, metav1.CreateOptions{})
	w.must(err)
	return p
}

func projectedVolume(s corev1.VolumeProjection) corev1.Volume {
	return corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{s}}}}
}

// What a kubelet waits for before it starts a pod reaches the site, with the status that the
// control plane gives it, and leaves the site with its pod.
func deliversWhatPodsWaitFor(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.start("one")
	w.site("plant-a").register("a1")
	ca := newAuthority(t)
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	claims, attachments, bundles := a.admin.ResourceV1().ResourceClaims(w.namespace), a.admin.StorageV1().VolumeAttachments(), a.admin.CertificatesV1().ClusterTrustBundles()
	claim, err := claims.Create(w.ctx, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "camera"}}, metav1.CreateOptions{})
	w.must(err)
	signer := "example.com/" + w.namespace
	for _, b := range []certificatesv1.ClusterTrustBundle{
		{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}, Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: ca.pem}},
		{ObjectMeta: metav1.ObjectMeta{Name: "example.com:" + w.namespace + ":1"}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: ca.pem}},
	} {
		_, err := bundles.Create(w.ctx, &b, metav1.CreateOptions{})
		w.must(err)
		t.Cleanup(func() { w.must(bundles.Delete(w.ctx, b.Name, now)) })
	}
	disk := "disk-" + w.namespace
	attachment, err := attachments.Create(w.ctx, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: "csi-" + w.namespace},
		Spec:       storagev1.VolumeAttachmentSpec{Attacher: "csi.example.com", NodeName: "a1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &disk}},
	}, metav1.CreateOptions{})
	w.must(err)
	w.podWithSpec("camera", "a1", func(s *corev1.PodSpec) {
		s.ResourceClaims = []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: &claim.Name}}
	})
	w.podWithSpec("named", "a1", func(s *corev1.PodSpec) {
		s.Volumes = []corev1.Volume{projectedVolume(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: &w.namespace, Path: "ca.pem"}})}
	})
	signed := w.podWithSpec("signed", "a1", func(s *corev1.PodSpec) {
		s.Volumes = []corev1.Volume{projectedVolume(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: &metav1.LabelSelector{}, Path: "ca.pem"}})}
	})

	claimRef := streams.Ref{Group: "resource.k8s.io", Resource: "resourceclaims", Namespace: w.namespace, Name: "camera"}
	bundleRef := func(name string) streams.Ref {
		return streams.Ref{Group: "certificates.k8s.io", Resource: "clustertrustbundles", Name: name}
	}
	attachmentRef := streams.Ref{Node: "a1", Group: "storage.k8s.io", Resource: "volumeattachments", Name: attachment.Name}
	ofSigner := bundleRef("example.com:" + w.namespace + ":1")
	for _, r := range []streams.Ref{claimRef, bundleRef(w.namespace), ofSigner, attachmentRef} {
		w.awaitDesired("plant-a", r, "published", isPut)
	}

	claim.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "camera", UID: "u-camera"}}
	claim.Status.Allocation = &resourcev1.AllocationResult{}
	_, err = claims.UpdateStatus(w.ctx, claim, metav1.UpdateOptions{})
	w.must(err)
	w.awaitDesired("plant-a", claimRef, "allocated", contains(`"u-camera"`))
	attachment.Status.Attached = true
	_, err = attachments.UpdateStatus(w.ctx, attachment, metav1.UpdateOptions{})
	w.must(err)
	w.awaitDesired("plant-a", attachmentRef, "attached", contains(`"attached":true`))

	w.must(a.admin.CoreV1().Pods(w.namespace).Delete(w.ctx, "signed", now))
	w.awaitDesired("plant-a", w.podRef("signed", "a1"), "deleted", tombstoneOf(signed.UID))
	w.awaitDesired("plant-a", ofSigner, "taken away with its pod", func(m *streams.Message) bool { return m.Op == streams.OpDelete })
	w.must(attachments.Delete(w.ctx, attachment.Name, now))
	w.awaitDesired("plant-a", attachmentRef, "detached", tombstoneOf(attachment.UID))
	for _, r := range []streams.Ref{claimRef, bundleRef(w.namespace), ofSigner, attachmentRef} {
		if _, seq := w.desired("plant-b", r); seq != 0 {
			t.Errorf("%s was published to another site", r)
		}
	}
}

// A node requests certificates for its own pods, and gets them when they are signed.
func createsPodCertificateRequests(t *testing.T, a *api) {
	w := newWorld(t, a, "plant-a", "plant-b")
	w.start("one")
	s, other := w.site("plant-a"), w.site("plant-b")
	node := s.register("a1")
	other.register("b1")
	signer := "example.com/" + w.namespace
	withCertificate := func(spec *corev1.PodSpec) {
		spec.Volumes = []corev1.Volume{projectedVolume(corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{
			SignerName: signer, KeyType: "ECDSAP256", CredentialBundlePath: "credentials.pem",
		}})}
	}
	pod := w.podWithSpec("mesh", "a1", withCertificate)
	foreign := w.podWithSpec("foreign", "b1", withCertificate)
	w.awaitDesired("plant-a", w.podRef("mesh", "a1"), "published", isPut)
	account, err := a.admin.CoreV1().ServiceAccounts(w.namespace).Get(w.ctx, "default", metav1.GetOptions{})
	w.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	proof, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	w.must(err)
	query := func(pod *corev1.Pod) streams.PodCertificateQuery {
		return streams.PodCertificateQuery{Node: "a1", Namespace: w.namespace, Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: signer, PodName: pod.Name, PodUID: pod.UID, ServiceAccountName: "default", ServiceAccountUID: account.UID,
			NodeName: "a1", NodeUID: node.UID, StubPKCS10Request: proof,
		}}
	}
	ask := func(s *site, q any) (answer streams.PodCertificateAnswer) {
		t.Helper()
		data, err := json.Marshal(q)
		w.must(err)
		m, err := s.nc.Request(streams.RequestSubject(s.name, streams.RequestPodCertificate), data, patience)
		w.must(err)
		w.must(json.Unmarshal(m.Data, &answer))
		return answer
	}
	got := ask(s, query(pod))
	if got.Request == nil {
		t.Fatalf("answer is %+v", got.Status)
	}
	requests := a.admin.CertificatesV1().PodCertificateRequests(w.namespace)
	request, err := requests.Get(w.ctx, got.Request.Name, metav1.GetOptions{})
	w.must(err)
	if o := request.OwnerReferences; len(o) != 1 || o[0].Kind != "Pod" || o[0].UID != pod.UID || len(request.Finalizers) != 0 {
		t.Errorf("the request's metadata is %+v", request.ObjectMeta)
	}
	ref := streams.Ref{Node: "a1", Group: "certificates.k8s.io", Resource: "podcertificaterequests", Namespace: w.namespace, Name: request.Name}
	w.awaitDesired("plant-a", ref, "published", isPut)

	before := metav1.NewTime(time.Now().Add(-time.Minute).Truncate(time.Second))
	after := metav1.NewTime(before.Add(2 * time.Hour))
	refresh := metav1.NewTime(before.Add(time.Hour))
	ca := newAuthority(t)
	request.Status = certificatesv1.PodCertificateRequestStatus{
		Conditions: []metav1.Condition{{
			Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue, Reason: "Issued", Message: "Issued", LastTransitionTime: metav1.Now(),
		}},
		CertificateChain: ca.sign(&x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: before.Time, NotAfter: after.Time}, key.Public()),
		NotBefore:        &before, NotAfter: &after, BeginRefreshAt: &refresh,
	}
	_, err = requests.UpdateStatus(w.ctx, request, metav1.UpdateOptions{})
	w.must(err)
	w.awaitDesired("plant-a", ref, "issued", func(m *streams.Message) bool {
		return bytes.Contains(m.Object, []byte("BEGIN CERTIFICATE"))
	})

	change := func(change func(*streams.PodCertificateQuery)) streams.PodCertificateQuery {
		q := query(pod)
		change(&q)
		return q
	}
	for what, answer := range map[string]streams.PodCertificateAnswer{
		"of another site's node":       ask(other, query(pod)),
		"for another site's pod":       ask(s, query(foreign)),
		"of a node that names another": ask(s, change(func(q *streams.PodCertificateQuery) { q.Spec.NodeName = "b1" })),
		"of a signer of no volume":     ask(s, change(func(q *streams.PodCertificateQuery) { q.Spec.SignerName = "example.com/other" })),
	} {
		if answer.Request != nil || answer.Status == nil || answer.Status.Reason != metav1.StatusReasonForbidden {
			t.Errorf("request %s: %+v", what, answer)
		}
	}
	for what, answer := range map[string]streams.PodCertificateAnswer{
		"of a pod that was replaced": ask(s, change(func(q *streams.PodCertificateQuery) { q.Spec.PodUID = "u-old" })),
		"of another account":         ask(s, change(func(q *streams.PodCertificateQuery) { q.Spec.ServiceAccountUID = types.UID("u-old") })),
		"without a pod":              ask(s, change(func(q *streams.PodCertificateQuery) { q.Spec.PodName = "" })),
		"that is no query":           ask(s, "x"),
	} {
		if answer.Request != nil || answer.Status == nil {
			t.Errorf("request %s: %+v", what, answer)
		}
	}
	all, err := requests.List(w.ctx, metav1.ListOptions{})
	w.must(err)
	if len(all.Items) != 1 {
		t.Errorf("%d requests were created, want 1", len(all.Items))
	}
	limited := false
	for range 100 {
		if a := ask(s, query(pod)); a.Status != nil && a.Status.Reason == metav1.StatusReasonTooManyRequests {
			limited = true
			break
		}
	}
	if !limited {
		t.Error("a site may create any number of requests")
	}
}
