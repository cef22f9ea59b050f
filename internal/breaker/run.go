package breaker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/petiole-io/petiole/internal/breaker/check"
	"github.com/petiole-io/petiole/internal/breaker/world"
	"github.com/petiole-io/petiole/streams"
)

// Options configures a run. The zero value of a field stands for the default given.
type Options struct {
	// Root is the repository; Dir, below its .lab, is the folder of the run's files.
	Root, Dir string
	// Sites is the number of light sites; default 8. Full adds one with kubelet, CRI-O and
	// containers.
	Sites int
	Full  bool
	// Duration is the time during which rounds are begun; default 10 minutes. Rounds, if set,
	// is their number instead.
	Duration time.Duration
	Rounds   int
	// Seed chooses the faults.
	Seed uint64
	// Faults selects kinds by name, see selectFaults; empty: all.
	Faults []string
	// FaultsPerRound is the number of faults in a round; default three for each site. They
	// begin within RoundLength; default 30 s.
	FaultsPerRound int
	RoundLength    time.Duration
	// Former is a folder with the programs bridge and leaf of another version. If it is set, each
	// round begins with the upgrade or downgrade of one side, and the rounds are as many as there
	// are steps, see skew.
	Former string
	// Patience bounds the time that sites take to converge; default 2 minutes.
	Patience time.Duration
	// Pace is the mean time between two changes of one site; default 500 ms.
	Pace time.Duration
	Out  io.Writer
}

// ErrViolated reports that an invariant was violated.
var ErrViolated = errors.New("delivery was broken")

// run is one run while it lasts.
type run struct {
	opts    Options
	world   *world.World
	record  *recorder
	work    *workload
	writers []*writer
	views   []*siteView
	nodes   []*node
	api     *apiView
	hub     *hubView
	quiet   atomic.Bool

	guard sync.Mutex
	locks map[string]*sync.Mutex

	mu       sync.Mutex
	injected map[string]int
	failed   map[string]int
	cutOff   map[int]int
	// running is which versions run, if there are two.
	running      pair
	slowestStart time.Duration
	converged    []time.Duration
	memory       map[string]int64
}

// Run runs the suite and prints the results. ErrViolated means that it found a violation,
// any other error that it could not run; the history is kept in both cases.
func Run(ctx context.Context, o Options) (err error) {
	o = o.withDefaults()
	kinds, err := selectFaults(catalog(), o.Faults)
	if err != nil {
		return err
	}
	if !o.Full {
		kinds = slices.DeleteFunc(kinds, func(f *fault) bool { return f.name == "kubelet-kill" })
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return fmt.Errorf("create folder: %w", err)
	}
	history := filepath.Join(o.Dir, "history.jsonl")
	record, err := newRecorder(history, o.Out)
	if err != nil {
		return err
	}
	r := &run{opts: o, record: record, locks: map[string]*sync.Mutex{}, injected: map[string]int{}, failed: map[string]int{}, cutOff: map[int]int{}, memory: map[string]int64{}, running: skew[0]}
	options := world.Options{Root: o.Root, Dir: filepath.Join(o.Dir, "world"), Sites: o.Sites, Full: o.Full, OnWrite: r.bridgeWrote}
	if o.Former != "" {
		options.Bridge, options.Leaf = o.program("bridge", former), o.program("leaf", former)
	}
	if r.world, err = world.New(options); err != nil {
		return errors.Join(err, record.close())
	}
	defer func() {
		if err = errors.Join(err, r.world.Close()); err == nil {
			err = os.RemoveAll(o.Dir) // nobody needs the history of a run that found nothing
		}
	}()
	record.printf("seed %d, %d sites, %d kinds of faults", o.Seed, len(r.world.Sites), len(kinds))
	if err = r.runAll(ctx, kinds); err == nil {
		err = checkEvidence(record.eventCounts())
	}
	if ctx.Err() == nil {
		record.finish() // of a run that was broken off, anything may be missing
	}
	err = errors.Join(err, record.close())
	r.report(kinds)
	if record.violationCount() > 0 {
		fmt.Fprintf(o.Out, "\nthe history is %s, the logs are in %s\n", history, filepath.Join(o.Dir, "world/log"))
		return errors.Join(ErrViolated, err)
	}
	return err
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	if o.Sites == 0 {
		o.Sites = 8
	}
	set(&o.Duration, 10*time.Minute)
	set(&o.RoundLength, 30*time.Second)
	set(&o.Patience, 2*time.Minute)
	set(&o.Pace, 500*time.Millisecond)
	if o.Former != "" {
		o.Rounds = len(skew)
	}
	if o.FaultsPerRound == 0 {
		o.FaultsPerRound = 3 * o.Sites
	}
	return o
}

