package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The labels by which the kubelet marks its containers.
const (
	labelPodName      = "io.kubernetes.pod.name"
	labelPodNamespace = "io.kubernetes.pod.namespace"
	labelPodUID       = "io.kubernetes.pod.uid"
	labelContainer    = "io.kubernetes.container.name"
)

// Container is a container of the site's runtime.
type Container struct {
	ID, Name                         string
	PodNamespace, PodName, PodUID    string
	Running                          bool
	ExitCode                         int32
	Attempt                          uint32
	Created, StartedAt, FinishedTime time.Time
}

// Runtime is the CRI endpoint of a site: the truth that the API must match.
type Runtime struct {
	conn   *grpc.ClientConn
	client criv1.RuntimeServiceClient
}

// OpenRuntime connects to a CRI endpoint, the path of a socket.
func OpenRuntime(socket string) (*Runtime, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("open CRI %s: %w", socket, err)
	}
	return &Runtime{conn: conn, client: criv1.NewRuntimeServiceClient(conn)}, nil
}

// Close ends the connection.
func (r *Runtime) Close() error { return r.conn.Close() }

// Version returns the runtime's name and version, as a node reports it.
func (r *Runtime) Version(ctx context.Context) (string, error) {
	v, err := r.client.Version(ctx, &criv1.VersionRequest{})
	if err != nil {
		return "", fmt.Errorf("ask CRI for its version: %w", err)
	}
	return v.RuntimeName + "://" + v.RuntimeVersion, nil
}

// Containers returns all containers of a namespace, running or not; of all if it is
// empty. One that is removed while they are read is left out.
func (r *Runtime) Containers(ctx context.Context, namespace string) ([]Container, error) {
	filter := &criv1.ContainerFilter{}
	if namespace != "" {
		filter.LabelSelector = map[string]string{labelPodNamespace: namespace}
	}
	list, err := r.client.ListContainers(ctx, &criv1.ListContainersRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	out := make([]Container, 0, len(list.Containers))
	for _, c := range list.Containers {
		answer, err := r.client.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: c.Id})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read container %s: %w", c.Id, err)
		}
		out = append(out, container(c, answer.Status))
	}
	return out, nil
}

// Sandboxes returns the UIDs of the pods of a namespace that have a ready sandbox; of all
// when it is empty.
func (r *Runtime) Sandboxes(ctx context.Context, namespace string) ([]string, error) {
	filter := &criv1.PodSandboxFilter{State: &criv1.PodSandboxStateValue{State: criv1.PodSandboxState_SANDBOX_READY}}
	if namespace != "" {
		filter.LabelSelector = map[string]string{labelPodNamespace: namespace}
	}
	list, err := r.client.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("list pod sandboxes: %w", err)
	}
	var uids []string
	for _, s := range list.Items {
		uids = append(uids, s.Labels[labelPodUID])
	}
	return uids, nil
}

// Images returns the references with a tag of all images on the site's disk.
func (r *Runtime) Images(ctx context.Context) ([]string, error) {
	list, err := criv1.NewImageServiceClient(r.conn).ListImages(ctx, &criv1.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var tags []string
	for _, image := range list.Images {
		tags = append(tags, image.RepoTags...)
	}
	return tags, nil
}

// PID returns the first process of a running container. Only CRI-O's verbose answer has it,
// which fails for a container that is being removed.
func (r *Runtime) PID(ctx context.Context, id string) (int, error) {
	answer, err := r.client.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return 0, fmt.Errorf("read container %s: %w", id, err)
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(answer.Info["info"]), &info); err != nil {
		return 0, fmt.Errorf("read process of container %s: %w", id, err)
	}
	if info.PID <= 1 {
		return 0, fmt.Errorf("read process of container %s: the runtime says %d", id, info.PID)
	}
	return info.PID, nil
}

func container(c *criv1.Container, s *criv1.ContainerStatus) Container {
	return Container{
		ID: c.Id, Name: c.Labels[labelContainer],
		PodNamespace: c.Labels[labelPodNamespace], PodName: c.Labels[labelPodName], PodUID: c.Labels[labelPodUID],
		Running: s.State == criv1.ContainerState_CONTAINER_RUNNING, ExitCode: s.ExitCode, Attempt: c.Metadata.GetAttempt(),
		Created: time.Unix(0, s.CreatedAt), StartedAt: time.Unix(0, s.StartedAt), FinishedTime: time.Unix(0, s.FinishedAt),
	}
}

// PodIP returns the address of the pod's ready sandbox.
func (r *Runtime) PodIP(ctx context.Context, uid string) (string, error) {
	list, err := r.client.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{Filter: &criv1.PodSandboxFilter{
		State:         &criv1.PodSandboxStateValue{State: criv1.PodSandboxState_SANDBOX_READY},
		LabelSelector: map[string]string{labelPodUID: uid},
	}})
	if err != nil {
		return "", fmt.Errorf("list sandboxes of pod %s: %w", uid, err)
	}
	if len(list.Items) != 1 {
		return "", fmt.Errorf("pod %s has %d ready sandboxes, want 1", uid, len(list.Items))
	}
	status, err := r.client.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: list.Items[0].Id})
	if err != nil {
		return "", fmt.Errorf("read sandbox of pod %s: %w", uid, err)
	}
	ip := status.Status.GetNetwork().GetIp()
	if ip == "" {
		return "", fmt.Errorf("the sandbox of pod %s has no address", uid)
	}
	return ip, nil
}
