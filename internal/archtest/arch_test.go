package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"
)

const module = "github.com/petiole-io/petiole"

type pkg struct {
	ImportPath string
	Doc        string
	Imports    []string
}

// rel is the package's folder in the module.
func (p pkg) rel() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

// ours lists which of our own packages each folder may import, as prefixes, or as one
// package if the entry ends in "/.". The first rule that matches a package decides; a folder
// without a rule may import all.
var ours = []struct {
	folder  string
	allowed []string
}{
	{"streams/order", nil},
	{"streams/inventory", []string{"streams/.", "streams/order"}},
	{"streams/join", nil},
	{"streams/table", nil},
	{"streams/traffic", nil},
	{"streams/ownership", nil},
	{"streams/urgent", []string{"streams/."}},
	{"streams/window", nil},
	{"streams/tunnel", []string{"streams/.", "streams/window"}},
	{"streams", []string{"streams/order"}},
	{"devices/api", []string{"devices/api"}},
	{"devices/internal/backoff", nil},
	{"devices/internal/wallclock", nil},
	{"devices/internal/stats", []string{"devices/.", "devices/api"}},
	{"devices/internal/report", []string{"devices/.", "devices/api", "devices/internal/backoff", "devices/internal/stats", "internal/logonce"}},
	{"devices/internal/commandlog", []string{"devices/.", "devices/api"}},
	{"devices/internal/desired", []string{"devices/.", "devices/api"}},
	{"devices/internal/points", []string{"devices/."}},
	{"devices/internal/twin", []string{"devices/.", "devices/api", "devices/internal/desired", "devices/internal/points"}},
	{"devices/host/hosttest", []string{"devices/."}},
	{"devices/host", []string{"devices/.", "devices/api", "devices/internal", "internal/logonce", "streams/order"}},
	{"devices/modbus/codec", []string{"devices/.", "devices/api"}},
	{"devices/modbus/wire", []string{"devices/."}},
	{"devices/modbus/plan", []string{"devices/modbus/codec", "devices/modbus/wire"}},
	{"devices/modbus/link", []string{"devices/.", "devices/internal/backoff", "devices/modbus/codec", "devices/modbus/wire"}},
	{"devices/modbus/scan", []string{"devices/.", "devices/api", "devices/internal/backoff", "devices/modbus/codec", "devices/modbus/link", "devices/modbus/wire"}},
	{"devices/modbus", []string{"devices/.", "devices/api", "devices/internal/backoff", "devices/modbus", "internal/logonce"}},
	{"devices/dmi/v1beta1", nil},
	{"devices/dmi/convert", []string{"devices/.", "devices/api", "devices/dmi/v1beta1"}},
	{"devices/dmi/reports", []string{"devices/.", "devices/api", "devices/dmi/convert", "devices/dmi/v1beta1"}},
	{"devices/dmi/dmitest", []string{"devices/.", "devices/api"}},
	{"devices/dmi", []string{"devices/.", "devices/api", "devices/dmi", "devices/internal/backoff", "internal/durable"}},
	{"devices/push", []string{"devices/.", "devices/api", "devices/internal/backoff", "internal/logonce"}},
	{"devices", []string{"devices/api"}},
	{"bridge/kube", []string{"bridge/kube", "streams"}},
	{"bridge/hub", []string{"streams"}},
	{"bridge/accounts", []string{"internal/durable", "streams"}},
	{"bridge/lease", nil},
	{"bridge/storage", []string{"bridge/kube", "bridge/lease", "streams/order"}},
	{"bridge/liveness", []string{"bridge/api", "bridge/kube", "streams"}},
	{"bridge/antientropy", []string{"bridge/api", "bridge/hub", "bridge/kube", "bridge/lease", "bridge/liveness", "bridge/requests", "streams"}},
	{"bridge/desired", []string{"bridge/closure", "bridge/hub", "bridge/kube", "bridge/lease", "streams"}},
	{"bridge/bounds", nil},
	{"bridge/selection", []string{"bridge/api", "bridge/kube"}},
	{"bridge/orphans", []string{"bridge/api", "bridge/kube"}},
	{"bridge/names", []string{"bridge/api", "bridge/kube"}},
	{"bridge/site", []string{"bridge/accounts", "bridge/antientropy", "bridge/api", "bridge/bounds", "bridge/hub", "bridge/kube", "bridge/liveness", "bridge/names", "internal/metrics", "streams"}},
	{"bridge/writeback", []string{"bridge/api", "bridge/bounds", "bridge/kube", "bridge/liveness", "bridge/names", "devices/api", "streams"}},
	{"bridge/reported", []string{"bridge/api", "bridge/bounds", "bridge/hub", "bridge/kube", "bridge/lease", "bridge/liveness", "bridge/writeback", "streams"}},
	{"bridge/requests", []string{"bridge/api", "bridge/kube", "streams"}},
	{"bridge/join", []string{"bridge/accounts", "bridge/api", "bridge/kube", "bridge/names", "bridge/requests", "streams/.", "streams/join"}},
	{"bridge/kubeletapi", []string{"bridge/api", "streams/tunnel"}},
	{"bridge/closure", []string{"bridge/api", "bridge/kube"}},
	{"bridge", []string{"bridge", "streams", "internal/configfile", "internal/logonce", "internal/metrics", "internal/version"}},
	{"leaf/apply", []string{"streams", "internal/logonce"}},
	{"leaf/desired", []string{"streams"}},
	{"leaf/transfer", []string{"streams"}},
	{"leaf/clock/clocktest", []string{"leaf/clock"}},
	{"leaf/clock", []string{"devices/.", "internal/durable"}},
	{"leaf/traffic", []string{"leaf/link", "leaf/transfer", "streams/.", "streams/traffic", "internal/durable"}},
	{"leaf/journal", []string{"streams", "internal/durable"}},
	{"leaf/forward", []string{"leaf/journal", "leaf/link", "leaf/transfer", "streams"}},
	{"leaf/replicate", []string{"leaf/desired", "leaf/link", "leaf/transfer", "streams"}},
	{"leaf/backup", []string{"leaf/journal", "streams", "internal/durable"}},
	{"leaf/store", []string{"leaf/desired", "leaf/journal", "leaf/natsd", "streams", "internal/durable", "internal/logonce"}},
	{"leaf/link", nil},
	{"leaf/kubeletapi", []string{"streams/tunnel", "internal/durable"}},
	{"leaf/hubcheck", []string{"leaf/link", "leaf/transfer", "streams"}},
	{"leaf/storekey", []string{"internal/durable"}},
	{"leaf/join/jointest", []string{"leaf/join", "leaf/natsd", "leaf/node", "internal/polltest", "internal/porttest"}},
	{"leaf/join", []string{"deploy", "leaf/credential", "leaf/natsd", "leaf/node", "streams/.", "streams/join", "internal/durable"}},
	{"leaf/natsd", []string{"leaf/filestore", "streams", "internal/durable"}},
	{"leaf/nodeapi/access", []string{"leaf/nodeapi/identity", "leaf/nodeapi/objects"}},
	{"leaf/nodeapi/catalog", []string{"leaf/nodeapi/objects"}},
	{"leaf/nodeapi/codec", []string{"leaf/nodeapi/objects"}},
	{"leaf/nodeapi/objects", []string{"streams"}},
	{"leaf/nodeapi/local", []string{"leaf/nodeapi/objects", "streams", "internal/logonce"}},
	{"leaf/nodeapi/tokens", []string{"leaf/nodeapi/identity", "streams"}},
	{"leaf/nodeapi/identity", []string{"internal/durable"}},
	{"leaf/nodeapi", []string{"leaf/apply", "leaf/nodeapi", "streams", "internal/durable", "internal/logonce"}},
	{"leaf", []string{"leaf", "devices", "streams", "internal/configfile", "internal/durable", "internal/logonce", "internal/metrics", "internal/version"}},
	{"cmd/bridge", []string{"bridge", "deploy", "internal/configfile", "internal/version"}},
	{"cmd/leaf", []string{"leaf", "devices", "internal/configfile", "internal/pages", "internal/version"}},
	{"cmd/petiole-kubelet", []string{"internal/pages"}},
	{"cmd/opcua-mapper", []string{"cmd/opcua-mapper", "devices/dmi/v1beta1"}},
	{"cmd/historian", []string{"cmd/historian"}},
	{"cmd/kubectl-petiole", []string{"cmd/kubectl-petiole", "bridge/api", "streams", "internal/version"}},
}

