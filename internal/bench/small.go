package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/cgroup"
	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/oracle"
)

// SmallConfig configures Small.
type SmallConfig struct {
	Config
	// Limits are the memory limits to try, in MB (10^6 bytes).
	Limits []int
	// Duration is how long each is tried, with a change of a ConfigMap each second.
	Duration time.Duration
}

const (
	sampleFolder = "deploy/lab/samples"
	// The lab's samples: a Deployment with 3 pods, its ConfigMap, and a Modbus device.
	sampleNamespace, sampleName, samplePods = "default", "web", 3
	sampleFile                              = "index.html"
	sampleDevice, sampleProperty            = "boiler", "seconds"
	// smallLimit bounds the wait until the site has all that it should.
	smallLimit = 3 * time.Minute
	mb         = 1_000_000
)

// Small runs a gateway with its pods and a device in less and less memory, and prints what it
// needed, and whether everything arrived. In each run the link is cut for a while, and the gateway is
// rebooted. It applies the lab's samples, and deletes them afterwards. A run that fails is a row of the table and no error.
func Small(ctx context.Context, cfg SmallConfig) (err error) {
	r, err := rig.Open(ctx, cfg.Root)
	if err != nil {
		return fmt.Errorf("run benchmark (is the lab up?): %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	s := &small{rig: r, site: r.Sites[0], out: cfg.Out, duration: cfg.Duration}
	samples, err := cluster.NewApplier(r.REST)
	if err != nil {
		return err
	}
	if _, err := samples.Apply(ctx, filepath.Join(r.Root, sampleFolder)); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), smallLimit) // also once ctx has ended
		defer cancel()
		err = errors.Join(err, r.Heal(ctx, s.site), r.Reboot(ctx, s.site), samples.Delete(ctx, filepath.Join(r.Root, sampleFolder)))
	}()
	var runs []*smallRun
	for _, limit := range cfg.Limits {
		run := s.run(ctx, int64(limit)*mb)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		runs = append(runs, run)
		run.print(cfg.Out)
	}
	printSmall(cfg.Out, runs)
	return nil
}

// small is the site that has less and less memory.
type small struct {
	rig      *rig.Rig
	site     *rig.Site
	out      io.Writer
	duration time.Duration
}

// smallRun is the result of a run.
type smallRun struct {
	limit, changes int64
	// started and settled are the times until everything was as it should be, after the first boot
	// and after the last change.
	started, settled time.Duration
	// failure is what was not as it should be.
	failure error

	mu   sync.Mutex
	last cgroup.Memory
	// used, anonymous and mapped are the largest; past are the counters of before the reboot.
	used, anonymous, mapped int64
	past                    cgroup.Memory
	// processes have their largest RSS, and the anonymous memory of them then.
	processes map[string]rig.Memory
}

func (s *small) group() string { return "petiole-" + s.site.Name }

func (s *small) run(ctx context.Context, limit int64) *smallRun {
	run := &smallRun{limit: limit, processes: map[string]rig.Memory{}}
	fmt.Fprintf(s.out, "%d MB: booting…\n", limit/mb)
	boot := time.Now()
	if run.failure = s.rig.RebootWithin(ctx, s.site, limit); run.failure != nil {
		return run
	}
	ctx, stop := context.WithCancel(ctx)
	var sampling sync.WaitGroup
	sampling.Go(func() { s.sample(ctx, run) })
	defer func() {
		stop()
		sampling.Wait()
	}()
	if run.failure = s.await(ctx, ""); run.failure != nil {
		return run
	}
	run.started = time.Since(boot)
	fmt.Fprintf(s.out, "%d MB: everything runs after %s; a change a second for %s, with a cut and a reboot…\n", limit/mb, run.started.Round(time.Second), s.duration)
	content, err := s.change(ctx, run)
	if err != nil {
		run.failure = err
		return run
	}
	end := time.Now()
	run.failure = s.await(ctx, content)
	run.settled = time.Since(end)
	return run
}

// change changes the ConfigMap once a second. At 30 % of the time it cuts the link, at 45 % it ends
// the cut, at 60 % it reboots the gateway. It returns the last content.
func (s *small) change(ctx context.Context, run *smallRun) (content string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var events sync.WaitGroup
	events.Go(func() {
		for _, e := range []struct {
			at   float64
			what string
			do   func(context.Context) error
		}{
			{0.30, "cut", func(ctx context.Context) error { return s.rig.Cut(ctx, s.site) }},
			{0.15, "healed", func(ctx context.Context) error { return s.rig.Heal(ctx, s.site) }},
			{0.15, "rebooted", func(ctx context.Context) error {
				run.keep()
				return s.rig.RebootWithin(ctx, s.site, run.limit)
			}},
		} {
			if wait(ctx, time.Duration(e.at*float64(s.duration))) != nil {
				return
			}
			if err := e.do(ctx); err != nil {
				cancel(err)
				return
			}
			fmt.Fprintf(s.out, "%d MB: %s after %d changes\n", run.limit/mb, e.what, run.changed(0))
		}
	})
	defer events.Wait()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for end := time.Now().Add(s.duration); time.Now().Before(end); {
		content = fmt.Sprintf("change %d of %s\n", run.changed(1), time.Now().UTC().Format(time.RFC3339))
		patch := fmt.Sprintf(`{"data":{%q:%q}}`, sampleFile, content)
		if _, err := s.rig.Kube.CoreV1().ConfigMaps(sampleNamespace).Patch(ctx, sampleName, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return "", errors.Join(fmt.Errorf("change ConfigMap: %w", err), context.Cause(ctx))
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-tick.C:
		}
	}
	return content, nil
}

