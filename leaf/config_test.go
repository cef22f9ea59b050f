package leaf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/petiole-io/petiole/internal/configfile"
)

func TestValidateReportsEveryBadField(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Site, cfg.Node, cfg.DataDir, cfg.LogLevel = "Plant A", "", "", "loud"
	cfg.NATS.URL, cfg.NATS.ConfigFile = "", ""
	cfg.NodeAPI.Listen, cfg.NodeAPI.Pods = "0.0.0.0:10441", "0.0.0.0:10444"
	cfg.Kubelet.ConfigFile = "/nowhere/kubelet.yaml"
	cfg.Storage.TelemetryBytes, cfg.Storage.ReserveBytes = 7, -1
	cfg.Metrics.Listen, cfg.Devices.MapperProtocols = "here", []string{"modbus"}
	cfg.Devices.PushFormat = "xml"
	cfg.Storage.Encryption.PreviousKeyFile = "/etc/petiole/old.key"
	err := cfg.Validate()
	if err == nil {
		t.Fatal("a configuration that is wrong in every field is accepted")
	}
	for _, want := range []string{
		`site: Invalid value: "Plant A"`, `node: Invalid value: ""`, `dataDir: Required value`, `logLevel: Unsupported value: "loud"`, `nats.configFile: Invalid value: ""`,
		`nodeAPI.listen: Invalid value: "0.0.0.0:10441"`, `nodeAPI.pods: Invalid value: "0.0.0.0:10444"`, `kubelet.configFile: Invalid value: "/nowhere/kubelet.yaml"`, `storage.telemetryBytes: Invalid value: 7`,
		`storage.reserveBytes: Invalid value: -1`, `metrics.listen: Invalid value: "here"`,
		`devices.mapperProtocols: Invalid value: ["modbus"]`, `devices.pushFormat: Invalid value: "xml"`,
		`storage.encryption.previousKeyFile: Invalid value: "/etc/petiole/old.key"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s:\n%v", want, err)
		}
	}
}

func TestUnknownKeyIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leaf.yaml")
	if err := os.WriteFile(path, []byte("site: plant-a\nnodeApi: {}\nsitee: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	if err := configfile.Load(path, &cfg); err == nil || !strings.Contains(err.Error(), "sitee") {
		t.Errorf("Load = %v, want an error that names the key", err)
	}
}

// TestValidateLogin has a user where the server is embedded, and half a login.
func TestValidateLogin(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Site, cfg.Node, cfg.NATS.ConfigFile = "plant-a", "plant-a-1", "config_test.go"
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]NATSConfig{
		"embedded":    {ConfigFile: "config_test.go", User: "leaf", PasswordFile: "config_test.go"},
		"no password": {URL: "nats://127.0.0.1:4222", User: "leaf"},
		"no user":     {URL: "nats://127.0.0.1:4222", PasswordFile: "config_test.go"},
	} {
		cfg.NATS = n
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "nats.user") {
			t.Errorf("%s: Validate = %v, want an error that names nats.user", name, err)
		}
	}
}

// TestValidateRefusesPlainText has servers outside of the gateway, with and without TLS.
func TestValidateRefusesPlainText(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Site, cfg.Node = "plant-a", "plant-a-1"
	for urls, ok := range map[string]bool{
		"nats://127.0.0.1:4222": true, "nats://localhost": true, "nats://[::1]:4222": true, "127.0.0.1:4222": false,
		"tls://hub.example.com:4222": true, "wss://hub.example.com": true,
		"nats://hub.example.com:4222": false, "ws://hub.example.com": false, "nats://10.0.0.1:4222": false, "nats://127.0.0.1.example.com": false,
		"tls://a.example.com,nats://b.example.com": false, "nats://127.0.0.1:4222, nats://b.example.com": false, "nats://127.0.0.1@b.example.com": false,
	} {
		cfg.NATS = NATSConfig{URL: urls}
		if err := cfg.Validate(); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "nats.url") {
			t.Errorf("%s: Validate = %v", urls, err)
		}
	}
}
