package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// Config configures Run.
type Config struct {
	// Server is the binary of nats-server, CLI that of the nats command; without CLI its
	// reports are not tried.
	Server, CLI string
	// Sites are the numbers of sites, Only the layouts; none: all.
	Sites []int
	Only  []string
	// SkipAttacks leaves the floods out.
	SkipAttacks bool
	Out         io.Writer
}

// rateTime is how long the publish rate is measured.
const rateTime = 3 * time.Second

// Run measures every layout with every number of sites.
func Run(ctx context.Context, cfg Config) error {
	for _, n := range cfg.Sites {
		if n < active {
			return fmt.Errorf("%d sites: want at least %d", n, active)
		}
		for _, l := range layouts {
			if len(cfg.Only) > 0 && !slices.Contains(cfg.Only, l.name) {
				continue
			}
			if err := measure(ctx, cfg, l, n); err != nil {
				return fmt.Errorf("%s, %d sites: %w", l.name, n, err)
			}
		}
	}
	return nil
}

// checkFiles returns an error if this process, and so the server, may not open enough files:
// nats-server keeps the last block of each stream open, and a stream that cannot open one
// freezes without an answer.
func checkFiles(needed int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Cur < uint64(needed) {
		return fmt.Errorf("%d files may be open, want %d: ulimit -n %d", limit.Cur, needed, needed)
	}
	return nil
}

func measure(ctx context.Context, cfg Config, l layout, n int) (err error) {
	if err := checkFiles(len(l.streams(n)) + 2000); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-hub-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p, err := writeConf(dir)
	if err != nil {
		return err
	}
	if _, err := p.start(ctx, cfg.Server, dir); err != nil {
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			_, stopErr := p.stop()
			err = errors.Join(err, stopErr)
		}
	}()
	out := tabwriter.NewWriter(cfg.Out, 0, 0, 2, ' ', 0)
	defer func() { err = errors.Join(err, out.Flush()) }()
	fmt.Fprintf(out, "\n%s, %d sites\n", l.name, n)
	nc, err := p.connect("bridge")
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Minute))
	if err != nil {
		return err
	}
	before, err := p.usage()
	if err != nil {
		return err
	}
	all := l.streams(n)
	began := time.Now()
	if err := create(ctx, js, all); err != nil {
		return fmt.Errorf("create streams: %w", err)
	}
	fmt.Fprintf(out, "%d streams created\t%v\n", len(all), round(time.Since(began)))
	for _, kind := range []string{"reported", "telemetry"} {
		if err := each(n, func(site int) error {
			_, err := Publish(nc, fmt.Sprintf("%s.%s.x.", kind, siteName(site)), 0, false, time.Minute)
			return err
		}); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	stored, err := p.usage()
	if err != nil {
		return err
	}
	printUsage(out, "streams with a message each", before, stored)
	for _, r := range []struct {
		what    string
		writers int
		batch   int
	}{{"one by one, 64 at the same time", 64, 1}, {"batches of 100, 8 at the same time", 8, 100}} {
		rate, err := publishRate(nc, n, r.writers, r.batch)
		if err != nil {
			return fmt.Errorf("publish rate: %w", err)
		}
		fmt.Fprintf(out, "publish, %s\t%.0f messages/s\n", r.what, rate)
	}
	began = time.Now()
	got, err := l.list(ctx, nc, n)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "list all %d reports\t%v\n", got, round(time.Since(began)))
	if err := followed(ctx, &p, nc, js, l, n, out); err != nil {
		return err
	}
	if !cfg.SkipAttacks {
		for _, a := range attacks {
			o, err := besiege(ctx, &p, a)
			if err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
			fmt.Fprintf(out, "%s: %s\t%d quiet, p50 %v p99 %v max %v, failed %v, again after %v, RSS %d MB, %s\n", a.kind, a.name, len(o.latency),
				round(Quantile(o.latency, .5)), round(Quantile(o.latency, .99)), round(Quantile(o.latency, 1)), o.failed, round(o.again), o.rss>>20, o.note)
		}
	}
	if cfg.CLI != "" {
		if err := reports(ctx, cfg, p, l, out); err != nil {
			return err
		}
	}
	nc.Close()
	took, err := p.stop()
	if stopped = true; err != nil {
		return err
	}
	up, err := p.start(ctx, cfg.Server, dir)
	if err != nil {
		return err
	}
	stopped = false
	after, err := p.usage()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "graceful shutdown\t%v\nstart\t%v\n", round(took), round(up))
	printUsage(out, "after the start", before, after)
	return nil
}

