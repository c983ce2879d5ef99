package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var testLimits = limits{ops: 1000, unknown: 10, part: 10 * time.Second, all: time.Minute}

// verdictsOf checks a history that is told in lines of the form `process type op`, for example
// `1 invoke send 1-0`, `1 ok send 1-0 0`, `2 ok pull 0 1-0 1-1`, `2 ok max 2`, `0 ok drain 1-0 1-1`.
func verdictsOf(t *testing.T, limit limits, story string) []verdict {
	t.Helper()
	path := filepath.Join(t.TempDir(), "history.jsonl")
	if err := os.WriteFile(path, []byte(linesOf(t, story)), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHistory(limit)
	if err := h.readFiles([]string{path}); err != nil {
		t.Fatal(err)
	}
	return check(h.parts(), limit)
}

func linesOf(t *testing.T, story string) string {
	t.Helper()
	var text strings.Builder
	at := 0
	for _, told := range strings.Split(story, "\n") {
		words := strings.Fields(told)
		if len(words) == 0 {
			continue
		}
		at++
		fmt.Fprintf(&text, `{"t_ns":%d,"process":%s,"type":"%s","op":{%s}}`+"\n", at, words[0], words[1], opOf(t, words[2], words[3:]))
	}
	return text.String()
}

func opOf(t *testing.T, name string, words []string) string {
	t.Helper()
	field := func(name string, at int) string {
		if at >= len(words) {
			return ""
		}
		return fmt.Sprintf(`,"%s":%s`, name, words[at])
	}
	messages := func(from int, values []string) string {
		var pairs []string
		for i, v := range values {
			pairs = append(pairs, fmt.Sprintf(`[%d,"%s"]`, from+i, v))
		}
		return strings.Join(pairs, ",")
	}
	switch name {
	case "send":
		return fmt.Sprintf(`"send":{"queue":"a/t/0","value":"%s"%s}`, words[0], field("offset", 1))
	case "batch":
		values := strings.Split(words[0], ",")
		return fmt.Sprintf(`"batch":{"queue":"a/t/0","values":["%s"]%s}`, strings.Join(values, `","`), field("offset", 1))
	case "later":
		return fmt.Sprintf(`"send-later":{"queue":"a/t/0","value":"%s","delay":{"ms":9}}`, words[0])
	case "half":
		return fmt.Sprintf(`"send-half":{"queue":"a/t/0","value":"%s"}`, words[0])
	case "pull":
		from := 0
		if _, err := fmt.Sscan(words[0], &from); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`"pull":{"queue":"a/t/0","from":%d,"assigned":true,"messages":[%s]}`, from, messages(from, words[1:]))
	case "drain":
		return fmt.Sprintf(`"drain":{"replica":1,"queue":"a/t/0","way":"pull","messages":[%s],"bounds":{"min":0,"max":%d}}`,
			messages(0, words), len(words))
	case "max":
		return fmt.Sprintf(`"max-offset":{"queue":"a/t/0"%s}`, field("offset", 0))
	case "commit":
		return fmt.Sprintf(`"commit":{"group":"g","queue":"a/t/0"%s}`, field("offset", 0))
	case "query":
		return fmt.Sprintf(`"query":{"group":"g","queue":"a/t/0"%s}`, field("offset", 0))
	case "write":
		return fmt.Sprintf(`"topic-write":{"broker":"a","topic":"t"%s}`, field("config", 0))
	case "current", "stale":
		return fmt.Sprintf(`"topic-read":{"broker":"a","topic":"t","current":%v%s}`, name == "current", field("config", 0))
	default:
		return `"phase":"load"`
	}
}

func expect(t *testing.T, rule, result, story string) verdict {
	t.Helper()
	verdicts := verdictsOf(t, testLimits, story)
	if len(verdicts) != 1 || verdicts[0].Rule != rule || verdicts[0].Result != result {
		t.Fatalf("%s %s expected of\n%s\ngot %+v", rule, result, story, verdicts)
	}
	return verdicts[0]
}

// Of a queue that the broker fills by itself nobody knows when a message came to it.
func TestQueuesThatTheBrokerFillsAreLeftOut(t *testing.T) {
	for _, op := range []string{"later", "half"} {
		verdicts := verdictsOf(t, testLimits, `
		1 invoke `+op+` 1-0
		1 ok `+op+` 1-0
		3 invoke pull 0
		3 ok pull 0 1-0
		3 invoke max
		3 ok max 1`)
		if len(verdicts) != 0 {
			t.Fatalf("nothing expected of %s, got %+v", op, verdicts)
		}
	}
}

