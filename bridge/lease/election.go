package lease

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Config selects the Lease that the bridges of a cluster compete for.
type Config struct {
	// Namespace and Name of the Lease.
	Namespace, Name string
	// Identity identifies this process among the competitors.
	Identity string
	// Takeover is the maximum time until another bridge takes over from one that died.
	Takeover time.Duration
	// Report takes the outcome of each request for the Lease; nil: nobody does. That another bridge
	// was faster, or holds it, is no failure.
	Report func(error)
}

// Duration returns the time for which a renewal is valid. It is shorter than Takeover: the
// lease must expire, and that must be noticed. Leases have whole seconds.
func (c Config) Duration() time.Duration { return timingFor(c.Takeover).lease }

// timing holds the lease duration, the renew deadline and the retry period of the election.
type timing struct{ lease, deadline, retry time.Duration }

// timingFor divides the time in which another bridge must take over.
func timingFor(takeover time.Duration) timing {
	lease := (takeover * 2 / 3).Truncate(time.Second)
	return timing{lease: lease, deadline: lease * 2 / 3, retry: lease / 12}
}

// Run waits for leadership, calls lead, and returns when lead has returned. transitions is the
// number of earlier changes of leadership. It tells the fence about each renewal; the term is
// for lead to set. When ctx ends, or lead returns by itself, it releases the lease after lead
// has returned, so that another bridge need not wait for it to expire. An error means that the
// configuration cannot work.
func Run(ctx context.Context, cfg Config, client coordinationv1client.LeasesGetter, f *Fence, log *zap.Logger, lead func(ctx context.Context, transitions uint64)) error {
	election, giveBack := context.WithCancel(context.WithoutCancel(ctx))
	defer giveBack()
	done := make(chan struct{})
	t := timingFor(cfg.Takeover)
	lock := &leaseLock{Interface: &resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Namespace: cfg.Namespace, Name: cfg.Name}, Client: client,
		LockConfig: resourcelock.ResourceLockConfig{Identity: cfg.Identity},
	}, fence: f, lease: t.lease, won: make(chan struct{}), report: cfg.Report}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: t.lease, RenewDeadline: t.deadline, RetryPeriod: t.retry, ReleaseOnCancel: true, Name: cfg.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(lost context.Context) {
				defer close(done)
				work, stop := context.WithCancel(ctx)
				defer stop()
				defer context.AfterFunc(lost, stop)()
				log.Info("leading")
				lead(work, lock.transitionsWhenWon)
				log.Info("no longer leading")
				giveBack()
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(id string) {
				if id != "" && id != cfg.Identity {
					log.Info("another bridge leads", zap.String("leader", id))
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("configure leader election: %w", err)
	}
	// Before the lease is won, ctx ends the election; afterwards lead does.
	defer context.AfterFunc(ctx, func() {
		select {
		case <-lock.won:
		default:
			giveBack()
		}
	})()
	f.reset()
	elector.Run(election)
	f.revoke()
	select {
	case <-lock.won:
		<-done
	default:
	}
	return nil
}

// errLeaseTaken rejects the release of a lease that another bridge has taken over.
var errLeaseTaken = errors.New("another bridge holds the lease")

// leaseLock reports when the lease was won, which is when the elector records its first event,
// and tells the fence about each renewal. Only the elector's goroutine calls it.
type leaseLock struct {
	resourcelock.Interface
	fence *Fence
	lease time.Duration
	won   chan struct{}
	// report takes the outcome of each request.
	report func(error)
	// transitions is the count in the record that this bridge wrote last, transitionsWhenWon
	// the same when it won the lease, and holder the holder in the record that it read last.
	transitions, transitionsWhenWon uint64
	holder                          string
}

// RecordEvent implements resourcelock.Interface.
func (l *leaseLock) RecordEvent(string) {
	select {
	case <-l.won:
	default:
		l.transitionsWhenWon = l.transitions
		close(l.won)
	}
}

// Get implements resourcelock.Interface.
func (l *leaseLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	r, raw, err := l.Interface.Get(ctx)
	if !apierrors.IsNotFound(err) { // it is created next
		l.requested(ctx, err)
	}
	if err == nil {
		l.holder = r.HolderIdentity
	}
	return r, raw, err
}

// Create implements resourcelock.Interface.
func (l *leaseLock) Create(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	sent := l.fence.now()
	err := l.Interface.Create(ctx, r)
	l.requested(ctx, err)
	if err != nil {
		return err
	}
	l.renewed(sent, r)
	return nil
}

// Update implements resourcelock.Interface. The elector assumes that it still holds the lease
// when it releases it; after a long suspend that may be wrong.
func (l *leaseLock) Update(ctx context.Context, r resourcelock.LeaderElectionRecord) error {
	if r.HolderIdentity == "" && l.holder != l.Identity() {
		return errLeaseTaken
	}
	sent := l.fence.now()
	err := l.Interface.Update(ctx, r)
	l.requested(ctx, err)
	if err != nil {
		return err
	}
	l.renewed(sent, r)
	return nil
}

// requested reports the outcome of a request for the Lease. The elector retries all of them without a
// word.
func (l *leaseLock) requested(ctx context.Context, err error) {
	switch {
	case l.report == nil, err != nil && ctx.Err() != nil:
	case err == nil, apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		l.report(nil)
	default:
		l.report(fmt.Errorf("lease %s: %w", l.Describe(), err))
	}
}

func (l *leaseLock) renewed(sent time.Time, r resourcelock.LeaderElectionRecord) {
	if r.HolderIdentity != l.Identity() {
		l.fence.revoke()
		return
	}
	l.transitions = uint64(max(r.LeaderTransitions, 0))
	l.fence.Renewed(sent, l.lease)
}
