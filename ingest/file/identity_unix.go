//go:build unix

package file

import (
	"io/fs"
	"strconv"
	"syscall"
)

// identity names the file behind a path, whatever it is called.
func identity(path string, st fs.FileInfo) string {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return strconv.FormatUint(uint64(s.Dev), 36) + ":" + strconv.FormatUint(uint64(s.Ino), 36)
	}
	return path
}
