//! L8: offsets rise with time. A message whose send began when the queue was known to reach up to some offset (by an
//! acknowledgement, a read, or an answer to "maximum offset") is stored behind it. Sends of one producer, one after the
//! other, are a case of that; "an offset is never assigned twice" is another.

use super::{Log, Step};
use crate::check::Rule;
use crate::check::report::Findings;
use crate::history::{Kind, Op};

pub(crate) struct SendOrder;

impl Rule for SendOrder {
    fn id(&self) -> &'static str {
        "L8"
    }

    fn says(&self) -> &'static str {
        "offsets rise with time"
    }

    fn step(&mut self, step: Step<'_>, _log: &Log, found: &mut Findings) {
        let (Op::Send { queue, offset: Some(offset), .. } | Op::Batch { queue, offset: Some(offset), .. }) =
            &step.event.op
        else {
            return;
        };
        let Some(open) = step.open.filter(|_| step.event.kind == Kind::Ok) else { return };
        found.checked += 1;
        if *offset < open.known_end {
            found.fail(|| {
                let values = step.event.op.sends();
                let end = open.known_end;
                format!("{values:?} got {offset} of {queue}, which reached to {end} when the send began")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::Story;

    #[test]
    fn rising_and_concurrent_sends_pass() {
        let mut story = Story::new();
        story.sent("1-0", 0).batch("1-1 1-2", Some(1)).sent("1-3", 3);
        // two at once may be stored in either order
        story.invoke_send("2-0").invoke_send("3-0").ok_send("2-0", 5).ok_send("3-0", 4);
        assert_eq!(story.passes(SendOrder).checked, 5);
    }

    #[test]
    fn an_offset_below_what_was_known_fails() {
        let mut story = Story::new();
        story.sent("1-0", 4).sent("1-1", 3);
        story.fails(SendOrder, "[1-1] got 3 of a/t/0, which reached to 5");
        // of another producer
        Story::new().sent("1-0", 4).sent("2-0", 4).fails(SendOrder, "[2-0] got 4");
        // of a batch, all of it counts
        Story::new().batch("1-0 1-1", Some(0)).sent("2-0", 1).fails(SendOrder, "[2-0] got 1");
        // known by a read, and by a maximum
        Story::new().unknown("1-0").pulled(2, 6, "1-0").sent("3-0", 6).fails(SendOrder, "[3-0] got 6");
        Story::new().max_offset(2, 9).sent("3-0", 8).fails(SendOrder, "[3-0] got 8");
    }
}
