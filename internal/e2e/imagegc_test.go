package e2e

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

var slow = flag.Bool("slow", false, "run the tests that take minutes by their nature, too")

// TestImageGarbageCollectionWhileCut has a kubelet whose disk is fuller than it may be, on a site that
// has no link and reboots: it removes the image that nobody needs, and those of a pod that runs, of one
// that crashes again and again, and of one that is pulled always, are there.
func TestImageGarbageCollectionWhileCut(t *testing.T) {
	if !*slow {
		t.Skip("the kubelet looks every five minutes: go tool task test:images")
	}
	site := lab.Sites[1]
	was, restart := configOf(t, site, "kubelet.yaml")
	var config map[string]any
	must(t, yaml.Unmarshal(was, &config))
	if config["imageMinimumGCAge"] != "30m" {
		t.Errorf("imageMinimumGCAge is %v: a pod has so long to start after a reboot", config["imageMinimumGCAge"])
	}
	// Any disk is too full, and what the kubelet has known for ten seconds is old enough.
	maps.Copy(config, map[string]any{"imageGCHighThresholdPercent": 1, "imageGCLowThresholdPercent": 0, "imageMinimumGCAge": "10s"})

	ns := newNamespace(t, "imagegc")
	images := map[string]string{}
	for _, name := range []string{"running", "crashing", "always", "unneeded"} {
		pod := sleeperPod(site, name, true)
		c := &pod.Spec.Containers[0]
		images[name] = push(t, "gc-"+name, busyboxImage(t, name+time.Now().String()))
		c.Image, c.ImagePullPolicy = images[name], corev1.PullIfNotPresent
		switch name {
		case "crashing":
			c.Command = []string{"/bin/sh", "-c", "exit 3"}
		case "always":
			c.ImagePullPolicy = corev1.PullAlways
		}
		createPod(t, ns, pod)
	}
	has := func(ctx context.Context, want, not []string) error {
		all, err := site.Runtime.Images(ctx)
		if err != nil {
			return err
		}
		for _, name := range want {
			if !slices.Contains(all, images[name]) {
				return fmt.Errorf("the image of the pod %s is gone", name)
			}
		}
		for _, name := range not {
			if slices.Contains(all, images[name]) {
				return fmt.Errorf("the image of the pod %s is there", name)
			}
		}
		return nil
	}
	needed := []string{"running", "crashing", "always"}
	eventually(t, 2*time.Minute, "all images are on the site's disk", func(ctx context.Context) error {
		return has(ctx, append(needed, "unneeded"), nil)
	})
	run := func(ctx context.Context) error {
		for _, name := range []string{"running", "always"} {
			if err := allReady(ns, "app="+name, 1)(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	eventually(t, time.Minute, "the pods run", run)
	must(t, lab.Kube.CoreV1().Pods(ns).Delete(t.Context(), "unneeded", metav1.DeleteOptions{}))
	eventually(t, time.Minute, "the pod that nobody needs is gone", func(ctx context.Context) error {
		if _, err := lab.Kube.CoreV1().Pods(ns).Get(ctx, "unneeded", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})

	must(t, lab.Cut(t.Context(), site))
	t.Cleanup(func() { must(t, lab.Heal(context.Background(), site)) })
	must(t, lab.Reboot(t.Context(), site))
	restart(t.Context(), got[[]byte](t)(yaml.Marshal(config))) // after the reboot, in which the lab writes its own
	took := eventually(t, 8*time.Minute, "the kubelet removes what nobody needs", func(ctx context.Context) error {
		return has(ctx, needed, []string{"unneeded"})
	})
	t.Logf("removed after %s; the images of three pods are there", took.Round(time.Second))
	eventually(t, time.Minute, "the containers run", func(ctx context.Context) error {
		containers, err := site.Runtime.Containers(ctx, ns)
		if err != nil {
			return err
		}
		running := map[string]bool{}
		for _, c := range containers {
			running[c.PodName] = running[c.PodName] || c.Running || c.PodName == "crashing" && c.Attempt > 0
		}
		for _, name := range needed {
			if !running[name] {
				return fmt.Errorf("%s does not run: %+v", name, containers)
			}
		}
		return nil
	})
	must(t, has(t.Context(), needed, nil))
}
