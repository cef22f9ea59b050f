package delivery

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// noticed is the shortest duration of a cut: both ends have noticed it then.
const noticed = 16 * time.Second

// returns measures how soon after the link has healed a site has the changes.
func (b *bench) returns(ctx context.Context) error {
	site := b.world.Sites[0]
	if err := b.populate(ctx, site.Name, slices.Max(b.opts.Backlogs)); err != nil {
		return err
	}
	if err := b.awaitPending(ctx, site.Name, 0, 0); err != nil {
		return err
	}
	w := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CHANGED WHILE AWAY\tFIRST AT THE SITE\tALL AT THE SITE\tFROM FIRST TO LAST")
	for round, n := range b.opts.Backlogs {
		first, last, err := b.back(ctx, n, round+1)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", n, ms(first), ms(last), ms(last-first))
	}
	fmt.Fprintln(w, "\nTimes count from the moment when the link heals; the first column of times is what reconnecting takes.\t\t\t")
	return w.Flush()
}

// back cuts the link, changes n objects, heals it, and returns when the first and the
// last of them are served at the site.
func (b *bench) back(ctx context.Context, n, version int) (first, last time.Duration, err error) {
	site := b.world.Sites[0]
	cfg, err := site.NodeAPI()
	if err != nil {
		return 0, 0, err
	}
	node, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return 0, 0, err
	}
	if err := site.Link.Down(); err != nil {
		return 0, 0, err
	}
	if !sleep(ctx, noticed) {
		return 0, 0, ctx.Err()
	}
	if err := b.change(ctx, site.Name, n, version); err != nil {
		return 0, 0, err
	}
	if err := b.awaitPending(ctx, site.Name, n, n+50); err != nil {
		return 0, 0, err
	}
	limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	list, err := node.CoreV1().ConfigMaps(site.Name).List(limited, metav1.ListOptions{})
	if err != nil {
		return 0, 0, err
	}
	changes, err := node.CoreV1().ConfigMaps(site.Name).Watch(limited, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return 0, 0, err
	}
	defer changes.Stop()
	start := time.Now()
	if err := site.Link.Heal(); err != nil {
		return 0, 0, err
	}
	for arrived := 0; arrived < n; {
		select {
		case <-limited.Done():
			return 0, 0, fmt.Errorf("await %d changed objects: %w after %d", n, limited.Err(), arrived)
		case e, ok := <-changes.ResultChan():
			if !ok || e.Type == watch.Error {
				return 0, 0, fmt.Errorf("await %d changed objects: the watch ended after %d", n, arrived)
			}
			if m, isMap := e.Object.(*corev1.ConfigMap); isMap && m.Data[counter] == strconv.Itoa(version) {
				if arrived++; arrived == 1 {
					first = time.Since(start)
				}
			}
		}
	}
	return first, time.Since(start), b.awaitPending(ctx, site.Name, 0, 0)
}

func ms(d time.Duration) string { return d.Round(time.Millisecond).String() }
