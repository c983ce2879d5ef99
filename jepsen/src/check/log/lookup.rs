//! L14: an acknowledged value is found by its key and its ids. Before the replicas are level a node may not have
//! applied it yet, so a miss counts from the phase `drain` on; a message given for the wrong place counts always (L1,
//! L6).

use super::{Log, State, Step};
use crate::check::Rule;
use crate::check::report::Findings;
use crate::history::{Kind, Op, Phase};

pub(crate) struct Lookups;

impl Rule for Lookups {
    fn id(&self) -> &'static str {
        "L14"
    }

    fn says(&self) -> &'static str {
        "acknowledged values are found by key and id"
    }

    fn step(&mut self, step: Step<'_>, log: &Log, found: &mut Findings) {
        let Op::Lookup { queue, value, by, found: given } = &step.event.op else { return };
        let Some(sent) = log.sent(*value).filter(|_| step.event.kind == Kind::Ok) else { return };
        let (State::Ok, Some(offset)) = (sent.state(), sent.offset()) else { return };
        found.checked += 1;
        found.count(&format!("by {by:?}"));
        if given.iter().any(|one| one.value == *value && one.offset == offset && one.queue == *queue) {
            return;
        }
        if log.phase >= Some(Phase::Drain) {
            let node = step.event.node;
            found.fail(|| format!("{value} at {offset} of {queue} is not found by {by:?} (node {node:?})"));
        } else {
            found.count("not found before the drain");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::Story;

    #[test]
    fn what_is_found_passes() {
        let mut story = Story::new();
        story.sent("1-0", 3).looked_up(2, "1-0", &[]).phase(Phase::Drain).looked_up(2, "1-0", &[(3, "1-0")]);
        story.unknown("1-1").looked_up(2, "1-1", &[]);
        let report = story.passes(Lookups);
        assert_eq!((report.checked, report.figures["not found before the drain"]), (2, 1));
    }

    #[test]
    fn what_is_missing_or_elsewhere_fails() {
        let mut story = Story::new();
        story.sent("1-0", 3).phase(Phase::Drain).looked_up(2, "1-0", &[]);
        story.fails(Lookups, "1-0 at 3 of a/t/0 is not found by Key");
        let mut story = Story::new();
        story.sent("1-0", 3).phase(Phase::Drain).looked_up(2, "1-0", &[(4, "1-0")]);
        story.fails(Lookups, "1-0 at 3");
    }
}
