//go:build !linux

package fnapi

import "syscall"

// childAttributes make a child the leader of a group of its own, which a signal reaches as a whole. Only Linux also ends it when
// this process is killed.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
