package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/petiole-io/petiole/internal/lab/cgroup"
	"github.com/petiole-io/petiole/internal/lab/cluster"
)

// ErrNotUp reports that a part of the lab does not run.
var ErrNotUp = errors.New("the lab is not up")

// Status writes what runs, the state of each link, and what is pending for each site.
// It returns ErrNotUp when a part does not run.
func (l *Lab) Status(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PART\tPID\tLOG")
	up := true
	for _, name := range l.partNames() {
		pid, running := l.daemons.PID(name)
		if !running {
			up = false
			fmt.Fprintf(w, "%s\t-\t%s\n", name, l.daemons.LogFile(name))
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%s\n", name, pid, l.daemons.LogFile(name))
	}
	nodes := l.nodeStates(ctx)
	pending, pendingErr := l.backlogs(ctx)
	fmt.Fprintln(w, "\nSITE\tLINK\tNODE\tREADY\tPENDING\tPROCESSES IN PODS")
	for _, s := range l.sites() {
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
	if !up {
		return ErrNotUp
	}
	return nil
}

func (l *Lab) partNames() []string {
	names := []string{partControlPlane, partHub, partBridge, partRegistry}
	for _, s := range l.sites() {
		names = append(names, l.crioPart(s).Name, l.leafPart(s).Name, l.modbusPart(s).Name)
	}
	return names
}

// nodeStates answers with the Ready condition of a node, or why it is not known.
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
