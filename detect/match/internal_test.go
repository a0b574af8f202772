package match

import (
	"bytes"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/vedette-sec/vedette/detect/rule"
	"github.com/vedette-sec/vedette/event"
	"github.com/vedette-sec/vedette/stream"
)

func TestParseAddrLikeNetip(t *testing.T) {
	check := func(t interface{ Errorf(string, ...any) }, s string) {
		want, err := netip.ParseAddr(s)
		wantOK := err == nil && want.Zone() == ""
		got, ok := parseAddr([]byte(s))
		if ok != wantOK || ok && got != want.Unmap() {
			t.Errorf("%q: got %v %v, netip %v %v", s, got, ok, want, err)
		}
	}
	for _, s := range []string{
		"", ".", ":", "::", ":::", "::1", "1::", "1::2", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1::3:4:5:6:7:8",
		"1:2:3:4:5:6:7:8:9", "1:2:3:4::5:6:7:8", "1::2::3", "1:2:3", "12345::", "g::", "::ffff:1.2.3.4", "::1.2.3.4", "1:2:3:4:5:6:1.2.3.4",
		"1:2:3:4:5:6:7:1.2.3.4", "::1.2.3.4:5", "1.2.3.4", "01.2.3.4", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.1000", "1..2.3", " 1.2.3.4",
		"fe80::1%eth0", "2001:DB8::a", "ec2.amazonaws.com", "1.2.3.4:80", "0000:0000:0000:0000:0000:0000:255.255.255.255", "1:", ":1", "1::2:",
	} {
		check(t, s)
	}
	piece := rapid.SampledFrom([]string{":", "::", ".", "0", "1", "25", "255", "256", "ff", "ABCD", "12345", "1.2.3.4", "%", "g"})
	rapid.Check(t, func(t *rapid.T) {
		check(t, strings.Join(rapid.SliceOfN(piece, 0, 18).Draw(t, "pieces"), ""))
	})
}

func TestFoldedLikeEqualFold(t *testing.T) {
	text := rapid.StringOfN(rapid.OneOf(rapid.RuneFrom([]rune("aAzZkKsS[@`{\u212a\u017fσςΣßẞİıǅéÉ")), rapid.Rune()), 0, 20, -1)
	rapid.Check(t, func(t *rapid.T) {
		a := text.Draw(t, "a")
		b := rapid.OneOf(text, rapid.Just(strings.ToUpper(a)), rapid.Just(strings.ToLower(a))).Draw(t, "b")
		got := bytes.Equal(appendFolded(nil, []byte(a)), appendFolded(nil, []byte(b)))
		if want := strings.EqualFold(a, b); got != want {
			t.Errorf("%q and %q: folded equal %v, EqualFold %v", a, b, got, want)
		}
	})
}

func TestGlobLikeRegexp(t *testing.T) {
	alphabet := rapid.SampledFrom([]string{"a", "b", "é", "𝄞", "\n"})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(alphabet, 0, 12).Draw(t, "text"), "")
		glob, expr := "", ""
		for range rapid.IntRange(0, 8).Draw(t, "length") {
			switch p := rapid.IntRange(0, 3).Draw(t, "part"); p {
			case 0:
				glob, expr = glob+"\xff", expr+".*"
			case 1:
				glob, expr = glob+"\xfe", expr+"."
			default:
				s := alphabet.Draw(t, "literal")
				glob, expr = glob+s, expr+s
			}
		}
		got, want := globMatch(glob, []byte(text)), regexp.MustCompile(`(?s)\A`+expr+`\z`).MatchString(text)
		if got != want {
			t.Errorf("%q like %q: %v, want %v", text, glob, got, want)
		}
	})
}

func TestNumbers(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"1", "1.0", 0},
		{"1e2", "100", 0},
		{"-1", "-2", 1},
		{"0", "-0", 0},
		{"9007199254740993", "9007199254740992", 1}, // more than a float64 tells apart
		{"123456789012345678901234567890", "1", 1},
		{"1e999", "1e308", 1},
		{"-1e999", "1", -1},
		{"1e-999", "0", 0},
	} {
		a, okA := parseNum([]byte(tc.a))
		b, okB := parseNum([]byte(tc.b))
		if !okA || !okB {
			t.Errorf("%s, %s: not read", tc.a, tc.b)
			continue
		}
		if got := a.cmp(b); got != tc.want {
			t.Errorf("%s to %s: %d, want %d", tc.a, tc.b, got, tc.want)
		}
		if got := b.cmp(a); got != -tc.want {
			t.Errorf("%s to %s: %d, want %d", tc.b, tc.a, got, -tc.want)
		}
	}
	for _, s := range []string{"", "-", "01", "+1", "1.", ".5", "1e", "0x1", "1_0", "NaN", "Inf", " 1", "1 ", strings.Repeat("1", 500)} {
		if n, ok := parseNum([]byte(s)); ok {
			t.Errorf("%q is read as %v", s, n)
		}
	}
}

func TestNeededLiterals(t *testing.T) {
	for src, want := range map[string]string{
		`curl/[0-9]+`:           "curl/",
		`^(?i)CURL$`:            "curl",
		`(wget|curl)x*`:         "wget curl",
		`(wget|x*)`:             "",
		`[a-z]+`:                "",
		`a.*longer.*b`:          "longer",
		`(ab)+`:                 "ab",
		`(abc){2,}`:             "abc",
		`x?`:                    "",
		`a(b|c|d|e|f)`:          "a",
		`\.amazonaws\.com$`:     ".amazonaws.com",
		`(?i)straße|K(elvin|x)`: "straße k",
	} {
		var got []string
		for _, l := range neededLiterals(src) {
			got = append(got, string(l))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %q, want %q", src, got, want)
		}
	}
}

func TestPlansAreBounded(t *testing.T) {
	set, _, err := rule.FromSources(map[string][]byte{"a.yml": []byte(
		"title: A\nid: a\nlogsource: {product: aws, service: cloudtrail}\ndetection: {s: {eventName|endswith: '7', x: y}, condition: s}\n",
	)})
	if err != nil {
		t.Fatal(err)
	}
	m := New(set)
	d := event.NewDecoder()
	var ev event.Event
	var hits []int32
	for i := range maxPlans + 200 {
		name := fmt.Sprintf("name-%d", i)
		record := fmt.Appendf(nil, `{"eventTime":"2026-01-02T03:04:05Z","eventSource":"s","eventName":%q,"x":"y"}`, name)
		if err := d.Decode(&ev, event.Record{Type: event.TypeCloudTrail, Data: record}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if hits = m.Match(&ev, hits[:0]); (len(hits) == 1) != strings.HasSuffix(name, "7") {
				t.Fatalf("%s: %d rules match", name, len(hits))
			}
		}
	}
	if n := len(m.types[0].byKind); n != maxPlans {
		t.Errorf("%d plans are kept, want %d", n, maxPlans)
	}
}

// Who is not traced pays nothing a batch, let alone a record.
func TestWithoutTraces(t *testing.T) {
	w := &worker{}
	recs := make([]stream.Record, 1)
	var f flight
	if n := testing.AllocsPerRun(100, func() {
		w.notes.judge(lap{}, lap{}, recs)
		w.notes.wait(time.Time{})
		w.trace(&f)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
