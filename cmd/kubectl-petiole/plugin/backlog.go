package plugin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"

	"github.com/petiole-io/petiole/bridge/api/v1alpha1"
)

// pollInterval is the time between two looks for an answer, closingTime the timeout of the
// cleanup.
const (
	pollInterval = 150 * time.Millisecond
	closingTime  = 5 * time.Second
)

func newBacklogCommand(s *session) *cobra.Command {
	var o *output
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "backlog SITE",
		Short: "List the objects that a site has not stored yet",
		Long: `List the objects that a site has not stored yet in their newest version, oldest first.

The list is read from the hub now. It shows names, never contents. The bridge answers
through a Backlog object, which is deleted afterwards. Requires permission to create, get
and delete backlogs.petiole.dev.`,
		Example: `  # The backlog of plant-a
  kubectl petiole backlog plant-a

  # With nodes and sequences, and in formats for programs
  kubectl petiole backlog plant-a -o wide
  kubectl petiole backlog plant-a -o json
  kubectl petiole backlog plant-a -o name`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: s.completeSites(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.backlog(cmd.Context(), o, args[0], timeout)
		},
	}
	o = newOutput(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 20*time.Second, "How long to wait for the bridge's answer")
	return cmd
}

func (s *session) backlog(ctx context.Context, o *output, site string, timeout time.Duration) error {
	if err := o.check(); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	if _, err := s.site(ctx, c, site); err != nil {
		return err
	}
	b, err := s.ask(ctx, c, site, timeout)
	if err != nil {
		return err
	}
	return s.printBacklog(o, b)
}

// ask requests the whole backlog, in as many parts as necessary.
func (s *session) ask(ctx context.Context, c dynamic.Interface, site string, timeout time.Duration) (*v1alpha1.Backlog, error) {
	whole := &v1alpha1.Backlog{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Backlog"},
		ObjectMeta: metav1.ObjectMeta{Name: site}, Spec: v1alpha1.BacklogSpec{Site: site},
	}
	for after := int64(0); ; {
		answer, err := s.askOnce(ctx, c, v1alpha1.BacklogSpec{Site: site, After: after}, timeout)
		if err != nil {
			return nil, err
		}
		if answer.Error != "" {
			return nil, fmt.Errorf("the bridge cannot answer: %s", answer.Error)
		}
		whole.Status.Time, whole.Status.Pending = answer.Time, answer.Pending
		whole.Status.Items = append(whole.Status.Items, answer.Items...)
		if answer.Next <= after {
			whole.Status.Items = newest(whole.Status.Items)
			return whole, nil
		}
		after = answer.Next
	}
}

// newest removes all but the last item of each object: one that changed while a long
// backlog was read is listed twice.
func newest(items []v1alpha1.PendingObject) []v1alpha1.PendingObject {
	type subject struct{ group, resource, namespace, name, node string }
	last := map[subject]v1alpha1.PendingObject{}
	for _, i := range items {
		last[subject{i.Group, i.Resource, i.Namespace, i.Name, i.Node}] = i
	}
	out := make([]v1alpha1.PendingObject, 0, len(last))
	for _, i := range last {
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b v1alpha1.PendingObject) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return out
}

// askOnce creates a Backlog, waits for the answer, and deletes it.
func (s *session) askOnce(ctx context.Context, c dynamic.Interface, q v1alpha1.BacklogSpec, timeout time.Duration) (status v1alpha1.BacklogStatus, err error) {
	spec, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&q)
	if err != nil {
		return status, err
	}
	questions := c.Resource(v1alpha1.Backlogs)
	o, err := questions.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": "Backlog",
		"metadata": map[string]any{"generateName": q.Site + "-"}, "spec": spec,
	}}, metav1.CreateOptions{})
	if err != nil {
		return status, err
	}
	name := o.GetName()
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closingTime)
		defer cancel()
		// If this fails, the bridge deletes it after a minute.
		_ = questions.Delete(closing, name, metav1.DeleteOptions{})
	}()
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		var b v1alpha1.Backlog
		if err := fromUnstructured(o, &b); err != nil {
			return status, err
		}
		if b.Status.Time != nil {
			return b.Status, nil
		}
		select {
		case <-waiting.Done():
			if ctx.Err() != nil {
				return status, errors.New("interrupted")
			}
			return status, fmt.Errorf("no answer from the bridge within %v: %s", timeout, s.leader(ctx, c))
		case <-time.After(pollInterval):
		}
		if o, err = questions.Get(ctx, name, metav1.GetOptions{}); err != nil {
			return status, err
		}
	}
}

func (s *session) printBacklog(o *output, b *v1alpha1.Backlog) error {
	switch o.format() {
	case "", "wide":
		if len(b.Status.Items) == 0 {
			answer := fmt.Sprintf("Site %s has stored everything.", b.Spec.Site)
			if n := b.Status.Pending; n > 0 {
				answer = fmt.Sprintf("Site %s has %d messages to store, but none could be listed: try again.", b.Spec.Site, n)
			}
			_, err := fmt.Fprintln(s.ErrOut, answer)
			return err
		}
		columns := []metav1.TableColumnDefinition{column("Namespace"), column("Name"), column("Change"), column("Age"), column("Size"), wide("Node"), wide("Sequence")}
		var rows []metav1.TableRow
		for _, i := range b.Status.Items {
			rows = append(rows, metav1.TableRow{Cells: []any{
				orNone(i.Namespace), name(i), i.Change, age(&i.Published), size(i.Bytes), orNone(i.Node), fmt.Sprint(i.Sequence),
			}})
		}
		return s.table(o, columns, rows)
	case "name":
		for _, i := range b.Status.Items {
			if _, err := fmt.Fprintln(s.Out, name(i)); err != nil {
				return err
			}
		}
		return nil
	}
	p, err := o.printer()
	if err != nil {
		return err
	}
	return p.PrintObj(b, s.Out)
}

// name returns an object's name in the form of kubectl's arguments: resource.group/name.
func name(i v1alpha1.PendingObject) string {
	if i.Group == "" {
		return i.Resource + "/" + i.Name
	}
	return i.Resource + "." + i.Group + "/" + i.Name
}
