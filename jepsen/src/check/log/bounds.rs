//! L11: a queue's bounds only rise. The maximum offset is above everything that was known to be stored when it was
//! asked for, and no answer about the minimum is below an earlier one.

use super::{Log, Step};
use crate::check::Rule;
use crate::check::report::Findings;
use crate::history::{Kind, Op, PullStatus};

pub(crate) struct QueueBounds;

impl Rule for QueueBounds {
    fn id(&self) -> &'static str {
        "L11"
    }

    fn says(&self) -> &'static str {
        "maximum and minimum offsets are current"
    }

    fn step(&mut self, step: Step<'_>, _log: &Log, found: &mut Findings) {
        let (Some(open), Kind::Ok) = (step.open, step.event.kind) else { return };
        match &step.event.op {
            Op::MaxOffset { queue, offset: Some(max) } => {
                found.checked += 1;
                if *max < open.known_end {
                    let end = open.known_end;
                    found.fail(|| {
                        format!("the maximum of {queue} is {max}, but it had reached to {end} before")
                    });
                }
            }
            Op::MinOffset { queue, offset: Some(min) } => {
                found.checked += 1;
                if *min < open.known_min {
                    let before = open.known_min;
                    found.fail(|| format!("the minimum of {queue} fell from {before} to {min}"));
                }
            }
            // No promise, for it harms nobody: the client asks again. Followers must not say so at all, and what they
            // say by mistake shows here first.
            Op::Pull { from, status: Some(PullStatus::NothingNew), .. } if *from < open.known_end => {
                found.count("answers \"nothing new\" below what was known to be stored");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::Story;

    #[test]
    fn current_bounds_pass() {
        let mut story = Story::new();
        story.max_offset(1, 0).sent("2-0", 0).max_offset(1, 1).min_offset(1, 0).max_offset(1, 5);
        story.min_offset(1, 3).min_offset(1, 3).max_offset(1, 5).pull(3, 2, PullStatus::NothingNew, 2);
        let report = story.passes(QueueBounds);
        assert_eq!((report.checked, report.figures.len()), (7, 1));
        // asked before the acknowledgement came
        let ask = |offset| Op::MaxOffset { queue: crate::check::story::queue(), offset };
        let mut story = Story::new();
        story.event(1, Kind::Invoke, ask(None)).sent("2-0", 0).event(1, Kind::Ok, ask(Some(0)));
        story.passes(QueueBounds);
    }

    #[test]
    fn stale_bounds_fail() {
        Story::new()
            .sent("1-0", 4)
            .max_offset(2, 4)
            .fails(QueueBounds, "is 4, but it had reached to 5 before");
        Story::new().max_offset(1, 9).max_offset(2, 8).fails(QueueBounds, "is 8");
        Story::new().unknown("1-0").pulled(2, 0, "1-0").max_offset(3, 0).fails(QueueBounds, "is 0");
        Story::new().min_offset(1, 3).min_offset(2, 2).fails(QueueBounds, "fell from 3 to 2");
    }
}
