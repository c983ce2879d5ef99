//! L2: offsets of a queue are dense. An answer to a pull has every message from where it was asked to where it says to
//! go on, and a replica has every message between its bounds. (Kafka allows holes, RocketMQ does not.)

use std::collections::HashMap;

use super::{Log, QueueNo, Step};
use crate::check::Rule;
use crate::check::report::Findings;
use crate::history::{Bounds, Kind, Op, PullStatus, Queue, Read, Way};

#[derive(Default)]
pub(crate) struct Gap {
    /// Where the drain of a queue at a replica began, and where it goes on.
    drains: HashMap<(QueueNo, u64, Way), (u64, u64)>,
}

impl Rule for Gap {
    fn id(&self) -> &'static str {
        "L2"
    }

    fn says(&self) -> &'static str {
        "offsets have no gaps"
    }

    fn step(&mut self, step: Step<'_>, _log: &Log, found: &mut Findings) {
        match (&step.event.op, step.queue) {
            (Op::Pull { queue, from, status, messages, next, .. }, _) if step.event.kind == Kind::Ok => {
                found.checked += messages.len() as u64;
                let end = dense(*from, messages, found, || format!("{queue}, in a pull"));
                // Nothing is filtered out, so what is passed over without being given is not there.
                let moved = *status == Some(PullStatus::Moved);
                if let Some(next) = next.filter(|&next| next > end && !moved) {
                    found.fail(|| {
                        format!("{queue}: a pull from {from} gave all below {end} and goes on at {next}")
                    });
                }
            }
            (Op::Drain { replica, queue, way, messages, bounds }, Some(number)) => {
                found.checked += messages.len() as u64;
                self.drained((number, *replica, *way), queue, messages, *bounds, found);
            }
            _ => {}
        }
    }
}

impl Gap {
    fn drained(
        &mut self,
        key: (QueueNo, u64, Way),
        queue: &Queue,
        messages: &[Read],
        bounds: Option<Bounds>,
        found: &mut Findings,
    ) {
        let name = || format!("{queue}, drained from node {} by {:?}", key.1, key.2);
        let first = messages.first().map(|read| read.offset);
        if let Some((begin, from)) = self.drains.get(&key).copied().or(first.map(|first| (first, first))) {
            self.drains.insert(key, (begin, dense(from, messages, found, name)));
        }
        let Some(Bounds { min, max }) = bounds else { return };
        let (begin, end) = self.drains.get(&key).copied().unwrap_or((min, min));
        if end != max {
            found.fail(|| format!("{}: its maximum is {max}, and its messages end at {end}", name()));
        }
        if begin != min {
            found.fail(|| format!("{}: its minimum is {min}, and its messages begin at {begin}", name()));
        }
    }
}

/// Whether messages follow each other from `from` on; returns the offset behind the last.
fn dense(from: u64, messages: &[Read], found: &mut Findings, of: impl Fn() -> String) -> u64 {
    let mut expected = from;
    for read in messages {
        if read.offset != expected {
            found.fail(|| format!("{}: {expected} is missing, next comes {}", of(), read));
        }
        expected = read.offset.saturating_add(1);
    }
    expected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::{Story, queue, reads};

    #[test]
    fn dense_answers_pass() {
        let mut story = Story::new();
        story.pulled(1, 3, "2-0 2-1").pull(1, 5, PullStatus::NothingNew, 5).pull(1, 99, PullStatus::Moved, 0);
        story.drain(1, reads(0, "2-0 2-1"), None).drain(1, reads(2, "2-2"), None);
        story.drain(1, Vec::new(), Some(Bounds { min: 0, max: 3 })).drained(2, "").drained_from(3, 7, "2-9");
        story.passes(Gap::default());
    }

    #[test]
    fn a_hole_in_an_answer_fails() {
        let pull = |from, messages, next| Op::Pull {
            queue: queue(),
            from,
            assigned: true,
            status: Some(PullStatus::Found),
            messages,
            next: Some(next),
            min: None,
            max: None,
        };
        let holes = [&reads(0, "2-0")[..], &reads(2, "2-1")[..]].concat();
        Story::new()
            .event(1, Kind::Ok, pull(0, holes, 3))
            .fails(Gap::default(), "1 is missing, next comes 2-1 at 2");
        Story::new().event(1, Kind::Ok, pull(0, reads(1, "2-0"), 2)).fails(Gap::default(), "0 is missing");
        Story::new().event(1, Kind::Ok, pull(0, reads(0, "2-0"), 3)).fails(Gap::default(), "goes on at 3");
        Story::new().pull(1, 4, PullStatus::NoneMatched, 6).fails(Gap::default(), "goes on at 6");
    }

    #[test]
    fn a_hole_in_a_drain_fails() {
        let mut story = Story::new();
        story.drain(1, reads(0, "2-0"), None).drain(1, reads(2, "2-1"), Some(Bounds { min: 0, max: 3 }));
        story.fails(Gap::default(), "drained from node 1 by Pull: 1 is missing");
        let mut story = Story::new();
        story.drain(1, reads(0, "2-0"), Some(Bounds { min: 0, max: 2 }));
        story.fails(Gap::default(), "its messages end at 1");
        let mut story = Story::new();
        story.drain(1, reads(1, "2-0"), Some(Bounds { min: 0, max: 2 }));
        story.fails(Gap::default(), "begin at 1");
        Story::new().drain(1, Vec::new(), Some(Bounds { min: 0, max: 1 })).fails(Gap::default(), "end at 0");
    }
}
