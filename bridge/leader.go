package bridge

import (
	"context"
	"fmt"

	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// campaign waits for leadership, runs lead while it lasts, and returns when lead has
// returned. When ctx ends the lease is given back, after lead has returned, so that
// another bridge need not wait for it to expire.
func campaign(ctx context.Context, cfg LeaderElectionConfig, client kubernetes.Interface, log *zap.Logger, lead func(context.Context)) error {
	election, giveBack := context.WithCancel(context.WithoutCancel(ctx))
	defer giveBack()
	done := make(chan struct{})
	lock := &lock{Interface: &resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Namespace: cfg.Namespace, Name: cfg.Name}, Client: client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: cfg.Identity},
	}, won: make(chan struct{})}
	lease := cfg.LeaseDuration.Duration
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: lease, RenewDeadline: lease * 2 / 3, RetryPeriod: lease * 2 / 15, ReleaseOnCancel: true, Name: cfg.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(lost context.Context) {
				defer close(done)
				work, stop := context.WithCancel(ctx)
				defer stop()
				defer context.AfterFunc(lost, stop)()
				log.Info("leading")
				lead(work)
				log.Info("not leading any more")
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
	// Before the lease is won ctx ends the election, afterwards lead does.
	defer context.AfterFunc(ctx, func() {
		select {
		case <-lock.won:
		default:
			giveBack()
		}
	})()
	elector.Run(election)
	select {
	case <-lock.won:
		<-done
	default:
	}
	return nil
}

// lock tells when the lease was won: the elector then records its first event.
type lock struct {
	resourcelock.Interface
	won chan struct{}
}

// RecordEvent is called by the elector's one goroutine.
func (l *lock) RecordEvent(string) {
	select {
	case <-l.won:
	default:
		close(l.won)
	}
}
