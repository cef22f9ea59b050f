package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/petiole-io/petiole/internal/configfile"
	"github.com/petiole-io/petiole/internal/lab/pki"
	"github.com/petiole-io/petiole/internal/version"
)

func TestBadConfigurationStartsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bridge.yaml")
	for name, content := range map[string]string{
		"no hub":      "log: {level: info}\n",
		"unknown key": "nats: {urls: [nats://127.0.0.1:4222]}\ncolour: green\n",
		"not YAML":    "nats: [",
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if code := run(t.Context(), []string{"--config", path}, io.Discard, io.Discard); code != configfile.ExitCode {
				t.Errorf("exit code %d", code)
			}
		})
	}
	if code := run(t.Context(), []string{"--config", filepath.Join(t.TempDir(), "missing")}, io.Discard, io.Discard); code != configfile.ExitCode {
		t.Errorf("exit code %d for a missing file", code)
	}
	if code := run(t.Context(), []string{}, io.Discard, io.Discard); code != configfile.ExitCode {
		t.Errorf("exit code %d without a file", code)
	}
}

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		args      []string
		code      int
		out, errs string
	}{
		{[]string{"version"}, 0, version.String() + "\n", ""},
		{[]string{"--version"}, 0, version.String(), ""},
		{[]string{"--help"}, 0, "--config file", ""},
		{[]string{"version", "now"}, configfile.ExitCode, "", `unknown command "now"`},
		{[]string{"start"}, configfile.ExitCode, "", `unknown command "start"`},
		{[]string{"--colour"}, configfile.ExitCode, "", "unknown flag: --colour"},
		{[]string{}, configfile.ExitCode, "", "--config is required"},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), c.args, &out, &errs)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.errs) {
			t.Errorf("%v: exit code %d, printed %q and %q; want %d, %q and %q", c.args, code, out.String(), errs.String(), c.code, c.out, c.errs)
		}
	}
}

// TestHubInit: keys and configuration are created once, and nats-server takes the configuration
// when the certificate is beside it.
func TestHubInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hub")
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"hub", "init", "--dir", dir, "--data", filepath.Join(dir, "data"), "--max-file-store", "2GB"}, &out, &errs); code != 0 || !strings.Contains(out.String(), "operator.nk") {
		t.Fatalf("exit code %d, printed %q and %q", code, out.String(), errs.String())
	}
	if code := run(t.Context(), []string{"hub", "init", "--dir", dir}, &out, &errs); code == 0 || !strings.Contains(errs.String(), "exists already") {
		t.Errorf("a second time: exit code %d, printed %q", code, errs.String())
	}
	// Keys are replaced one after the other.
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--finish"}, configfile.ExitCode, "none is under way"},
		{[]string{}, configfile.ExitCode, "name the files"},
		{[]string{"--finish", "sites.nk"}, configfile.ExitCode, "sites.nk is not under way"},
		{[]string{"sites.nk"}, 0, "each gateway needs its new JWT"},
		{[]string{"sites.nk"}, configfile.ExitCode, "sites.nk is not finished"},
		{[]string{"--finish"}, configfile.ExitCode, "must be named"},
		{[]string{"--finish", "sites.nk"}, 0, "which has changed"},
		{[]string{"hub.key"}, configfile.ExitCode, "want accounts.creds, admin.creds"},
		{[]string{"bridge.creds", "operator-signing.nk"}, 0, "Restart nats-server"},
		{[]string{"fabric-signing.nk"}, configfile.ExitCode, "bridge.creds is not finished"},
		{[]string{"--finish"}, configfile.ExitCode, "is not here"},
	} {
		out.Reset()
		errs.Reset()
		code := run(t.Context(), append([]string{"hub", "rotate", "--dir", dir}, c.args...), &out, &errs)
		if text := out.String() + errs.String(); code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("hub rotate %v: exit code %d, printed %q; want %d and %q", c.args, code, text, c.code, c.want)
		}
	}
	authority, err := pki.NewAuthority(t.TempDir(), "ca")
	if err == nil {
		_, err = authority.Issue(dir, "hub", pki.Subject{Name: "hub", Hosts: []string{"hub.example.com"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	conf, err := server.ProcessConfigFile(filepath.Join(dir, "hub.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if conf.Port != 4222 || conf.TLSConfig == nil || conf.LeafNode.Port != 7422 || conf.LeafNode.TLSConfig == nil || conf.HTTPHost != "127.0.0.1" ||
		len(conf.TrustedOperators) != 1 || conf.JetStreamMaxStore != 2<<30 {
		t.Errorf("hub.conf listens at %d and %d, has %d operators and %d bytes", conf.Port, conf.LeafNode.Port, len(conf.TrustedOperators), conf.JetStreamMaxStore)
	}
}
