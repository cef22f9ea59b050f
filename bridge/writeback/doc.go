// Package writeback writes the reports of sites to the API server: the status of pods, nodes and
// devices, Events and CSINodes.
//
// A site can write what belongs to its nodes, and nothing else: a report is written in the name
// of its node, with the UID of its object and the version that was compared as preconditions.
// Fields that belong to the control plane stay. Each kind has a pure function that merges the
// reported with the present state, and a writer that carries it out. The errors of Write say
// what becomes of a report; whether it is tried again, and acknowledged, is decided in
// bridge/reported.
package writeback
