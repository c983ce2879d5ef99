package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// One line of output: a JSON object whose fields keep their order. The names are those of tests/java/raftmq.
type line struct {
	text strings.Builder
}

var output sync.Mutex

func newLine(event string) *line {
	l := &line{}
	return l.put("event", event)
}

func (l *line) put(name string, value any) *line {
	comma := ","
	if l.text.Len() == 0 {
		comma = "{"
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(&l.text, "%s%q:%s", comma, name, encoded)
	return l
}

func (l *line) print() {
	output.Lock()
	defer output.Unlock()
	fmt.Fprintln(os.Stdout, l.text.String()+"}")
}

// Nanoseconds since 1970, on a clock that never jumps.
func now() int64 {
	return start.UnixNano() + time.Since(start).Nanoseconds()
}

var start = time.Now()
