package join

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The sockets of container runtimes, in the order in which they are tried.
var runtimeEndpoints = []string{"/run/crio/crio.sock", "/run/containerd/containerd.sock"}

// runtimeTimeout bounds the questions to the container runtime.
const runtimeTimeout = 10 * time.Second

// runtimeInfo is what the KubeletConfiguration says about the container runtime.
type runtimeInfo struct {
	// Endpoint is its socket, a URL.
	Endpoint     string
	CgroupDriver string
	// Images is the folder of the disk that has the images; empty: the runtime does not tell.
	Images string
}

// checkRuntime asks the container runtime whether it is ready. endpoint is empty, a path, or a URL
// with unix://.
func (m Machine) checkRuntime(ctx context.Context, endpoint string, p *problems) runtimeInfo {
	path := strings.TrimPrefix(endpoint, "unix://")
	for _, known := range runtimeEndpoints {
		if path == "" && m.exists(known) {
			path = m.Root + known
		}
	}
	info := runtimeInfo{Endpoint: "unix://" + cmp.Or(path, m.Root+runtimeEndpoints[0]), CgroupDriver: m.defaultCgroupDriver()}
	if path == "" {
		p.add(checkRuntime, "there is no container runtime (%s): install and start CRI-O or containerd, or name its socket with --runtime-endpoint", strings.Join(runtimeEndpoints, ", "))
		return info
	}
	conn, err := grpc.NewClient(info.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.add(checkRuntime, "%s: %v: name the socket with --runtime-endpoint", info.Endpoint, err)
		return info
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
	defer cancel()
	client := runtimeapi.NewRuntimeServiceClient(conn)
	status, err := client.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		p.add(checkRuntime, "the container runtime at %s does not answer: %v: start it (systemctl enable --now crio)", info.Endpoint, err)
		return info
	}
	for _, c := range status.GetStatus().GetConditions() {
		if c.GetStatus() {
			continue
		}
		switch c.GetType() {
		case runtimeapi.RuntimeReady:
			p.add(checkRuntime, "the container runtime is not ready: %s", why(c))
		case runtimeapi.NetworkReady:
			p.add(checkCNI, "the container runtime has no pod network: %s: put a CNI configuration into /etc/cni/net.d and the plugins that it names where the runtime looks for them", why(c))
		}
	}
	if cfg, err := client.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{}); err == nil {
		info.CgroupDriver = strings.ToLower(cfg.GetLinux().GetCgroupDriver().String())
	}
	if fs, err := runtimeapi.NewImageServiceClient(conn).ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{}); err == nil && len(fs.GetImageFilesystems()) > 0 {
		info.Images = fs.GetImageFilesystems()[0].GetFsId().GetMountpoint()
	}
	return info
}

func why(c *runtimeapi.RuntimeCondition) string {
	return fmt.Sprintf("%s: %s", c.GetReason(), c.GetMessage())
}

// defaultCgroupDriver is for runtimes that do not tell their own.
func (m Machine) defaultCgroupDriver() string {
	if m.Systemctl != nil {
		return "systemd"
	}
	return "cgroupfs"
}
