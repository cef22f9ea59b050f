package e2e

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/petiole-io/petiole/internal/e2e/rig"
	"github.com/petiole-io/petiole/internal/lab/fabric"
	"github.com/petiole-io/petiole/streams"
)

// nobody is the user and the group of a program without rights.
const nobody = "65534"

// asNobody runs a program in the site's network namespace as a user without rights, as any
// local user or container in the host's network can.
func asNobody(t *testing.T, site *rig.Site, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nsenter", append([]string{
		"--net=" + site.Net.Namespace(), "setpriv", "--reuid=" + nobody, "--regid=" + nobody, "--clear-groups", "--inh-caps=-all", name,
	}, args...)...)
	cmd.Env = []string{"HOME=/nonexistent", "XDG_CONFIG_HOME=/nonexistent"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// natsForNobody copies the nats command to a place where everybody may run it.
func natsForNobody(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "petiole-nobody-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	in, err := os.Open(lab.Bin("nats-cli"))
	must(t, err)
	defer in.Close()
	path := filepath.Join(dir, "nats")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(out, in)
	must(t, err)
	must(t, out.Close())
	return path
}

// TestNobodyOnAGateway tries, as a local user without rights, what would make him master of
// the gateway: the site's streams, a Secret, a pod of his own, a device, and the files that
// hold credentials.
func TestNobodyOnAGateway(t *testing.T) {
	site := lab.Sites[1]
	nats := natsForNobody(t)
	users := filepath.Dir(lab.UserFile(site, fabric.UserApplication))
	pod := streams.DesiredSubject(site.Name, streams.Ref{Node: site.Node, Resource: "pods", Namespace: "default", Name: "forged"})
	for _, login := range [][]string{nil, {"--user=gateway", "--password="}, {"--user=application", "--password=guess"}, {"--user=leaf", "--password="}} {
		for _, args := range [][]string{
			{"stream", "ls"},
			{"stream", "get", streams.SiteDesired, "1"},
			{"stream", "purge", streams.SiteDesired, "-f"},
			{"pub", pod, "{}"},
			{"pub", "local.reported._._.nodes._." + site.Node, "{}"},
			{"req", "request." + site.Name + ".token", "{}"},
			{"req", streams.CommandSubject(site.Name, "default", "boiler"), "{}"},
		} {
			all := append(append([]string{"--server=nats://127.0.0.1:4222", "--timeout=2s"}, login...), args...)
			out, err := asNobody(t, site, nats, all...)
			if err == nil || !strings.Contains(out, "Authorization Violation") {
				t.Errorf("nobody runs nats %s: %v: %s", strings.Join(all, " "), err, out)
			}
		}
	}
	for _, file := range []string{"application.conf", "operator.nk", "leaf.conf", "../link.nk", "../link.creds", "../leaf.conf"} {
		if out, err := asNobody(t, site, "cat", filepath.Join(users, file)); err == nil {
			t.Errorf("nobody reads %s: %d bytes", file, len(out))
		}
	}
	k := mqtt.NewClient(mqttOptions(t, site)).Connect()
	if k.WaitTimeout(10*time.Second) && k.Error() == nil {
		t.Error("nobody is let in over MQTT")
	}
	// The way that people use instead.
	out, err := lab.Output(t.Context(), lab.Bin("lab"), "exec", site.Name, "nats", "--context", site.Name+"-local", "stream", "report")
	if err != nil || !strings.Contains(out, streams.SiteDesired) {
		t.Errorf("the operator looks at the streams: %v: %s", err, out)
	}
	if out, err := lab.Output(t.Context(), lab.Bin("lab"), "exec", site.Name, "nats", "--context", site.Name+"-local", "consumer", "report", streams.SiteDesired); err != nil {
		t.Errorf("the operator looks at the consumers: %v: %s", err, out)
	}
}