func TestQueue(t *testing.T) {
	expect(t, "P1", "ok", `
		0 ok phase
		1 invoke send 1-0
		2 invoke batch 2-0,2-1
		2 ok batch 2-0,2-1 0
		3 invoke max
		1 ok send 1-0 2
		3 ok max 2
		4 invoke pull 0
		4 ok pull 0 2-0 2-1 1-0`)
	// a question that began after the acknowledgement
	expect(t, "P1", "illegal", `
		1 invoke send 1-0
		1 ok send 1-0 0
		3 invoke max
		3 ok max 0`)
	// one that is too far ahead
	expect(t, "P1", "illegal", `
		3 invoke max
		3 ok max 1
		1 invoke send 1-0
		1 ok send 1-0 0`)
	// two appends in the order of their offsets, against real time
	expect(t, "P1", "illegal", `
		1 invoke send 1-0
		1 ok send 1-0 1
		2 invoke send 2-0
		2 ok send 2-0 0`)
	// something else is read than was acknowledged
	expect(t, "P1", "illegal", `
		1 invoke send 1-0
		2 invoke send 2-0
		1 ok send 1-0 0
		2 ok send 2-0 1
		4 invoke pull 0
		4 ok pull 0 2-0 1-0`)
	// read before it was sent
	expect(t, "P1", "illegal", `
		4 invoke pull 0
		4 ok pull 0 1-0
		1 invoke send 1-0
		1 ok send 1-0 0`)
	// a refusal that was none
	expect(t, "P1", "illegal", `
		1 invoke send 1-0
		1 fail send 1-0
		4 invoke pull 0
		4 ok pull 0 1-0`)
}

func TestQueueUnknown(t *testing.T) {
	// it happened, somebody read it; and another time nobody did
	v := expect(t, "P1", "ok", `
		1 invoke send 1-0
		1 info send 1-0
		2 invoke send 2-0
		2 ok send 2-0 1
		4 invoke pull 0
		4 ok pull 0 1-0 2-0
		3 invoke send 3-0
		3 info send 3-0
		5 invoke max
		5 ok max 2`)
	if v.Unknown != 1 {
		t.Fatalf("what nobody noticed is left out: %+v", v)
	}
	// it may have happened where nobody looked
	expect(t, "P1", "ok", `
		1 invoke send 1-0
		1 info send 1-0
		2 invoke send 2-0
		2 ok send 2-0 1`)
	// but not if the drain shows nothing there
	expect(t, "P1", "illegal", `
		1 invoke send 1-0
		1 info send 1-0
		2 invoke send 2-0
		2 ok send 2-0 1
		0 ok drain`)
	// it does not happen before it begins
	expect(t, "P1", "illegal", `
		2 invoke send 2-0
		2 ok send 2-0 1
		1 invoke send 1-0
		1 info send 1-0
		0 ok drain 1-0 2-0`)
	// nor is it gone once somebody was told of it
	expect(t, "P1", "illegal", `
		1 invoke send 1-0
		1 info send 1-0
		4 invoke pull 0
		4 ok pull 0 1-0
		5 invoke max
		5 ok max 0`)
	// a client that tried again stores twice, even after its acknowledgement
	expect(t, "P1", "ok", `
		1 invoke send 1-0
		1 ok send 1-0 0
		2 invoke send 2-0
		2 ok send 2-0 1
		4 invoke pull 0
		4 ok pull 0 1-0 2-0 1-0`)
	// of a batch all is there
	expect(t, "P1", "ok", `
		1 invoke batch 1-0,1-1
		1 info batch 1-0,1-1
		4 invoke pull 1
		4 ok pull 1 1-1`)
	expect(t, "P1", "illegal", `
		1 invoke batch 1-0,1-1
		1 info batch 1-0,1-1
		4 invoke pull 0
		4 ok pull 0 1-1`)
}

