package csidriver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Driver is a CSI driver for one node. Methods can be called at the same time.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer

	name, node, dir string

	mu    sync.Mutex
	calls []string
}

// volume is a volume's record on disk.
type volume struct {
	ID       string   `json:"id"`
	Attached []string `json:"attached,omitempty"`
}

// New returns a driver with the volumes in dir, which it creates if it is missing.
func New(name, node, dir string) (*Driver, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create the folder of volumes: %w", err)
	}
	return &Driver{name: name, node: node, dir: dir}, nil
}

// Serve serves the driver at a Unix socket until ctx ends.
func (d *Driver) Serve(ctx context.Context, socket string) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the socket of an earlier driver: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen for CSI: %w", err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(d.note))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	return server.Serve(l)
}

// note keeps the name of a call that succeeded.
func (d *Driver) note(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	answer, err := handler(ctx, req)
	if err == nil {
		d.mu.Lock()
		d.calls = append(d.calls, info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:])
		d.mu.Unlock()
	}
	return answer, err
}

// Calls returns how many calls of a method of CSI have succeeded.
func (d *Driver) Calls(method string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, c := range d.calls {
		if c == method {
			n++
		}
	}
	return n
}

// Folder returns the folder with the files of a volume.
func (d *Driver) Folder(id string) string { return filepath.Join(d.dir, id) }

func (d *Driver) record(id string) string { return d.Folder(id) + ".json" }

// volume reads a volume's record. It is called with mu held.
func (d *Driver) volume(id string) (*volume, error) {
	data, err := os.ReadFile(d.record(id))
	if errors.Is(err, fs.ErrNotExist) || strings.ContainsRune(id, filepath.Separator) {
		return nil, status.Errorf(codes.NotFound, "there is no volume %q", id)
	}
	if err != nil {
		return nil, err
	}
	var v volume
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("read volume %s: %w", id, err)
	}
	return &v, nil
}

func (d *Driver) write(v *volume) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(d.record(v.ID), data, 0o600)
}

func required(fields ...string) error {
	for i := 0; i < len(fields); i += 2 {
		if fields[i+1] == "" {
			return status.Errorf(codes.InvalidArgument, "%s is empty", fields[i])
		}
	}
	return nil
}

// GetPluginInfo implements csi.IdentityServer.
func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: d.name, VendorVersion: "1"}, nil
}

// GetPluginCapabilities implements csi.IdentityServer.
func (d *Driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
	}}}}, nil
}

// Probe implements csi.IdentityServer.
func (d *Driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// CreateVolume implements csi.ControllerServer.
func (d *Driver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if err := required("name", r.Name); err != nil {
		return nil, err
	}
	if len(r.VolumeCapabilities) == 0 {
		return nil, status.Error(codes.InvalidArgument, "volume_capabilities is empty")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	id := fmt.Sprintf("v-%x", r.Name)
	switch _, err := d.volume(id); {
	case status.Code(err) == codes.NotFound:
		if err := os.MkdirAll(d.Folder(id), 0o777); err != nil {
			return nil, err
		}
		if err := d.write(&volume{ID: id}); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: id}}, nil
}

// DeleteVolume implements csi.ControllerServer.
func (d *Driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if err := required("volume_id", r.VolumeId); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.volume(r.VolumeId)
	if status.Code(err) == codes.NotFound {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if len(v.Attached) > 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is attached to %v", v.ID, v.Attached)
	}
	return &csi.DeleteVolumeResponse{}, errors.Join(os.Remove(d.record(v.ID)), os.RemoveAll(d.Folder(v.ID)))
}

// ControllerPublishVolume attaches a volume to the driver's node.
func (d *Driver) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if err := required("volume_id", r.VolumeId, "node_id", r.NodeId); err != nil {
		return nil, err
	}
	if r.VolumeCapability == nil {
		return nil, status.Error(codes.InvalidArgument, "volume_capability is empty")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.volume(r.VolumeId)
	if err != nil {
		return nil, err
	}
	if r.NodeId != d.node {
		return nil, status.Errorf(codes.NotFound, "there is no node %q", r.NodeId)
	}
	if !slices.Contains(v.Attached, r.NodeId) {
		v.Attached = append(v.Attached, r.NodeId)
		if err := d.write(v); err != nil {
			return nil, err
		}
	}
	return &csi.ControllerPublishVolumeResponse{}, nil
}

// ControllerUnpublishVolume detaches a volume.
func (d *Driver) ControllerUnpublishVolume(_ context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if err := required("volume_id", r.VolumeId); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.volume(r.VolumeId)
	if status.Code(err) == codes.NotFound {
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	v.Attached = slices.DeleteFunc(v.Attached, func(n string) bool { return r.NodeId == "" || n == r.NodeId })
	return &csi.ControllerUnpublishVolumeResponse{}, d.write(v)
}
