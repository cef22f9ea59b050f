package cgroup

import (
	"slices"
	"testing"
)

func TestHierarchiesAreThoseThatTheMachineHas(t *testing.T) {
	for name, c := range map[string]struct {
		mountinfo string
		want      []Hierarchy
	}{
		"v1 and hybrid": {`24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=12334492k,nr_inodes=3083623,mode=755
30 29 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
31 29 0:28 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid shared:9 - cgroup cgroup rw,net_cls,net_prio
38 29 0:35 / /sys/fs/cgroup/systemd rw,relatime - cgroup systemd rw,xattr,release_agent=/lib/systemd/systemd-cgroups-agent,name=systemd
39 29 0:36 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`, []Hierarchy{
			{"cpu", "cgroup", "cpu"},
			{"net_cls,net_prio", "cgroup", "net_cls,net_prio"},
			{"systemd", "cgroup", "none,name=systemd"},
			{"unified", "cgroup2", ""},
		}},
		"v2": {`22 27 0:21 / /proc rw,relatime - proc proc rw
35 23 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`, []Hierarchy{{"", "cgroup2", ""}}},
	} {
		if got := Mounted([]byte(c.mountinfo)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
