package breaker

import (
	"context"
	crand "crypto/rand"
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/internal/breaker/check"
	"github.com/petiole-io/petiole/internal/breaker/world"
)

// writeTimeout bounds one request to the API server.
const writeTimeout = 5 * time.Second

// workload changes the desired state of the sites, directly at the API server: one writer for
// each site, so that the counters of one object are assigned in the order of its
// versions.
type workload struct {
	kube    kubernetes.Interface
	record  *recorder
	counter atomic.Int64
	// pausable pauses the writers while the storage is replaced.
	pausable pausable
	// pace is the mean time between two changes of one site.
	pace time.Duration
}

// writer changes the objects of one site.
type writer struct {
	*workload
	site *world.Site
	rng  *rand.Rand
	// image is the image of the containers; light sites run none.
	image string
}

// setup creates the objects that exist for the whole run. The site's node must be registered.
func (w *writer) setup(ctx context.Context) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.site.Objects()}}
	if _, err := w.kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return err
	}
	// Pods need the service account, which a controller creates.
	for {
		_, err := w.kube.CoreV1().ServiceAccounts(w.site.Objects()).Get(ctx, "default", metav1.GetOptions{})
		if err == nil {
			break
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return err
		}
	}
	for i := range pods {
		w.putMap(ctx, looseName(i), fill(smallFill))
		w.putSecret(ctx, looseName(i))
	}
	p := anchorPod(w.site.Name, w.site.Objects(), w.site.Node(), w.image, w.counter.Add(1))
	p, err := w.kube.CoreV1().Pods(w.site.Objects()).Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	w.wrote("pods", p)
	return nil
}

// run changes objects until ctx ends.
func (w *writer) run(ctx context.Context) {
	for sleep(ctx, w.pace/2+time.Duration(w.rng.Int64N(int64(w.pace)))) {
		w.pausable.do(ctx, w.step)
	}
}

// step makes one change. Its choices depend on the seed alone.
func (w *writer) step(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	what, i, remove := w.rng.IntN(100), w.rng.IntN(1000), w.rng.IntN(4) == 0
	switch {
	case what < 45:
		if name := anchoredMap(i % anchoredMaps); remove {
			deleteObject(ctx, w, w.maps(), "configmaps", name)
		} else {
			w.putMap(ctx, name, fill(smallFill))
		}
	case what < 65:
		if name := anchoredSecret(i % anchoredSecrets); remove {
			deleteObject(ctx, w, w.secrets(), "secrets", name)
		} else {
			w.putSecret(ctx, name)
		}
	case what < 75:
		w.putMap(ctx, looseName(i%pods), fill(smallFill))
	case what < 80:
		w.putSecret(ctx, looseName(i%pods))
	case what < 90:
		w.annotatePod(ctx, podName(i%pods))
	default:
		w.togglePod(ctx, i%pods)
	}
}

