package orphans

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
)

// lookInterval is the time between two looks at a Node whose Site is gone.
const lookInterval = 5 * time.Second

// Cache returns the last known state of an object, nil if there is none.
type Cache interface {
	Get(k kube.Key) *unstructured.Unstructured
}

// Config is what a Controller needs.
type Config struct {
	Clients *kube.Clients
	Cache   Cache
	// NodesOf returns the Nodes that have the label of a Site, whether or not it exists.
	NodesOf func(site string) []string
	// Delay is the time for which a Site must be absent until its Nodes are deleted; 0: they are
	// only marked.
	Delay time.Duration
	// Identity is that of the bridge, for its Events.
	Identity string
	// Queue holds the names of the Nodes to look at.
	Queue workqueue.TypedRateLimitingInterface[string]
	Log   *zap.Logger
	// Report is called with the result of each look.
	Report func(error)
}

// Controller marks and deletes the Nodes of deleted Sites. Create it with New.
type Controller struct {
	cfg Config
	// absent maps each Node whose Site is gone to the time since when this bridge has seen that. Run's
	// worker alone uses it, and what follows.
	absent map[string]time.Time
	// lookedAt is when the API server was last asked whether it has any Site, anySite its answer.
	lookedAt time.Time
	anySite  bool
}

// New returns a controller that has not started.
func New(cfg Config) *Controller { return &Controller{cfg: cfg, absent: map[string]time.Time{}} }

// Close shuts down the queue of a controller that Run was not called for.
func (c *Controller) Close() { c.cfg.Queue.ShutDown() }

// Changed queues a Node, or all Nodes of a Site.
func (c *Controller) Changed(k kube.Key) {
	switch {
	case k.Group == "" && k.Resource == "nodes":
		c.cfg.Queue.Add(k.Name)
	case k.Group == kube.SiteGroup && k.Resource == "sites":
		for _, n := range c.cfg.NodesOf(k.Name) {
			c.cfg.Queue.Add(n)
		}
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		c.cfg.Queue.ShutDown()
	})
	wg.Go(func() {
		for node, down := c.cfg.Queue.Get(); !down; node, down = c.cfg.Queue.Get() {
			again, err := c.look(ctx, node)
			switch {
			case ctx.Err() != nil:
			case err != nil:
				c.cfg.Report(err)
				c.cfg.Queue.AddRateLimited(node)
			default:
				c.cfg.Report(nil)
				c.cfg.Queue.Forget(node)
				if again > 0 {
					c.cfg.Queue.AddAfter(node, again)
				}
			}
			c.cfg.Queue.Done(node)
		}
	})
	wg.Wait()
}

// look does what is due for a Node. It returns when the Node is to be looked at again, 0 if only
// after a change.
func (c *Controller) look(ctx context.Context, name string) (again time.Duration, err error) {
	var node corev1.Node
	if o := c.cfg.Cache.Get(kube.CoreKey("nodes", "", name)); o == nil {
		delete(c.absent, name)
		return 0, nil
	} else if err := kube.Decode(o, &node); err != nil {
		return 0, err
	}
	site := node.Labels[v1alpha1.SiteLabel]
	if site == "" || !reported(&node) {
		delete(c.absent, name)
		return 0, nil
	}
	if c.cfg.Cache.Get(kube.SiteKey(site)) != nil {
		delete(c.absent, name)
		return 0, ignoreOvertaken(c.unmark(ctx, &node))
	}
	if node.DeletionTimestamp != nil {
		return 0, nil
	}
	marked, err := c.mark(ctx, &node, site)
	if err != nil || !marked || c.cfg.Delay == 0 {
		return 0, ignoreOvertaken(err)
	}
	return c.deleteIfDue(ctx, &node, site)
}

// deleteIfDue deletes a marked Node whose Site has been absent for the delay.
func (c *Controller) deleteIfDue(ctx context.Context, node *corev1.Node, site string) (again time.Duration, err error) {
	since, ok := c.absent[node.Name]
	if !ok {
		since = time.Now()
	}
	// Without any Site it is likely that the definition of Sites is being replaced.
	if exist, err := c.sitesExist(ctx); err != nil {
		return 0, err
	} else if !exist {
		since = time.Now()
	}
	c.absent[node.Name] = since
	if left := c.cfg.Delay - time.Since(since); left > 0 {
		return min(left, lookInterval), nil
	}
	// The cache may be behind.
	_, err = c.cfg.Clients.Dynamic.Resource(v1alpha1.Sites).Get(ctx, site, metav1.GetOptions{})
	if err == nil {
		return lookInterval, nil
	}
	if !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("look for site %s: %w", site, err)
	}
	if err := c.event(ctx, node, corev1.EventTypeNormal, EventDeletingNode, fmt.Sprintf("the node is deleted, because its site %s was deleted", site)); err != nil {
		return 0, err
	}
	err = c.cfg.Clients.Own.CoreV1().Nodes().Delete(ctx, node.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &node.UID, ResourceVersion: &node.ResourceVersion},
	})
	if apierrors.IsConflict(err) {
		return lookInterval, nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("delete node %s of deleted site %s: %w", node.Name, site, err)
	}
	delete(c.absent, node.Name)
	c.cfg.Log.Warn("node deleted, its Site was deleted", zap.String("node", node.Name), zap.String("site", site))
	return 0, nil
}

// sitesExist reports whether the API server has any Site. Its answer may be as old as half of
// lookInterval. It returns an error if the API server does not know what a Site is.
func (c *Controller) sitesExist(ctx context.Context) (bool, error) {
	if time.Since(c.lookedAt) < lookInterval/2 {
		return c.anySite, nil
	}
	list, err := c.cfg.Clients.Dynamic.Resource(v1alpha1.Sites).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return false, fmt.Errorf("list sites: %w", err)
	}
	c.lookedAt, c.anySite = time.Now(), len(list.Items) > 0
	return c.anySite, nil
}

// ignoreOvertaken returns nil if a write failed because its object has changed or is gone: the
// change arrives here, too.
func ignoreOvertaken(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
