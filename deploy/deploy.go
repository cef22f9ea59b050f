// Package deploy holds the files of this folder that the leaf installs on a gateway and the bridge
// on a hub, so that the binary alone can do it. leaf/join and `bridge hub init` use them; people
// and packages use the files themselves. The folders coredns, crio, helm, natscli and prometheus are modules
// of their own.
package deploy

import _ "embed" // for the files below

var (
	// LeafConf is the template of leaf.conf, for the values of leaf/join.
	//
	//go:embed leaf/leaf.conf.tmpl
	LeafConf string
	// HubConf is the template of hub.conf.
	//
	//go:embed nats/hub.conf.tmpl
	HubConf string
	// LeafYAML is a leaf.yaml for the site plant-a and the node plant-a-1.
	//
	//go:embed leaf/leaf.yaml
	LeafYAML string
	// KubeletYAML is the template of the KubeletConfiguration.
	//
	//go:embed leaf/kubelet.yaml.tmpl
	KubeletYAML string
	// LeafService is the systemd unit.
	//
	//go:embed leaf/petiole-leaf.service
	LeafService string
)
