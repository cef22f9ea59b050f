package join

import (
	"regexp"
	"strings"
	"testing"
)

// TestUnit: the unit starts this leaf, and has nothing that would keep a kubelet from its work: a
// mount or device namespace, or a umask.
func TestUnit(t *testing.T) {
	t.Parallel()
	m := Machine{Executable: "/opt/leaf", ConfigDir: "/etc/petiole"}
	data, err := m.renderUnit()
	if err != nil {
		t.Fatal(err)
	}
	unit := string(data)
	for _, want := range []string{"\nExecStart=/opt/leaf --config /etc/petiole/leaf.yaml\n", "\nRestart=always\n", "\nKillMode=mixed\n", "\nDelegate=yes\n", "\nWantedBy=multi-user.target\n"} {
		if strings.Count(unit, want) != 1 {
			t.Errorf("the unit does not have %q once", want)
		}
	}
	forbidden := regexp.MustCompile(`(?m)^(Protect|Private|ReadOnly|ReadWrite|Inaccessible|Temporary|Bind|Device|UMask|Root|Mount|DynamicUser|User=|Capability|SystemCallFilter)\w*=.*$`)
	if bad := forbidden.FindAllString(unit, -1); len(bad) > 0 {
		t.Errorf("the unit has %v", bad)
	}
}
