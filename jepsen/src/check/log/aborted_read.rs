//! L5: what was refused is never read (G1a). "Not stored" must mean it: a client that is told so sends the message
//! again.

use super::{Log, State};
use crate::check::Rule;
use crate::check::report::Findings;

pub(crate) struct AbortedRead;

impl Rule for AbortedRead {
    fn id(&self) -> &'static str {
        "L5"
    }

    fn says(&self) -> &'static str {
        "nothing that was refused is read"
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        for (value, sent) in log.all_sent() {
            if sent.state() != State::Fail {
                continue;
            }
            found.checked += 1;
            if sent.is_seen() {
                let name = &log.queue(sent.queue()).name;
                found.fail(|| format!("{value} was refused and is at {:?} of {name}", log.places_of(value)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::Story;

    #[test]
    fn refused_and_unseen_passes() {
        let mut story = Story::new();
        story.refused("1-0").sent("1-1", 0).pulled(2, 0, "1-1").drained(1, "1-1");
        assert_eq!(story.passes(AbortedRead).checked, 1);
    }

    #[test]
    fn refused_and_read_fails() {
        let mut story = Story::new();
        story.refused("1-0").pulled(2, 0, "1-0");
        story.fails(AbortedRead, "1-0 was refused and is at [0]");
        Story::new().refused("1-0").drained(1, "1-0").fails(AbortedRead, "1-0");
        // also if it was read before the refusal came
        let mut story = Story::new();
        story.invoke_send("1-0").pulled(2, 0, "1-0").event(
            1,
            crate::history::Kind::Fail,
            crate::history::Op::Send {
                queue: crate::check::story::queue(),
                value: crate::check::story::value("1-0"),
                offset: None,
                position: None,
            },
        );
        story.fails(AbortedRead, "1-0");
    }
}
