package filestore

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

// childKey is set in the environment of a child: see child.
const childKey = "PETIOLE_FILESTORE_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childKey) != "" {
		if err := serveChild(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

const (
	// memoryLimit is what a nats-server may take to open the stores of these tests, in
	// bytes of the resident set.
	memoryLimit = 200 << 20
	// openLimit is how long it may take.
	openLimit = 10 * time.Second
)

// order asks a child to open a store.
type order struct {
	// Dir is what contains JetStream's folder.
	Dir string
	// Check says to call Check before.
	Check bool
	// Key is the store's, empty if it is not encrypted.
	Key string
	// FlipFile is damaged when the store is open, "" if none: a bit after an offset.
	FlipFile            string
	FlipOffset, FlipBit int
	// Unlimited lifts the limits of memory and time.
	Unlimited bool
	// Sequences are read of each stream.
	Sequences uint64
}

// opened is what a store was found to hold.
type opened struct {
	Took    time.Duration
	Peak    int64 // bytes of the resident set
	Damaged []Damaged
	Streams map[string]found
	Err     string
}

type found struct {
	Last uint64
	Lost bool
	// Consumers are the names of its consumers.
	Consumers []string
	// Messages are hashes of subject, headers, time and body, by sequence.
	Messages map[uint64]uint64
	// Readable are those whose body is JSON.
	Readable map[uint64]bool
	// Errors are other answers than that a message is not there.
	Errors map[uint64]string
}

// child is a process of this test binary in which nats-server opens stores. It ends when
// that takes more memory than memoryLimit.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	err *bytes.Buffer
}

func startChild(t testing.TB) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0], "-test.run=^$"), err: &bytes.Buffer{}}
	c.cmd.Env = append(os.Environ(), childKey+"=1")
	c.cmd.Stderr = c.err
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.in, c.out = in, bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// open returns what the child finds; an error says that it was ended.
func (c *child) open(o order) (opened, error) {
	line, err := json.Marshal(o)
	if err != nil {
		return opened{}, err
	}
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		return opened{}, c.ended(err)
	}
	limit := openLimit
	if o.Unlimited {
		limit = time.Hour
	}
	timer := time.AfterFunc(limit, func() { _ = c.cmd.Process.Kill() })
	answer, err := c.out.ReadBytes('\n')
	if err != nil {
		if !timer.Stop() {
			return opened{}, c.ended(fmt.Errorf("not open after %s", limit))
		}
		return opened{}, c.ended(err)
	}
	timer.Stop()
	var out opened
	if err := json.Unmarshal(answer, &out); err != nil {
		return opened{}, err
	}
	if out.Err != "" {
		return out, errors.New(out.Err)
	}
	return out, nil
}

// ended says why a child is no more.
func (c *child) ended(cause error) error {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	return fmt.Errorf("%w: %s", cause, bytes.TrimSpace(c.err.Bytes()))
}

func (c *child) stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// serveChild opens stores until in ends.
func serveChild(in io.Reader, out io.Writer) error {
	var unlimited atomic.Bool
	go func() {
		for ; ; time.Sleep(2 * time.Millisecond) {
			if now, err := status("VmRSS"); err == nil && now > memoryLimit && !unlimited.Load() {
				fmt.Fprintf(os.Stderr, "more than %d MB resident\n", memoryLimit>>20)
				os.Exit(3)
			}
		}
	}()
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o order
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		unlimited.Store(o.Unlimited)
		answer, err := o.carryOut()
		if err != nil {
			answer.Err = err.Error()
		}
		if err := enc.Encode(answer); err != nil {
			return err
		}
		debug.FreeOSMemory()
	}
}

func (o order) carryOut() (out opened, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // VmHWM begins again
		return out, err
	}
	start := time.Now()
	if o.Check {
		if out.Damaged, err = Check(ctx, filepath.Join(o.Dir, server.JetStreamStoreDir), o.Key, leafStreams(), zap.NewNop()); err != nil {
			return out, err
		}
	}
	s, nc, err := openStore(o.Dir, o.Key)
	if err != nil {
		return out, err
	}
	defer func() { nc.Close(); s.Shutdown(); s.WaitForShutdown() }()
	out.Took = time.Since(start)
	if o.FlipFile != "" {
		if err := flip(o.FlipFile, o.FlipOffset, o.FlipBit); err != nil {
			return out, err
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return out, err
	}
	out.Streams = map[string]found{}
	for info := range js.ListStreams(ctx).Info() {
		f := found{Last: info.State.LastSeq, Lost: info.State.Lost != nil, Messages: map[uint64]uint64{}, Readable: map[uint64]bool{}, Errors: map[uint64]string{}}
		st, err := js.Stream(ctx, info.Config.Name)
		if err != nil {
			return out, err
		}
		for seq := uint64(1); seq <= o.Sequences; seq++ {
			m, err := st.GetMsg(ctx, seq)
			switch {
			case err == nil:
				f.Messages[seq] = digest(m)
				f.Readable[seq] = json.Valid(m.Data)
			case !errors.Is(err, jetstream.ErrMsgNotFound):
				f.Errors[seq] = err.Error()
			}
		}
		for name := range st.ConsumerNames(ctx).Name() {
			f.Consumers = append(f.Consumers, name)
		}
		// Reading may have found out more.
		if i, err := st.Info(ctx); err == nil {
			f.Last, f.Lost = i.State.LastSeq, i.State.Lost != nil
		}
		out.Streams[info.Config.Name] = f
	}
	out.Peak, err = status("VmHWM")
	return out, err
}

func digest(m *jetstream.RawStreamMsg) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, m.Subject, m.Header, m.Time.UnixNano(), string(m.Data))
	return h.Sum64()
}

// openStore runs nats-server on a store, encrypted if there is a key.
func openStore(dir, key string) (*server.Server, *nats.Conn, error) {
	s, err := server.NewServer(&server.Options{
		ServerName: "plant-a", DontListen: true, JetStream: true, StoreDir: dir, JetStreamMaxStore: 64 << 30,
		JetStreamMaxMemory: 1 << 20, JetStreamKey: key, JetStreamCipher: server.AES, SyncAlways: true, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return nil, nil, err
	}
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		s.Shutdown()
		return nil, nil, errors.New("nats-server is not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		s.Shutdown()
		return nil, nil, err
	}
	return s, nc, nil
}

// status is a line of the process's status, in bytes.
func status(name string) (int64, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := bytes.Cut(data, []byte(name+":"))
	if !ok {
		return 0, fmt.Errorf("no %s on %s", name, runtime.GOOS)
	}
	var kb int64
	_, err = fmt.Sscan(string(rest), &kb)
	return kb << 10, err
}