// fenced lists the only folders that may import an outside library.
var fenced = map[string][]string{
	"github.com/nats-io/nats-server/v2": {"leaf/natsd", "internal/natstest", "internal/lab"},
	"k8s.io/kubernetes":                 {"cmd/petiole-kubelet", "internal/lab", "cmd/lab"},
	"github.com/goburrow/modbus":        {"devices/modbus"},
	"github.com/simonvetter/modbus":     {"devices/modbus/modbustest", "internal/bench", "internal/lab"},
	"go.etcd.io/etcd":                   {"internal/lab", "cmd/lab"},
	"github.com/gopcua/opcua":           {"cmd/opcua-mapper"},
	"github.com/jackc/pgx":              {"cmd/historian"},
}

func TestImports(t *testing.T) {
	for _, p := range list(t) {
		for _, imp := range p.Imports {
			if rest, ok := strings.CutPrefix(imp, module+"/"); ok {
				if !allowed(p.rel(), rest) {
					t.Errorf("%s imports %s: docs/architecture.md does not allow it", p.rel(), rest)
				}
				continue
			}
			for lib, folders := range fenced {
				if under(imp, lib) && !underAny(p.rel(), folders) {
					t.Errorf("%s imports %s, which only %v may", p.rel(), imp, folders)
				}
			}
		}
	}
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range list(t) {
		if p.Doc == "" && p.rel() != "internal/archtest" {
			t.Errorf("%s has no package comment", p.rel())
		}
	}
}

func allowed(folder, imported string) bool {
	for _, rule := range ours {
		if under(folder, rule.folder) {
			return underAny(imported, rule.allowed)
		}
	}
	return true
}

func underAny(name string, folders []string) bool {
	for _, f := range folders {
		exact, one := strings.CutSuffix(f, "/.")
		if one && name == exact || !one && under(name, f) {
			return true
		}
	}
	return false
}

func under(name, folder string) bool { return name == folder || strings.HasPrefix(name, folder+"/") }

// list reads the module's packages, without their tests.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports", "./...")
	cmd.Dir = path.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
