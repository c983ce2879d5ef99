//! T: messages that are delivered later come when they are due: not a moment before, soon afterwards, once, and all of them.
//! That a message is in one place only says L7, that it is on every replica L4.
//!
//! ```text
//!   invoked ──── acknowledged ─────────────────────── a consumer has it
//!      ├─ delay ───────┼──────▶ not before this           │
//!                      ├─ delay ──────▶ late from here on ┴─▶ late_ms, and what the faults of the time excuse
//! ```
//! All times are this host's: the broker took the message between invocation and acknowledgement. Its own time is of whole
//! milliseconds, that of a majority's clocks, and may run ahead by a second where one of them is wrong; where those of several may be, times are not
//! judged.

use std::collections::HashMap;

use super::Rule;
use super::excuse::{Clocks, Faults, MS};
use super::log::{Log, State, Step};
use super::report::Findings;
use crate::history::{Delay, Kind, LivenessBounds, Op, Phase, Value};

/// Until a consumer has what is due, without faults (issue 4: one second beyond the fault).
const LATE_MS: u64 = 1_000;
/// The broker's time is whole milliseconds: when a message came is known to it less what has passed of one.
const TICK_MS: u64 = 1;
/// Log time runs ahead of a single clock that is wrong by so much at most (ARCHITECTURE.md, Time).
const AHEAD_MS: u64 = 1_000;

/// One message.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    delay: Delay,
    invoked_ns: u64,
    acknowledged_ns: Option<u64>,
    /// When a consumer had it first.
    seen_ns: Option<u64>,
}

#[derive(Default)]
pub(crate) struct Later {
    waiting: HashMap<Value, Waiting>,
    faults: Faults,
    drain_ns: Option<u64>,
    last_ns: u64,
}

impl Rule for Later {
    fn id(&self) -> &'static str {
        "T"
    }

    fn says(&self) -> &'static str {
        "delayed messages come when they are due, all of them"
    }

    fn step(&mut self, step: Step<'_>, _log: &Log, _found: &mut Findings) {
        let event = step.event;
        self.last_ns = event.t_ns;
        match (&event.op, event.kind) {
            (Op::SendLater { value, delay, .. }, Kind::Invoke) => {
                let waiting =
                    Waiting { delay: *delay, invoked_ns: event.t_ns, acknowledged_ns: None, seen_ns: None };
                self.waiting.insert(*value, waiting);
            }
            (Op::SendLater { value, .. }, Kind::Ok) => {
                if let Some(waiting) = self.waiting.get_mut(value) {
                    waiting.acknowledged_ns = Some(event.t_ns);
                }
            }
            (Op::Pull { messages, .. } | Op::Deliver { messages, .. }, Kind::Ok) => {
                for read in messages {
                    if let Some(waiting) = self.waiting.get_mut(&read.value) {
                        waiting.seen_ns.get_or_insert(event.t_ns);
                    }
                }
            }
            (Op::Nemesis(nemesis), _) => self.faults.note(event.t_ns, nemesis),
            (Op::Phase(Phase::Drain), _) => self.drain_ns = Some(event.t_ns),
            _ => {}
        }
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        let none = LivenessBounds::default();
        let bounds = log.plan.as_ref().and_then(|plan| plan.liveness.as_ref()).unwrap_or(&none);
        let mut late_by = Vec::new();
        for (value, waiting) in &self.waiting {
            let Some(sent) = log.sent(*value) else { continue };
            if sent.state() == State::Fail {
                continue;
            }
            self.judge(*value, waiting, log, bounds, &mut late_by, found);
        }
        late_by.sort_unstable();
        let quantile = |percent: usize| late_by.get((late_by.len() * percent).div_ceil(100).max(1) - 1);
        for (name, percent) in [("p50", 50), ("p99", 99), ("max", 100)] {
            if let Some(ms) = quantile(percent) {
                found.figure(format!("late by {name} ms"), *ms);
            }
        }
    }
}

