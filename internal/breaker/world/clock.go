package world

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// ErrNoClock reports that the wall clock of a single process cannot be set on this machine.
var ErrNoClock = errors.New("the wall clock of one process can be set on linux/amd64 only")

// clockCode replaces the vDSO's clock_gettime in one process: it makes the system call
// and, for CLOCK_REALTIME, adds the seconds that stand behind it.
//
//	b8 e4 00 00 00        mov eax, 228 (clock_gettime)
//	0f 05                 syscall
//	85 ff                 test edi, edi
//	75 0a                 jne done
//	48 8b 0d 06 00 00 00  mov rcx, [rip+6]
//	48 01 0e              add [rsi], rcx
//	c3                    done: ret
//	90 90                 (alignment)
var clockCode = []byte{
	0xb8, 0xe4, 0, 0, 0, 0x0f, 0x05, 0x85, 0xff, 0x75, 0x0a,
	0x48, 0x8b, 0x0d, 6, 0, 0, 0, 0x48, 0x01, 0x0e, 0xc3, 0x90, 0x90,
}

// ShiftClock sets the wall clock of one running process apart from the machine's by
// whole seconds of shift. Its monotonic clock goes on as before, as when a machine's
// clock is set. The kernel gives each process its own copy of the page that is changed.
// It lasts until the process ends or the shift is set to 0.
func ShiftClock(pid int, shift time.Duration) error {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return ErrNoClock
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("set clock of process %d: %w", pid, err)
	}
	defer mem.Close()
	at, err := clockFunction(pid, mem)
	if err != nil {
		return fmt.Errorf("set clock of process %d: %w", pid, err)
	}
	seconds := binary.LittleEndian.AppendUint64(nil, uint64(int64(shift/time.Second)))
	have := make([]byte, len(clockCode))
	if _, err := mem.ReadAt(have, at); err != nil {
		return fmt.Errorf("set clock of process %d: %w", pid, err)
	}
	if !bytes.Equal(have, clockCode) {
		// The new code must not run before the seconds are there.
		zero := append(bytes.Clone(clockCode), make([]byte, 8)...)
		if _, err := mem.WriteAt(zero, at); err != nil {
			return fmt.Errorf("set clock of process %d: %w", pid, err)
		}
	}
	if _, err := mem.WriteAt(seconds, at+int64(len(clockCode))); err != nil {
		return fmt.Errorf("set clock of process %d: %w", pid, err)
	}
	return nil
}

// clockFunction returns the address of clock_gettime in the process's vDSO.
func clockFunction(pid int, mem *os.File) (int64, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	var from, to int64
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
				return 0, fmt.Errorf("read %q: %w", line, err)
			}
		}
	}
	if from == 0 {
		return 0, fmt.Errorf("%w: the process has no vDSO", ErrNoClock)
	}
	image := make([]byte, to-from)
	if _, err := mem.ReadAt(image, from); err != nil {
		return 0, err
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, fmt.Errorf("read vDSO: %w", err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("read vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name == "__vdso_clock_gettime" && s.Size > uint64(len(clockCode)+8) {
			return from + int64(s.Value), nil
		}
	}
	return 0, fmt.Errorf("%w: the vDSO has no __vdso_clock_gettime", ErrNoClock)
}
