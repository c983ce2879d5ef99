//! L1: one value at each offset. Two values at one place, whoever names them (acknowledgements, consumers, replicas),
//! mean that two histories of the queue are about.

use super::{Log, Marks};
use crate::check::Rule;
use crate::check::report::Findings;
use crate::history::Value;

pub(crate) struct Inconsistent;

impl Rule for Inconsistent {
    fn id(&self) -> &'static str {
        "L1"
    }

    fn says(&self) -> &'static str {
        "each offset holds one value"
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        for (_, queue) in log.queues() {
            found.checked += queue.places.count();
            for (offset, _) in queue.places.contested() {
                found.fail(|| {
                    let claims = queue.places.claims(offset);
                    let says = |(value, marks): &(Value, Marks)| format!("{value} ({})", marks.words());
                    let claims: Vec<_> = claims.iter().map(says).collect();
                    format!("{offset} of {} holds {}", queue.name, claims.join(" and "))
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
    fn agreeing_witnesses_pass() {
        let mut story = Story::new();
        story.sent("1-0", 0).sent("1-1", 1).pulled(2, 0, "1-0 1-1").drained(1, "1-0 1-1");
        assert_eq!(story.passes(Inconsistent).checked, 2);
    }

    #[test]
    fn two_values_at_one_offset_fail() {
        // two acknowledgements of one place
        let mut story = Story::new();
        story.sent("1-0", 5).sent("2-0", 5);
        story.fails(Inconsistent, "5 of a/t/0 holds 1-0 (acknowledged) and 2-0 (acknowledged)");
        // what was acknowledged is not what is read
        let mut story = Story::new();
        story.sent("1-0", 0).unknown("2-0").pulled(3, 0, "2-0");
        story.fails(Inconsistent, "1-0 (acknowledged) and 2-0 (read)");
        // replicas differ
        let mut story = Story::new();
        story.unknown("1-0").unknown("2-0").drained(1, "1-0").drained(2, "2-0");
        story.fails(Inconsistent, "(drained)");
    }
}
