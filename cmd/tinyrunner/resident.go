package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// residentSelf returns the bytes of this process in memory, and those of them that are pages of files; -1: not known, as on
// systems without /proc. See proc_pid_status(5).
func residentSelf() (all, file int64) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return -1, -1
	}
	all, file = -1, -1
	for line := range strings.SplitSeq(string(data), "\n") {
		name, rest, _ := strings.Cut(line, ":")
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "VmRSS":
			all = kb << 10
		case "RssFile":
			file = kb << 10
		}
	}
	return all, file
}

// maxDescendants bounds the processes that residentTree looks at.
const maxDescendants = 256

// residentTree returns the bytes in memory of a process and of all that it has started: an SDK's boot program starts the
// harness proper. Pages that they share count for each. -1: there is no such process, or no /proc.
func residentTree(pid int) int64 {
	if pid == 0 {
		return -1
	}
	total := int64(-1)
	todo := []int{pid}
	for n := 0; len(todo) > 0 && n < maxDescendants; n++ {
		pid, todo = todo[0], todo[1:]
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue
		}
		var size, resident int64 // in pages
		if _, err := fmt.Sscan(string(data), &size, &resident); err != nil {
			continue
		}
		total = max(total, 0) + resident*int64(os.Getpagesize())
		todo = append(todo, children(pid)...)
	}
	return total
}

// children are the processes that the threads of a process have started and that are still there.
func children(pid int) []int {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil
	}
	var out []int
	for _, t := range tasks {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(data)) {
			if n, err := strconv.Atoi(field); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// builtWithCgo: Pebble then keeps its memory outside of Go's heap.
func builtWithCgo() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "CGO_ENABLED" {
			return s.Value == "1"
		}
	}
	return false
}
