//! X: transactions are atomic. A message that is committed is seen once (L7) and stays (L4); one that is rolled back, or
//! that nobody has committed yet, is never seen; a transaction ends once; one that its producer leaves open is asked about,
//! whoever leads by then, and ends. That an end touches no other transaction follows: each has one fate, and all fates are
//! looked at.

use std::collections::HashMap;

use super::Rule;
use super::excuse::{Faults, MS};
use super::log::{Log, State, Step};
use super::report::Findings;
use crate::history::{Ending, Event, Kind, LivenessBounds, Op, Phase, Value};

/// From its acknowledgement until the producer of an open transaction is asked: RocketMQ's six seconds, and four more.
const ASK_MS: u64 = 10_000;

/// One transaction.
#[derive(Clone, Copy, Debug, Default)]
struct Transaction {
    acknowledged_ns: Option<u64>,
    /// The producer ended it by itself, whatever came of it.
    ended_by_itself: bool,
    commit_asked: bool,
    ended: Option<Ending>,
    /// The broker said that it was over.
    over: bool,
    /// When it was asked about first.
    asked_ns: Option<u64>,
    /// It ended by the answer to a question.
    by_check: bool,
}

#[derive(Default)]
pub(crate) struct Transactions {
    all: HashMap<Value, Transaction>,
    faults: Faults,
    drain_ns: Option<u64>,
    last_ns: u64,
}