// objects is a client of one resource in the namespace of a site.
type objects[O metav1.Object] interface {
	Get(context.Context, string, metav1.GetOptions) (O, error)
	Create(context.Context, O, metav1.CreateOptions) (O, error)
	Update(context.Context, O, metav1.UpdateOptions) (O, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

func (w *writer) maps() objects[*corev1.ConfigMap] {
	return w.kube.CoreV1().ConfigMaps(w.site.Objects())
}

func (w *writer) secrets() objects[*corev1.Secret] {
	return w.kube.CoreV1().Secrets(w.site.Objects())
}

func (w *writer) putMap(ctx context.Context, name, data string) {
	put(ctx, w, w.maps(), "configmaps", &corev1.ConfigMap{
		ObjectMeta: meta(w.site.Name, w.site.Objects(), name, w.counter.Add(1)), Data: map[string]string{"fill": data},
	})
}

// fill returns text that is easily compressed, noise text that is not.
func fill(size int) string { return strings.Repeat("x", size) }

func noise(size int) string {
	data := make([]byte, size*3/4)
	crand.Read(data) // never returns an error
	return base64.StdEncoding.EncodeToString(data)
}

func (w *writer) putSecret(ctx context.Context, name string) {
	put(ctx, w, w.secrets(), "secrets", &corev1.Secret{
		ObjectMeta: meta(w.site.Name, w.site.Objects(), name, w.counter.Add(1)), StringData: map[string]string{"fill": strings.Repeat("y", smallFill)},
	})
}

// put creates an object or updates the existing one.
func put[O metav1.Object](ctx context.Context, w *writer, c objects[O], resource string, o O) {
	name := o.GetName()
	_, err := c.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		o, err = c.Create(ctx, o, metav1.CreateOptions{})
	case err == nil:
		o, err = c.Update(ctx, o, metav1.UpdateOptions{})
	default:
		return
	}
	w.done(resource, name, o, err)
}

// annotatePod changes a pod if it exists.
func (w *writer) annotatePod(ctx context.Context, name string) {
	c := w.kube.CoreV1().Pods(w.site.Objects())
	p, err := c.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return
	}
	p.Annotations[counterAnnotation] = meta("", "", "", w.counter.Add(1)).Annotations[counterAnnotation]
	p, err = c.Update(ctx, p, metav1.UpdateOptions{})
	w.done("pods", name, p, err)
}

// togglePod creates a pod that does not exist and deletes one that does. One that is being
// deleted is left to its node, but sometimes it is deleted by force and created again under
// its name at once.
func (w *writer) togglePod(ctx context.Context, i int) {
	c := w.kube.CoreV1().Pods(w.site.Objects())
	name := podName(i)
	p, err := c.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		p, err = c.Create(ctx, loosePod(w.site.Name, w.site.Objects(), w.site.Node(), w.image, i, w.counter.Add(1)), metav1.CreateOptions{})
		w.done("pods", name, p, err)
	case err != nil:
	case p.DeletionTimestamp != nil && w.rng.IntN(3) == 0:
		grace := int64(0)
		if err := c.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &p.UID}}); err != nil {
			return
		}
		w.record.add(check.Event{Kind: check.Deleted, Site: w.site.Name, Object: objectName("pods", w.site.Objects(), name), UID: string(p.UID)})
		p, err = c.Create(ctx, loosePod(w.site.Name, w.site.Objects(), w.site.Node(), w.image, i, w.counter.Add(1)), metav1.CreateOptions{})
		w.done("pods", name, p, err)
	case p.DeletionTimestamp == nil:
		if err := c.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}}); err == nil {
			w.record.add(check.Event{Kind: check.Deleted, Site: w.site.Name, Object: objectName("pods", w.site.Objects(), name), UID: string(p.UID)})
		}
	}
}

// deleteObject deletes an object if it exists.
func deleteObject[O metav1.Object](ctx context.Context, w *writer, c objects[O], resource, name string) {
	o, err := c.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return
	}
	uid := o.GetUID()
	if err := c.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); err == nil {
		w.record.add(check.Event{Kind: check.Deleted, Site: w.site.Name, Object: objectName(resource, w.site.Objects(), name), UID: string(uid)})
	}
}

func (w *writer) done(resource, name string, o metav1.Object, err error) {
	switch {
	case err == nil:
		w.wrote(resource, o)
	case apierrors.ReasonForError(err) == metav1.StatusReasonUnknown, apierrors.IsServerTimeout(err), apierrors.IsTimeout(err):
		w.record.add(check.Event{Kind: check.Unsure, Site: w.site.Name, Object: objectName(resource, w.site.Objects(), name), What: err.Error()})
	}
}

func (w *writer) wrote(resource string, o metav1.Object) {
	w.record.add(check.Event{
		Kind: check.Wrote, Site: w.site.Name, Object: objectName(resource, o.GetNamespace(), o.GetName()),
		UID: string(o.GetUID()), Counter: counterOf(o.GetAnnotations()),
	})
}

// sleep waits and reports whether ctx has not ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
