// Command conformance runs upstream's own end-to-end suite (k8s.io/kubernetes/test/e2e) against
// one of the lab's edge nodes, and compares the outcome with the list of skips: it fails when a
// spec fails that is not in the list, and when a skip matches no spec. It starts the lab, and
// stops it at the end, with its data kept.
//
// The suite sees one node: the others are cordoned, because pods of different sites do not
// reach each other. Upstream's images cannot be pulled here, so they are built from upstream's
// programs and this machine's busybox, bash and curl.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/petiole-io/petiole/internal/lab"
)

// options are the flags.
type options struct {
	short    bool
	services bool
	labels   string
	site     string
	procs    int
	retry    int
	only     string
	timeout  time.Duration
}

func main() {
	var o options
	flag.BoolVar(&o.short, "short", false, "run the selection of short.yaml only")
	flag.BoolVar(&o.services, "services", false, "give the sites kube-proxy and CoreDNS first, which specs of Services and DNS need")
	flag.StringVar(&o.labels, "labels", "NodeConformance", "Ginkgo's label filter: which specs run")
	flag.StringVar(&o.only, "only", "", "a regular expression: of these specs, those whose name it matches")
	flag.StringVar(&o.site, "site", lab.SiteNames[len(lab.SiteNames)-1], "the site whose node is judged")
	flag.IntVar(&o.procs, "procs", 6, "how many specs run at once; most wait")
	flag.IntVar(&o.retry, "attempts", 1, "how often a spec may run until it passes; the table shows those that needed more than one")
	flag.DurationVar(&o.timeout, "timeout", 2*time.Hour, "how long all specs together may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	if os.Geteuid() != 0 {
		return errors.New("root is needed: the lab creates network namespaces and runs containers")
	}
	if !slices.Contains(lab.SiteNames, o.site) {
		return fmt.Errorf("--site %q: the lab has %s", o.site, strings.Join(lab.SiteNames, " and "))
	}
	l, err := lab.Open(".", lab.Printer{Out: os.Stdout})
	if err != nil {
		return err
	}
	s, err := newSuite(l, o)
	if err != nil {
		return err
	}
	plan, err := s.plan(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%d specs run on %s, %d are skipped\n", len(plan.run), s.node, len(plan.skipped))
	release, err := l.Lock(ctx, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := l.Up(ctx); err != nil {
		return errors.Join(err, l.Down(false))
	}
	defer func() { err = errors.Join(err, l.Down(false)) }()
	if o.services {
		if err := l.InstallServices(ctx); err != nil {
			return err
		}
	}
	found, err := s.judge(ctx, plan)
	if err != nil {
		return err
	}
	return found.print(os.Stdout)
}
