package v1alpha1

// Labels, annotations, taints and conditions that the bridge reads or sets on Nodes and Pods.
const (
	// SiteLabel on a Node names the site that the node belongs to. The bridge sets it when
	// the node registers for the first time; from then on only that site can report about
	// the node.
	SiteLabel = "petiole.dev/site"
	// KubeletPathPrefix begins the paths of the bridge's kubelet API that name a node:
	// /nodes/<node>/<path of its kubelet>.
	KubeletPathPrefix = "/nodes/"
	// EdgeRoleLabel is on every node of a site.
	EdgeRoleLabel = "node-role.kubernetes.io/edge"
	// AutonomyAnnotation on a Node or a Pod is the time after which Kubernetes evicts a pod
	// whose site is disconnected: a Go duration, or "0" for never, the default. The
	// annotation of the Pod takes precedence.
	AutonomyAnnotation = "petiole.dev/autonomy-duration"
	// SiteDeletedTaint keeps new pods away from a Node whose Site was deleted. The bridge removes
	// it if a Site of that name exists again.
	SiteDeletedTaint = "petiole.dev/site-deleted"
	// SiteConnectedCondition is the type of the Node condition that distinguishes a link
	// that is down from a node that is down.
	SiteConnectedCondition = "petiole.dev/SiteConnected"
)
