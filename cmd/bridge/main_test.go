package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/petiole-io/petiole/internal/configfile"
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
			if code := run([]string{"--config", path}); code != configfile.ExitCode {
				t.Errorf("exit code %d", code)
			}
		})
	}
	if code := run([]string{"--config", filepath.Join(t.TempDir(), "missing")}); code != configfile.ExitCode {
		t.Errorf("exit code %d for a missing file", code)
	}
	if code := run(nil); code != configfile.ExitCode {
		t.Errorf("exit code %d without a file", code)
	}
}
