package main

import (
	"fmt"
	"strings"
)

// block is a block of code in a document.
type block struct {
	heading, language, text string
}

// first returns the first line of the block.
func (b block) first() string {
	line, _, _ := strings.Cut(b.text, "\n")
	return line
}

// blocks returns the fenced blocks of a Markdown document, in order.
func blocks(document string) ([]block, error) {
	var found []block
	var heading string
	var open *block
	for line := range strings.Lines(document) {
		fence, isFence := strings.CutPrefix(strings.TrimRight(line, "\n"), "```")
		switch {
		case open != nil && isFence:
			found = append(found, *open)
			open = nil
		case open != nil:
			open.text += line
		case isFence:
			open = &block{heading: heading, language: fence}
		case strings.HasPrefix(line, "#"):
			heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
	}
	if open != nil {
		return nil, fmt.Errorf("the block %q below %q does not end", open.first(), open.heading)
	}
	return found, nil
}

// step is what the walk does with a block of docs/install.md.
type walkStep struct {
	// heading and first are those of the block: first is how its first line begins.
	heading, first string
	// on is the machine that it is run on. Without one it is not run, because of reason.
	on, reason string
	// printed has the command run that the block before has printed, which begins as this one.
	printed bool
}

// The machines.
const (
	onHub     = "hub"
	onGateway = "plant-a-1"
)

// walkSteps are all blocks of docs/install.md, in its order.
var walkSteps = []walkStep{
	{heading: "Programs", first: "cd ~/petiole", on: onHub},
	{heading: "Hub", first: "apt-get install -y openssl", on: onHub},
	{heading: "Hub", first: "nats context add hub", on: onHub},
	{heading: "Cloud side", first: "cd ~/petiole", on: onHub},
	{heading: "Cloud side", first: "printf 'FROM scratch", reason: "there is neither Docker nor a cluster that runs pods in the cloud: the bridge runs outside of the cluster"},
	{heading: "Cloud side", first: "mkdir -p /etc/petiole-bridge", on: onHub},
	{heading: "Cloud side", first: "curl -fsS", on: onHub},
	{heading: "With Helm", first: "kubectl create namespace", reason: "the same bridge in a cluster that runs pods"},
	{heading: "Sites", first: "kubectl petiole site create plant-a", on: onHub},
	{heading: "Gateway", first: "apt-get install -y ./petiole-leaf", on: onGateway},
	{heading: "Gateway", first: "leaf join tls://hub.example.com:7422 plant-a.SU", on: onGateway, printed: true},
	{heading: "A pod and a device", first: "kubectl wait node/plant-a-1", on: onHub},
	{heading: "A pod and a device", first: "kubectl --kubeconfig", on: onGateway},
	{heading: "A pod and a device", first: "kubectl petiole status", on: onHub},
	{heading: "Access on a gateway", first: "nats --server nats://127.0.0.1:4222", reason: "it needs a gateway that has joined with --local-clients"},
	{heading: "Encryption at rest", first: "openssl rand -base64 32", reason: "there is no TPM"},
	{heading: "Encryption at rest", first: "[Service]", reason: "it is a part of a unit"},
	{heading: "A hub without operator mode", first: "hub=$(nats", reason: "it is for another hub, which ends with the next version"},
	{heading: "A hub without operator mode", first: "nats --context system", reason: "it is for another hub, which ends with the next version"},
}

// matchSteps returns the document's blocks with what is done with them. A block without a step, or a
// step without a block, is an error.
func matchSteps(document string) ([]block, error) {
	found, err := blocks(document)
	if err != nil {
		return nil, err
	}
	for i, s := range walkSteps {
		if i == len(found) {
			return nil, fmt.Errorf("the document has no block %q below %q", s.first, s.heading)
		}
		if b := found[i]; b.heading != s.heading || !strings.HasPrefix(b.first(), s.first) {
			return nil, fmt.Errorf("block %d of the document is %q below %q, the walk expects %q below %q: say in walkSteps where it is run, or why it is not",
				i+1, b.first(), b.heading, s.first, s.heading)
		}
		if s.on != "" && found[i].language != "sh" {
			return nil, fmt.Errorf("the block %q below %q is run, and is no sh", s.first, s.heading)
		}
	}
	if len(found) > len(walkSteps) {
		b := found[len(walkSteps)]
		return nil, fmt.Errorf("the walk does not know the block %q below %q", b.first(), b.heading)
	}
	return found, nil
}
