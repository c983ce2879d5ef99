//! L7: a value is stored at most as often as it was sent. A client that tries again may store it again, and that is
//! counted; a broker that does so by itself breaks the rule.

use super::Log;
use crate::check::Rule;
use crate::check::report::Findings;

pub(crate) struct Duplicate;

impl Rule for Duplicate {
    fn id(&self) -> &'static str {
        "L7"
    }

    fn says(&self) -> &'static str {
        "no value is stored more often than it was sent"
    }

    fn end(&mut self, log: &Log, found: &mut Findings) {
        found.checked = log.all_sent().count() as u64;
        for (value, others) in log.elsewhere() {
            let Some(sent) = log.sent(value) else { continue };
            let copies = 1 + others.len() as u64;
            match sent.attempts() {
                Some(attempts) if copies > attempts => {
                    let name = &log.queue(sent.queue()).name;
                    let places = log.places_of(value);
                    found.fail(|| format!("{value} is at {places:?} of {name} after {attempts} attempts"));
                }
                _ => found.count("values stored again by clients that tried again"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::Story;

    #[test]
    fn copies_by_retries_are_counted() {
        let mut story = Story::new();
        story.sent("1-0", 1).but(|event| event.attempts = Some(2));
        story.pulled(2, 0, "1-0 1-0").drained(1, "1-0 1-0");
        let report = story.passes(Duplicate);
        assert_eq!(report.figures["values stored again by clients that tried again"], 1);
    }

    #[test]
    fn copies_without_retries_fail() {
        let mut story = Story::new();
        story.sent("1-0", 0).pulled(2, 0, "1-0 1-0");
        story.fails(Duplicate, "1-0 is at [0, 1] of a/t/0 after 1 attempts");
        let mut story = Story::new();
        story.sent("1-0", 0).but(|event| event.attempts = Some(2));
        story.drained(1, "1-0 1-0 1-0");
        story.fails(Duplicate, "[0, 1, 2]");
        // acknowledged at one place, found at another
        Story::new().sent("1-0", 4).drained(1, "1-0").fails(Duplicate, "[4, 0]");
    }
}
