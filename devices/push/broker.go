package push

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// broker publishes messages to one MQTT broker. It connects for the first message, and for
// the next one after the connection was lost. The endpoint retries.
type broker struct {
	options *mqtt.ClientOptions
	client  mqtt.Client
}

func newBroker(address string) *broker {
	o := mqtt.NewClientOptions().AddBroker(address).SetClientID("petiole-" + rand.Text()[:16])
	o.SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).SetKeepAlive(30 * time.Second)
	o.SetConnectTimeout(defaultTimeout).SetWriteTimeout(defaultTimeout)
	return &broker{options: o}
}

// send returns once the broker has the message: with QoS 0 when it is written, with 1 and 2
// when the broker has acknowledged it.
func (b *broker) send(ctx context.Context, m Message) error {
	if b.client == nil || !b.client.IsConnectionOpen() {
		b.close()
		client := mqtt.NewClient(b.options)
		if err := wait(ctx, client.Connect()); err != nil {
			client.Disconnect(0)
			return fmt.Errorf("connect to broker: %w", err)
		}
		b.client = client
	}
	if err := wait(ctx, b.client.Publish(m.Target.Topic, m.Target.QoS, m.Target.Retained, m.Body)); err != nil {
		b.close() // a message in flight must not arrive after the next attempt
		return fmt.Errorf("publish sample on %s: %w", m.Target.Topic, err)
	}
	return nil
}

func (b *broker) close() {
	if b.client != nil {
		b.client.Disconnect(100)
		b.client = nil
	}
}

func wait(ctx context.Context, t mqtt.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}
