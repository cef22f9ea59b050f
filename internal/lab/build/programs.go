package main

import (
	"fmt"
	"slices"
	"strings"
)

// program is one executable file.
type program struct {
	name string
	pkg  string
	// extra programs are built only when they are named.
	extra bool
	// helper is a program in C that is built beside this one.
	helper *helper
}

// helper is a program in C of a Go module.
type helper struct {
	name string
	// module and sources are where it is: a pattern in the module's folder.
	module, sources string
}

// module is what one go command builds: programs of the same module with the same flags
// share their packages, which are compiled while another program is linked.
type module struct {
	// dir is the module's folder, from the repository's root.
	dir string
	// cgo is whether C is compiled, too.
	cgo  bool
	tags []string
	// kubernetes is whether the programs report the version of Kubernetes.
	kubernetes bool
	// beside modules have one core at most: they are built while another lane has all.
	beside bool
	// tests is whether the programs are those that `go test -c` builds.
	tests    bool
	programs []program
}

// key names one of the packages that the module is built of: other modules may have the
// same package in another version.
func (m module) key(pkg string) string { return m.dir + " " + pkg }

// command returns the go command's words that build the programs.
func (m module) command() []string {
	if m.tests {
		return []string{"test", "-c", "-vet=off"} // its packages are upstream's
	}
	return []string{"build"}
}

// modules are in the order in which they are built, small programs first.
var modules = []module{
	{
		dir: ".", kubernetes: true,
		programs: []program{
			{name: "ociwrap", pkg: "./internal/lab/ociwrap"},
			{name: "nats-server", pkg: "github.com/nats-io/nats-server/v2"},
			{name: "opcua-mapper", pkg: "./cmd/opcua-mapper"},
			{name: "kubectl-petiole", pkg: "./cmd/kubectl-petiole"},
			{name: "bridge", pkg: "./cmd/bridge"},
			{name: "leaf", pkg: "./cmd/leaf"},
			{name: "petiole-kubelet", pkg: "./cmd/petiole-kubelet"},
			{name: "kubectl", pkg: "k8s.io/kubernetes/cmd/kubectl"},
			{name: "lab", pkg: "./cmd/lab"},
			{name: "gateway", pkg: "./internal/lab/compose/gateway", extra: true},
			{name: "bench", pkg: "./cmd/bench", extra: true},
			{name: "conformance", pkg: "./internal/lab/conformance", extra: true},
			{name: "kube-proxy", pkg: "k8s.io/kubernetes/cmd/kube-proxy", extra: true},
		},
	},
	{
		dir: "deploy/natscli", beside: true,
		programs: []program{{name: "nats-cli", pkg: "github.com/nats-io/natscli/nats"}},
	},
	{
		dir: "deploy/coredns", beside: true,
		programs: []program{{name: "coredns", pkg: ".", extra: true}},
	},
	{
		dir: "deploy/crio", beside: true, cgo: true,
		tags: []string{
			"containers_image_openpgp", "exclude_graphdriver_btrfs", "btrfs_noversion",
			"exclude_graphdriver_devicemapper", "libdm_no_deferred_remove", "seccomp",
		},
		programs: []program{{
			name: "crio", pkg: "github.com/cri-o/cri-o/cmd/crio",
			helper: &helper{name: "pinns", module: "github.com/cri-o/cri-o", sources: "pinns/src/*.c"}, // makes namespaces
		}},
	},
	{
		dir: "internal/bench/telegraf", beside: true,
		programs: []program{{name: "telegraf", pkg: ".", extra: true}},
	},
	{
		dir: "deploy/prometheus", beside: true,
		tags:     []string{"remove_all_sd"}, // no clients of clouds
		programs: []program{{name: "prometheus", pkg: "github.com/prometheus/prometheus/cmd/prometheus", extra: true}},
	},
	{
		dir: "deploy/helm", beside: true,
		programs: []program{{name: "helm", pkg: "helm.sh/helm/v4/cmd/helm", extra: true}},
	},
	{
		dir: "internal/lab/conformance/upstream", kubernetes: true,
		programs: []program{
			{name: "ginkgo", pkg: "github.com/onsi/ginkgo/v2/ginkgo", extra: true},
			{name: "nonewprivs", pkg: "k8s.io/kubernetes/test/images/nonewprivs", extra: true},
			{name: "sample-device-plugin", pkg: "k8s.io/kubernetes/test/images/sample-device-plugin", extra: true},
			{name: "regression-issue-74839", pkg: "k8s.io/kubernetes/test/images/regression-issue-74839", extra: true},
			{
				name: "agnhost", pkg: "k8s.io/kubernetes/test/images/agnhost", extra: true,
				helper: &helper{name: "pause", module: "k8s.io/kubernetes", sources: "build/pause/linux/pause.c"},
			},
		},
	},
	{
		dir: "internal/lab/conformance/upstream", kubernetes: true, tests: true,
		programs: []program{{name: "e2e.test", pkg: "k8s.io/kubernetes/test/e2e", extra: true}},
	},
	{
		dir: "deploy/metricsserver", beside: true,
		programs: []program{{name: "metrics-server", pkg: "sigs.k8s.io/metrics-server/cmd/metrics-server", extra: true}},
	},
	{
		dir: "internal/tools", beside: true,
		programs: []program{
			{name: "golangci-lint", pkg: "github.com/golangci/golangci-lint/v2/cmd/golangci-lint", extra: true},
			{name: "gotestsum", pkg: "gotest.tools/gotestsum", extra: true},
			{name: "gofumpt", pkg: "mvdan.cc/gofumpt", extra: true},
			{name: "vulnerabilities", pkg: "./vulnerabilities", extra: true},
		},
	},
}

func names(all []module) []string {
	var list []string
	for _, m := range all {
		for _, p := range m.programs {
			list = append(list, p.name)
		}
	}
	return list
}

// choose returns the modules with the named programs only, or with those of the lab when
// none is named. A name that is not there is an error.
func choose(all []module, wanted []string) ([]module, error) {
	for _, name := range wanted {
		if !slices.Contains(names(all), name) {
			return nil, fmt.Errorf("program %q: there are %s", name, strings.Join(names(all), ", "))
		}
	}
	var chosen []module
	for _, m := range all {
		m.programs = slices.DeleteFunc(slices.Clone(m.programs), func(p program) bool {
			if len(wanted) == 0 {
				return p.extra
			}
			return !slices.Contains(wanted, p.name)
		})
		if len(m.programs) > 0 {
			chosen = append(chosen, m)
		}
	}
	return chosen, nil
}
