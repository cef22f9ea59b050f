package lab

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/petiole-io/petiole/internal/lab/host"
)

// checkPorts reports the addresses of the host that something else occupies, before
// anything is started.
func (l *Lab) checkPorts() error {
	var taken []string
	for _, p := range []struct{ address, owner string }{
		{hubClients, partHub},
		{hubMonitor, partHub},
		{fmt.Sprintf("127.0.0.1:%d", APIPort), partControlPlane},
		{fmt.Sprintf("127.0.0.1:%d", EtcdPort), partControlPlane},
		{fmt.Sprintf("127.0.0.1:%d", EtcdPeerPort), partControlPlane},
	} {
		if _, running := l.daemons.PID(p.owner); running {
			continue
		}
		listener, err := net.Listen("tcp", p.address)
		if err != nil {
			taken = append(taken, fmt.Sprintf("%s, which the %s needs: %s (%v)", p.address, p.owner, listenerAt(p.address), err))
			continue
		}
		listener.Close()
	}
	if len(taken) > 0 {
		return fmt.Errorf("%w; stop the processes that listen at:\n  - %s", host.ErrUnfit, strings.Join(taken, "\n  - "))
	}
	return nil
}

// listenerAt names the process that listens at the port of a TCP address.
func listenerAt(address string) string {
	const unknown = "a process that cannot be seen from here"
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return unknown
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return unknown
	}
	var sockets []string
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		if data, err := os.ReadFile(table); err == nil {
			sockets = append(sockets, listening(string(data), n)...)
		}
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return unknown
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && slices.Contains(sockets, target) {
			pid := strings.Split(link, "/")[2]
			cmdline, err := os.ReadFile("/proc/" + pid + "/cmdline")
			if err != nil {
				continue
			}
			return fmt.Sprintf("process %s, %s", pid, strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " ")))
		}
	}
	return unknown
}

// listening reads a table of /proc/net (proc_net_tcp in the kernel's documentation) and
// names the sockets that listen at a port, as the links in /proc/<pid>/fd do.
func listening(table string, port int) []string {
	var sockets []string
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			sockets = append(sockets, "socket:["+f[9]+"]")
		}
	}
	return sockets
}
