package leaf

import (
	"context"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/leaf/nodeapi"
	"github.com/petiole-io/petiole/streams"
)

// nodeAPI runs the node API of a site until stop is called, and returns a client of it.
func (s *site) nodeAPI(t *testing.T, dir string) (kube kubernetes.Interface, stop func()) {
	t.Helper()
	api := nodeapi.New(nodeapi.Config{Site: s.cfg.Site, Node: s.cfg.Node, JS: s.js, DataDir: dir, Listen: "127.0.0.1:0", Log: zap.NewNop()})
	ctx, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- api.Run(ctx) }()
	stop = func() {
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	<-api.Ready()
	file := filepath.Join(dir, KubeconfigName)
	if err := api.WriteKubeconfig(file, "node"); err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	if kube, err = kubernetes.NewForConfig(cfg); err != nil {
		t.Fatal(err)
	}
	return kube, stop
}

// TestNothingIsSeenBeforeItIsStored has a change arrive that SITE_DESIRED does not take, as with
// a disk that is full. However often it is tried, no client sees it and the hub has no
// acknowledgement of it; a leaf that starts again has the version before. It is seen once it is
// stored.
func TestNothingIsSeenBeforeItIsStored(t *testing.T) {
	t.Parallel()
	s, ctx := newSite(t)
	s.unsupervised = true
	respond(t, s)
	s.start(t, ctx)
	s.up(t)
	dir := t.TempDir()
	kube, stop := s.nodeAPI(t, dir)
	put := func(version int) {
		t.Helper()
		putDesired(t, ctx, s, "settings", version)
	}
	seen := func() *corev1.ConfigMap {
		t.Helper()
		c, err := kube.CoreV1().ConfigMaps("default").Get(ctx, "settings", metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return c
	}
	shows := func(version int) bool {
		c := seen()
		return c != nil && c.Data["v"] == strconv.Itoa(version)
	}
	put(1)
	polltest.Eventually(t, "the first version", func() bool { return shows(1) })
	before := seen()

	// Each attempt to store is a message on the subject.
	var attempts atomic.Int32
	if _, err := s.nc.Subscribe(streams.DesiredFilter(s.cfg.Site), func(*nats.Msg) { attempts.Add(1) }); err != nil {
		t.Fatal(err)
	}
	cfg := s.desired(t, ctx).CachedInfo().Config
	cfg.MaxMsgSize = 1
	if _, err := s.js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	put(2)
	polltest.Eventually(t, "three attempts to store it", func() bool { return attempts.Load() >= 3 })
	if c := seen(); c == nil || c.ResourceVersion != before.ResourceVersion {
		t.Errorf("a client sees %v before it is stored", c)
	}
	if n := backlog(t, ctx, s); n != 1 {
		t.Errorf("%d messages are pending at the hub, want the one that is not stored", n)
	}

	s.line.Cut()
	stop()
	s.restart(t, ctx, nil) // the stream has its configuration again
	kube, stop = s.nodeAPI(t, dir)
	defer func() { stop() }()
	if !shows(1) {
		t.Errorf("after a restart a client sees %v, want the stored version", seen())
	}
	s.line.Heal()
	polltest.Eventually(t, "the second version", func() bool { return shows(2) })
}
