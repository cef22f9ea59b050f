package bench

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// LatencyConfig configures Latency.
type LatencyConfig struct {
	Config
	// Pods of each kind on each node.
	Pods int
	// Changes of one ConfigMap.
	Changes int
	// Only limits the run to one measurement: change, start, bulk or sessions; all if it is empty.
	Only string
}

const (
	bulkPods       = 5
	bulkConfigMaps = 40 // of each pod
	bulkRounds     = 3
)

// Latency measures API change → applied at the node, pod create → Running, without and
// with a service account token, 5 pods with 40 ConfigMap volumes each, and exec and copies. It prints
// one table.
func Latency(ctx context.Context, cfg LatencyConfig) error {
	if !slices.Contains([]string{"", "change", "start", "bulk", "sessions"}, cfg.Only) {
		return fmt.Errorf("--only is %q, want change, start, bulk or sessions", cfg.Only)
	}
	return run(ctx, cfg.Config, func(ctx context.Context, b *bench) error {
		results := []row{}
		for _, m := range []struct {
			name    string
			measure func(context.Context, LatencyConfig) ([]row, error)
		}{{"change", b.applied}, {"start", b.podStart}, {"bulk", b.bulk}, {"sessions", b.sessions}} {
			if cfg.Only != "" && cfg.Only != m.name {
				continue
			}
			rows, err := m.measure(ctx, cfg)
			if err != nil {
				return err
			}
			results = append(results, rows...)
		}
		printLatency(b.out, results)
		return nil
	})
}

// applied changes one ConfigMap that a pod on each node uses, and takes the time until a
// watch with the node's own credentials, at the API that the node's kubelet uses, has
// the change. Both nodes see the same change.
func (b *bench) applied(ctx context.Context, cfg LatencyConfig) ([]row, error) {
	b.say("API change → applied at the node: %d changes of one ConfigMap…", cfg.Changes)
	const name = "applied"
	kube := b.rig.Kube.CoreV1().ConfigMaps(namespace)
	_, err := kube.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": "0"}}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create ConfigMap: %w", err)
	}
	var pods []*corev1.Pod
	for _, n := range b.nodes {
		pods = append(pods, mount(b.pod(n, "applied-"+n.slug(), false), name))
	}
	if _, err := b.createAndAwait(ctx, pods...); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var watches []watch.Interface
	for _, n := range b.nodes {
		w, err := n.client.CoreV1().ConfigMaps(namespace).Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
		if err != nil {
			return nil, fmt.Errorf("watch as %s: %w", n.name, err)
		}
		defer w.Stop()
		watches = append(watches, w)
	}
	times := make([][]time.Duration, len(b.nodes))
	for i := 1; i <= cfg.Changes; i++ {
		value := strconv.Itoa(i)
		start := time.Now()
		seen := make(chan arrival, len(watches))
		for j, w := range watches {
			go func() { seen <- await(ctx, j, w, value) }()
		}
		_, err := kube.Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": value}}, metav1.UpdateOptions{})
		if err != nil {
			return nil, fmt.Errorf("change ConfigMap: %w", err)
		}
		for range watches {
			s := <-seen
			if s.err != nil {
				return nil, fmt.Errorf("watch as %s: %w", b.nodes[s.node].name, s.err)
			}
			times[s.node] = append(times[s.node], s.at.Sub(start))
		}
	}
	if err := b.clear(ctx); err != nil {
		return nil, err
	}
	return []row{{what: "ConfigMap change → applied at the node", stock: times[0], petiole: times[1], goal: 1.4}}, nil
}

type arrival struct {
	node int
	at   time.Time
	err  error
}

// await reads the watch up to the value.
func await(ctx context.Context, node int, w watch.Interface, value string) arrival {
	timeout := time.NewTimer(runningLimit)
	defer timeout.Stop()
	for {
		select {
		case <-ctx.Done():
			return arrival{node: node, err: ctx.Err()}
		case <-timeout.C:
			return arrival{node: node, err: fmt.Errorf("the value %s is not seen within %s", value, runningLimit)}
		case e, open := <-w.ResultChan():
			if !open {
				return arrival{node: node, err: fmt.Errorf("the watch ended before the value %s", value)}
			}
			if c, ok := e.Object.(*corev1.ConfigMap); ok && c.Data["n"] == value {
				return arrival{node: node, at: time.Now()}
			}
		}
	}
}

