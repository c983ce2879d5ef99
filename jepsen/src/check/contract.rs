//! E: answers are those of docs/errors.md. A code that it does not list, or one of those that must never be given, is a
//! fault of the broker; a completion whose outcome is not the one that the code stands for is one of the workload.

use super::Rule;
use super::log::{Log, Step};
use super::report::Findings;
use crate::history::Kind;
use crate::outcome::{NEVER, Outcome, is_documented};

pub(crate) struct Contract;

impl Rule for Contract {
    fn id(&self) -> &'static str {
        "E"
    }

    fn says(&self) -> &'static str {
        "response codes are those of docs/errors.md"
    }

    fn step(&mut self, step: Step<'_>, _log: &Log, found: &mut Findings) {
        let event = step.event;
        let Some(code) = event.code else { return };
        found.checked += 1;
        found.count(&format!("code {code}"));
        let remark = event.error.as_deref().unwrap_or_default();
        if NEVER.contains(&code) {
            found.fail(|| format!("code {code}, which clients count as sent: {remark}"));
        } else if !is_documented(code) {
            found.fail(|| format!("code {code} for {}: {remark}", event.op.name()));
        }
        let expected = Kind::from(Outcome::of_answer(code, remark));
        // After several attempts the last answer says nothing of those before.
        let once = event.attempts.unwrap_or(1) == 1;
        if event.op.is_write() && once && event.kind != expected {
            found.invalid(|| {
                format!(
                    "{} with code {code} ({remark}) is recorded as {:?}, not {expected:?}",
                    event.op.name(),
                    event.kind
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::Story;
    use crate::outcome::UNKNOWN_REMARK;

    #[test]
    fn documented_answers_with_their_outcomes_pass() {
        let mut story = Story::new();
        story.sent("1-0", 0).but(|event| event.code = Some(0));
        story.refused("1-1").but(|event| event.code = Some(14));
        story.unknown("1-2").but(|event| {
            event.code = Some(1);
            event.error = Some(format!("{UNKNOWN_REMARK}: no quorum"));
        });
        // an attempt before the last may have been carried out
        story.unknown("2-0").but(|event| {
            event.code = Some(14);
            event.attempts = Some(2);
        });
        assert_eq!(story.passes(Contract).checked, 4);
    }

    #[test]
    fn strange_codes_and_wrong_outcomes_are_found() {
        let mut story = Story::new();
        story.unknown("1-0").but(|event| event.code = Some(10));
        story.fails(Contract, "code 10");
        let mut story = Story::new();
        story.refused("1-0").but(|event| event.code = Some(99));
        story.fails(Contract, "code 99 for send");
        let mut story = Story::new();
        story.refused("1-0").but(|event| {
            event.code = Some(1);
            event.error = Some(UNKNOWN_REMARK.into());
        });
        story.is_invalid(Contract, "is recorded as Fail, not Info");
    }
}
