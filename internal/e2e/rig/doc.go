// Package rig is a running lab as a test or a benchmark sees it: clients of the API
// server and of the hub, and for each site the ways to look behind the API — the
// container runtime, the network namespace, the Modbus slave, the processes, the bytes
// on the link.
//
// It judges nothing and fakes nothing: whatever it returns was read from the real part
// at that moment. The end-to-end suite and the benchmarks call it; the lab itself is
// driven through its command, as a person does.
package rig
