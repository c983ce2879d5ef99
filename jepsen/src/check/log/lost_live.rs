//! L3: what consumers passed over is lost. An acknowledged value, or one of unknown outcome that was seen, below the
//! place up to which the assigned consumers of its queue have read, and which no consumer got.

use std::collections::HashMap;

use super::{Log, QueueNo, State, Step};
use crate::check::Rule;
use crate::check::report::Findings;
use crate::history::{Kind, Op};

#[derive(Default)]
pub(crate) struct LostLive {
    /// From where to where (exclusive) assigned consumers have read.
    read: HashMap<QueueNo, (u64, u64)>,
}

impl Rule for LostLive {
    fn id(&self) -> &'static str {
        "L3"
    }

    fn says(&self) -> &'static str {
        "consumers pass over nothing that is stored"
    }

    fn step(&mut self, step: Step<'_>, _log: &Log, _found: &mut Findings) {
        if let (Op::Pull { from, assigned: true, messages, .. }, Some(queue)) = (&step.event.op, step.queue)
            && step.event.kind == Kind::Ok
        {
            let end = messages.last().map_or(*from, |last| last.offset.saturating_add(1));
            let read = self.read.entry(queue).or_insert((*from, end));
            *read = (read.0.min(*from), read.1.max(end));
        }
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        for (value, sent) in log.all_sent() {
            let (Some(offset), Some(&(from, end))) = (sent.offset(), self.read.get(&sent.queue())) else {
                continue;
            };
            if sent.state() == State::Fail || !(from..end).contains(&offset) {
                continue;
            }
            found.checked += 1;
            if !sent.is_read() {
                let name = &log.queue(sent.queue()).name;
                found.fail(|| {
                    format!("{value} at {offset} of {name} came to nobody, though consumers read up to {end}")
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
    fn what_is_read_or_not_yet_passes() {
        let mut story = Story::new();
        story.sent("1-0", 0).unknown("1-1").sent("2-0", 2).sent("2-1", 3).pulled(3, 0, "1-0 1-1 2-0");
        assert_eq!(story.passes(LostLive::default()).checked, 3);
    }

    #[test]
    fn what_is_passed_over_fails() {
        let mut story = Story::new();
        story.sent("1-0", 0).sent("1-1", 1).sent("1-2", 2).pulled(3, 0, "1-0").pulled(3, 2, "1-2");
        story.fails(LostLive::default(), "1-1 at 1 of a/t/0 came to nobody, though consumers read up to 3");
        // of unknown outcome, but the drain proves that it is there
        let mut story = Story::new();
        story.unknown("1-0").sent("2-0", 1).pulled(3, 0, "").pulled(3, 1, "2-0").drained(1, "1-0 2-0");
        story.fails(LostLive::default(), "1-0 at 0");
    }
}
