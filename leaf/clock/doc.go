// Package clock judges the clock of a gateway, which may have no battery and boot in 1970, or
// step while the leaf runs.
//
// It guarantees that no number of an epoch is used twice, whatever the clock says, and that later
// epochs have larger numbers unless DataDir was lost. It knows the time of this boot once NTP keeps
// the clock right or the hub's time was measured, and says how precisely; what was recorded before
// under another time is corrected with that, within the boot it belongs to. Of a boot whose time was
// never known it says so. It never sets the clock of the machine. The leaf calls it.
package clock
