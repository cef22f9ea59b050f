// Package join defines what a new gateway and the bridge tell each other: the token that lets the
// gateway in once, its request, and the bridge's answer.
//
// A Token holds a private key that only its reader has, the JWT of that key, with which the hub
// lets it send requests of this kind and nothing else, and the certificate authority of the hub.
// A Request is signed with the key of the token and with the gateway's own, an Answer with the
// key that issued the token's JWT, over the request that it answers. So a request cannot be sent
// for a key that somebody else holds, and no answer can be forged or exchanged, whatever the
// hub lets through.
//
// The package only encodes, signs and verifies. kubectl-petiole creates tokens, leaf/join uses
// them and bridge/join decides.
package join
