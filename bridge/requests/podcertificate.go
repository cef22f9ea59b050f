package requests

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/bridge/kube"
	"github.com/petiole-io/petiole/streams"
)

// maxPodCertificateQuery bounds a request for a certificate of a pod, in bytes. A kubelet sends
// about 1 KiB, and the API server accepts 10 KiB of annotations.
const maxPodCertificateQuery = 64 << 10

var podCertificateResource = schema.GroupResource{Group: kube.CertificatesGroup, Resource: "podcertificaterequests"}

// podCertificates creates PodCertificateRequests while impersonating the requesting node: the API
// server accepts them for pods of that node, of signers that the pods name.
type podCertificates struct {
	clients Clients
	cache   Cache
	take    func(site string) (wait time.Duration)
}

// PodCertificates returns the handler of streams.RequestPodCertificate. It calls take before it
// creates a request for a site, and refuses if the site has to wait.
func PodCertificates(clients Clients, cache Cache, workers int, take func(site string) (wait time.Duration)) Handler {
	p := &podCertificates{clients, cache, take}
	return Handler{
		Workers: workers, Backlog: 256, PerSite: 64, MaxBytes: maxPodCertificateQuery,
		Answer: func(ctx context.Context, site string, data []byte) any { return p.answer(ctx, site, data) },
		Refuse: func(reason string) any {
			return streams.PodCertificateAnswer{Status: statusOf(apierrors.NewTooManyRequests(reason, 1))}
		},
	}
}

func (p *podCertificates) answer(ctx context.Context, site string, data []byte) streams.PodCertificateAnswer {
	var q streams.PodCertificateQuery
	if err := json.Unmarshal(data, &q); err != nil {
		return streams.PodCertificateAnswer{Status: badRequest(err.Error())}
	}
	request, err := p.create(ctx, site, &q)
	if err != nil {
		return streams.PodCertificateAnswer{Status: statusOf(err)}
	}
	return streams.PodCertificateAnswer{Request: request}
}

// create creates the request. Its metadata is the bridge's: a site could otherwise keep it for ever
// by a finalizer, or give it another owner than its pod.
func (p *podCertificates) create(ctx context.Context, site string, q *streams.PodCertificateQuery) (*certificatesv1.PodCertificateRequest, error) {
	if err := checkNode(p.cache, podCertificateResource, q.Spec.PodName, site, q.Node); err != nil {
		return nil, err
	}
	if string(q.Spec.NodeName) != q.Node {
		return nil, apierrors.NewForbidden(podCertificateResource, q.Spec.PodName, fmt.Errorf("spec.nodeName is %q, the requesting node is %s", q.Spec.NodeName, q.Node))
	}
	if q.Namespace == "" || q.Spec.PodName == "" || q.Spec.PodUID == "" {
		return nil, apierrors.NewBadRequest("namespace, spec.podName and spec.podUID are required")
	}
	if wait := p.take(site); wait > 0 {
		return nil, apierrors.NewTooManyRequests(fmt.Sprintf("site %s requests more certificates than the bridge creates requests for", site), int(math.Ceil(wait.Seconds())))
	}
	as, err := p.clients.As(q.Node)
	if err != nil {
		return nil, err
	}
	return as.Certificates.PodCertificateRequests(q.Namespace).Create(ctx, &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: q.Namespace, GenerateName: "req-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: q.Spec.PodName, UID: q.Spec.PodUID}},
		},
		Spec: q.Spec,
	}, metav1.CreateOptions{})
}
