package breaker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/petiole-io/petiole/internal/breaker/check"
	"github.com/petiole-io/petiole/internal/oracle"
	"github.com/petiole-io/petiole/streams"
)

const convergePoll = 400 * time.Millisecond

// errDiverged ends a run whose sites do not converge.
var errDiverged = errors.New("sites do not converge")

// converge waits until every site has exactly its desired state (I2), the API shows
// the newest status of every pod (I15), every record acknowledged upstream has arrived
// (I11), and unreadable messages are in quarantine (I10). Nobody may change anything
// meanwhile.
func (r *run) converge(ctx context.Context) error {
	begun := time.Now()
	open := map[int]string{}
	for i := range r.views {
		open[i] = "not looked at"
	}
	for {
		r.compareOpen(ctx, begun, open)
		missing := 0
		r.record.withJudge(func(j *check.Judge) { missing = j.Missing() })
		poisoned := r.findPoison(ctx)
		if len(open) == 0 && missing == 0 && poisoned == 0 {
			return nil
		}
		if !sleep(ctx, convergePoll) {
			return ctx.Err()
		}
		if time.Since(begun) > r.opts.Patience {
			for i, why := range open {
				r.record.add(check.Event{Kind: check.Diverged, Site: r.world.Sites[i].Name, What: why})
			}
			return fmt.Errorf("%w within %s: %d differ, %d acknowledged records are missing, %d unreadable messages are not in quarantine",
				errDiverged, r.opts.Patience, len(open), missing, poisoned)
		}
	}
}

// compareOpen compares the sites that have not converged yet and removes those that agree.
func (r *run) compareOpen(ctx context.Context, begun time.Time, open map[int]string) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	api, err := oracle.Read(ctx, r.world.Dynamic)
	if err != nil {
		return
	}
	for i := range open {
		if err := r.compareSite(ctx, api, i); err != nil {
			open[i] = err.Error()
			continue
		}
		took := time.Since(begun)
		delete(open, i)
		r.record.add(check.Event{Kind: check.Converged, Site: r.world.Sites[i].Name, Took: took})
		r.mu.Lock()
		r.converged = append(r.converged, took)
		r.mu.Unlock()
	}
}

// compareSite returns nil if site i has its desired state and the API shows the status that it
// reported.
func (r *run) compareSite(ctx context.Context, api oracle.API, i int) error {
	v := r.views[i]
	resources := comparedResources
	if r.opts.Former != "" {
		resources = comparedWithFormer
	}
	want, err := api.Desired(v.site.Name)
	if err != nil {
		return err
	}
	maps.DeleteFunc(want, func(ref streams.Ref, _ string) bool {
		return !isOneOf(resources, ref)
	})
	holds, err := v.list(ctx, resources)
	if err != nil {
		return err
	}
	have := toContent(holds)
	if diff := want.ChangedSince(have); len(diff) > 0 {
		return fmt.Errorf("%d objects differ: %s", len(diff), explain(want, have, diff))
	}
	if v.site.Runtime != nil {
		return r.containersAgree(ctx, api, holds[oracle.Core("pods")], v.site)
	}
	for _, p := range api[oracle.Core("pods")] {
		report, known := r.nodes[i].report(string(p.GetUID()))
		shown, _, err := unstructured.NestedString(p.Object, "status", "message")
		if err != nil {
			return err
		}
		if known && shown != report.message {
			return fmt.Errorf("the API shows for pod %s/%s status %q, reported was %q", p.GetNamespace(), p.GetName(), shown, report.message)
		}
	}
	return nil
}

// isOneOf reports whether an object is of one of the resources.
func isOneOf(resources []schema.GroupVersionResource, ref streams.Ref) bool {
	return slices.ContainsFunc(resources, func(gvr schema.GroupVersionResource) bool {
		return gvr.Group == ref.Group && gvr.Resource == ref.Resource
	})
}

