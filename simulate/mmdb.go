package simulate

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"go4.org/netipx"
)

// network is a range of addresses and who is said to run it.
type network struct {
	prefix  string
	country string
	asn     uint32
	name    string
}

// country is one that customers live in.
type country struct {
	code        string
	block       int    // third group of its IPv6 addresses, upper half
	mobile      string // beginning of the addresses of its mobile operator
	mobileFirst int
}

func customerCountries() []country {
	return []country{
		{"DE", 0x10, "192.0.2.", 1},
		{"FR", 0x20, "2001:db8:2fff:5::", 1},
		{"NL", 0x30, "2001:db8:3fff:5::", 1},
		{"GB", 0x40, "2001:db8:4fff:5::", 1},
		{"ES", 0x50, "192.0.2.", 65},
	}
}

// networks divides the documentation ranges among countries and operators; the
// AS numbers are reserved for documentation, too.
func networks() []network {
	return []network{
		{"192.0.2.0/26", "DE", 64496, "Example Mobil DE"},
		{"192.0.2.64/26", "ES", 64497, "Example Movil ES"},
		{"192.0.2.128/26", "NL", 64498, "Example Build Runners"},
		{"192.0.2.192/26", "US", 64499, "Example Cloud"},
		{"198.51.100.0/25", "GB", 64500, "Example Office GB"},
		{"198.51.100.128/25", "BR", 64501, "Example Hosting BR"},
		{"203.0.113.0/26", "SG", 64502, "Example Servers SG"},
		{"203.0.113.64/26", "RO", 64503, "Example Servers RO"},
		{"203.0.113.128/25", "US", 64504, "Example Virtual Machines"},
		{"2001:db8:1000::/36", "DE", 64505, "Example Telekom DE"},
		{"2001:db8:2000::/36", "FR", 64506, "Example Telecom FR"},
		{"2001:db8:2fff::/48", "FR", 64507, "Example Mobile FR"},
		{"2001:db8:3000::/36", "NL", 64508, "Example Telecom NL"},
		{"2001:db8:3fff::/48", "NL", 64509, "Example Mobiel NL"},
		{"2001:db8:4000::/36", "GB", 64510, "Example Broadband GB"},
		{"2001:db8:4fff::/48", "GB", 64511, "Example Mobile GB"},
		{"2001:db8:5000::/36", "ES", 65536, "Example Fibra ES"},
		{"2001:db8:9000::/36", "US", 65537, "Example Broadband US"},
	}
}

// WriteMMDB writes a small address database to path that maps the documentation
// ranges to countries and network operators. It is for the simulated logs only:
// none of it is true.
func WriteMMDB(path string) error {
	tree, err := mmdbwriter.New(mmdbwriter.Options{
		DatabaseType:            "Vedette-Simulated-Country-ASN",
		Description:             map[string]string{"en": "Invented data for the documentation ranges"},
		BuildEpoch:              1,
		IPVersion:               6,
		RecordSize:              24,
		IncludeReservedNetworks: true,
		DisableIPv4Aliasing:     true,
	})
	if err != nil {
		return fmt.Errorf("simulate: address database: %w", err)
	}
	for _, n := range networks() {
		p, err := netip.ParsePrefix(n.prefix)
		if err != nil {
			return fmt.Errorf("simulate: address database: %w", err)
		}
		err = tree.Insert(netipx.PrefixIPNet(p), mmdbtype.Map{
			"country":                        mmdbtype.Map{"iso_code": mmdbtype.String(n.country)},
			"autonomous_system_number":       mmdbtype.Uint32(n.asn),
			"autonomous_system_organization": mmdbtype.String(n.name),
		})
		if err != nil {
			return fmt.Errorf("simulate: address database: insert %s: %w", n.prefix, err)
		}
	}
	var b bytes.Buffer
	if _, err := tree.WriteTo(&b); err != nil {
		return fmt.Errorf("simulate: address database: %w", err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("simulate: write address database: %w", err)
	}
	return nil
}
