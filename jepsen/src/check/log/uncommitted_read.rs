//! L10: what a consumer got is there in the end. A message that was delivered, by the leader or a follower, and is not
//! at its place when the replicas are drained, had not been committed.

use super::{Log, Marks};
use crate::check::Rule;
use crate::check::report::Findings;

pub(crate) struct UncommittedRead;

impl Rule for UncommittedRead {
    fn id(&self) -> &'static str {
        "L10"
    }

    fn says(&self) -> &'static str {
        "nothing uncommitted is delivered"
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        for (_, queue) in log.queues() {
            let Some(min) = queue.drained_min() else { continue };
            let others = queue.places.contested().flat_map(|(offset, others)| {
                others.iter().map(move |&(value, marks)| (offset, value, marks))
            });
            for (offset, value, marks) in queue.places.all().chain(others) {
                if offset < min || !marks.has(Marks::READ) {
                    continue;
                }
                found.checked += 1;
                if !marks.has(Marks::DRAINED) {
                    found.fail(|| {
                        let now =
                            queue.places.claims(offset).into_iter().find(|claim| claim.1.has(Marks::DRAINED));
                        let now = now.map_or("nothing".to_owned(), |(value, _)| value.to_string());
                        format!(
                            "{value} was delivered at {offset} of {}, where in the end is {now}",
                            queue.name
                        )
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::report::Status;
    use crate::check::story::Story;

    #[test]
    fn what_stays_passes() {
        let mut story = Story::new();
        story.sent("1-0", 0).unknown("1-1").pulled(2, 0, "1-0 1-1").delivered("g", 0, "1-0");
        assert_eq!(
            story.judge(UncommittedRead).status,
            Status::NotChecked,
            "without a drain nothing is final"
        );
        story.drained(1, "1-0 1-1");
        assert_eq!(story.passes(UncommittedRead).checked, 2);
        // purged since
        Story::new()
            .sent("1-0", 0)
            .sent("1-1", 1)
            .pulled(2, 0, "1-0 1-1")
            .drained_from(1, 1, "1-1")
            .passes(UncommittedRead);
    }

    #[test]
    fn what_goes_again_fails() {
        let mut story = Story::new();
        story.unknown("1-0").pulled(2, 0, "1-0").drained(1, "");
        story.fails(UncommittedRead, "1-0 was delivered at 0 of a/t/0, where in the end is nothing");
        let mut story = Story::new();
        story.unknown("1-0").unknown("2-0").pulled(3, 0, "1-0").drained(1, "2-0");
        story.fails(UncommittedRead, "1-0 was delivered at 0 of a/t/0, where in the end is 2-0");
        // two consumers got two things
        let mut story = Story::new();
        story.unknown("1-0").unknown("2-0").pulled(3, 0, "1-0").pulled(4, 0, "2-0").drained(1, "1-0");
        story.fails(UncommittedRead, "2-0 was delivered at 0 of a/t/0, where in the end is 1-0");
    }
}
