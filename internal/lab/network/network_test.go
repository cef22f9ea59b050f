package network

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	testNet  = Network{Device: "test0", Prefix: netip.MustParsePrefix("10.99.0.0/24")}
	testSite = Site{Name: "a", Number: 1}
)

// TestJoinGoesOn: whatever a start that was killed left behind, the next one gives the
// site a namespace and a link that works.
func TestJoinGoesOn(t *testing.T) {
	for name, left := range map[string]func() error{
		"nothing":    func() error { return nil },
		"everything": func() error { return testNet.CreateSite(testSite) },
		"file of a namespace": func() error {
			if err := os.MkdirAll("/run/netns", 0o755); err != nil {
				return err
			}
			return os.WriteFile(testSite.Namespace(), nil, 0o644)
		},
		"namespace": func() error { return ip("netns", "add", "petiole-a") },
		"link without addresses": func() error {
			if err := ip("netns", "add", "petiole-a"); err != nil {
				return err
			}
			return ip("link", "add", testNet.veth(testSite), "up", "type", "veth", "peer", "name", "uplink", "netns", "petiole-a")
		},
		"name of the namespace removed": func() error {
			if err := testNet.CreateSite(testSite); err != nil {
				return err
			}
			return unix.Unmount(testSite.Namespace(), unix.MNT_DETACH)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inOwnNamespaces(t, func() error {
				if err := testNet.CreateBridge(); err != nil {
					return err
				}
				if err := left(); err != nil {
					return fmt.Errorf("prepare: %w", err)
				}
				if err := testNet.CreateSite(testSite); err != nil {
					return err
				}
				if s := testNet.State(testSite); s != Up {
					return fmt.Errorf("the link is %s", s)
				}
				return reaches()
			})
		})
	}
}

// TestJoinKeepsACut: a link that was cut on purpose stays cut.
func TestJoinKeepsACut(t *testing.T) {
	inOwnNamespaces(t, func() error {
		for _, step := range []func() error{
			testNet.CreateBridge,
			func() error { return testNet.CreateSite(testSite) },
			func() error { return testNet.Cut(testSite) },
			func() error { return testNet.CreateSite(testSite) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		if s := testNet.State(testSite); s != Cut {
			return fmt.Errorf("the link is %s", s)
		}
		return nil
	})
}

// reaches connects from the site to the host's end of the bridge.
func reaches() error {
	out, err := exec.Command("nsenter", "--net="+testSite.Namespace(), "--", "ip", "route", "get", testNet.Address().String()).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "dev uplink") {
		return fmt.Errorf("route of the site to the hub: %w: %s", err, out)
	}
	return nil
}

// inOwnNamespaces runs do in a network of its own with an empty /run. It needs root, as
// the lab does.
func inOwnNamespaces(t *testing.T, do func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		// Not unlocked: the thread ends with this goroutine.
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("create namespaces (this needs root): %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
				return err
			}
			if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
				return err
			}
			return do()
		}()
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
