package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
	"github.com/petiole-io/petiole/internal/lab/cluster"
)

// awaitNode blocks until the site's node is Ready. An error has the conditions that the API server
// shows of node and site, and the last errors of leaf, kubelet and CRI-O.
func (l *Lab) awaitNode(ctx context.Context, s site) error {
	cfg, err := cluster.Config(l.Kubeconfig())
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("create client: %w", err)
	}
	err = l.awaitCondition(ctx, func(ctx context.Context) error {
		node, err := client.CoreV1().Nodes().Get(ctx, s.node(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("no node %s: its kubelet, which the leaf runs, has not registered", s.node())
		}
		if err != nil {
			return err
		}
		return nodeReady(node)
	}, l.leafPart(s).Name, l.crioPart(s).Name, partBridge, partHub, partControlPlane)
	var failed *PartError
	if errors.As(err, &failed) && errors.Is(failed.Err, errEnded) {
		return err
	}
	if failed != nil {
		dyn, err := dynamic.NewForConfig(cfg)
		if err != nil {
			return errors.Join(failed, err)
		}
		failed.Err = fmt.Errorf("%w%s", failed.Err, siteState(ctx, dyn, s.Name))
		return failed
	}
	if err != nil {
		return err
	}
	l.out.say("node %s is Ready", s.node())
	return nil
}

func nodeReady(node *corev1.Node) error {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if c.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("node %s is not Ready: %s: %s", node.Name, c.Reason, c.Message)
		}
	}
	return fmt.Errorf("node %s has no Ready condition yet", node.Name)
}

// siteState returns a clause with the conditions of a Site that are not as they should be. The
// wait is over, so it has a few seconds of its own.
func siteState(ctx context.Context, client dynamic.Interface, name string) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	object, err := client.Resource(v1alpha1.Sites).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Sprintf("; site %s: %v", name, err)
	}
	var site v1alpha1.Site
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &site); err != nil {
		return fmt.Sprintf("; site %s: %v", name, err)
	}
	return failedConditions(&site)
}

func failedConditions(site *v1alpha1.Site) string {
	if len(site.Status.Conditions) == 0 {
		return fmt.Sprintf("; the bridge has not written the status of site %s", site.Name)
	}
	var bad []string
	for _, c := range site.Status.Conditions {
		if c.Status != metav1.ConditionTrue {
			bad = append(bad, fmt.Sprintf("%s is %s: %s: %s", c.Type, c.Status, c.Reason, c.Message))
		}
	}
	if len(bad) == 0 {
		return ""
	}
	return fmt.Sprintf("; site %s: %s", site.Name, strings.Join(bad, "; "))
}
