package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// slaveAddress is that of the device in the samples.
const slaveAddress = "127.0.0.1:502"

// serveSlave serves the Modbus slave of another container at slaveAddress until ctx ends. A container
// in the network of this one would lose it when this one is started again.
func serveSlave(ctx context.Context, slave string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", slaveAddress)
	if err != nil {
		return fmt.Errorf("listen for masters: %w", err)
	}
	return forward(ctx, l, slave)
}

// forward connects each master that l accepts with the slave, until ctx ends. It closes l.
func forward(ctx context.Context, l net.Listener, slave string) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		master, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept masters: %w", err)
		}
		connections.Go(func() {
			if err := pipe(ctx, master, slave); err != nil {
				fmt.Fprintln(os.Stderr, "gateway: forward to the Modbus slave:", err)
			}
		})
	}
}

// pipe connects a master with the slave until one of them hangs up or ctx ends.
func pipe(ctx context.Context, master net.Conn, slave string) error {
	defer master.Close()
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", slave)
	if err != nil {
		return err
	}
	defer conn.Close()
	done := make(chan error, 2)
	for _, ends := range [][2]net.Conn{{master, conn}, {conn, master}} {
		go func() {
			_, err := io.Copy(ends[0], ends[1])
			done <- err
		}()
	}
	select {
	case err = <-done:
	case <-ctx.Done():
	}
	closeErr := errors.Join(master.Close(), conn.Close()) // ends the other copy
	<-done                                                //nolint:errcheck // the end of a connection that was closed here
	return errors.Join(err, closeErr)
}
