//! H: the history keeps the rules of history.rs. Where it does not, nothing else that is found means anything, so the
//! run is invalid whatever the other rules say.

use std::collections::{HashMap, HashSet};
use std::mem::{Discriminant, discriminant};

use super::Rule;
use super::log::{Log, QueueNo, REPLICAS_MAX, Step};
use super::report::Findings;
use crate::history::{Event, Kind, Op, Value};

#[derive(Default)]
pub(crate) struct Discipline {
    open: HashMap<u32, Open>,
    /// Processes whose last operation has no known end.
    ended: HashSet<u32>,
    /// The counter of each process's next value.
    counters: HashMap<u32, u32>,
    planned: bool,
}

/// What a completion must agree with.
#[derive(PartialEq, Eq)]
struct Open {
    op: Discriminant<Op>,
    queue: Option<QueueNo>,
    values: Vec<Value>,
}

impl Open {
    fn of(step: Step<'_>) -> Open {
        let op = &step.event.op;
        Open { op: discriminant(op), queue: step.queue, values: op.sends().to_vec() }
    }
}

impl Rule for Discipline {
    fn id(&self) -> &'static str {
        "H"
    }

    fn says(&self) -> &'static str {
        "the history is well formed"
    }

    fn step(&mut self, step: Step<'_>, _log: &Log, found: &mut Findings) {
        let event = step.event;
        found.checked += 1;
        if let Op::Plan(_) = event.op {
            if self.planned {
                found.invalid(|| format!("{} a second plan", at(event)));
            }
            self.planned = true;
        }
        if !event.op.is_request() {
            if event.kind != Kind::Ok {
                found.invalid(|| format!("{} is no request, and has a type but ok", at(event)));
            }
        } else if event.kind == Kind::Invoke {
            self.invoked(step, found);
        } else {
            self.completed(step, found);
        }
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        let open = log.open_count();
        if open > 0 {
            found.note(format!("{open} operations never completed; they count as info"));
        }
        if log.replicas.len() > REPLICAS_MAX {
            found.invalid(|| format!("{} drains of a queue, at most {REPLICAS_MAX}", log.replicas.len()));
        }
    }
}

impl Discipline {
    fn invoked(&mut self, step: Step<'_>, found: &mut Findings) {
        let event = step.event;
        if self.ended.contains(&event.process) {
            found.invalid(|| format!("{} after an operation of unknown outcome", at(event)));
        }
        if self.open.insert(event.process, Open::of(step)).is_some() {
            found.invalid(|| format!("{} while another operation is open", at(event)));
        }
        if let Op::Batch { values, .. } = &event.op
            && values.is_empty()
        {
            found.invalid(|| format!("{} of nothing", at(event)));
        }
        for &value in event.op.sends() {
            let counter = self.counters.entry(event.process).or_default();
            if value.process() != event.process || value.counter() != *counter {
                let expected = Value::new(event.process, *counter);
                found.invalid(|| format!("{} sends {value}, where {expected} comes next", at(event)));
            }
            *counter = counter.wrapping_add(1);
        }
    }

    fn completed(&mut self, step: Step<'_>, found: &mut Findings) {
        let event = step.event;
        match self.open.remove(&event.process) {
            None => found.invalid(|| format!("{} completes what was not invoked", at(event))),
            Some(open) if open != Open::of(step) => {
                found.invalid(|| format!("{} completes another operation than was invoked", at(event)));
            }
            Some(_) => {}
        }
        if event.kind == Kind::Info {
            self.ended.insert(event.process);
        }
        let complete = match &event.op {
            Op::Send { offset, .. }
            | Op::Batch { offset, .. }
            | Op::MaxOffset { offset, .. }
            | Op::MinOffset { offset, .. } => offset.is_some(),
            Op::Pull { status, .. } => status.is_some(),
            Op::SendHalf { half, .. } => half.is_some(),
            Op::ChangeInvisible { pop_ms, .. } => pop_ms.is_some(),
            _ => true,
        };
        if event.kind == Kind::Ok && !complete {
            found.invalid(|| format!("{} is ok without a result", at(event)));
        }
    }
}

/// Where in the history.
fn at(event: &Event) -> String {
    format!("at {} ns: {} of process {}", event.t_ns, event.op.name(), event.process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::{Story, queue, value};
    use crate::history::{Plan, Way};

    #[test]
    fn a_well_formed_history_passes() {
        let mut story = Story::new();
        story.plan(Plan::default()).sent("1-0", 0).batch("1-1 1-2", Some(1)).refused("1-3").unknown("1-4");
        story.pulled(2, 0, "1-0").invoke_send("3-0").drained(1, "1-0 1-1 1-2");
        let report = story.passes(Discipline::default());
        assert_eq!(report.notes, ["1 operations never completed; they count as info"]);
    }

    #[test]
    fn each_breach_is_found() {
        let invalid = |words: &str, tell: &dyn Fn(&mut Story)| {
            let mut story = Story::new();
            tell(&mut story);
            story.is_invalid(Discipline::default(), words);
        };
        invalid("after an operation of unknown", &|story| {
            story.unknown("1-0").sent("1-1", 0);
        });
        invalid("while another", &|story| {
            story.invoke_send("1-0").invoke_send("1-1");
        });
        invalid("was not invoked", &|story| {
            story.ok_send("1-0", 0);
        });
        invalid("another operation than", &|story| {
            story.invoke_send("1-0").max_offset(2, 0).ok_send("1-0", 0).invoke_send("1-1").ok_send("1-2", 1);
        });
        invalid("where 1-1 comes next", &|story| {
            story.sent("1-0", 0).sent("1-0", 1);
        });
        invalid("where 1-1 comes next", &|story| {
            story.sent("1-0", 0).sent("1-2", 1);
        });
        invalid("where 2-0 comes next", &|story| {
            story.sent("1-0", 0).event(
                2,
                Kind::Invoke,
                Op::Send { queue: queue(), value: value("1-1"), offset: None, position: None },
            );
        });
        invalid("without a result", &|story| {
            let send = |offset| Op::Send { queue: queue(), value: value("1-0"), offset, position: None };
            story.op(1, send(None), Kind::Ok, send(None));
        });
        invalid("a second plan", &|story| {
            story.plan(Plan::default()).plan(Plan::default());
        });
        invalid("a type but ok", &|story| {
            let drain =
                Op::Drain { replica: 1, queue: queue(), way: Way::Pull, messages: Vec::new(), bounds: None };
            story.event(0, Kind::Info, drain);
        });
        invalid("of nothing", &|story| {
            let batch = Op::Batch { queue: queue(), values: Vec::new(), offset: None, position: None };
            story.event(1, Kind::Invoke, batch);
        });
    }
}
