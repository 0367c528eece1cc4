//go:build linux

package main

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// terminal opens a pseudo terminal: what is written to the first file is typed into the second.
func terminal(t *testing.T) (keyboard, tty *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { keyboard.Close() })
	var number, unlock int32
	raw, err := keyboard.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var errno [2]syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno[0] = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCSPTLCK, uintptr(unsafe.Pointer(&unlock)))
		_, _, errno[1] = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCGPTN, uintptr(unsafe.Pointer(&number)))
	})
	if err != nil || errno[0] != 0 || errno[1] != 0 {
		t.Fatal(err, errno)
	}
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(int(number)), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { tty.Close() })
	return keyboard, tty
}

// settings are those of a terminal.
func terminalSettings(t *testing.T, tty *os.File) (s syscall.Termios) {
	t.Helper()
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, tty.Fd(), syscall.TCGETS, uintptr(unsafe.Pointer(&s))); errno != 0 {
		t.Fatal(errno)
	}
	return s
}

// TestTopTerminal: on a terminal the screen is drawn again and again until a key or a signal ends it, and is left as it was.
func TestTopTerminal(t *testing.T) {
	for _, how := range []string{"q", "\x03", "signal"} {
		t.Run(strconv.Quote(how), func(t *testing.T) {
			s := emptyServer(t, "")
			keyboard, tty := terminal(t)
			before := terminalSettings(t, tty)
			screen := new(syncBuffer)
			go func() { // ends when the terminal is closed
				buf := make([]byte, 4096)
				for {
					n, err := keyboard.Read(buf)
					screen.Write(buf[:n])
					if err != nil {
						return
					}
				}
			}()
			cmd := exec.Command(binary(), "top", "--address="+s.URL)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			t.Cleanup(func() { cmd.Process.Kill() })
			until(t, screen, func(s string) bool { return strings.Count(s, "tinyrunner at http://127.0.0.1:") > 1 })
			if how == "signal" {
				cmd.Process.Signal(syscall.SIGTERM)
			} else if _, err := keyboard.WriteString("\tx" + how); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("%v\n%q", err, screen)
				}
			case <-time.After(time.Minute):
				t.Fatalf("it does not end\n%q", screen)
			}
			until(t, screen, func(s string) bool { return strings.HasSuffix(s, "\x1b[?1049l") })
			if !strings.Contains(screen.String(), "slots: 2, 2 free") {
				t.Errorf("%q", screen)
			}
			if after := terminalSettings(t, tty); after != before {
				t.Errorf("the terminal is left in other settings: %+v, they were %+v", after, before)
			}
		})
	}
}

func until(t *testing.T, b *syncBuffer, ok func(string) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(b.String()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %q", b)
		}
	}
}