// contentVersionAnnotation is added to pods by the node API so that a kubelet syncs them again.
const contentVersionAnnotation = "petiole.dev/content-version"

// toContent converts the objects of a site to the form of its desired state.
func toContent(holds map[schema.GroupVersionResource][]unstructured.Unstructured) oracle.Content {
	out := oracle.Content{}
	for gvr, items := range holds {
		for _, o := range items {
			ref := streams.Ref{Group: gvr.Group, Resource: gvr.Resource, Namespace: o.GetNamespace(), Name: o.GetName()}
			switch gvr.Resource {
			case "nodes":
				ref.Node = o.GetName()
			case "pods":
				ref.Node, _, _ = unstructured.NestedString(o.Object, "spec", "nodeName")
			}
			unstructured.RemoveNestedField(o.Object, "metadata", "annotations", contentVersionAnnotation)
			out[ref] = oracle.Canonical(o.Object)
		}
	}
	return out
}

// explain describes the first differences.
func explain(want, have oracle.Content, diff []streams.Ref) string {
	var lines []string
	for _, ref := range diff[:min(len(diff), 4)] {
		w, wanted := want[ref]
		h, held := have[ref]
		switch {
		case !wanted:
			lines = append(lines, ref.String()+" should not be there")
		case !held:
			lines = append(lines, ref.String()+" is missing")
		default:
			lines = append(lines, fmt.Sprintf("%s is %s instead of %s", ref, firstDifference(h, w), firstDifference(w, h)))
		}
	}
	return strings.Join(lines, "; ")
}

// firstDifference returns the text of a around the place where it begins to differ from b.
func firstDifference(a, b string) string {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	return fmt.Sprintf("%.80q", a[max(0, i-30):])
}

// findPoison looks for the unreadable messages in quarantine and returns how many were
// not found. One that the hub or the site no longer holds, because it was
// withdrawn before the site had it, cannot be found.
func (r *run) findPoison(ctx context.Context) int {
	var waiting map[string][]string
	r.record.withJudge(func(j *check.Judge) { waiting = j.Unquarantined() })
	n := 0
	for i, v := range r.views {
		subjects := waiting[v.site.Name]
		if len(subjects) == 0 {
			continue
		}
		n += len(subjects)
		found, err := r.quarantined(ctx, i, subjects)
		if err != nil {
			continue // asked again
		}
		for _, subject := range found {
			r.record.add(check.Event{Kind: check.Quarantined, Site: v.site.Name, Subject: subject})
		}
		n -= len(found)
	}
	return n
}

func (r *run) quarantined(ctx context.Context, i int, subjects []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	nc, err := r.world.Sites[i].Connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, subject := range subjects {
		if strings.HasPrefix(subject, "reported.") {
			if ok, err := holdsMessage(ctx, r.hub.js, streams.Quarantine, "quarantine."+subject); err != nil {
				return found, err
			} else if ok {
				found = append(found, subject)
			}
			continue
		}
		set, err := holdsMessage(ctx, js, streams.SiteQuarantine, "local.quarantine."+subject)
		if err != nil {
			return found, err
		}
		withdrawn, err := r.withdrawn(ctx, subject)
		if err != nil {
			return found, err
		}
		if set || withdrawn {
			found = append(found, subject)
		}
	}
	return found, nil
}

// withdrawn reports whether DESIRED no longer holds the unreadable message: it was
// deleted with its stream, or a tombstone took its place.
func (r *run) withdrawn(ctx context.Context, subject string) (bool, error) {
	s, err := r.hub.js.Stream(ctx, streams.Desired)
	if err != nil {
		return false, err
	}
	m, err := s.GetLastMsgForSubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return true, nil
	case err != nil:
		return false, err
	}
	return m.Header.Get(streams.HeaderOp) == string(streams.OpDelete), nil
}

func holdsMessage(ctx context.Context, js jetstream.JetStream, stream, subject string) (bool, error) {
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return false, err
	}
	_, err = s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	return err == nil, err
}
