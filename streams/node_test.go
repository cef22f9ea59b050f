package streams

import (
	"strings"
	"testing"
)

func TestCheckNodeName(t *testing.T) {
	for name, good := range map[string]bool{
		"plant-a-1": true, "gw.plant-a.example": true, strings.Repeat("a", 63): true,
		"": false, "no node": false, "gw..example": false, "GW": false, "a.*": false, strings.Repeat("a.", 31) + "bb": false,
	} {
		if problems := CheckNodeName(name); (len(problems) == 0) != good {
			t.Errorf("CheckNodeName(%q) = %q", name, problems)
		}
	}
}
