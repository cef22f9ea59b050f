package join_test

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"
)

// runStatus serves what a leaf that is connected says, until ctx ends.
func runStatus(ctx context.Context, t *testing.T, addr string) {
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("petiole_leaf_link_up 1\n")) })
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	_ = s.Serve(l) // ends with Close
}
