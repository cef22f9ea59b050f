// Package bridgetest tests the bridge against a real kube-apiserver with etcd, Node
// authorization and NodeRestriction, and real NATS servers. The bridge runs with the
// rights of deploy/kubernetes/rbac.yaml and nothing more.
//
// It holds tests only, in a folder of its own so that the bridge's unit tests need not
// build an API server.
package bridgetest