impl Later {
    fn judge(
        &self,
        value: Value,
        waiting: &Waiting,
        log: &Log,
        bounds: &LivenessBounds,
        late_by: &mut Vec<u64>,
        found: &mut Findings,
    ) {
        let Waiting { delay, invoked_ns, acknowledged_ns, seen_ns } = *waiting;
        let name = log.sent(value).map(|sent| log.queue(sent.queue()).name.to_string()).unwrap_or_default();
        let delay_ns = delay.ms * MS;
        let clocks = self.faults.clocks(invoked_ns, seen_ns.unwrap_or(self.last_ns));
        if let Some(seen_ns) = seen_ns {
            found.checked += 1;
            let ahead_ns = match clocks {
                Clocks::Untouched => TICK_MS * MS,
                Clocks::OneMoved => AHEAD_MS * MS,
                Clocks::Moved => delay_ns,
            };
            if seen_ns + ahead_ns < invoked_ns + delay_ns {
                found.fail(|| {
                    let after = (seen_ns - invoked_ns) / MS;
                    format!(
                        "{value} of {name} came {after} ms after it was sent, its delay is {} ms",
                        delay.ms
                    )
                });
            }
        }
        // Whether and when one of unknown outcome was stored nobody knows.
        let Some(acknowledged_ns) = acknowledged_ns else { return };
        let due_ns = acknowledged_ns + delay_ns;
        // A sight in the drain says that it came, not when.
        let came_ns = seen_ns.or(log.sent(value).filter(|sent| sent.is_seen()).and(self.drain_ns));
        let until_ns = came_ns.or(self.drain_ns).unwrap_or(self.last_ns);
        let excused = self.faults.excused_ms(bounds, due_ns, until_ns.max(due_ns), self.last_ns);
        let own = bounds.late_ms.unwrap_or(LATE_MS).max(bounds.quiet_gap_ms.unwrap_or(0));
        let allowed = own + excused.unwrap_or(0);
        let late_ms = until_ns.saturating_sub(due_ns) / MS;
        if came_ns.is_none() {
            if late_ms <= allowed && self.drain_ns.is_none_or(|drain_ns| drain_ns < due_ns + allowed * MS) {
                found.count("not due yet when the run ended");
                return;
            }
            found.checked += 1;
            found.fail(|| {
                format!(
                    "{value} of {name} never came, {late_ms} ms after it was due {} ms after its send",
                    delay.ms
                )
            });
            return;
        }
        if clocks != Clocks::Untouched {
            found.count("not judged for lateness: clocks were moved");
            return;
        }
        late_by.push(late_ms);
        if late_ms > allowed {
            found.fail(|| {
                let how = delay.level.map_or("by its time".to_owned(), |level| format!("by level {level}"));
                format!(
                    "{value} of {name}, due {how} at {due_ns} ns, came {late_ms} ms late, {allowed} are allowed"
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::{Story, queue, value};
    use crate::history::{Action, Plan};

    fn send(text: &str, ms: u64) -> Op {
        Op::SendLater { queue: queue(), value: value(text), delay: Delay { ms, level: None } }
    }

    impl Story {
        fn later(&mut self, text: &str, ms: u64, kind: Kind) -> &mut Story {
            self.op(value(text).process(), send(text, ms), kind, send(text, ms))
        }
    }

    fn plan(late_ms: u64) -> Plan {
        let liveness = Some(LivenessBounds { late_ms: Some(late_ms), ..LivenessBounds::default() });
        Plan { liveness, ..Plan::default() }
    }

    #[test]
    fn what_comes_when_it_is_due_passes() {
        let mut story = Story::new();
        story.later("1-0", 500, Kind::Ok).later("1-1", 500, Kind::Info);
        story.wait_ms(600).pulled(9, 0, "1-0 1-1").phase(Phase::Drain).drained(1, "1-0 1-1");
        let report = story.passes(Later::default());
        assert_eq!((report.checked, report.figures["late by max ms"]), (2, 104));
        // one of unknown outcome need not come, and one that was refused has nothing to come for
        let mut story = Story::new();
        story.later("1-0", 500, Kind::Info).later("2-0", 500, Kind::Fail).later("3-0", 5, Kind::Ok);
        story.wait_ms(60_000).phase(Phase::Drain).drained(1, "3-0");
        story.fails(Later::default(), "3-0 of a/t/0, due by its time at");
        // not due yet
        let mut story = Story::new();
        story.later("1-0", 9_000, Kind::Ok).later("2-0", 5, Kind::Ok).wait_ms(9).pulled(9, 0, "2-0");
        story.phase(Phase::Drain).drained(1, "2-0");
        assert_eq!(story.passes(Later::default()).figures["not due yet when the run ended"], 1);
    }

    #[test]
    fn what_comes_too_early_fails() {
        let mut story = Story::new();
        story.later("1-0", 500, Kind::Ok).wait_ms(400).pulled(9, 0, "1-0");
        story.fails(Later::default(), "1-0 of a/t/0 came 403 ms after it was sent, its delay is 500 ms");
        // whatever became of the send
        let mut story = Story::new();
        story.later("1-0", 500, Kind::Info).wait_ms(400).pulled(9, 0, "1-0");
        story.fails(Later::default(), "came 403 ms");
        let mut story = Story::new();
        story.event(1, Kind::Invoke, send("1-0", 500)).wait_ms(400).pulled(9, 0, "1-0");
        story.fails(Later::default(), "came 402 ms");
        // by a part of a millisecond nobody is early, by more than one everybody
        let run = |waited_ms: u64| {
            let mut story = Story::new();
            story.later("1-0", 500, Kind::Ok).wait_ms(waited_ms).pulled(9, 0, "1-0");
            story
        };
        run(496).passes(Later::default());
        run(495).fails(Later::default(), "came 498 ms after it was sent");
    }

    #[test]
    fn what_comes_too_late_or_never_fails_unless_a_fault_explains_it() {
        let run = |late_ms: u64, fault: Option<&str>| {
            let mut story = Story::new();
            story.later("1-0", 500, Kind::Ok).wait_ms(500);
            if let Some(fault) = fault {
                story.nemesis(1, fault, Action::Start, true, vec![]);
                story.nemesis(1, fault, Action::Stop, true, vec![]);
            }
            story.wait_ms(late_ms).pulled(9, 0, "1-0");
            story
        };
        run(900, None).passes(Later::default());
        run(1_100, None).fails(Later::default(), "came 1102 ms late, 1000 are allowed");
        run(3_900, Some("kill-leader")).passes(Later::default());
        run(4_100, Some("kill-leader")).fails(Later::default(), "4000 are allowed");
        let mut story = Story::new();
        story.plan(plan(2_000)).later("1-0", 10, Kind::Ok).wait_ms(1_900).pulled(9, 0, "1-0");
        story.passes(Later::default());
        let mut story = Story::new();
        story.later("1-0", 500, Kind::Ok).wait_ms(2_000).phase(Phase::Drain).drained(1, "");
        story.fails(Later::default(), "1-0 of a/t/0 never came");
    }

    #[test]
    fn moved_clocks_leave_what_they_cannot_explain() {
        let run = |nodes: Vec<u64>, waited_ms: u64| {
            let mut story = Story::new();
            story.nemesis(1, "clock-jump", Action::Start, true, vec![]);
            story.but(|event| {
                if let Op::Nemesis(nemesis) = &mut event.op {
                    nemesis.targets = nodes;
                }
            });
            story.later("1-0", 5_000, Kind::Ok).wait_ms(waited_ms).pulled(9, 0, "1-0");
            story
        };
        run(vec![1], 4_200).passes(Later::default());
        run(vec![1], 3_900).fails(Later::default(), "its delay is 5000 ms");
        run(vec![1, 2, 3], 100).passes(Later::default());
        run(vec![1], 60_000).passes(Later::default());
    }
}
