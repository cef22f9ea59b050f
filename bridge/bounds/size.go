package bounds

// What the objects of a site may be at most. An object in the bridge's cache takes about ten times
// its size in memory.
const (
	// MaxMirrorPods is the number of mirror pods of a node, MaxMirrorPodBytes the size of one.
	MaxMirrorPods     = 64
	MaxMirrorPodBytes = 64 << 10
	// MaxPodStatusBytes, MaxNodeStatusBytes, MaxDeviceStatusBytes and MaxEventBytes are the sizes of
	// one of them. A kubelet cuts the messages of containers to 12 KiB for a pod, and its list of
	// images to 50.
	MaxPodStatusBytes    = 128 << 10
	MaxNodeStatusBytes   = 256 << 10
	MaxDeviceStatusBytes = 512 << 10
	MaxEventBytes        = 16 << 10
	// MaxStateBytes is the size of the newest states that a site reports of all its objects
	// together.
	MaxStateBytes = 16 << 20
	// MaxWaitingBytes is the size of a site's reports that wait for the API server, above which no
	// more are read.
	MaxWaitingBytes = 4 << 20
)
