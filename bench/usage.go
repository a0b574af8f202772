package bench

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// processCPU is the CPU time of this process, user and system.
func processCPU() time.Duration { return rusageCPU(syscall.RUSAGE_SELF) }

// childCPU is the CPU time of children that have ended, theirs included.
func childCPU() time.Duration { return rusageCPU(syscall.RUSAGE_CHILDREN) }

func rusageCPU(who int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is the memory that the process has in RAM, and the most that it had
// since resetPeak, in bytes; what the system does not tell is 0.
func resident() (now, peak int64) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			return 0, 0
		}
		unit := int64(1024)
		if runtime.GOOS == "darwin" {
			unit = 1
		}
		return 0, int64(u.Maxrss) * unit
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		name, rest, _ := strings.Cut(sc.Text(), ":")
		var to *int64
		switch name {
		case "VmRSS":
			to = &now
		case "VmHWM":
			to = &peak
		default:
			continue
		}
		if kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64); err == nil {
			*to = kb << 10
		}
	}
	return now, peak
}

// resetPeak begins anew with resident's peak, where the system can.
func resetPeak() {
	// It is for a figure of a report: where it cannot be, the peak is that of the whole run.
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}
