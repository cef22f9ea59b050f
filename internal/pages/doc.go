// Package pages gives memory back that a program needed for its start alone.
//
// A Go program reads most of its code and tables once, while its packages are initialised. The kernel
// maps what was read, and its neighbours, and keeps it mapped until memory is short.
package pages
