// Package bench measures Petiole against a stock kubelet in one run on one machine:
// latency from the API to the site, and what a site costs in memory and on the link.
//
// The stock node is a third node of the lab: its own network namespace, veth, CRI-O and
// cgroup like a site's, and upstream's kubelet attached to the same API server. Only
// ratios of one run mean something on a shared machine; the figures of KubeEdge beside
// them were measured elsewhere (docs/delivery.md) and are for orientation.
//
// cmd/bench calls it, with a lab that is up. It changes nothing of the lab and takes
// its own node away when it ends.
package bench
