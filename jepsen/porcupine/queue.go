package main

import (
	"fmt"
	"slices"

	"github.com/anishathalye/porcupine"
)

// queue gathers the operations of one queue: appends, reads, and questions for its end (P1).
//
// The model is a list of values. An append is legal where the list has the length that its acknowledgement named; a read
// where the list is as long as what it got, and holds that; a question for the end where the list is as long as the answer.
//
// Of an append with an unknown end it is mostly known after all what became of it: somebody read it, so that it happened, at
// that offset; or nobody did, and the drain, or the lack of a free offset below everything that was seen, says that no
// operation can have noticed it, so that it is left out. What remains may take any offset that nothing else claims.
type queue struct {
	name    string
	limit   limits
	ops     []*queueOp
	open    map[uint32]*queueOp
	byValue map[value]*queueOp
	drained bool
	// filled is whether the broker puts messages there by itself: delayed ones, committed ones. Nobody knows when.
	filled  bool
	leftOut int
	// The line at which the cap was reached: operations that return later have, for the search, not returned.
	cut int
}

type queueOp struct {
	span
	kind queueKind
	// ok, fail or info; empty while it is open.
	outcome string
	values  []value
	// Of an append the offset acknowledged, or -1; of a read its first; of a question the answer.
	offset int64
	// Where an append was seen to begin.
	seen []int64
}

type queueKind int

const (
	appending queueKind = iota
	reading
	asking
)

func (k queueKind) String() string {
	return [...]string{"append", "read", "end"}[k]
}

func newQueue(name string, limit limits) *queue {
	return &queue{name: name, limit: limit, open: map[uint32]*queueOp{}, byValue: map[value]*queueOp{}, cut: never}
}

// begin takes an invocation in, or counts it once the cap is reached.
func (q *queue) begin(l *line, at int, op queueOp) {
	if len(q.ops) >= q.limit.ops {
		q.cut = min(q.cut, at)
		q.leftOut++
		return
	}
	op.span = span{at, never}
	q.ops = append(q.ops, &op)
	q.open[l.Process] = &op
	for _, v := range op.values {
		q.byValue[v] = &op
	}
}

// end finds the operation that a line completes; nil if it was left out.
func (q *queue) end(l *line, at int) *queueOp {
	op := q.open[l.Process]
	if op != nil {
		delete(q.open, l.Process)
		op.outcome = l.Type
		if l.Type != "info" {
			op.ret = at
		}
	}
	return op
}

func (q *queue) append(l *line, at int, values []value, offset *int64) {
	if l.Type == "invoke" {
		q.begin(l, at, queueOp{kind: appending, values: values, offset: -1})
	} else if op := q.end(l, at); op != nil && offset != nil {
		op.offset = *offset
	}
}

func (q *queue) read(l *line, at int, from int64, messages []read) {
	if l.Type == "invoke" {
		q.begin(l, at, queueOp{kind: reading, offset: from})
		return
	}
	op := q.end(l, at)
	if l.Type != "ok" {
		return
	}
	q.see(messages)
	if op == nil {
		return
	}
	// What follows a hole is another read; rule L2 has said so.
	for i, m := range messages {
		if i == 0 {
			op.offset = m.offset
		} else if m.offset != op.offset+int64(i) {
			break
		}
		op.values = append(op.values, m.value)
	}
}

func (q *queue) tail(l *line, at int, offset *int64) {
	if l.Type == "invoke" {
		q.begin(l, at, queueOp{kind: asking})
	} else if op := q.end(l, at); op != nil && offset != nil {
		op.offset = *offset
	}
}

// see notes where appended values were seen.
func (q *queue) see(messages []read) {
	for _, m := range messages {
		op := q.byValue[m.value]
		if op == nil {
			continue
		}
		begin := m.offset - int64(slices.Index(op.values, m.value))
		if !slices.Contains(op.seen, begin) {
			op.seen = append(op.seen, begin)
		}
	}
}

// input is an operation as the model sees it.
type input struct {
	kind   queueKind
	values []value
	// -1: any offset that nobody else claims.
	offset int64
	free   func(int64) bool
}

