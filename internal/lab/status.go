package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/internal/lab/cgroup"
	"github.com/petiole-io/petiole/internal/lab/cluster"
	"github.com/petiole-io/petiole/internal/lab/network"
)

var (
	// ErrNotUp reports that no part of the lab runs.
	ErrNotUp = errors.New("the lab is not up")
	// ErrPartlyUp reports that some parts of the lab work and some do not.
	ErrPartlyUp = errors.New("the lab is partly up")
)

// partState is the state of a part.
type partState struct {
	name string
	pid  int
	// state is a word for the table; fault says more when the part does not work.
	state, fault string
	log          LogEnd
}

// Status writes what runs, the state of each link, and what is pending for each site; of
// parts that do not work, why. It returns ErrNotUp when nothing runs, ErrPartlyUp
// when a part does not work or a node whose link is up is not Ready.
func (l *Lab) Status(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if command, held := l.busy(); held {
		fmt.Fprintf(out, "Another lab command is running: %s\n\n", command)
	}
	states := l.partStates(ctx)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PART\tPID\tSTATE\tLOG")
	for _, s := range states {
		pid := "-"
		if s.pid != 0 {
			pid = fmt.Sprint(s.pid)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.name, pid, s.state, l.daemons.LogFile(s.name))
	}
	nodes := l.nodeStates(ctx)
	pending, pendingErr := l.backlogs(ctx)
	fmt.Fprintln(w, "\nSITE\tLINK\tNODE\tREADY\tPENDING\tPROCESSES IN PODS")
	var idle []string
	for _, s := range l.sites() {
		if ready := nodes(s.node()); l.net.State(s.Site) == network.Up && ready != "True" && !strings.HasPrefix(ready, "?") {
			idle = append(idle, fmt.Sprintf("node %s (Ready: %s)", s.node(), ready))
		}
		processes, err := cgroup.Count(s.cgroup)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", s.Name, l.net.State(s.Site), s.node(), nodes(s.node()), backlog(pending, s.Name), processes)
	}
	if pendingErr != nil {
		fmt.Fprintf(w, "\nno backlogs: %v\n", pendingErr)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	writeFaults(out, states)
	return verdict(states, idle)
}

// partStates looks at every part at once.
func (l *Lab) partStates(ctx context.Context) []partState {
	parts := l.parts()
	states := make([]partState, len(parts))
	var wg sync.WaitGroup
	for i, p := range parts {
		wg.Go(func() { states[i] = l.partState(ctx, p) })
	}
	wg.Wait()
	return states
}

func (l *Lab) partState(ctx context.Context, p part) partState {
	s := partState{name: p.Name}
	if os.Geteuid() == 0 { // others cannot write the record that is missing
		if _, err := l.daemons.Adopt(p.Daemon); err != nil {
			s.state, s.fault = "unknown", err.Error()
			return s
		}
	}
	pid, running := l.daemons.PID(p.Name)
	switch {
	case !running && l.daemons.Ended(p.Name):
		s.state, s.fault, s.log = "ended", errEnded.Error(), l.logEnd(p.Name, lastLines)
		return s
	case !running:
		s.state = "not started"
		return s
	}
	s.pid, s.state = pid, "runs"
	if os.Geteuid() != 0 { // keys and namespaces are root's
		return s
	}
	look, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := p.probe(look); err != nil {
		s.state, s.fault, s.log = "not ready", err.Error(), l.logEnd(p.Name, lastErrors)
		return s
	}
	s.state = "ready"
	return s
}

// writeFaults writes why parts do not work.
func writeFaults(out io.Writer, states []partState) {
	for _, s := range states {
		if s.fault != "" {
			fmt.Fprintf(out, "\n%v\n", &PartError{Part: s.name, Err: errors.New(s.fault), Logs: []LogEnd{s.log}})
		}
	}
}

// verdict returns the overall result; idle names nodes that should be Ready and are not. That
// parts were not started needs an explanation only beside parts that were.
func verdict(states []partState, idle []string) error {
	var bad []string
	stopped := 0
	for _, s := range states {
		switch s.state {
		case "ready", "runs":
			continue
		case "not started":
			stopped++
		}
		bad = append(bad, fmt.Sprintf("%s (%s)", s.name, s.state))
	}
	const again = "`go tool task lab` starts what does not run"
	switch {
	case len(bad) == 0 && len(idle) == 0:
		return nil
	case stopped == len(states):
		return fmt.Errorf("%w: nothing runs; %s", ErrNotUp, again)
	}
	return fmt.Errorf("%w: %d of %d parts work; these do not: %s; %s", ErrPartlyUp, len(states)-len(bad), len(states), strings.Join(append(bad, idle...), ", "), again)
}

// nodeStates returns a function that returns the Ready condition of a node, or why it is not known.
func (l *Lab) nodeStates(ctx context.Context) func(string) string {
	unknown := func(err error) func(string) string { return func(string) string { return "? (" + err.Error() + ")" } }
	if _, running := l.daemons.PID(partControlPlane); !running {
		return func(string) string { return "?" }
	}
	cfg, err := cluster.Config(l.Kubeconfig())
	if err != nil {
		return unknown(err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return unknown(err)
	}
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return unknown(err)
	}
	states := map[string]string{}
	for _, n := range list.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == "Ready" {
				states[n.Name] = string(c.Status)
			}
		}
	}
	return func(name string) string {
		if s, ok := states[name]; ok {
			return s
		}
		return "not registered"
	}
}