// runAll brings the world up, runs the rounds and stops all that it started.
func (r *run) runAll(ctx context.Context, kinds []*fault) error {
	begin, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := r.world.Up(begin); err != nil {
		return err
	}
	admin, err := r.world.Admin()
	if err != nil {
		return err
	}
	defer admin.Close()
	js, err := jetstream.NewWithDomain(admin, streams.HubDomain)
	if err != nil {
		return fmt.Errorf("open JetStream of the hub: %w", err)
	}
	r.hub = &hubView{js: js, record: r.record, former: r.opts.Former != ""}
	r.work = &workload{kube: r.world.Kube, record: r.record, pace: r.opts.Pace}
	r.api = &apiView{kube: r.world.Kube, record: r.record, siteOf: r.siteOf, pausable: &pausable{}}
	work, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	if err := r.startClients(begin, work, &wg); err != nil {
		return err
	}
	r.record.printf("%d sites are up, and have their desired state", len(r.world.Sites))
	return r.rounds(ctx, kinds)
}

// startClients starts all clients, which write and observe. It returns when every site has its
// objects.
func (r *run) startClients(begin, work context.Context, wg *sync.WaitGroup) error {
	for i, s := range r.world.Sites {
		v := newSiteView(s, r.record, &pausable{})
		n := newNode(v, r.opts.Seed)
		n.quiet = &r.quiet
		r.views, r.nodes = append(r.views, v), append(r.nodes, n)
		w := &writer{workload: r.work, site: s, rng: rand.New(rand.NewPCG(r.opts.Seed, uint64(i))), image: "none"}
		wg.Go(func() { v.run(work) })
		if s.Runtime == nil {
			wg.Go(func() { n.run(work) })
		} else {
			w.image = r.world.Image()
		}
		r.writers = append(r.writers, w)
	}
	for _, w := range r.writers {
		if err := r.await(begin, "node "+w.site.Node(), func(ctx context.Context) error {
			_, err := r.world.Kube.CoreV1().Nodes().Get(ctx, w.site.Node(), metav1.GetOptions{})
			return err
		}); err != nil {
			return err
		}
		if err := w.setup(begin); err != nil {
			return fmt.Errorf("set up %s: %w", w.site.Name, err)
		}
	}
	wg.Go(func() { r.api.run(work) })
	for _, w := range r.writers {
		wg.Go(func() { r.hub.run(work, streams.Telemetry(w.site.Name), r.hub.telemetry) })
	}
	wg.Go(func() { r.hub.run(work, streams.Desired, r.hub.desired) })
	wg.Go(func() { r.watchProcesses(work) })
	r.quiet.Store(true)
	if err := r.converge(begin); err != nil {
		return err
	}
	for i, w := range r.writers {
		wg.Go(func() { w.run(work) })
		for _, source := range producers {
			wg.Go(func() { produce(work, r.views[i], source, &r.quiet) })
		}
	}
	return nil
}

func (r *run) await(ctx context.Context, what string, cond func(context.Context) error) error {
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return fmt.Errorf("await %s: %w", what, err)
		}
	}
}

// rounds runs rounds until the time is up. It stops after the first one whose
// sites do not converge: later ones would prove nothing.
func (r *run) rounds(ctx context.Context, kinds []*fault) error {
	d := newDeck(r.opts.Seed, kinds)
	begun := time.Now()
	for n := 1; ; n++ {
		if r.opts.Rounds > 0 && n > r.opts.Rounds || r.opts.Rounds == 0 && time.Since(begun) >= r.opts.Duration {
			return nil
		}
		plan := d.round(r.opts.FaultsPerRound, len(r.world.Sites), r.opts.RoundLength)
		r.quiet.Store(false)
		if err := r.disturb(ctx, n, plan); err != nil {
			return err
		}
		r.quiet.Store(true)
		r.work.pausable.pause()
		err := r.converge(ctx)
		r.work.pausable.resume()
		if err != nil {
			return err
		}
		r.summary(n, len(plan))
	}
}

// disturb injects the faults of round n and returns when all are healed. Meanwhile the round's
// versions of the programs take over, if there are two.
func (r *run) disturb(ctx context.Context, n int, plan []action) error {
	var replaced error
	var wg sync.WaitGroup
	if r.opts.Former != "" {
		wg.Go(func() { replaced = r.replace(ctx, skew[n-1]) })
	}
	err := r.injectAll(ctx, plan)
	wg.Wait()
	return errors.Join(replaced, err)
}