func TestQueueCaps(t *testing.T) {
	story := `
		1 invoke send 1-0
		2 invoke send 2-0
		1 ok send 1-0 0
		3 invoke send 3-0
		3 ok send 3-0 1
		2 ok send 2-0 2
		4 invoke max
		4 ok max 0`
	limit := testLimits
	limit.ops = 2
	// 2-0 returned after the cap, at an offset behind one that was left out: it may have come later than all that is searched
	verdicts := verdictsOf(t, limit, story)
	if verdicts[0].Result != "ok" || verdicts[0].LeftOut != 2 || verdicts[0].Ops != 1 {
		t.Fatalf("%+v", verdicts)
	}
	if verdicts = verdictsOf(t, testLimits, story); verdicts[0].Result != "illegal" {
		t.Fatalf("%+v", verdicts)
	}
	limit = testLimits
	limit.unknown = 0
	verdicts = verdictsOf(t, limit, `
		1 invoke send 1-0
		1 info send 1-0
		4 invoke pull 0
		4 ok pull 0 1-0`)
	if verdicts[0].Result != "unknown" {
		t.Fatalf("%+v", verdicts)
	}
}

func TestOffsets(t *testing.T) {
	expect(t, "P2", "ok", `
		1 invoke query
		1 ok query
		1 invoke query
		1 ok query 0
		1 invoke commit 5
		2 invoke query
		2 ok query 5
		1 ok commit 5
		3 invoke commit 3
		3 info commit 3
		2 invoke query
		2 ok query 5
		2 invoke query
		2 ok query 3`)
	expect(t, "P2", "illegal", `
		1 invoke commit 5
		1 ok commit 5
		2 invoke query
		2 ok query`)
	// an acknowledged offset falls back
	expect(t, "P2", "illegal", `
		1 invoke commit 5
		1 ok commit 5
		1 invoke commit 6
		1 ok commit 6
		2 invoke query
		2 ok query 5`)
	// a refused one is there
	expect(t, "P2", "illegal", `
		1 invoke commit 5
		1 fail commit 5
		2 invoke query
		2 ok query 5`)
	// it comes and goes again
	expect(t, "P2", "illegal", `
		1 invoke commit 5
		1 info commit 5
		2 invoke query
		2 ok query 5
		2 invoke query
		2 ok query`)
}

func TestTopics(t *testing.T) {
	expect(t, "P3", "ok", `
		1 invoke write "x"
		1 ok write "x"
		2 invoke stale
		2 ok stale
		2 invoke current
		2 ok current "x"
		1 invoke write
		1 ok write
		2 invoke stale
		2 ok stale "x"
		2 invoke current
		2 ok current`)
	expect(t, "P3", "illegal", `
		1 invoke write "x"
		1 ok write "x"
		2 invoke current
		2 ok current`)
	expect(t, "P3", "illegal", `
		2 invoke stale
		2 ok stale "x"
		1 invoke write "x"
		1 ok write "x"`)
}

func TestLists(t *testing.T) {
	l := emptyList()
	for i := range value(1000) {
		l = l.push(i)
	}
	for length := range int64(1000) {
		if first := l.first(length + 1); first.length != length+1 || first.last != value(length) {
			t.Fatalf("%d: %+v", length, first)
		}
	}
}

func TestBrokenLinesAreErrors(t *testing.T) {
	for _, text := range []string{"{\n", `{"op":{"send":{"value":"x"}}}` + "\n", `{"t_ns":1`} {
		path := filepath.Join(t.TempDir(), "history.jsonl")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := newHistory(testLimits).readFiles([]string{path}); err == nil {
			t.Fatalf("%q is read", text)
		}
	}
}

// The sizes that reliability.md section 0 names, to see what they cost: go test -bench . -benchmem
func BenchmarkQueue(b *testing.B) {
	for b.Loop() {
		h := newHistory(limits{ops: 20000, unknown: 300})
		q := h.queue("a/t/0")
		const clients = 16
		offset := int64(0)
		for n := range 19000 / clients {
			for client := range uint32(clients) {
				q.append(&line{Process: client, Type: "invoke"}, int(offset)+n, []value{value(client)<<32 | value(n)}, nil)
			}
			for client := range uint32(clients) {
				at := offset + int64(clients-1-client)
				q.append(&line{Process: client, Type: "ok"}, int(offset)+n+1, nil, &at)
			}
			offset += clients
		}
		if result := search(q.part(), time.Minute); result != "ok" {
			b.Fatal(result)
		}
	}
}
