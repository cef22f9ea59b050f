// Package tunnel carries connections between the hub and the nodes of a site over core NATS:
// kubectl logs, exec and port-forward reach a kubelet that nobody can dial.
//
// A Dialer at the hub opens sessions, a Server at the node connects each of them to a backend.
// Both ends of a session are byte streams with flow control and half-close. Guarantees:
//
//   - A session delivers bytes in order and completely, or ends with an error: a lost message is
//     noticed by the offset of the next one.
//   - A reader that does not read stops its own writer, and no other session: the bytes that wait
//     for it are bounded (receiveWindow).
//   - All sessions of a site together have as many bytes in flight as its line carries in a second
//     (package streams/window), so that desired state, reports and pings are not held up.
//   - A session whose other end has not been heard for silence ends with ErrSilent, and one that
//     is opened while the site is not connected with ErrNotConnected, at once.
//
// Nothing is stored. The bridge has a Dialer, each leaf a Server.
package tunnel
