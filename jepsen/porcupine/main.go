// Command porcupine searches for a linearization of each part of a history: of every queue (P1), of every consumer offset
// (P2) and of every topic's configuration (P3). It reads the JSON lines that jepsen/src/history.rs describes and prints its
// verdicts as JSON; jepsen/src/check/porcupine.rs runs it.
//
// It shares no code with the Rust checkers, so that a mistake in one does not hide in the other.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// verdict is what the search says of one part.
type verdict struct {
	Rule string `json:"rule"`
	Key  string `json:"key"`
	// ok, illegal or unknown.
	Result string `json:"result"`
	// Operations searched, those among them whose end nobody knows, and those left out beyond the cap.
	Ops     int     `json:"ops"`
	Unknown int     `json:"unknown"`
	LeftOut int     `json:"left_out"`
	Seconds float64 `json:"seconds"`
	Why     string  `json:"why,omitempty"`
}

// limits bound the search, which takes time and memory that grow faster than the history.
type limits struct {
	ops, unknown int
	// For each part, and for all of them.
	part, all time.Duration
	// Where to draw what is not linearizable; empty: nowhere.
	html string
}

// part is a piece of the history that is linearizable or not by itself.
type part struct {
	rule, key string
	model     porcupine.Model
	events    []porcupine.Event
	ops       int
	unknown   int
	leftOut   int
	// Set: there is no need, or no use, to search.
	result, why string
}

func main() {
	var limit limits
	flag.IntVar(&limit.ops, "ops", 20000, "operations of one part that are searched")
	flag.IntVar(&limit.unknown, "unknown", 300, "operations of unknown outcome among them")
	flag.DurationVar(&limit.part, "time", time.Minute, "time for one part")
	flag.DurationVar(&limit.all, "total", 15*time.Minute, "time for all parts")
	flag.StringVar(&limit.html, "html", "", "directory for drawings of what is not linearizable")
	flag.Parse()
	history := newHistory(limit)
	if err := history.readFiles(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	verdicts := check(history.parts(), limit)
	if err := json.NewEncoder(os.Stdout).Encode(map[string]any{"parts": verdicts}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// check searches one part after the other, since a search takes what memory there is.
func check(parts []part, limit limits) []verdict {
	begun := time.Now()
	verdicts := []verdict{}
	for _, p := range parts {
		v := verdict{Rule: p.rule, Key: p.key, Result: p.result, Ops: p.ops, Unknown: p.unknown, LeftOut: p.leftOut, Why: p.why}
		left := min(limit.part, limit.all-time.Since(begun))
		started := time.Now()
		switch {
		case v.Result != "":
		case left <= 0:
			v.Result, v.Why = "unknown", "the time for all parts was up"
		default:
			v.Result = search(p, left)
			if v.Result == "illegal" {
				v.Why = explain(p, limit)
			} else if v.Result == "unknown" {
				v.Why = fmt.Sprintf("not decided in %v", left)
			}
		}
		v.Seconds = time.Since(started).Seconds()
		verdicts = append(verdicts, v)
	}
	return verdicts
}

func search(p part, limit time.Duration) string {
	switch porcupine.CheckEventsTimeout(p.model, p.events, limit) {
	case porcupine.Ok:
		return "ok"
	case porcupine.Illegal:
		return "illegal"
	default:
		return "unknown"
	}
}

// explain says how far the longest linearization comes, and draws it.
func explain(p part, limit limits) string {
	result, info := porcupine.CheckEventsVerbose(p.model, p.events, limit.part)
	if result != porcupine.Illegal {
		return "not linearizable (too large to explain)"
	}
	longest := 0
	for _, partials := range info.PartialLinearizations() {
		for _, partial := range partials {
			longest = max(longest, len(partial))
		}
	}
	why := fmt.Sprintf("not linearizable: %d of %d operations fit one order", longest, p.ops)
	if limit.html == "" {
		return why
	}
	path := filepath.Join(limit.html, p.rule+"-"+strings.ReplaceAll(p.key, "/", "_")+".html")
	if err := porcupine.VisualizePath(p.model, info, path); err != nil {
		return why + "; not drawn: " + err.Error()
	}
	return why + "; drawn in " + path
}