// await waits until the pods are ready and have the content, empty: any, and the device reports.
func (s *small) await(ctx context.Context, content string) error {
	ctx, cancel := context.WithTimeout(ctx, smallLimit)
	defer cancel()
	if err := rig.Poll(ctx, "the pods are ready and have the newest content", func(ctx context.Context) error { return s.podsHave(ctx, content) }); err != nil {
		return err
	}
	first := ""
	return rig.Poll(ctx, "the device reports", func(ctx context.Context) error {
		value, err := s.reported(ctx)
		if err != nil || first != "" && value != first {
			return err
		}
		first = value
		return fmt.Errorf("%s is still %s", sampleProperty, value)
	})
}

func (s *small) podsHave(ctx context.Context, content string) error {
	if err := nodeReady(ctx, s.rig.Kube, s.site.Node); err != nil {
		return err
	}
	pods, err := s.rig.Kube.CoreV1().Pods(sampleNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + sampleName})
	if err != nil {
		return err
	}
	ready := 0
	for _, p := range pods.Items {
		if p.DeletionTimestamp != nil || !podReady(&p) {
			continue
		}
		file := filepath.Join(s.rig.Dir, "sites", s.site.Name, "kubelet/pods", string(p.UID), "volumes/kubernetes.io~configmap/pages", sampleFile)
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if content != "" && string(data) != content {
			return fmt.Errorf("pod %s has %q, want %q", p.Name, data, content)
		}
		ready++
	}
	if ready != samplePods || ready != len(pods.Items) {
		return fmt.Errorf("%d of %d pods are ready, want %d", ready, len(pods.Items), samplePods)
	}
	return nil
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// reported returns the device's value at the API server.
func (s *small) reported(ctx context.Context) (string, error) {
	u, err := s.rig.Dynamic.Resource(oracle.Device("devicestatuses")).Namespace(sampleNamespace).Get(ctx, sampleDevice, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if state, _, _ := unstructured.NestedString(u.Object, "status", "state"); state != "online" && state != "ok" {
		return "", fmt.Errorf("the device is %q", state)
	}
	twins, _, err := unstructured.NestedSlice(u.Object, "status", "twins")
	if err != nil {
		return "", err
	}
	for _, t := range twins {
		twin, ok := t.(map[string]any)
		if !ok || twin["propertyName"] != sampleProperty {
			continue
		}
		value, _, err := unstructured.NestedString(twin, "reported", "value")
		return value, err
	}
	return "", fmt.Errorf("%s is not reported", sampleProperty)
}

// sample records the memory until ctx ends. During a reboot there is no cgroup.
func (s *small) sample(ctx context.Context, run *smallRun) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m, err := cgroup.ReadMemory(s.group())
		if err != nil {
			continue
		}
		pids, err := cgroup.Members(s.group())
		if err != nil {
			continue
		}
		now := map[string]rig.Memory{}
		for _, pid := range pids {
			p, err := rig.FindProcess(pid)
			if err != nil {
				continue // it ended meanwhile
			}
			if memory, err := p.Memory(); err == nil {
				name := processName(pid)
				now[name] = now[name].Add(memory)
			}
		}
		run.note(m, now)
	}
}

// processName returns what the table calls a process.
func processName(pid int) string {
	args := rig.CommandLine(pid)
	if len(args) == 0 {
		return "others"
	}
	switch name := filepath.Base(args[0]); name {
	case "leaf", "crio", "conmon":
		return name
	case "petiole-kubelet":
		return "kubelet"
	case "runc", "ociwrap", "pinns", "nsenter", "sh":
		return "runc and others that come and go"
	default:
		return "containers"
	}
}

func (r *smallRun) note(m cgroup.Memory, processes map[string]rig.Memory) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = m
	r.used, r.anonymous, r.mapped = max(r.used, m.Used), max(r.anonymous, m.Anonymous), max(r.mapped, m.Mapped)
	for name, p := range processes {
		if p.RSS > r.processes[name].RSS {
			r.processes[name] = p
		}
	}
}

// keep keeps the counters of a cgroup that is about to be removed.
func (r *smallRun) keep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past.MajorFaults += r.last.MajorFaults
	r.past.AtLimit += r.last.AtLimit
	r.past.OOMKills += r.last.OOMKills
	r.last = cgroup.Memory{}
}

// changed adds to the number of changes, and returns it.
func (r *smallRun) changed(n int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes += n
	return r.changes
}

func (r *smallRun) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%d MB, largest of each, MB\tRSS\tanonymous\n", r.limit/mb)
	for _, name := range slices.Sorted(maps.Keys(r.processes)) {
		p := r.processes[name]
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\n", name, float64(p.RSS)/mb, float64(p.Anonymous)/mb)
	}
	w.Flush()
	if r.failure != nil {
		fmt.Fprintf(out, "FAILED: %v\n", r.failure)
	}
	fmt.Fprintln(out)
}

func printSmall(out io.Writer, runs []*smallRun) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "limit, MB\tpeak\tanonymous, peak\tfiles, end\tmapped of them, peak\tat the limit\tmajor faults\tOOM kills\tchanges\tbooted\tsettled\tresult")
	for _, r := range runs {
		result := "everything arrived"
		if r.failure != nil {
			result = "FAILED"
		}
		fmt.Fprintf(w, "%d\t%.0f\t%.0f\t%.0f\t%.0f\t%d\t%d\t%d\t%d\t%.1f s\t%.1f s\t%s\n", r.limit/mb, float64(r.used)/mb, float64(r.anonymous)/mb, float64(r.last.Cache)/mb, float64(r.mapped)/mb,
			r.past.AtLimit+r.last.AtLimit, r.past.MajorFaults+r.last.MajorFaults, r.past.OOMKills+r.last.OOMKills, r.changes, r.started.Seconds(), r.settled.Seconds(), result)
	}
	w.Flush()
}