func (q *queue) part() part {
	p := part{rule: "P1", key: q.name, model: queueModel, leftOut: q.leftOut}
	returned := func(op *queueOp) bool { return op.outcome == "ok" && op.ret < q.cut }
	// Everything below the floor was noticed by somebody in time.
	floor := int64(0)
	for _, op := range q.ops {
		if !returned(op) {
			continue
		}
		floor = max(floor, op.offset+int64(len(op.values)))
	}
	var times timeline
	claimed := map[int64]bool{}
	claim := func(op *queueOp, during span, offset int64) {
		for i := range op.values {
			claimed[offset+int64(i)] = true
		}
		times.add(during, input{kind: appending, values: op.values, offset: offset})
	}
	var free []*queueOp
	for _, op := range q.ops {
		switch {
		case op.kind == reading:
			if returned(op) && len(op.values) > 0 {
				times.add(op.span, input{kind: reading, values: op.values, offset: op.offset})
			}
		case op.kind == asking:
			if returned(op) {
				times.add(op.span, input{kind: asking, offset: op.offset})
			}
		case op.outcome == "fail":
		default:
			acknowledged := int64(-1)
			if op.outcome == "ok" {
				acknowledged = op.offset
			}
			if returned(op) {
				claim(op, op.span, acknowledged)
			} else if acknowledged >= 0 && !slices.Contains(op.seen, acknowledged) {
				op.seen = append(op.seen, acknowledged)
			}
			for _, offset := range op.seen {
				if offset < 0 {
					p.result, p.why = "illegal", fmt.Sprintf("%v was seen where the batch has no room before it", op.values)
					p.ops = 1
					return p
				}
				// A copy beyond the floor was noticed by nobody; one that its client made by trying again may come late.
				if offset < floor && !(returned(op) && offset == acknowledged) {
					claim(op, span{op.call, never}, offset)
				}
			}
			if len(op.seen) == 0 && !returned(op) {
				free = append(free, op)
			}
		}
	}
	below := int64(0)
	for offset := range claimed {
		if offset < floor {
			below++
		}
	}
	if !q.drained && below < floor {
		for _, op := range free {
			times.add(span{op.call, never}, input{kind: appending, values: op.values, offset: -1, free: func(at int64) bool { return !claimed[at] }})
		}
	}
	p.ops, p.unknown, p.events = times.ops, times.unknown, times.events()
	if p.unknown > q.limit.unknown {
		p.result = "unknown"
		p.why = fmt.Sprintf("%d operations of unknown outcome, at most %d are searched", p.unknown, q.limit.unknown)
	}
	return p
}

// list is a list of values that grows at its end and is shared by all states that begin with it. The jumps lead to any
// shorter one in logarithmic time.
type list struct {
	length int64
	last   value
	// Of all values.
	hash         uint64
	parent, jump *list
}

func emptyList() *list {
	l := &list{}
	l.jump = l
	return l
}

func (l *list) push(v value) *list {
	jump := l
	if l.length-l.jump.length == l.jump.length-l.jump.jump.length {
		jump = l.jump.jump
	}
	return &list{length: l.length + 1, last: v, hash: mix(l.hash ^ mix(uint64(v))), parent: l, jump: jump}
}

// first is the list's beginning of that length.
func (l *list) first(length int64) *list {
	for l.length > length {
		if l.jump.length >= length {
			l = l.jump
		} else {
			l = l.parent
		}
	}
	return l
}

// mix is a step of SplitMix64.
func mix(z uint64) uint64 {
	z += 0x9E3779B97F4A7C15
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

var queueModel = porcupine.Model{
	Init: func() any { return emptyList() },
	Step: func(state, in, _ any) (bool, any) {
		l, op := state.(*list), in.(input)
		switch op.kind {
		case appending:
			if op.offset >= 0 && op.offset != l.length || op.offset < 0 && !op.free(l.length) {
				return false, l
			}
			for _, v := range op.values {
				l = l.push(v)
			}
			return true, l
		case reading:
			end := op.offset + int64(len(op.values))
			if l.length < end {
				return false, l
			}
			at := l.first(end)
			for i := len(op.values) - 1; i >= 0; i-- {
				if at.parent == nil || at.last != op.values[i] {
					return false, l
				}
				at = at.parent
			}
			return true, l
		default:
			return l.length == op.offset, l
		}
	},
	Equal: func(a, b any) bool {
		return a.(*list).length == b.(*list).length && a.(*list).hash == b.(*list).hash
	},
	Hash: func(state any) uint64 { return state.(*list).hash },
	DescribeOperation: func(in, _ any) string {
		op := in.(input)
		if op.kind == asking {
			return fmt.Sprintf("end = %d", op.offset)
		}
		return fmt.Sprintf("%v %v at %d", op.kind, op.values, op.offset)
	},
	DescribeState: func(state any) string {
		return fmt.Sprintf("%d values", state.(*list).length)
	},
}
