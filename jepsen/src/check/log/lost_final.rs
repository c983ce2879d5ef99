//! L4: in the end every acknowledged value is at its acknowledged offset on every replica, and by each way of reading.
//! What is missing is told apart by where: a *prefix* (too much was purged), the *middle* (a hole), a *postfix* (a tail
//! was cut).

use std::collections::BTreeMap;

use super::{Log, REPLICAS_MAX, State};
use crate::check::Rule;
use crate::check::report::Findings;

pub(crate) struct LostFinal;

impl Rule for LostFinal {
    fn id(&self) -> &'static str {
        "L4"
    }

    fn says(&self) -> &'static str {
        "every replica holds every acknowledged value"
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        let mut lost: BTreeMap<String, u64> = BTreeMap::new();
        for (value, sent) in log.all_sent() {
            let (State::Ok, Some(offset)) = (sent.state(), sent.offset()) else { continue };
            let queue = log.queue(sent.queue());
            for (replica, drained, bounds) in queue.complete_drains().filter(|drain| drain.0 < REPLICAS_MAX) {
                if offset < bounds.min {
                    found.count("acknowledged values below a replica's minimum (retention)");
                    continue;
                }
                found.checked += 1;
                if sent.is_drained(replica) {
                    continue;
                }
                let (node, way) = log.replicas[replica];
                let part = if drained.first.is_none_or(|first| offset < first) {
                    "prefix"
                } else if drained.last.is_none_or(|last| offset > last) {
                    "postfix"
                } else {
                    "middle"
                };
                *lost.entry(format!("lost {part} at node {node} by {way:?}")).or_default() += 1;
                found.fail(|| {
                    format!("{value} at {offset} of {}: not at node {node} by {way:?} ({part})", queue.name)
                });
            }
        }
        found.figures.extend(lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::report::Status;
    use crate::check::story::{Story, reads};
    use crate::history::Bounds;

    #[test]
    fn what_all_replicas_hold_passes() {
        let mut story = Story::new();
        story.sent("1-0", 0).unknown("1-1").sent("2-0", 1).drained(1, "1-0 2-0").drained(2, "1-0 2-0");
        assert_eq!(story.passes(LostFinal).checked, 4);
        // below the minimum retention has been
        let mut story = Story::new();
        story.sent("1-0", 0).sent("1-1", 1).drained_from(1, 1, "1-1");
        let report = story.passes(LostFinal);
        assert_eq!((report.checked, report.figures.len()), (1, 1));
        // a drain that did not end says nothing
        let mut story = Story::new();
        story.sent("1-0", 0).drain(1, Vec::new(), None);
        assert_eq!(story.judge(LostFinal).status, Status::NotChecked);
    }

    #[test]
    fn what_one_replica_lacks_fails_by_its_place() {
        let lost = |held: &[(u64, &str)], part: &str| {
            let mut story = Story::new();
            story.sent("1-0", 0).sent("1-1", 1).sent("1-2", 2).drained(1, "1-0 1-1 1-2");
            let held = held.iter().flat_map(|&(at, values)| reads(at, values)).collect();
            story.drain(2, held, Some(Bounds { min: 0, max: 3 }));
            let report = story.fails(LostFinal, &format!("not at node 2 by Pull ({part})"));
            assert_eq!(report.failures, 1);
            assert_eq!(report.figures[&format!("lost {part} at node 2 by Pull")], 1);
        };
        lost(&[(1, "1-1 1-2")], "prefix");
        lost(&[(0, "1-0"), (2, "1-2")], "middle");
        lost(&[(0, "1-0 1-1")], "postfix");
        // another value at its place
        lost(&[(0, "1-0 2-9 1-2")], "middle");
    }

    #[test]
    fn a_value_elsewhere_than_acknowledged_fails() {
        let mut story = Story::new();
        story.sent("1-0", 5).drained(1, "1-0");
        story.fails(LostFinal, "1-0 at 5");
    }
}
