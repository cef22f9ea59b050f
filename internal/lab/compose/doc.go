// Package compose prepares what deploy/compose runs, the lab in Docker Compose: the credentials of
// the control plane, the keys and the configuration of the hub and of the bridge, and the join token
// with which the gateway joins.
//
// It guarantees that a second run changes nothing that exists, so that `docker compose up` can be
// repeated. The configuration is that of the lab, with the names of Compose's services as hosts. The
// commands `lab compose …` call it. It starts nothing; the gateway is the program in the folder gateway.
package compose