// followed measures what it costs to follow all sites.
func followed(ctx context.Context, p *process, nc *nats.Conn, js jetstream.JetStream, l layout, n int, out io.Writer) error {
	before, err := p.usage()
	if err != nil {
		return err
	}
	var got atomic.Int64
	subject := delivered
	if l.republish {
		subject = "stored.>"
	}
	sub, err := nc.Subscribe(subject, func(m *nats.Msg) {
		got.Add(1)
		if m.Reply != "" {
			_ = m.Respond(nil) // an acknowledgement that is lost is repeated
		}
	})
	if err != nil {
		return err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	began := time.Now()
	if !l.republish {
		if err := l.follow(ctx, js, n); err != nil {
			return fmt.Errorf("create consumers: %w", err)
		}
		fmt.Fprintf(out, "consumers created\t%v\n", round(time.Since(began)))
	}
	after, err := p.usage()
	if err != nil {
		return err
	}
	printUsage(out, "following all sites", before, after)
	time.Sleep(rateTime)
	idle, err := p.usage()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "idle, followed\t%.1f %% of a core\n", 100*float64(idle.cpu-after.cpu)/float64(rateTime))
	start, at := got.Load(), time.Now()
	rate, err := publishRate(nc, n, 64, 1)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "publish, one by one, followed\t%.0f messages/s, %.0f delivered/s\n", rate, float64(got.Load()-start)/time.Since(at).Seconds())
	return sub.Unsubscribe()
}

// publishRate returns how many messages of 512 bytes are stored in a second, spread over all
// sites.
func publishRate(nc *nats.Conn, n, writers, batch int) (float64, error) {
	var stored, turn atomic.Int64
	var group errgroup.Group
	began := time.Now()
	for w := range writers {
		group.Go(func() error {
			for i := 0; time.Since(began) < rateTime; i++ {
				site := int(turn.Add(1)) % n
				if err := store(nc, fmt.Sprintf("reported.%s.x.", siteName(site)), fmt.Sprintf("%d-%d", w, i), batch); err != nil {
					return err
				}
				stored.Add(int64(batch))
			}
			return nil
		})
	}
	err := group.Wait()
	return float64(stored.Load()) / time.Since(began).Seconds(), err
}

// store stores size messages in one atomic batch.
func store(nc *nats.Conn, subject, id string, size int) error {
	if size == 1 {
		_, err := Publish(nc, subject, 0, false, time.Minute)
		return err
	}
	for i := 1; ; i++ {
		m := nats.NewMsg(fmt.Sprintf("%s%d", subject, i%10))
		m.Data = make([]byte, 512)
		m.Header.Set("Nats-Batch-Id", id)
		m.Header.Set("Nats-Batch-Sequence", fmt.Sprint(i))
		if i < size {
			if err := nc.PublishMsg(m); err != nil {
				return err
			}
			continue
		}
		m.Header.Set("Nats-Batch-Commit", "1")
		reply, err := nc.RequestMsg(m, time.Minute)
		if err != nil {
			return err
		}
		var ack struct {
			Count int `json:"count"`
		}
		if err := json.Unmarshal(reply.Data, &ack); err != nil || ack.Count != size {
			return fmt.Errorf("batch not stored: %s", reply.Data)
		}
		return nil
	}
}

func each(n int, f func(site int) error) error {
	var group errgroup.Group
	group.SetLimit(64)
	for site := range n {
		group.Go(func() error { return f(site) })
	}
	return group.Wait()
}

// reports runs what an operator looks at.
func reports(ctx context.Context, cfg Config, p process, l layout, out io.Writer) error {
	for _, args := range [][]string{{"stream", "report"}, {"consumer", "report", l.reportedStream(0)}} {
		began := time.Now()
		cmd := exec.CommandContext(ctx, cfg.CLI, append([]string{"--no-context", "-s", fmt.Sprintf("nats://bridge:secret@127.0.0.1:%d", p.client), "--timeout", "1m"}, args...)...)
		text, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("nats %v: %w: %s", args, err, text)
		}
		lines := strings.Split(string(text), "\n")
		fmt.Fprintf(out, "nats %s\t%d lines after %v\n", strings.Join(args, " "), len(lines), round(time.Since(began)))
	}
	return nil
}

func printUsage(out io.Writer, what string, before, after usage) {
	fmt.Fprintf(out, "%s\tRSS %d MB (%+d), goroutines %d (%+d), files %d\n", what, after.rss>>20, (after.rss-before.rss)>>20,
		after.goroutines, after.goroutines-before.goroutines, after.files)
}

func round(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(10 * time.Microsecond)
}