// injectAll injects the faults of a round and returns when all are healed.
func (r *run) injectAll(ctx context.Context, plan []action) error {
	begun := time.Now()
	errs := make([]error, len(plan))
	var wg sync.WaitGroup
	for i, a := range plan {
		if !sleep(ctx, a.at-time.Since(begun)) {
			break
		}
		wg.Go(func() { errs[i] = r.inject(ctx, a) })
	}
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// inject injects one fault, waits, and heals it. A fault that cannot be healed ends the run;
// one that could not be injected, or whose target did not come back in time, is not counted.
func (r *run) inject(ctx context.Context, a action) error {
	defer r.lock(a.kind.locks(a))()
	e := check.Event{Kind: check.Fault, What: a.kind.name, Target: fmt.Sprint(a.target), Took: a.lasts}
	if sites := len(r.world.Sites); sites > 2 && a.kind.targets(sites) == sites {
		e.Site = r.world.Sites[a.target].Name
	}
	r.record.add(e)
	// A fault that was injected in part is healed too, also when the run ends early.
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
	defer cancel()
	heal, err := a.kind.inject(whole, r, a)
	r.mu.Lock()
	if err == nil {
		r.injected[a.kind.name]++
	} else {
		r.failed[a.kind.name]++
	}
	r.mu.Unlock()
	if err != nil {
		r.record.printf("%s %d is not counted: %v", a.kind.name, a.target, err)
	}
	if heal == nil {
		return nil
	}
	sleep(ctx, a.lasts)
	if err := heal(whole); err != nil {
		return fmt.Errorf("heal %s %d: %w", a.kind.name, a.target, err)
	}
	e.Kind = check.Healed
	r.record.add(e)
	return nil
}

// lock takes locks in the order of their names, so that no two faults wait for each
// other.
func (r *run) lock(names []string) (release func()) {
	names = slices.Sorted(slices.Values(names))
	var held []*sync.Mutex
	for _, n := range names {
		r.guard.Lock()
		m := r.locks[n]
		if m == nil {
			m = &sync.Mutex{}
			r.locks[n] = m
		}
		r.guard.Unlock()
		m.Lock()
		held = append(held, m)
	}
	return func() {
		for _, m := range held {
			m.Unlock()
		}
	}
}

func (r *run) siteOf(node string) string { return strings.TrimSuffix(node, "-1") }

// bridgeWrote is called by the proxies for every write. Those of the election itself are no
// writes of a leader.
func (r *run) bridgeWrote(w world.Write) {
	if w.Code < 200 || w.Code >= 300 || w.Term == 0 || strings.Contains(w.Path, "/namespaces/petiole-system/leases") {
		return
	}
	r.record.add(check.Event{
		Kind: check.BridgeWrote, Bridge: w.Bridge, Subject: w.Path, Term: w.Term, Op: w.Method, Since: w.Call.Sub(r.record.start),
	})
}

// watchProcesses records crashes and the memory of processes.
func (r *run) watchProcesses(ctx context.Context) {
	for sleep(ctx, time.Second) {
		for _, p := range r.world.Processes() {
			if p.Crashed() {
				r.record.add(check.Event{Kind: check.Crashed, Target: p.Name(), What: lastLine(p.Log())})
				if err := p.Start(); err != nil {
					r.record.printf("start %s again: %v", p.Name(), err)
				}
				continue
			}
			if pid, ok := p.PID(); ok {
				r.recordRSS(p.Name(), residentBytes(pid))
			}
		}
	}
}

// lastLine returns the last line of a log, with the log's name.
func lastLine(log string) string {
	data, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	data = bytes.TrimSpace(data)
	return fmt.Sprintf("%s: %.400s", log, data[bytes.LastIndexByte(data, '\n')+1:])
}

func (r *run) recordRSS(name string, bytes int64) {
	kind, _, _ := strings.Cut(name, "-")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.memory[kind] = max(r.memory[kind], bytes)
}

// residentBytes returns the resident memory of a process, 0 if it has ended.
func residentBytes(pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(data), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}

// summary prints a line after each round.
func (r *run) summary(n, faults int) {
	r.mu.Lock()
	total := 0
	for v := range maps.Values(r.injected) {
		total += v
	}
	slowest := slices.Max(r.converged[len(r.converged)-len(r.world.Sites):])
	r.mu.Unlock()
	r.record.printf("round %d: %d faults (%d in all), every site converged within %s", n, faults, total, slowest.Round(10*time.Millisecond))
}