// podStart starts pods one at a time, in turn on either node, and keeps them until all
// are measured.
func (b *bench) podStart(ctx context.Context, cfg LatencyConfig) ([]row, error) {
	for _, n := range b.nodes { // the first pod pulls the image
		if _, err := b.createAndAwait(ctx, b.pod(n, "warm-"+n.slug(), true)); err != nil {
			return nil, err
		}
	}
	var rows []row
	cfg.Pods = max(cfg.Pods, deletions)
	for _, kind := range []struct {
		token          bool
		what, baseline string
		kubeedge       time.Duration
	}{
		{false, "pod create → Running", "0.213 / 0.405", 1005 * time.Millisecond},
		{true, "pod create → Running, with token", "0.500 / 0.544", 1006 * time.Millisecond},
	} {
		b.say("%s: %d pods on each node…", kind.what, cfg.Pods)
		times := make([][]time.Duration, len(b.nodes))
		for i := range cfg.Pods {
			for j := range b.nodes {
				j = (j + i) % len(b.nodes) // neither is always the first
				took, err := b.createAndAwait(ctx, b.pod(b.nodes[j], fmt.Sprintf("start-%t-%d-%d", kind.token, i, j), kind.token))
				if err != nil {
					return nil, err
				}
				times[j] = append(times[j], took)
			}
		}
		rows = append(rows, row{what: kind.what, stock: times[0], petiole: times[1], goal: 1.2, before: kind.baseline, kubeedge: kind.kubeedge})
		gone, err := b.podEnd(ctx, kind.token)
		if err != nil {
			return nil, err
		}
		rows = append(rows, gone)
		if err := b.clear(ctx); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// deletions of each kind on each node are measured.
const deletions = 5

// podEnd deletes a few of the pods that podStart has started, one at a time.
func (b *bench) podEnd(ctx context.Context, token bool) (row, error) {
	times := make([][]time.Duration, len(b.nodes))
	for i := range deletions {
		for j := range b.nodes {
			name := fmt.Sprintf("start-%t-%d-%d", token, i, j)
			took, err := b.deleteAndAwait(ctx, name)
			if err != nil {
				return row{}, err
			}
			times[j] = append(times[j], took)
		}
	}
	what := "pod delete → gone (grace 1 s)"
	if token {
		what += ", with token"
	}
	return row{what: what, stock: times[0], petiole: times[1], before: "3.01 / 3.04", kubeedge: 3010 * time.Millisecond}, nil
}

// bulk starts a few pods with many ConfigMaps, which exist before but are new to the
// node.
func (b *bench) bulk(ctx context.Context, _ LatencyConfig) ([]row, error) {
	b.say("%d pods × %d ConfigMap volumes, create → all Running…", bulkPods, bulkConfigMaps)
	out := row{what: fmt.Sprintf("%d pods × %d ConfigMaps, create → all Running", bulkPods, bulkConfigMaps), goal: 1.2, before: "1.7", kubeedge: 13 * time.Second}
	times := make([][]time.Duration, len(b.nodes))
	for round := range bulkRounds {
		for j := range b.nodes {
			j = (j + round) % len(b.nodes)
			took, err := b.bulkOnce(ctx, b.nodes[j], fmt.Sprintf("bulk-%d-%d", round, j))
			if err != nil {
				return nil, err
			}
			times[j] = append(times[j], took)
		}
	}
	out.stock, out.petiole = times[0], times[1]
	return []row{out}, nil
}

func (b *bench) bulkOnce(ctx context.Context, n *node, prefix string) (time.Duration, error) {
	var pods []*corev1.Pod
	for i := range bulkPods {
		pod := b.pod(n, fmt.Sprintf("%s-%d", prefix, i), false)
		for k := range bulkConfigMaps {
			name := fmt.Sprintf("%s-%d-%d", prefix, i, k)
			_, err := b.rig.Kube.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": name}}, metav1.CreateOptions{})
			if err != nil {
				return 0, fmt.Errorf("create ConfigMap: %w", err)
			}
			mount(pod, name)
		}
		pods = append(pods, pod)
	}
	took, err := b.createAndAwait(ctx, pods...)
	if err != nil {
		return 0, err
	}
	return took, b.clear(ctx)
}

// mount adds a ConfigMap volume.
func mount(pod *corev1.Pod, name string) *corev1.Pod {
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}},
	}})
	c := &pod.Spec.Containers[0]
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/mnt/" + name})
	return pod
}
