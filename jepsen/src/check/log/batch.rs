//! L13: a batch is stored whole and in one piece, or not at all. Wherever one of its messages is, all others are around
//! it.

use std::collections::BTreeSet;

use super::{Log, QueueNo, Step};
use crate::check::Rule;
use crate::check::report::Findings;
use crate::history::{Kind, Op, Value};

#[derive(Default)]
pub(crate) struct Batches {
    /// First value, number of messages, queue.
    sent: Vec<(Value, u32, QueueNo)>,
}

impl Rule for Batches {
    fn id(&self) -> &'static str {
        "L13"
    }

    fn says(&self) -> &'static str {
        "a batch is stored whole or not at all"
    }

    fn step(&mut self, step: Step<'_>, _log: &Log, _found: &mut Findings) {
        if let (Op::Batch { values, .. }, Kind::Invoke, Some(queue)) =
            (&step.event.op, step.event.kind, step.queue)
            && let Some(&first) = values.first()
        {
            self.sent.push((first, values.len() as u32, queue));
        }
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        for &(first, count, number) in &self.sent {
            let queue = log.queue(number);
            // Before the drain a message that nobody saw may be there.
            let Some(min) = queue.drained_min() else { continue };
            found.checked += 1;
            // Where the batch would begin, from where each of its messages is. Below 0: it cannot.
            let value = |at: u32| Value::new(first.process(), first.counter().saturating_add(at));
            let begins = |at: u32| -> BTreeSet<i128> {
                let places = log.places_of(value(at));
                places.iter().map(|&place| i128::from(place) - i128::from(at)).collect()
            };
            let of_first = begins(0);
            // Retention may have taken a part of it.
            if (0..count).any(|at| log.places_of(value(at)).iter().any(|&place| place < min)) {
                continue;
            }
            if let Some(at) = (1..count).find(|&at| begins(at) != of_first) {
                found.fail(|| {
                    let (here, there) = (log.places_of(first), log.places_of(value(at)));
                    let name = &queue.name;
                    format!(
                        "of a batch of {count}, {first} is at {here:?} and {} at {there:?} of {name}",
                        value(at)
                    )
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::Story;

    #[test]
    fn whole_batches_pass() {
        let mut story = Story::new();
        story.batch("1-0 1-1", Some(0)).batch("1-2 1-3", None).batch("2-0 2-1", None).batch("3-0", Some(4));
        story.drained(1, "1-0 1-1 2-0 2-1 3-0");
        assert_eq!(story.passes(Batches::default()).checked, 4);
        // stored twice by a client that tried again, once before the acknowledged place
        let mut story = Story::new();
        story.batch("1-0 1-1", Some(2)).drained(1, "1-0 1-1 1-0 1-1");
        story.passes(Batches::default());
        // the first half has been purged
        let mut story = Story::new();
        story.batch("1-0 1-1", Some(0)).drained_from(1, 1, "1-1");
        story.passes(Batches::default());
    }

    #[test]
    fn torn_batches_fail() {
        let mut story = Story::new();
        story.batch("1-0 1-1", None).drained(1, "1-0");
        story.fails(Batches::default(), "of a batch of 2, 1-0 is at [0] and 1-1 at []");
        Story::new()
            .batch("1-0 1-1", None)
            .drained(1, "1-1")
            .fails(Batches::default(), "1-0 is at [] and 1-1 at [0]");
        let mut story = Story::new();
        story.batch("1-0 1-1", None).sent("2-0", 1).drained(1, "1-0 2-0 1-1");
        story.fails(Batches::default(), "1-0 is at [0] and 1-1 at [2]");
        // the second copy is torn
        let mut story = Story::new();
        story.batch("1-0 1-1", Some(0)).drained(1, "1-0 1-1 1-0");
        story.fails(Batches::default(), "1-0 is at [0, 2]");
    }
}
