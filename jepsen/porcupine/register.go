package main

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// registerKey names a register: a group's offset of a queue (P2), a topic's configuration (P3).
type registerKey struct {
	rule, name string
}

// cell is what a register holds; the zero value: nothing.
type cell struct {
	text string
	set  bool
}

func cellOf(text *string) cell {
	if text == nil {
		return cell{}
	}
	return cell{*text, true}
}

func (c cell) String() string {
	if !c.set {
		return "nothing"
	}
	return c.text
}

// register gathers the operations of one register.
//
// A write of unknown end that nobody read is left out: where it is, no read can have come between it and the next write.
type register struct {
	key   registerKey
	limit limits
	ops   []*registerOp
	open  map[uint32]*registerOp
	// What was ever read, and when it was first written to be.
	read_   map[cell]bool
	begun   map[cell]int
	leftOut int
	cut     int
	// Reads that need not be current, and got what nobody had begun to write.
	strange string
}

type registerOp struct {
	span
	write bool
	// Whether a read is one that must be current.
	current bool
	outcome string
	cell    cell
}

func newRegister(key registerKey, limit limits) *register {
	return &register{
		key: key, limit: limit, open: map[uint32]*registerOp{}, read_: map[cell]bool{}, begun: map[cell]int{}, cut: never,
	}
}

func (r *register) begin(l *line, at int, op registerOp) {
	if len(r.ops) >= r.limit.ops {
		r.cut = min(r.cut, at)
		r.leftOut++
		return
	}
	op.span = span{at, never}
	r.ops = append(r.ops, &op)
	r.open[l.Process] = &op
}

func (r *register) end(l *line, at int) *registerOp {
	op := r.open[l.Process]
	if op != nil {
		delete(r.open, l.Process)
		op.outcome = l.Type
		if l.Type != "info" {
			op.ret = at
		}
	}
	return op
}

func (r *register) write(l *line, at int, c cell) {
	if l.Type == "invoke" {
		r.begin(l, at, registerOp{write: true, cell: c})
		if _, ok := r.begun[c]; !ok {
			r.begun[c] = at
		}
	} else {
		r.end(l, at)
	}
}

func (r *register) read(l *line, at int, c cell, current bool) {
	if l.Type == "invoke" {
		r.begin(l, at, registerOp{current: current})
		return
	}
	op := r.end(l, at)
	if l.Type != "ok" {
		return
	}
	r.read_[c] = true
	if op != nil {
		op.cell = c
	}
	// An answer that may be out of date is one that was true once: nothing from the future, nothing that nobody wrote.
	if _, ok := r.begun[c]; !current && c.set && !ok && r.strange == "" {
		r.strange = fmt.Sprintf("%v was read, and nobody had begun to write it", c)
	}
}

// access is an operation as the model sees it.
type access struct {
	write bool
	cell  cell
}

func (r *register) part() part {
	p := part{rule: r.key.rule, key: r.key.name, model: registerModel(r.key.rule), leftOut: r.leftOut}
	var times timeline
	for _, op := range r.ops {
		returned := op.outcome == "ok" && op.ret < r.cut
		switch {
		case !op.write:
			if returned && op.current {
				times.add(op.span, access{cell: op.cell})
			}
		case returned:
			times.add(op.span, access{write: true, cell: op.cell})
		case op.outcome != "fail" && r.read_[op.cell]:
			times.add(span{op.call, never}, access{write: true, cell: op.cell})
		}
	}
	p.ops, p.unknown, p.events = times.ops, times.unknown, times.events()
	switch {
	case r.strange != "":
		p.result, p.why = "illegal", r.strange
	case p.unknown > r.limit.unknown:
		p.result = "unknown"
		p.why = fmt.Sprintf("%d writes of unknown outcome, at most %d are searched", p.unknown, r.limit.unknown)
	}
	return p
}

func registerModel(rule string) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return cell{} },
		Step: func(state, in, _ any) (bool, any) {
			op := in.(access)
			if op.write {
				return true, op.cell
			}
			held := state.(cell)
			// RocketMQ answers 0 for a group without an offset while the queue's first message is there (protocol.md 3.3).
			fresh := rule == "P2" && !held.set && op.cell == cell{"0", true}
			return held == op.cell || fresh, held
		},
		DescribeOperation: func(in, _ any) string {
			op := in.(access)
			if op.write {
				return fmt.Sprintf("write %v", op.cell)
			}
			return fmt.Sprintf("read %v", op.cell)
		},
	}
}
