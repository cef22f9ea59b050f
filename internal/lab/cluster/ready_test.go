package cluster

import (
	"errors"
	"testing"
)

// TestUnready: of the checks of an API server those are shown that fail.
func TestUnready(t *testing.T) {
	err := unready(errors.New("[+]ping ok\n[+]etcd ok\n[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\n[+]shutdown ok\nreadyz check failed"))
	if got := err.Error(); got != "not ready yet: [-]poststarthook/rbac/bootstrap-roles" {
		t.Error(got)
	}
	if err := unready(errors.New("connection refused")); err.Error() != "connection refused" {
		t.Error(err)
	}
}
