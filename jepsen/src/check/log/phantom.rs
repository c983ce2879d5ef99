//! L6: nothing is read that nobody sent, or that was sent to another queue. Bodies that came back changed count as
//! such: their value is foreign (history.rs).

use super::Log;
use crate::check::Rule;
use crate::check::report::Findings;

pub(crate) struct Phantom;

impl Rule for Phantom {
    fn id(&self) -> &'static str {
        "L6"
    }

    fn says(&self) -> &'static str {
        "nothing is read that nobody sent there"
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        found.checked = log.reads;
        found.failed = log.phantoms.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::{Story, reads, value};
    use crate::history::{Kind, Op, Queue, Read, Value};

    #[test]
    fn reads_of_what_was_sent_pass() {
        let mut story = Story::new();
        story.invoke_send("1-0").pulled(2, 0, "1-0").batch("3-0 3-1", None).drained(1, "1-0 3-0 3-1");
        assert_eq!(story.passes(Phantom).checked, 4);
    }

    #[test]
    fn strangers_fail() {
        Story::new().pulled(2, 0, "1-0").fails(Phantom, "1-0 was read at 0 of a/t/0, where nobody sent it");
        // read before it was sent
        Story::new().pulled(2, 0, "1-0").sent("1-0", 0).fails(Phantom, "1-0");
        let changed = Read { offset: 0, value: Value::foreign(b"torn") };
        let mut story = Story::new();
        story.sent("1-0", 0).drain(1, vec![changed], None);
        story.fails(Phantom, "foreign-");
        let other =
            Op::Deliver { group: "g".into(), queue: Queue::new("a", "t", 7), messages: reads(0, "1-0") };
        let mut story = Story::new();
        story.sent("1-0", 0).event(2, Kind::Ok, other);
        story.fails(Phantom, "1-0 was read at 0 of a/t/7");
        assert_eq!(value("1-0"), Value::new(1, 0));
    }
}
