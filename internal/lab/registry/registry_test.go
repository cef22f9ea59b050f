package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRun pulls an image as a container runtime does: manifest, then each blob.
func TestRun(t *testing.T) {
	busybox := filepath.Join(t.TempDir(), "busybox")
	if err := os.WriteFile(busybox, []byte("not really"), 0o755); err != nil {
		t.Fatal(err)
	}
	address := porttest.Addr(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, address, busybox, zaptest.NewLogger(t)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	var manifest struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	base := "http://" + address + "/v2/petiole/web"
	polltest.NoError(t, "the registry serves the manifest", func(context.Context) error {
		answer, err := http.Get(base + "/manifests/1")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New(answer.Status)
		}
		return json.NewDecoder(answer.Body).Decode(&manifest)
	})
	digests := []string{manifest.Config.Digest}
	for _, l := range manifest.Layers {
		digests = append(digests, l.Digest)
	}
	if len(digests) != 2 {
		t.Fatalf("image has blobs %v, want a configuration and one layer", digests)
	}
	for _, d := range digests {
		answer, err := http.Get(base + "/blobs/" + d)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Errorf("blob %s: %s", d, answer.Status)
		}
	}
}
