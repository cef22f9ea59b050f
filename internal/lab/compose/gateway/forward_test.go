package main

import (
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// bound is the time that any step of a test may take.
const bound = 20 * time.Second

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, bound)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(bound)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestForwardConnectsEachMaster(t *testing.T) {
	slave, masters := listen(t), listen(t)
	go func() {
		for {
			conn, err := slave.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // until the master hangs up
			}()
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- forward(ctx, masters, slave.Addr().String()) }()
	first, second := dial(t, masters.Addr().String()), dial(t, masters.Addr().String())
	for _, conn := range []net.Conn{first, second, first} {
		if _, err := conn.Write([]byte("read")); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 4)
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "read" {
			t.Fatalf("answer %q, %v", answer, err)
		}
	}
	cancel() // ends the open connections, too
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(bound):
		t.Fatal("does not end")
	}
	if n, err := first.Read(make([]byte, 1)); err == nil {
		t.Errorf("a connection stays open: %d bytes", n)
	}
}

func TestForwardHangsUpOnTheMasterOfASlaveThatIsAway(t *testing.T) {
	slave, masters := listen(t), listen(t)
	if err := slave.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- forward(ctx, masters, slave.Addr().String()) }()
	if _, err := dial(t, masters.Addr().String()).Read(make([]byte, 1)); err == nil {
		t.Error("the master gets an answer")
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(bound):
		t.Fatal("does not end")
	}
}
