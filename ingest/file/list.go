package file

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// List finds the log files that paths name: a file itself, and of a directory
// all regular files in it and below it but hidden ones, unfinished ones (*.tmp,
// *.part) and CloudTrail's digests. They come sorted, each once.
func List(paths []string) ([]string, error) {
	var files []string
	for _, p := range paths {
		p = filepath.Clean(p)
		st, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("look for log files: %w", err)
		}
		if !st.IsDir() {
			files = append(files, p)
			continue
		}
		err = filepath.WalkDir(p, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case name == p:
				return nil
			case strings.HasPrefix(d.Name(), "."), d.IsDir() && d.Name() == "CloudTrail-Digest":
				if d.IsDir() {
					return filepath.SkipDir
				}
				return nil
			case strings.HasSuffix(name, ".tmp"), strings.HasSuffix(name, ".part"):
				return nil
			case d.Type().IsRegular():
				files = append(files, name)
			case d.Type()&fs.ModeSymlink != 0:
				if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() {
					files = append(files, name)
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look for log files: %w", err)
		}
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}
