package writeback

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/workqueue"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/bridge/kube"
	devicesv1beta1 "github.com/petiole-io/petiole/devices/api/v1beta1"
	"github.com/petiole-io/petiole/streams"
)

// ReasonNoSite is the reason of a device's state if no site operates the device.
const ReasonNoSite = "NodeOfNoSite"

const (
	// deviceGrace is the time after which a changed Device is checked: it may be created before
	// its node.
	deviceGrace = 5 * time.Second
	// nodeGrace is the time after which the devices of a changed node are checked: one that is
	// deleted while it is alive registers again before.
	nodeGrace = 20 * time.Second
)

// PlacementConfig is what a Placement needs.
type PlacementConfig struct {
	Config
	// Queue holds the devices to check.
	Queue workqueue.TypedRateLimitingInterface[kube.Key]
	// Report is called with the result of each write.
	Report func(error)
}

// Placement makes the state of devices unknown that no site operates, because their node does
// not exist or belongs to no site: nobody reports them, and their last state may be "online".
type Placement struct {
	cfg    PlacementConfig
	writer deviceWriter
}

// NewPlacement returns a Placement that has not started.
func NewPlacement(cfg PlacementConfig) *Placement { return &Placement{cfg, deviceWriter{cfg.Config}} }

// Close shuts down the queue of a Placement that Run was not called for.
func (p *Placement) Close() { p.cfg.Queue.ShutDown() }

// Changed queues a device, or all devices of a node or site.
func (p *Placement) Changed(k kube.Key) {
	switch {
	case k.Group == kube.DeviceGroup && k.Resource == "devices":
		p.cfg.Queue.AddAfter(k, deviceGrace)
	case k.Group == "" && k.Resource == "nodes":
		p.nodesChanged([]string{k.Name})
	case k.Group == kube.SiteGroup:
		p.nodesChanged(p.cfg.Sites.NodesOf(k.Name))
	}
}

func (p *Placement) nodesChanged(nodes []string) {
	for _, d := range p.cfg.Sites.BoundTo(nodes) {
		if d.Group == kube.DeviceGroup {
			p.cfg.Queue.AddAfter(d, nodeGrace)
		}
	}
}

// Run works until ctx ends.
func (p *Placement) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		p.cfg.Queue.ShutDown()
	})
	wg.Go(func() {
		for k, down := p.cfg.Queue.Get(); !down; k, down = p.cfg.Queue.Get() {
			if err := p.check(ctx, k); err == nil {
				p.cfg.Queue.Forget(k)
				p.cfg.Report(nil)
			} else if ctx.Err() == nil {
				p.cfg.Report(err)
				p.cfg.Queue.AddRateLimited(k)
			}
			p.cfg.Queue.Done(k)
		}
	})
	wg.Wait()
}

// check writes the state of a device that no site operates. When a site operates it again, the
// site reports it.
func (p *Placement) check(ctx context.Context, k kube.Key) error {
	device := p.cfg.Cache.Get(k)
	if device == nil {
		return nil
	}
	of := kube.Key{Group: kube.DeviceGroup, Resource: "devicestatuses", Namespace: k.Namespace, Name: k.Name}
	current := p.cfg.Cache.Get(of)
	message := p.unplaced(kube.StringAt(device, "spec", "nodeName"), current)
	if message == "" {
		return nil
	}
	status := unplacedStatus(current, message)
	if err := p.writer.put(ctx, Report{Message: streams.Message{Ref: of.Ref("")}}, device, status); err != nil {
		return fmt.Errorf("write %s: %w", of.Ref(""), err)
	}
	return p.writer.mirror(ctx, device, status, false)
}

// unplaced returns why no site operates a device of a node, empty if one does. A device on a node
// without a site that no site has reported may be operated by others, such as KubeEdge's
// EdgeCore: it is left alone.
func (p *Placement) unplaced(node string, status *unstructured.Unstructured) string {
	if node == "" {
		return "spec.nodeName is empty: no site operates the device"
	}
	if p.cfg.Cache.Get(kube.CoreKey("nodes", "", node)) == nil {
		return fmt.Sprintf("node %q of spec.nodeName does not exist: no site operates the device", node)
	}
	reported := status != nil && kube.StringAt(status, "status", "extensions", "reason") != ""
	switch site := p.cfg.Sites.SiteOf(node); {
	case site == "" && !reported:
		return ""
	case site == "":
		return fmt.Sprintf("node %q of spec.nodeName has no label %s: no site operates the device", node, v1alpha1.SiteLabel)
	case !p.cfg.Sites.SiteExists(site):
		return fmt.Sprintf("node %q of spec.nodeName belongs to site %q, which does not exist: no site operates the device", node, site)
	}
	return ""
}

// unplacedStatus returns the status of a device that no site operates: the last reported
// values stay.
func unplacedStatus(current *unstructured.Unstructured, message string) map[string]any {
	status := map[string]any{}
	if current != nil {
		if s, ok := current.DeepCopy().Object["status"].(map[string]any); ok {
			status = s
		}
	}
	status["state"] = devicesv1beta1.StateUnknown
	status["extensions"] = map[string]any{"reason": ReasonNoSite, "message": message}
	return status
}