impl Rule for Transactions {
    fn id(&self) -> &'static str {
        "X"
    }

    fn says(&self) -> &'static str {
        "transactions end once, and are seen if committed"
    }

    fn step(&mut self, step: Step<'_>, log: &Log, found: &mut Findings) {
        let event = step.event;
        self.last_ns = event.t_ns;
        match (&event.op, event.kind) {
            (Op::SendHalf { value, .. }, Kind::Invoke) => {
                self.all.insert(*value, Transaction::default());
            }
            (Op::SendHalf { value, .. }, Kind::Ok) => {
                if let Some(transaction) = self.all.get_mut(value) {
                    transaction.acknowledged_ns = Some(event.t_ns);
                }
            }
            (Op::EndTransaction { value, .. }, _) => {
                if let Some(transaction) = self.all.get_mut(value) {
                    transaction.end(*value, event, found);
                } else {
                    found.invalid(|| format!("{value} is ended and was no transaction"));
                }
            }
            (Op::CheckTransaction { value, .. }, _) => match self.all.get_mut(value) {
                Some(transaction) => {
                    found.count("questions");
                    if transaction.ended.is_some() {
                        found.count("questions about what had ended meanwhile");
                    }
                    transaction.asked_ns.get_or_insert(event.t_ns);
                }
                None => found.fail(|| format!("the broker asked about {value}, which is no transaction")),
            },
            (Op::Pull { messages, .. } | Op::Deliver { messages, .. }, Kind::Ok) => {
                for read in messages {
                    let Some(transaction) = self.all.get(&read.value) else { continue };
                    found.checked += 1;
                    if !transaction.commit_asked {
                        let name = step.queue.map(|queue| log.queue(queue).name.to_string());
                        let name = name.unwrap_or_default();
                        found.fail(|| format!("{read} of {name} was seen, and nobody had committed it"));
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
        let mut longest = None;
        for (&value, transaction) in &self.all {
            let Some(sent) = log.sent(value) else { continue };
            found.checked += 1;
            let queue = log.queue(sent.queue());
            let (seen, name) = (sent.is_seen(), &queue.name);
            match transaction.ended {
                Some(Ending::Rollback) if seen => {
                    found.fail(|| {
                        format!("{value} was rolled back and is at {:?} of {name}", log.places_of(value))
                    });
                }
                Some(Ending::Commit) if !seen && queue.drained_min().is_some() => {
                    found.fail(|| format!("{value} was committed and is nowhere in {name}"));
                }
                _ if seen && !transaction.commit_asked => {
                    found.fail(|| {
                        format!(
                            "{value} is at {:?} of {name}, and nobody has committed it",
                            log.places_of(value)
                        )
                    });
                }
                _ => {}
            }
            if sent.state() == State::Ok {
                self.open(value, transaction, seen, bounds, &mut longest, found);
            }
            found.count(match transaction.ended {
                Some(Ending::Commit) => "committed",
                Some(Ending::Rollback) => "rolled back",
                None if sent.state() == State::Fail => "refused at the first half",
                None => "whose end nobody was told",
            });
            if transaction.by_check {
                found.count("ended by the answer to a question");
            }
        }
        if let Some(longest) = longest {
            found.figure("asked after, max ms", longest);
        }
    }
}

impl Transaction {
    /// An end was asked for, or came to something.
    fn end(&mut self, value: Value, event: &Event, found: &mut Findings) {
        let Op::EndTransaction { how, checked, over, .. } = event.op else { return };
        match event.kind {
            Kind::Invoke => {
                self.ended_by_itself |= !checked;
                self.commit_asked |= how == Ending::Commit;
            }
            Kind::Ok => {
                if let Some(before) = self.ended.filter(|before| *before != how) {
                    found.fail(|| format!("{value} had ended by {before:?}, and then by {how:?}"));
                } else if self.ended.is_some() {
                    found.fail(|| format!("{value} ended twice by {how:?}"));
                }
                self.ended = Some(how);
                self.by_check |= checked;
            }
            Kind::Fail if over => self.over = true,
            Kind::Fail | Kind::Info => {}
        }
    }
}

impl Transactions {
    /// Of one whose half is stored: it does not stay open.
    fn open(
        &self,
        value: Value,
        transaction: &Transaction,
        seen: bool,
        bounds: &LivenessBounds,
        longest: &mut Option<u64>,
        found: &mut Findings,
    ) {
        let (Some(acknowledged_ns), Some(drain_ns)) = (transaction.acknowledged_ns, self.drain_ns) else {
            return;
        };
        if transaction.ended.is_none() && !transaction.over && !seen {
            found.fail(|| format!("{value} never ended: nobody asked about it, or no answer was taken"));
        }
        if transaction.ended_by_itself {
            return;
        }
        let until_ns = transaction.asked_ns.unwrap_or(drain_ns);
        let took = until_ns.saturating_sub(acknowledged_ns) / MS;
        let excused = self.faults.excused_ms(bounds, acknowledged_ns, until_ns, self.last_ns);
        let allowed = bounds.ask_ms.unwrap_or(ASK_MS) + excused.unwrap_or(0);
        if took > allowed {
            let what = if transaction.asked_ns.is_some() {
                "was asked about after"
            } else {
                "was not asked about in"
            };
            found.fail(|| format!("{value} was left open and {what} {took} ms, {allowed} are allowed"));
        }
        if transaction.asked_ns.is_some() {
            *longest = (*longest).max(Some(took));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::{Story, queue, value};

    use Ending::{Commit, Rollback};

    impl Story {
        fn half(&mut self, text: &str, kind: Kind) -> &mut Story {
            let half = |half| Op::SendHalf { queue: queue(), value: value(text), half };
            let place = (kind == Kind::Ok).then_some((0, 4096));
            self.op(value(text).process(), half(None), kind, half(place))
        }

        fn end(&mut self, text: &str, how: Ending, checked: bool, kind: Kind, over: bool) -> &mut Story {
            let end = |over| Op::EndTransaction { queue: queue(), value: value(text), how, checked, over };
            self.op(900, end(false), kind, end(over))
        }

        fn ended(&mut self, text: &str, how: Ending) -> &mut Story {
            self.end(text, how, false, Kind::Ok, false)
        }

        fn asked(&mut self, text: &str) -> &mut Story {
            self.note(Op::CheckTransaction { queue: queue(), value: value(text) })
        }
    }

    #[test]
    fn transactions_with_one_fate_pass() {
        let mut story = Story::new();
        story.half("1-0", Kind::Ok).ended("1-0", Commit).half("1-1", Kind::Ok).ended("1-1", Rollback);
        // left open, and asked; the first answer is lost, the second is told that it is over
        story.half("1-2", Kind::Ok).wait_ms(6_000).asked("1-2").end("1-2", Commit, true, Kind::Info, false);
        story.end("1-2", Commit, true, Kind::Fail, true);
        story.half("2-0", Kind::Ok).wait_ms(6_000).asked("2-0").end("2-0", Rollback, true, Kind::Ok, false);
        // of unknown outcome, and refused
        story.half("3-0", Kind::Info).half("4-0", Kind::Fail);
        // an end that comes too late
        story.end("1-0", Rollback, false, Kind::Fail, true).asked("1-0");
        story.pulled(9, 0, "1-0 1-2").phase(Phase::Drain).drained(1, "1-0 1-2");
        let report = story.passes(Transactions::default());
        assert_eq!((report.figures["committed"], report.figures["rolled back"]), (1, 2));
        assert_eq!(report.figures["ended by the answer to a question"], 1);
        assert_eq!((report.figures["questions"], report.figures["asked after, max ms"]), (3, 6_001));
    }

    #[test]
    fn what_is_not_committed_and_seen_fails() {
        let mut story = Story::new();
        story.half("1-0", Kind::Ok).pulled(9, 0, "1-0").ended("1-0", Commit);
        story.fails(Transactions::default(), "1-0 at 0 of a/t/0 was seen, and nobody had committed it");
        let mut story = Story::new();
        story.half("1-0", Kind::Ok).ended("1-0", Rollback).drained(1, "1-0");
        story.fails(Transactions::default(), "1-0 was rolled back and is at [0] of a/t/0");
        let mut story = Story::new();
        story.half("1-0", Kind::Ok).drained(1, "1-0");
        story.fails(Transactions::default(), "1-0 is at [0] of a/t/0, and nobody has committed it");
        // rolled back, with a commit that was refused
        let mut story = Story::new();
        story.half("1-0", Kind::Ok).end("1-0", Commit, false, Kind::Fail, false).ended("1-0", Rollback);
        story.drained(1, "1-0").fails(Transactions::default(), "was rolled back");
    }

    #[test]
    fn what_is_committed_and_not_there_fails() {
        let mut story = Story::new();
        story.half("1-0", Kind::Ok).ended("1-0", Commit).drained(1, "");
        story.fails(Transactions::default(), "1-0 was committed and is nowhere in a/t/0");
    }

    #[test]
    fn two_ends_fail() {
        let mut story = Story::new();
        story.half("1-0", Kind::Ok).ended("1-0", Commit).end("1-0", Rollback, true, Kind::Ok, false);
        story.fails(Transactions::default(), "1-0 had ended by Commit, and then by Rollback");
        let mut story = Story::new();
        story.half("1-0", Kind::Ok).ended("1-0", Rollback).ended("1-0", Rollback);
        story.fails(Transactions::default(), "1-0 ended twice by Rollback");
    }

    #[test]
    fn what_stays_open_or_is_asked_about_late_fails() {
        let mut story = Story::new();
        story.half("1-0", Kind::Ok).end("1-0", Commit, false, Kind::Info, false).phase(Phase::Drain);
        story.fails(Transactions::default(), "1-0 never ended");
        let mut story = Story::new();
        story.half("1-0", Kind::Ok).wait_ms(11_000).asked("1-0").end("1-0", Commit, true, Kind::Ok, false);
        story.phase(Phase::Drain).drained(1, "1-0");
        story.fails(Transactions::default(), "1-0 was left open and was asked about after 11001 ms, 10000");
        let mut story = Story::new();
        story.half("1-0", Kind::Ok).wait_ms(11_000).phase(Phase::Drain);
        story.fails(Transactions::default(), "was not asked about in 11001 ms");
        let mut story = Story::new();
        story
            .asked("1-0")
            .fails(Transactions::default(), "the broker asked about 1-0, which is no transaction");
    }
}
