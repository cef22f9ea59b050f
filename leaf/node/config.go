package node

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"go.uber.org/zap"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// runtimeSockets are the usual sockets of container runtimes.
var runtimeSockets = []string{"/run/crio/crio.sock", "/run/containerd/containerd.sock"}

// override is a flag that replaces a field of the KubeletConfiguration, and why.
type override struct {
	field, flag, why string
}

// overrides returns the flags for what a KubeletConfiguration asks for and a site does not have,
// such as one that kubeadm wrote. The last of two equal flags counts: those of an operator are
// args, and override these. exists reports whether a file exists. It is a pure function.
func overrides(c *kubeletconfig.KubeletConfiguration, args []string, exists func(string) bool) []override {
	var all []override
	if c.RotateCertificates {
		all = append(all, override{"rotateCertificates", "--rotate-certificates=false", "a site signs no certificates, the kubelet uses the token of its node API"})
	}
	if c.ServerTLSBootstrap {
		all = append(all, override{"serverTLSBootstrap", "--rotate-server-certificates=false", "a site signs no certificates"})
	}
	const endpoint = "--container-runtime-endpoint"
	given := slices.ContainsFunc(args, func(a string) bool { return a == endpoint || strings.HasPrefix(a, endpoint+"=") })
	if c.ContainerRuntimeEndpoint == "" && !given {
		if i := slices.IndexFunc(runtimeSockets, exists); i >= 0 {
			all = append(all, override{"containerRuntimeEndpoint", endpoint + "=unix://" + runtimeSockets[i], "it is empty"})
		}
	}
	return all
}

// configFlags returns the flags that override parts of the KubeletConfiguration, and logs each
// of them. It also logs fields that this version does not know: the kubelet ignores them. A file
// that cannot be read is left to the kubelet, whose error then is the reason of its failure.
func (k *Kubelet) configFlags() []string {
	data, err := os.ReadFile(k.ConfigFile)
	if err != nil {
		return nil
	}
	var c kubeletconfig.KubeletConfiguration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		k.Log.Warn("the kubelet ignores, or cannot read, a part of its configuration", zap.String("file", k.ConfigFile), zap.Error(err))
		c = kubeletconfig.KubeletConfiguration{}
		if yaml.Unmarshal(data, &c) != nil {
			return nil
		}
	}
	var flags []string
	for _, o := range overrides(&c, k.Args, fileExists) {
		k.Log.Warn("a setting of the kubelet is overridden", zap.String("file", k.ConfigFile), zap.String("field", o.field), zap.String("flag", o.flag), zap.String("reason", o.why))
		flags = append(flags, o.flag)
	}
	return flags
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
