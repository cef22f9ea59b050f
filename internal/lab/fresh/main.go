// Command fresh runs the README's first command as a new user would: on a bare Debian, of
// which debootstrap creates one for each suite, with nothing but Go in it. It then waits
// until both nodes are Ready, a Deployment runs and a Device is online, stops the lab, and
// shows that nothing of it is left. With --tour compose it runs the lab in Docker Compose there
// instead (docs/compose.md), with the Docker of that Debian.
//
// The bare Debian is a root file system in mount, PID, network and cgroup namespaces of its
// own. The Go toolchain, the module cache and the build cache are the caller's; packages
// come from the source that the caller's apt is configured with, and nothing else is
// reachable. Only the bare root is cached, so that a package that the preflight does not
// name is missed. With --without NAME the preflight's list lacks that package: the run must
// fail, and name it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// timeout bounds the run on one suite. With an empty build cache most of it is the build.
const timeout = 40 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case asInit:
			exit("prepare the box", boxInit())
		case asUser:
			exit("", user(ctx))
		}
	}
	var g tester
	suites := flag.String("suites", "bookworm,trixie", "the suites to try, separated by commas")
	flag.StringVar(&g.without, "without", "", "a package that is taken out of the preflight's list; the run must fail")
	flag.StringVar(&g.tour, "tour", tourLab, "what is run: "+tourLab+", "+tourCompose+" or "+tourInstall)
	flag.StringVar(&g.dir, "dir", "/var/tmp/petiole-fresh", "where the roots are, each takes 3 GB while it is tried")
	flag.BoolVar(&g.keep, "keep", false, "keep the roots")
	flag.Parse()
	if flag.NArg() > 0 {
		exit("", fmt.Errorf("unknown argument %q", flag.Arg(0)))
	}
	if g.tour == tourInstall {
		exit("", g.run(ctx, g.walk))
	}
	if _, known := tours[g.tour]; !known {
		exit("", fmt.Errorf("--tour %q: must be %s, %s or %s", g.tour, tourLab, tourCompose, tourInstall))
	}
	exit("", g.run(ctx, func(ctx context.Context, repo repository) error {
		for _, suite := range strings.Split(*suites, ",") {
			if err := g.test(ctx, repo, suite); err != nil {
				return err
			}
		}
		return nil
	}))
}

func exit(doing string, err error) {
	if err == nil {
		os.Exit(0)
	}
	if doing != "" {
		err = fmt.Errorf("%s: %w", doing, err)
	}
	fmt.Fprintln(os.Stderr, "fresh:", err)
	os.Exit(1)
}

// tester is one run with its options.
type tester struct {
	tour, dir, without string
	keep               bool
}

// run calls test with the repository, as the only one on this machine.
func (g tester) run(ctx context.Context, test func(context.Context, repository) error) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed: it creates namespaces, and a whole Debian")
	}
	release, err := lock(g.dir)
	if err != nil {
		return err
	}
	defer release()
	repo, err := openRepository(ctx)
	if err != nil {
		return err
	}
	if repo.dirty {
		fmt.Println("uncommitted changes are not tested")
	}
	return test(ctx, repo)
}

// test runs the first command on one suite.
func (g tester) test(ctx context.Context, repo repository, suite string) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done within %v", timeout))
	defer cancel()
	out := newProgress(suite)
	mirror, err := findMirror(ctx, suite)
	if err != nil {
		return err
	}
	b, err := newBox(g.dir, suite, suite)
	if err != nil {
		return err
	}
	if !g.keep {
		defer func() { err = errors.Join(err, b.remove()) }()
	}
	out.say("creating a bare Debian")
	if err := b.makeRoot(ctx, mirror, out); err != nil {
		return err
	}
	if err := repo.copyTo(ctx, b.path(home, "petiole"), g.without); err != nil {
		return err
	}
	folders, err := goFolders(ctx)
	if err != nil {
		return err
	}
	roots, err := rootFolder()
	if err != nil {
		return err
	}
	folders = append(folders, mount{From: roots, To: filepath.Join(home, ".cache", cachedRoots), ReadOnly: true})
	log, err := repo.logFile(g.tour + "-" + suite)
	if err != nil {
		return err
	}
	defer log.Close()
	out.say("the output of all commands goes to %s", log.Name())
	err = b.run(ctx, mirror, settings{Tour: g.tour, Started: out.start, Mounts: folders}, log)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", suite, context.Cause(ctx))
	case g.without == "" && err != nil:
		return fmt.Errorf("%s: %s does not work there; see %s", suite, tours[g.tour].name, log.Name())
	case g.without == "":
		out.say("works, and left nothing")
		return nil
	case err != nil:
		return fmt.Errorf("%s without %s: %s does not work there; see %s", suite, g.without, tours[g.tour].name, log.Name())
	}
	return fmt.Errorf("%s without %s: it works all the same, so another package brings it, or nothing needs it", suite, g.without)
}
