// Package e2e proves the promises on the real parts: a real API server with its
// controllers, a real NATS hub, leaves with upstream's kubelet and CRI-O containers in
// network namespaces of their own, a Modbus slave that is not our code, and a link that
// is really cut.
//
// `go test ./internal/e2e -count=1 -v -timeout 40m` starts the lab, tests, and takes
// the lab down; it needs Linux and root, and fails without. PETIOLE_USE_LAB=1 uses a
// lab that is up and leaves it up, PETIOLE_KEEP_LAB=1 only leaves it up.
//
// Every test polls for a condition with a deadline. Times that the project promises
// are measured and printed with their goal, and with how busy the machine was meanwhile: a
// test fails above the goal on a machine that had nothing else to do, and above three
// times the goal on one that had. Tests of one lab cannot run in parallel with those that
// cut its links, so none does.
package e2e
