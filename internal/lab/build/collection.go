package main

import "fmt"

const (
	// enoughHeap is the least memory limit of a compiler that collects no garbage before
	// it has reached the limit: the largest packages allocate about as much.
	enoughHeap = 1 << 30
	// sharedBy is how many processes there are at once beside the compilers: a go command
	// for each of the two lanes, and a linker.
	sharedBy = 3
)

// collection returns the environment that lets compilers collect as little garbage as the
// available memory (bytes) allows. Compilers are short-lived: with GOGC=400 they take a
// quarter less processor time than with Go's default, without collection another 14 %.
func collection(available uint64, cores int) []string {
	limit := available / uint64(max(cores, 1)+1+sharedBy)
	if limit < enoughHeap {
		return []string{"GOGC=400"}
	}
	return []string{"GOGC=off", fmt.Sprintf("GOMEMLIMIT=%d", limit)}
}
