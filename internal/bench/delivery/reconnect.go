package delivery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/petiole-io/petiole/internal/breaker/world"
	"github.com/petiole-io/petiole/leaf"
	"github.com/petiole-io/petiole/streams"
)

// reconnect measures what a reconnect of many sites at once costs, several times.
func (b *bench) reconnect(ctx context.Context) error {
	run, stop := context.WithCancel(ctx)
	leaves, err := b.startLeaves(run)
	defer func() { stop(); leaves.Wait() }() //nolint:errcheck // they end because they were stopped
	if err != nil {
		return err
	}
	g, each := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range b.opts.Sites {
		g.Go(func() error { return b.populate(each, world.SimulatedName(i), b.opts.ChangesPerSite) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := b.allPending(ctx, 0, 0); err != nil {
		return err
	}
	for version := range b.opts.Reconnects {
		if err := b.away(ctx, version+1); err != nil {
			return err
		}
	}
	return nil
}

// away cuts all sites, changes objects of each, and measures the reconnect.
func (b *bench) away(ctx context.Context, version int) error {
	if err := b.world.CutSimulated(); err != nil {
		return err
	}
	if !sleep(ctx, noticed) {
		return ctx.Err()
	}
	published, err := b.published(ctx)
	if err != nil {
		return err
	}
	for i := range b.opts.Sites {
		if err := b.change(ctx, world.SimulatedName(i), b.opts.ChangesPerSite, version); err != nil {
			return err
		}
	}
	if err := b.allPending(ctx, b.opts.ChangesPerSite, b.opts.ChangesPerSite+others); err != nil {
		return err
	}
	// Requests that the cut itself and the changes have caused must not count.
	if !sleep(ctx, 5*time.Second) {
		return ctx.Err()
	}
	return b.measureReconnect(ctx, published)
}

func (b *bench) measureReconnect(ctx context.Context, published uint64) error {
	lists, gateLists, err := b.lists(ctx)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := b.world.HealSimulated(); err != nil {
		return err
	}
	if err := b.allPending(ctx, 0, 0); err != nil {
		return err
	}
	took := time.Since(start)
	listsAfter, gateAfter, err := b.lists(ctx)
	if err != nil {
		return err
	}
	after, err := b.published(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nRECONNECT OF %d SITES, %d CHANGED OBJECTS EACH\tFIGURE\n", b.opts.Sites, b.opts.ChangesPerSite)
	fmt.Fprintf(w, "until every site has stored everything\t%s\n", ms(took))
	fmt.Fprintf(w, "messages in DESIRED for %d changed objects\t%d\n", b.opts.Sites*b.opts.ChangesPerSite, after-published)
	fmt.Fprintf(w, "LIST requests that the API server counted meanwhile\t%d\n", listsAfter-lists)
	fmt.Fprintf(w, "of them by bridges\t%d\n", gateAfter.count()-gateLists.count())
	for path, n := range gateAfter {
		if more := n - gateLists[path]; more > 0 {
			fmt.Fprintf(w, "  %s\t%d\n", path, more)
		}
	}
	return w.Flush()
}

// startPace is the time between the starts of two leaves.
const startPace = 150 * time.Millisecond

// startLeaves runs the leaves of all simulated sites in this process, without kubelets
// and devices.
func (b *bench) startLeaves(ctx context.Context) (*errgroup.Group, error) {
	g := &errgroup.Group{}
	for i := range b.opts.Sites {
		name := world.SimulatedName(i)
		dir := filepath.Join(b.dir, "simulated", name)
		conf, err := b.world.SimulatedConfig(i, dir)
		if err != nil {
			return g, err
		}
		cfg := leaf.DefaultConfig()
		cfg.Site, cfg.Node, cfg.DataDir = name, name+"-1", filepath.Join(dir, "leaf")
		cfg.NATS.ConfigFile, cfg.NodeAPI.Listen = conf, "127.0.0.1:0"
		cfg.Metrics.Listen = ""
		cfg.Devices.Disabled = true
		cfg.Storage.TelemetryBytes = 1 << 20
		if err := cfg.Validate(); err != nil {
			return g, err
		}
		// Not all at once: each writes its store with a sync for every step.
		if !sleep(ctx, startPace) {
			return g, ctx.Err()
		}
		g.Go(func() error {
			err := leaf.New(cfg, "bench", zap.NewNop()).Run(ctx)
			if err != nil && ctx.Err() == nil {
				fmt.Fprintf(b.out, "leaf of %s ended: %v\n", name, err)
			}
			return err
		})
	}
	return g, nil
}

// others bounds the number of objects of a site that may change besides those that the benchmark
// changes: controllers write to nodes and namespaces.
const others = 10

// allPending waits until every simulated site has so many objects pending.
func (b *bench) allPending(ctx context.Context, least, most int) error {
	return await(ctx, "the backlogs of all sites", 5*time.Minute, func(ctx context.Context) error {
		s, err := b.js.Stream(ctx, streams.Desired)
		if err != nil {
			return err
		}
		seen, wrong, example := 0, 0, ""
		list := s.ListConsumers(ctx)
		for info := range list.Info() {
			if !strings.HasPrefix(info.Name, "v") {
				continue
			}
			seen++
			if have := int(info.NumPending) + info.NumAckPending; have < least || have > most {
				wrong++
				example = fmt.Sprintf("%s has %d", info.Name, have)
			}
		}
		if err := list.Err(); err != nil {
			return err
		}
		if seen < b.opts.Sites || wrong > 0 {
			return fmt.Errorf("%d of %d sites have a consumer, %d of them not %d to %d pending: %s", seen, b.opts.Sites, wrong, least, most, example)
		}
		return nil
	})
}

// published returns the last sequence of DESIRED.
func (b *bench) published(ctx context.Context) (uint64, error) {
	s, err := b.js.Stream(ctx, streams.Desired)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", streams.Desired, err)
	}
	return s.CachedInfo().State.LastSeq, nil
}

// lists counts the LIST requests that the API server has answered, from its metrics,
// and those of the bridges, from their proxies.
func (b *bench) lists(ctx context.Context) (all int64, bridges listed, err error) {
	data, err := b.kube.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, nil, fmt.Errorf("read metrics of the API server: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "apiserver_request_total{") || !strings.Contains(line, `verb="LIST"`) {
			continue
		}
		var n float64
		if _, err := fmt.Sscan(line[strings.LastIndexByte(strings.TrimSpace(line), ' '):], &n); err != nil {
			return 0, nil, fmt.Errorf("read metrics of the API server: %q: %w", line, err)
		}
		all += int64(n)
	}
	bridges = listed{}
	for _, br := range b.world.Bridges {
		for path, n := range br.Proxy.Listed() {
			bridges[path] += n
		}
	}
	if all == 0 {
		return 0, nil, errors.New("read metrics of the API server: no LIST request was ever counted")
	}
	return all, bridges, nil
}

// memory measures the bridges' memory while a site is away and objects of it change
// again and again.
func (b *bench) memory(ctx context.Context) error {
	site := b.world.Sites[0]
	if err := site.Link.Down(); err != nil {
		return err
	}
	before, err := b.resident()
	if err != nil {
		return err
	}
	objects := min(1000, slices.Max(b.opts.Backlogs))
	most, start := before, time.Now()
	for version, done := 1000, 0; done < b.opts.Changes; version++ {
		n := min(objects, b.opts.Changes-done)
		if err := b.change(ctx, site.Name, n, version); err != nil {
			return err
		}
		done += n
		now, err := b.resident()
		if err != nil {
			return err
		}
		most = max(most, now)
	}
	took := time.Since(start)
	if err := b.awaitPending(ctx, site.Name, objects, objects+50); err != nil {
		return err
	}
	after, err := b.resident()
	if err != nil {
		return err
	}
	pending, err := b.pending(ctx, site.Name)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%d CHANGES OF %d OBJECTS WHILE THEIR SITE IS AWAY, IN %s\tFIGURE\n", b.opts.Changes, objects, took.Round(time.Second))
	fmt.Fprintf(w, "memory of the larger bridge before, MiB\t%d\n", before>>20)
	fmt.Fprintf(w, "most meanwhile, MiB\t%d\n", most>>20)
	fmt.Fprintf(w, "after, MiB\t%d\n", after>>20)
	fmt.Fprintf(w, "objects that wait for the site\t%d\n", pending)
	return errors.Join(w.Flush(), site.Link.Heal())
}

// resident returns the resident memory of the larger of the bridges.
func (b *bench) resident() (int64, error) {
	var most int64
	for _, br := range b.world.Bridges {
		pid, running := br.PID()
		if !running {
			return 0, fmt.Errorf("bridge %s does not run", br.ID)
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return 0, fmt.Errorf("read memory of bridge %s: %w", br.ID, err)
		}
		var size, resident int64
		if _, err := fmt.Sscan(string(data), &size, &resident); err != nil {
			return 0, fmt.Errorf("read memory of bridge %s: %w", br.ID, err)
		}
		most = max(most, resident*int64(os.Getpagesize()))
	}
	return most, nil
}

// listed counts LIST requests by their paths.
type listed map[string]int64

func (l listed) count() int64 {
	var n int64
	for _, c := range l {
		n += c
	}
	return n
}
