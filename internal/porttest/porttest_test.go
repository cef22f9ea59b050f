package porttest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// envTaken has the test binary print whether it can reserve this port.
const envTaken = "PORTTEST_TAKEN"

func TestMain(m *testing.M) {
	var port int
	if _, err := fmt.Sscan(os.Getenv(envTaken), &port); err == nil {
		fmt.Println(reserve(port))
		os.Exit(0)
	}
	m.Run()
}

// TestPortIsNobodyElses has another process, like the test of another package, ask for the same
// port before anybody listens on it.
func TestPortIsNobodyElses(t *testing.T) {
	port := Port(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", envTaken, port))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "address already in use") {
		t.Errorf("another process gets the port: %s %v", out, err)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
