package breaker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/petiole-io/petiole/internal/breaker/check"
	"github.com/petiole-io/petiole/internal/breaker/world"
	"github.com/petiole-io/petiole/internal/oracle"
	"github.com/petiole-io/petiole/streams"
)

func deleteDesired(ctx context.Context, r *run, _ action) (func(context.Context) error, error) {
	return nil, r.hubCall(ctx, func(ctx context.Context) error { return r.hub.js.DeleteStream(ctx, streams.Desired) }, jetstream.ErrStreamNotFound)
}

func deleteConsumer(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	return nil, r.hubCall(ctx, func(ctx context.Context) error {
		return r.hub.js.DeleteConsumer(ctx, streams.Desired, r.world.Sites[a.target].Name)
	}, jetstream.ErrConsumerNotFound, jetstream.ErrStreamNotFound)
}

// hubCall repeats a call to the hub, which may be starting, until it answers. The errors in fine,
// such as "not found", are answers too.
func (r *run) hubCall(ctx context.Context, call func(context.Context) error, fine ...error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		attempt, done := context.WithTimeout(ctx, 3*time.Second)
		err := call(attempt)
		done()
		if err == nil {
			return nil
		}
		for _, f := range fine {
			if errors.Is(err, f) {
				return nil
			}
		}
		if !sleep(ctx, 300*time.Millisecond) {
			return err
		}
	}
}

func killAPI(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	if err := r.world.ControlPlane.Kill(); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return r.startAPI(ctx) }, nil
}

func (r *run) startAPI(ctx context.Context) error {
	if err := r.world.ControlPlane.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return r.world.ControlPlane.AwaitReady(ctx)
}

// expireAPI lets the bridges' watches fall behind the history of the API server: they
// end while objects change, and before they continue the API server is restarted
// and etcd is compacted, so that it answers 410.
func expireAPI(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	r.setProxyModes(world.HoldWatches)
	defer r.setProxyModes(world.PassAll)
	if !sleep(ctx, a.lasts) {
		return nil, ctx.Err()
	}
	if err := r.world.ControlPlane.Kill(); err != nil {
		return nil, err
	}
	if err := r.startAPI(ctx); err != nil {
		return nil, err
	}
	_, err := r.world.ControlPlane.Compact(ctx)
	return nil, err
}

func (r *run) setProxyModes(w world.Mode) {
	for _, b := range r.world.Bridges {
		b.Proxy.SetMode(w)
	}
}

func proxyFault(w world.Mode) func(context.Context, *run, action) (func(context.Context) error, error) {
	return func(_ context.Context, r *run, a action) (func(context.Context) error, error) {
		g := r.world.Bridges[a.target].Proxy
		g.SetMode(w)
		return func(context.Context) error { g.SetMode(world.PassAll); return nil }, nil
	}
}

var (
	throttleAPI = proxyFault(world.Throttle)
	failAPI     = proxyFault(world.FailSome)
	cutAPI      = proxyFault(world.RefuseAll)
)

// restoreAPI takes a copy of etcd, lets some time pass, and restores the copy:
// the writes in between are undone, and versions are assigned a second time.
func restoreAPI(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	cp := r.world.ControlPlane
	snapshot := filepath.Join(r.opts.Dir, "etcd-snapshot")
	defer os.RemoveAll(snapshot)
	if err := cp.Snapshot(snapshot); err != nil {
		return nil, err
	}
	if !sleep(ctx, a.lasts) {
		return nil, ctx.Err()
	}
	// Nobody may see the restored objects before the history records the restore.
	r.work.pausable.pause()
	defer r.work.pausable.resume()
	r.api.pausable.pause()
	defer r.api.pausable.resume()
	r.setProxyModes(world.RefuseAll)
	defer r.setProxyModes(world.PassAll)
	if err := cp.Kill(); err != nil {
		return nil, err
	}
	if err := cp.Restore(snapshot); err != nil {
		return nil, err
	}
	if err := r.startAPI(ctx); err != nil {
		return nil, err
	}
	present, err := r.counters(ctx)
	if err != nil {
		return nil, err
	}
	r.record.add(check.Event{Kind: check.Restored, Counter: r.work.counter.Load(), Objects: present})
	return nil, nil
}

// counters reads the counter of every object of the suite, by UID.
func (r *run) counters(ctx context.Context) (map[string]int64, error) {
	out := map[string]int64{}
	for _, resource := range recordedResources {
		l, err := r.world.Dynamic.Resource(oracle.Core(resource)).List(ctx, metav1.ListOptions{LabelSelector: ownerLabel})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", resource, err)
		}
		err = l.EachListItem(func(o runtime.Object) error {
			u := o.(*unstructured.Unstructured)
			out[string(u.GetUID())] = counterOf(u.GetAnnotations())
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// poisonPrefix begins the names of unreadable messages.
const poisonPrefix = "poison-"

// poisonDesired publishes a message that is not the bridge's on a subject of the site.
func poisonDesired(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	s := r.world.Sites[a.target]
	ref := streams.Ref{Resource: "configmaps", Namespace: s.Objects(), Name: fmt.Sprintf("%s%d", poisonPrefix, r.work.counter.Add(1))}
	m := nats.NewMsg(streams.DesiredSubject(s.Name, ref))
	poison(m, ref.Name, a.dice)
	err := r.hubCall(ctx, func(ctx context.Context) error {
		_, err := r.hub.js.PublishMsg(ctx, m)
		return err
	})
	if err == nil {
		r.record.add(check.Event{Kind: check.Poisoned, Site: s.Name, Subject: m.Subject})
	}
	return nil, err
}

// poison makes a message unreadable in one of several ways.
func poison(m *nats.Msg, name string, dice uint64) {
	m.Header.Set(streams.HeaderOp, string(streams.OpPut))
	switch dice % 4 {
	case 0: // no JSON
		m.Data = []byte("\x00\xff{")
	case 1: // no operation
		m.Header.Del(streams.HeaderOp)
		m.Data = []byte(`{}`)
	case 2: // another object
		m.Data = []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"other"}}`)
	case 3: // the UID of the header is not that of the object
		m.Header.Set(streams.HeaderUID, "a")
		m.Data = fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"uid":"b"}}`, name)
	}
}

// poisonReport publishes an unreadable report at the site.
func poisonReport(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	s, v := r.world.Sites[a.target], r.views[a.target]
	ref := streams.Ref{Node: s.Node(), Resource: "pods", Namespace: s.Objects(), Name: fmt.Sprintf("%s%d", poisonPrefix, r.work.counter.Add(1))}
	m := nats.NewMsg(streams.LocalReportedSubject(ref))
	poison(m, ref.Name, a.dice)
	nc, err := s.Connect()
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	for sleep(ctx, 100*time.Millisecond) {
		stored := false
		v.do(ctx, func(ctx context.Context) {
			attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			if _, err := js.PublishMsg(attempt, m); err == nil {
				stored = true
				r.record.add(check.Event{Kind: check.Poisoned, Site: s.Name, Subject: streams.ReportedSubject(s.Name, ref)})
			}
		})
		if stored {
			return nil, nil
		}
	}
	return nil, ctx.Err()
}

// oversize writes an object above max_payload.
func oversize(ctx context.Context, r *run, a action) (func(context.Context) error, error) {
	r.work.pausable.do(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, writeTimeout)
		defer cancel()
		r.writers[a.target].putMap(ctx, bigMap, fill(bigBytes))
	})
	return nil, nil
}
