package csidriver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/petiole-io/petiole/internal/lab/mounts"
)

// NodeGetInfo implements csi.NodeServer.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node}, nil
}

// NodeGetCapabilities implements csi.NodeServer.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{Capabilities: []*csi.NodeServiceCapability{{Type: &csi.NodeServiceCapability_Rpc{
		Rpc: &csi.NodeServiceCapability_RPC{Type: csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME},
	}}}}, nil
}

// NodeStageVolume mounts an attached volume at the path of the node.
func (d *Driver) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if err := required("volume_id", r.VolumeId, "staging_target_path", r.StagingTargetPath); err != nil {
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
	if !slices.Contains(v.Attached, d.node) {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is not attached to node %s", v.ID, d.node)
	}
	return &csi.NodeStageVolumeResponse{}, bind(d.Folder(v.ID), r.StagingTargetPath, false)
}

// NodeUnstageVolume implements csi.NodeServer.
func (d *Driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if err := required("volume_id", r.VolumeId, "staging_target_path", r.StagingTargetPath); err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, mounts.Detach(r.StagingTargetPath)
}

// NodePublishVolume mounts a staged volume at the path of a pod.
func (d *Driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if err := required("volume_id", r.VolumeId, "target_path", r.TargetPath); err != nil {
		return nil, err
	}
	if r.VolumeCapability == nil {
		return nil, status.Error(codes.InvalidArgument, "volume_capability is empty")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.volume(r.VolumeId); err != nil {
		return nil, err
	}
	if r.StagingTargetPath == "" {
		return nil, status.Error(codes.FailedPrecondition, "staging_target_path is empty")
	}
	staged, err := mounts.Below(r.StagingTargetPath)
	if err != nil {
		return nil, err
	}
	if len(staged) == 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is not staged at %s", r.VolumeId, r.StagingTargetPath)
	}
	return &csi.NodePublishVolumeResponse{}, bind(r.StagingTargetPath, r.TargetPath, r.Readonly)
}

// NodeUnpublishVolume implements csi.NodeServer. It removes the path, as CSI wants it.
func (d *Driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := required("volume_id", r.VolumeId, "target_path", r.TargetPath); err != nil {
		return nil, err
	}
	if err := mounts.Detach(r.TargetPath); err != nil {
		return nil, err
	}
	if err := os.Remove(r.TargetPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// bind mounts a folder at a path, unless something is mounted there.
func bind(folder, path string, readOnly bool) error {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return err
	}
	there, err := mounts.Below(path)
	if err != nil || len(there) > 0 {
		return err
	}
	if err := unix.Mount(folder, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", folder, path, err)
	}
	if readOnly {
		if err := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("mount %s read-only: %w", path, err)
		}
	}
	return nil
}
