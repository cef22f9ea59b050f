// Package world runs a whole Petiole for fault injection: etcd and kube-apiserver,
// a stock nats-server as hub, two bridges that each reach the API server through a proxy
// of their own, and many light sites, which are real leaf processes in network
// namespaces with their stores on small ext4 file systems.
//
// It guarantees that every part can be killed, stopped, started, cut off and rolled back
// on its own, and that Close leaves nothing running and nothing mounted. It needs root on
// Linux and the programs of `task build`. It checks nothing and decides nothing: package
// breaker does.
package world
