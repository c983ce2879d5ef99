package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/anishathalye/porcupine"
)

// value is a message's value as one number: process and counter, 32 bits each.
type value uint64

const foreign = math.MaxUint32

func (v *value) UnmarshalJSON(text []byte) error {
	process, counter, ok := strings.Cut(strings.Trim(string(text), `"`), "-")
	if !ok {
		return fmt.Errorf("%s is no value", text)
	}
	if process == "foreign" {
		hash, err := strconv.ParseUint(counter, 16, 32)
		*v = value(foreign<<32 | hash)
		return err
	}
	p, err := strconv.ParseUint(process, 10, 32)
	if err != nil {
		return err
	}
	c, err := strconv.ParseUint(counter, 10, 32)
	*v = value(p<<32 | c)
	return err
}

func (v value) String() string {
	if v>>32 == foreign {
		return fmt.Sprintf("foreign-%08x", uint32(v))
	}
	return fmt.Sprintf("%d-%d", v>>32, uint32(v))
}

// read is a message that somebody got: [offset, value].
type read struct {
	offset int64
	value  value
}

func (r *read) UnmarshalJSON(text []byte) error {
	var pair [2]json.RawMessage
	if err := json.Unmarshal(text, &pair); err != nil {
		return err
	}
	if err := json.Unmarshal(pair[0], &r.offset); err != nil {
		return err
	}
	return r.value.UnmarshalJSON(pair[1])
}

// line is what this program needs of a line.
type line struct {
	T       uint64 `json:"t_ns"`
	Process uint32 `json:"process"`
	Type    string `json:"type"`
	Op      struct {
		Send *struct {
			Queue  string `json:"queue"`
			Value  value  `json:"value"`
			Offset *int64 `json:"offset"`
		} `json:"send"`
		Batch *struct {
			Queue  string  `json:"queue"`
			Values []value `json:"values"`
			Offset *int64  `json:"offset"`
		} `json:"batch"`
		SendLater *struct {
			Queue string `json:"queue"`
		} `json:"send-later"`
		SendHalf *struct {
			Queue string `json:"queue"`
		} `json:"send-half"`
		Pull *struct {
			Queue    string `json:"queue"`
			From     int64  `json:"from"`
			Messages []read `json:"messages"`
		} `json:"pull"`
		Deliver *struct {
			Queue    string `json:"queue"`
			Messages []read `json:"messages"`
		} `json:"deliver"`
		MaxOffset *struct {
			Queue  string `json:"queue"`
			Offset *int64 `json:"offset"`
		} `json:"max-offset"`
		Drain *struct {
			Queue    string `json:"queue"`
			Messages []read `json:"messages"`
			Bounds   *struct {
				Min int64 `json:"min"`
				Max int64 `json:"max"`
			} `json:"bounds"`
		} `json:"drain"`
		Commit *struct {
			Group  string `json:"group"`
			Queue  string `json:"queue"`
			Offset int64  `json:"offset"`
		} `json:"commit"`
		Query *struct {
			Group  string `json:"group"`
			Queue  string `json:"queue"`
			Offset *int64 `json:"offset"`
		} `json:"query"`
		TopicWrite *struct {
			Broker string  `json:"broker"`
			Topic  string  `json:"topic"`
			Config *string `json:"config"`
		} `json:"topic-write"`
		TopicRead *struct {
			Broker  string  `json:"broker"`
			Topic   string  `json:"topic"`
			Current bool    `json:"current"`
			Config  *string `json:"config"`
		} `json:"topic-read"`
	} `json:"op"`
}

// skipped are the operations that say nothing about the parts: their lines are not decoded, since a history has millions.
var skipped = [][]byte{
	[]byte(`"op":{"node":`), []byte(`"op":{"digest":`), []byte(`"op":{"nemesis":`), []byte(`"op":{"phase":`),
	[]byte(`"op":{"plan":`), []byte(`"op":{"lookup":`), []byte(`"op":{"min-offset":`), []byte(`"op":{"pop":`),
	[]byte(`"op":{"ack":`), []byte(`"op":{"change-invisible":`), []byte(`"op":{"dead-letters":`),
	[]byte(`"op":{"check-transaction":`), []byte(`"op":{"end-transaction":`),
}

// history gathers the operations of each part. Times are numbers of lines: their order is one that real time allows.
type history struct {
	limit     limits
	lines     int
	queues    map[string]*queue
	registers map[registerKey]*register
}

func newHistory(limit limits) *history {
	return &history{limit: limit, queues: map[string]*queue{}, registers: map[registerKey]*register{}}
}

// source is one file, with the line that comes next.
type source struct {
	path   string
	reader *bufio.Reader
	number int
	next   line
	ended  bool
}

// advance reads the next line that matters.
func (s *source) advance() error {
	for {
		text, err := s.reader.ReadBytes('\n')
		if err == io.EOF && len(text) == 0 {
			s.ended = true
			return nil
		}
		s.number++
		if err != nil {
			return fmt.Errorf("%s, line %d: %w", s.path, s.number, err)
		}
		if slices.ContainsFunc(skipped, func(op []byte) bool { return bytes.Contains(text, op) }) {
			continue
		}
		s.next = line{}
		if err := json.Unmarshal(text, &s.next); err != nil {
			return fmt.Errorf("%s, line %d: %w", s.path, s.number, err)
		}
		return nil
	}
}

