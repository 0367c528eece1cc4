package fnapi

import "syscall"

// childAttributes make a child the leader of a group of its own, which a signal reaches as a whole, and let it die with us.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
