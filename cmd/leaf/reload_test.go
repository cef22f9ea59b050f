package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/petiole-io/petiole/internal/natstest"
	"github.com/petiole-io/petiole/internal/polltest"
	"github.com/petiole-io/petiole/internal/porttest"
)

// TestHangupReloads sends SIGHUP to a running leaf, as `systemctl reload` does: with a configuration
// that cannot be used it goes on as before, with a good one it takes the new way to the hub.
func TestHangupReloads(t *testing.T) {
	conf := natstest.LeafConf(t, "plant-a", natstest.StartHub(t, "plant-a").LeafAddr())
	good, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	write := func(path, data string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file, metrics := filepath.Join(t.TempDir(), "leaf.yaml"), porttest.Addr(t)
	yaml := fmt.Sprintf("site: plant-a\nnode: plant-a-1\ndataDir: %s\nnats: {configFile: %s}\nnodeAPI: {listen: %q}\nmetrics: {listen: %q}\nlogLevel: error\n", t.TempDir(), conf, porttest.Addr(t), metrics)
	write(file, yaml)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	var out, errs bytes.Buffer
	go func() { ended <- run(ctx, []string{"--config", file}, strings.NewReader(""), &out, &errs) }()
	running := true
	t.Cleanup(func() {
		cancel()
		if code := 0; running {
			if code = <-ended; code != 0 {
				t.Errorf("exit code %d: %s", code, errs.String())
			}
		}
	})
	connected := func() bool {
		select {
		case code := <-ended:
			running = false
			t.Fatalf("the leaf has ended with %d: %s", code, errs.String())
		default:
		}
		res, err := http.Get("http://" + metrics + "/metrics")
		if err != nil {
			return false
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return err == nil && bytes.Contains(body, []byte("\npetiole_leaf_link_up 1\n"))
	}
	polltest.Eventually(t, "the leaf is connected", connected)
	hangUp := func() {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	write(conf, "leafnodes {")
	hangUp()
	write(file, "site: [")
	hangUp()
	proxy := natstest.StartProxy(t, "", "")
	write(file, yaml)
	write(conf, strings.Replace(string(good), "remotes: [ {", fmt.Sprintf("remotes: [ { proxy { url: %q }, ", proxy.URL), 1))
	hangUp()
	polltest.Eventually(t, "the leaf has connected by the proxy", func() bool { return proxy.Connections() > 0 && connected() })
}
