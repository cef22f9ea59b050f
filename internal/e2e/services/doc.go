// Package services proves that Services, cluster DNS and the API work inside a site, with stock
// kube-proxy and CoreDNS, also while its link is cut and after a reboot without it, and that pods
// read there the custom resources that a Site selects.
//
// `go tool task test:services` builds what it needs, starts the lab, tests, and takes the lab down;
// PETIOLE_USE_LAB=1 uses a lab that is up and leaves it up, without kube-proxy and CoreDNS.
package services