// readFiles reads the files' lines in the order of their times.
func (h *history) readFiles(paths []string) error {
	var sources []*source
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		s := &source{path: path, reader: bufio.NewReaderSize(file, 1<<20)}
		if err := s.advance(); err != nil {
			return err
		}
		sources = append(sources, s)
	}
	for {
		var first *source
		for _, s := range sources {
			if !s.ended && (first == nil || s.next.T < first.next.T) {
				first = s
			}
		}
		if first == nil {
			return nil
		}
		h.add(&first.next)
		if err := first.advance(); err != nil {
			return err
		}
	}
}

// add takes one line in.
func (h *history) add(l *line) {
	h.lines++
	switch op := &l.Op; {
	case op.Send != nil:
		h.queue(op.Send.Queue).append(l, h.lines, []value{op.Send.Value}, op.Send.Offset)
	case op.Batch != nil:
		h.queue(op.Batch.Queue).append(l, h.lines, op.Batch.Values, op.Batch.Offset)
	case op.SendLater != nil:
		h.queue(op.SendLater.Queue).filled = true
	case op.SendHalf != nil:
		h.queue(op.SendHalf.Queue).filled = true
	case op.Pull != nil:
		h.queue(op.Pull.Queue).read(l, h.lines, op.Pull.From, op.Pull.Messages)
	case op.Deliver != nil:
		h.queue(op.Deliver.Queue).see(op.Deliver.Messages)
	case op.MaxOffset != nil:
		h.queue(op.MaxOffset.Queue).tail(l, h.lines, op.MaxOffset.Offset)
	case op.Drain != nil:
		q := h.queue(op.Drain.Queue)
		q.see(op.Drain.Messages)
		// What a replica holds from the first offset on is all that there is.
		q.drained = q.drained || op.Drain.Bounds != nil && op.Drain.Bounds.Min == 0
	case op.Commit != nil:
		key := registerKey{"P2", op.Commit.Group + " of " + op.Commit.Queue}
		h.register(key).write(l, h.lines, cell{strconv.FormatInt(op.Commit.Offset, 10), true})
	case op.Query != nil:
		got := cell{}
		if op.Query.Offset != nil {
			got = cell{strconv.FormatInt(*op.Query.Offset, 10), true}
		}
		h.register(registerKey{"P2", op.Query.Group + " of " + op.Query.Queue}).read(l, h.lines, got, true)
	case op.TopicWrite != nil:
		key := registerKey{"P3", op.TopicWrite.Broker + "/" + op.TopicWrite.Topic}
		h.register(key).write(l, h.lines, cellOf(op.TopicWrite.Config))
	case op.TopicRead != nil:
		key := registerKey{"P3", op.TopicRead.Broker + "/" + op.TopicRead.Topic}
		h.register(key).read(l, h.lines, cellOf(op.TopicRead.Config), op.TopicRead.Current)
	}
}

func (h *history) queue(name string) *queue {
	q := h.queues[name]
	if q == nil {
		q = newQueue(name, h.limit)
		h.queues[name] = q
	}
	return q
}

func (h *history) register(key registerKey) *register {
	r := h.registers[key]
	if r == nil {
		r = newRegister(key, h.limit)
		h.registers[key] = r
	}
	return r
}

// parts are all parts with something to search, in the order of their names.
func (h *history) parts() []part {
	var parts []part
	for _, q := range h.queues {
		if !q.filled {
			parts = append(parts, q.part())
		}
	}
	for _, r := range h.registers {
		parts = append(parts, r.part())
	}
	parts = slices.DeleteFunc(parts, func(p part) bool { return p.ops == 0 && p.result == "" })
	slices.SortFunc(parts, func(a, b part) int { return strings.Compare(a.rule+a.key, b.rule+b.key) })
	return parts
}

// never is when an operation returns whose end nobody knows.
const never = math.MaxInt

// span is when an operation was under way.
type span struct {
	call, ret int
}

// moment is a call or a return, to be put in order.
type moment struct {
	at    int
	event porcupine.Event
}

// timeline puts operations in the form that the search takes. Those that never return do so in the end, where they may have
// any effect, or none that somebody sees.
type timeline struct {
	moments []moment
	ops     int
	unknown int
}

func (t *timeline) add(during span, input any) {
	id := t.ops
	t.ops++
	if during.ret == never {
		t.unknown++
	}
	t.moments = append(t.moments,
		moment{during.call, porcupine.Event{ClientId: 0, Kind: porcupine.CallEvent, Value: input, Id: id}},
		moment{during.ret, porcupine.Event{ClientId: 0, Kind: porcupine.ReturnEvent, Value: nil, Id: id}})
}

func (t *timeline) events() []porcupine.Event {
	// Calls of one operation's copies come at one moment; no call shares one with a return.
	slices.SortStableFunc(t.moments, func(a, b moment) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		default:
			return 0
		}
	})
	events := make([]porcupine.Event, len(t.moments))
	for i, m := range t.moments {
		events[i] = m.event
	}
	return events
}
