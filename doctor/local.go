package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/oschwald/maxminddb-golang/v2"
	"golang.org/x/sys/unix"

	"github.com/vedette-sec/vedette/detect/enrich"
)

// lowDisk is how much has to be free in the data directory, in bytes.
const lowDisk = 512 << 20

func (d *doctor) dataDir(context.Context) {
	c := d.check("data_dir")
	dir := d.o.Config.DataDir
	const remedy = "create the directory and give it to the user that runs Vedette, or name another in data_dir"
	if st, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		c.fail(remedy, "%s does not exist", dir)
		return
	} else if err == nil && !st.IsDir() {
		c.fail(remedy, "%s is no directory", dir)
		return
	}
	f, err := os.CreateTemp(dir, ".doctor-")
	if err != nil {
		c.fail(remedy, "cannot be written: %v", err)
		return
	}
	_, err = f.Write(make([]byte, 4096))
	err = errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
	if err != nil {
		c.fail("see whether the disk is full or broken", "cannot be written: %v", err)
		return
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil {
		if free := int64(st.Bavail) * int64(st.Bsize); free < lowDisk {
			c.warn("make room", "%s is writable, but only %d MiB are free", dir, free>>20)
			return
		}
	}
	c.ok("%s is writable", dir)
}

// certEnd is how long before its end a certificate is worth a warning.
const certEnd = 14 * 24 * time.Hour

func (d *doctor) tls(context.Context) {
	c := d.check("api certificate")
	a := d.o.Config.API
	if a.TLSCertFile == "" {
		if host, _, err := net.SplitHostPort(a.Listen); err == nil && !loopback(host) {
			c.warn("set api.tls_cert_file and api.tls_key_file, or put a proxy in front that encrypts",
				"none, and %s is not loopback: tokens and incidents travel readably", a.Listen)
			return
		}
		c.ok("none needed on %s", a.Listen)
		return
	}
	pair, err := tls.LoadX509KeyPair(a.TLSCertFile, a.TLSKeyFile)
	if err != nil {
		c.fail("correct api.tls_cert_file and api.tls_key_file, and let the user that runs Vedette read them", "%v", err)
		return
	}
	switch left := pair.Leaf.NotAfter.Sub(d.o.Now()); {
	case left <= 0:
		c.fail("renew it", "it ended on %s", pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	case left < certEnd:
		c.warn("renew it", "it ends on %s", pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	default:
		c.ok("good until %s", pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	}
}

// externalURL judges the links that alerts will hold.
func (d *doctor) externalURL(context.Context) {
	c := d.check("external_url")
	a := d.o.Config.API
	const remedy = "set api.external_url to the address at which people reach Vedette"
	told := len(d.o.Config.Alerting.Receivers) > 0
	if a.ExternalURL == "" {
		if told {
			c.warn(remedy, "not set: links in alerts will lead to http://%s", a.Listen)
			return
		}
		c.ok("not set, and there is nobody to send links to")
		return
	}
	u, err := url.Parse(a.ExternalURL)
	switch {
	case err != nil || u.Hostname() == "":
		c.fail(remedy, "%q is no URL", a.ExternalURL)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		c.fail(remedy, "it holds more than scheme, host and path: links made from it will not work")
	case unspecified(u.Hostname()):
		c.fail(remedy, "%s is where to listen, not where to go", u.Hostname())
	case told && loopback(u.Hostname()):
		c.warn(remedy, "links in alerts will lead each reader to their own machine: %s", a.ExternalURL)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		c.warn("serve https", "%s is not encrypted: tokens and incidents travel readably", a.ExternalURL)
	default:
		c.ok("%s", a.ExternalURL)
	}
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.Unmap().IsLoopback()
}

func unspecified(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsUnspecified()
}

// oldDatabase is the age at which an address database begins to mislead.
const oldDatabase = 90 * 24 * time.Hour

func (d *doctor) databases(context.Context) {
	paths := d.o.Config.Enrich.GeoDatabases
	if len(paths) == 0 {
		d.ok("databases", "none configured")
	}
	for _, path := range paths {
		c := d.check("database " + path)
		const remedy = "name a country, city or ASN database in MMDB format that the user that runs Vedette can read"
		if _, err := enrich.New(enrich.Options{Databases: []string{path}}); err != nil {
			c.fail(remedy, "%v", err)
			continue
		}
		db, err := maxminddb.Open(path)
		if err != nil {
			c.fail(remedy, "%v", err)
			continue
		}
		built := time.Unix(int64(db.Metadata.BuildEpoch), 0).UTC()
		kind := db.Metadata.DatabaseType
		db.Close()
		if age := d.o.Now().Sub(built); age > oldDatabase {
			c.warn("fetch a newer one", "%s of %s: addresses have moved in %d days", kind, built.Format(time.DateOnly), int(age.Hours()/24))
			continue
		}
		c.ok("%s of %s", kind, built.Format(time.DateOnly))
	}
}

func (d *doctor) inventory(context.Context) {
	c := d.check("inventory")
	n := len(d.o.Inventory.Functions)
	if _, err := enrich.New(enrich.Options{Inventory: d.o.Inventory}); err != nil {
		c.fail("correct enrich.inventory", "%v", err)
		return
	}
	c.ok("%s described", plural(n, "function"))
}

// maxFiles bounds how many files of a collector are looked at.
const maxFiles = 10000

func (d *doctor) collectors(ctx context.Context) {
	for _, s := range d.o.Config.Collect.Files {
		c := d.check("collector " + s.Name)
		files := 0
		for _, path := range s.Paths {
			files += readable(ctx, c, path, maxFiles-files)
		}
		switch {
		case !c.clean():
		case files == 0:
			c.warn("nothing, if logs are still to come; otherwise correct collect.files", "no file yet in %s", strings.Join(s.Paths, ", "))
		case files >= maxFiles:
			c.ok("the first %d files can be read", files)
		default:
			c.ok("%s can be read", plural(files, "file"))
		}
	}
}

// readable opens the files at or below path, at most limit, and counts them.
func readable(ctx context.Context, c *check, path string, limit int) int {
	const remedy = "let the user that runs Vedette read it (a group that may, or an ACL), or correct collect.files"
	files, bad := 0, 0
	var first error
	err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && name == path:
			return err
		case err != nil:
			bad++
			if first == nil {
				first = err
			}
			if e != nil && e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case files >= limit:
			return fs.SkipAll
		case e.IsDir():
			return nil
		}
		st, err := os.Stat(name)
		if err == nil && !st.Mode().IsRegular() {
			return nil // to open a pipe would wait for its writer
		}
		files++
		if err == nil {
			var f *os.File
			if f, err = os.Open(name); err == nil {
				f.Close()
			}
		}
		if err != nil {
			bad++
			if first == nil {
				first = err
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.fail("create it, or correct collect.files", "%s does not exist", path)
	case err != nil:
		c.fail(remedy, "%v", err)
	case bad > 0:
		c.fail(remedy, "%s cannot be read: %v", plural(bad, "file or directory"), first)
	}
	return files
}
