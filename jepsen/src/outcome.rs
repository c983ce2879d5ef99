//! What an answer, or its absence, says about a request: the one table from which histories get their outcomes.
//!
//! ```text
//!  ok    it happened, at the place named     code 0
//!  fail  it did not happen and never will    any other code; 1 too, unless its remark says "unknown"; never sent
//!  info  it may have happened, or will yet   1 with the remark "the outcome … is unknown"; no answer; codes 10, 11, 12
//! ```
//! docs/errors.md says the same in prose, and a test below compares the two: a wrong `fail` here would make the
//! checkers accuse a correct broker (a value that "never was stored" is read), and a wrong `info` would let a lie pass.
//!
//! The table is for requests that change something. Questions that fail have changed nothing, so whatever went wrong
//! with them is `fail` ([`Outcome::of_question`]).

use client::{ClientError, SendStatus};
use net::CallError;
use serde::{Deserialize, Serialize};

/// How an operation ended, for the checkers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Done.
    Ok,
    /// Definitely not done, now or later.
    Fail,
    /// Done or not, now or later.
    Info,
}

/// How the remark of an answer of unknown outcome begins (`Error::Unknown` in crates/broker/src/errors.rs).
pub const UNKNOWN_REMARK: &str = "the outcome of the request is unknown";

/// One response code that a broker may give, and what it says of a request that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeRow {
    pub code: i32,
    pub name: &'static str,
    pub outcome: Outcome,
}

const fn row(code: i32, name: &'static str, outcome: Outcome) -> CodeRow {
    CodeRow { code, name, outcome }
}

/// The codes of docs/errors.md, ascending. Code 1 stands here as what it is without the remark [`UNKNOWN_REMARK`].
pub const CODES: &[CodeRow] = &[
    row(0, "SUCCESS", Outcome::Ok),
    row(1, "SYSTEM_ERROR", Outcome::Fail),
    row(2, "SYSTEM_BUSY", Outcome::Fail),
    row(3, "REQUEST_CODE_NOT_SUPPORTED", Outcome::Fail),
    row(13, "MESSAGE_ILLEGAL", Outcome::Fail),
    row(14, "SERVICE_NOT_AVAILABLE", Outcome::Fail),
    row(16, "NO_PERMISSION", Outcome::Fail),
    row(17, "TOPIC_NOT_EXIST", Outcome::Fail),
    row(19, "PULL_NOT_FOUND", Outcome::Fail),
    row(20, "PULL_RETRY_IMMEDIATELY", Outcome::Fail),
    row(21, "PULL_OFFSET_MOVED", Outcome::Fail),
    row(22, "QUERY_NOT_FOUND", Outcome::Fail),
    row(23, "SUBSCRIPTION_PARSE_FAILED", Outcome::Fail),
    row(24, "SUBSCRIPTION_NOT_EXIST", Outcome::Fail),
    row(25, "SUBSCRIPTION_NOT_LATEST", Outcome::Fail),
    row(26, "SUBSCRIPTION_GROUP_NOT_EXIST", Outcome::Fail),
    row(27, "FILTER_DATA_NOT_EXIST", Outcome::Fail),
    row(29, "INVALID_PARAMETER", Outcome::Fail),
    row(206, "CONSUMER_NOT_ONLINE", Outcome::Fail),
    row(207, "CONSUME_MSG_TIMEOUT", Outcome::Fail),
    row(208, "NO_MESSAGE", Outcome::Fail),
    row(209, "POLLING_FULL", Outcome::Fail),
    row(210, "POLLING_TIMEOUT", Outcome::Fail),
    row(604, "ILLEGAL_OPERATION", Outcome::Fail),
];

/// Codes that a broker of this project must never give, since clients count them as sent: FLUSH_DISK_TIMEOUT,
/// SLAVE_NOT_AVAILABLE and FLUSH_SLAVE_TIMEOUT. The message may be lost, so they are `info`, and a history that has one
/// fails (`check::contract`).
pub const NEVER: [i32; 3] = [10, 11, 12];

/// Whether docs/errors.md has the code.
pub fn is_documented(code: i32) -> bool {
    CODES.binary_search_by_key(&code, |row| row.code).is_ok()
}

impl Outcome {
    /// What an answer says about the request to change something that it answers.
    pub fn of_answer(code: i32, remark: &str) -> Outcome {
        match code {
            0 => Outcome::Ok,
            1 if remark.starts_with(UNKNOWN_REMARK) => Outcome::Info,
            code if NEVER.contains(&code) => Outcome::Info,
            // docs/errors.md promises it of all codes, those too that it does not list
            _ => Outcome::Fail,
        }
    }

    /// What a call that brought no answer says: a request of which not every byte left this process was not carried
    /// out; what left may be, whether the connection ended (also by a reset) or time did.
    pub fn of_call_error(error: &CallError) -> Outcome {
        match error {
            CallError::NotSent { .. } => Outcome::Fail,
            CallError::Unknown { .. } => Outcome::Info,
        }
    }

    /// What an error of the Rust client says about the request to change something that it is about.
    pub fn of_client_error(error: &ClientError) -> Outcome {
        match error {
            ClientError::Broker { code, remark, .. } => Outcome::of_answer(code.get(), remark),
            // the client has tried several times, and of one attempt more may be unknown than its last error says
            other if other.may_have_happened() => Outcome::Info,
            _ => Outcome::Fail,
        }
    }

    /// What the client says of a send that a broker answered with a code that counts as sent.
    pub fn of_status(status: SendStatus) -> Outcome {
        match status {
            SendStatus::Stored => Outcome::Ok,
            SendStatus::FlushDiskTimeout | SendStatus::FlushSlaveTimeout | SendStatus::SlaveNotAvailable => {
                Outcome::Info
            }
        }
    }

    /// Of a request that changes nothing: without an answer that helps it is as if it had not been asked.
    pub fn of_question(answered: bool) -> Outcome {
        if answered { Outcome::Ok } else { Outcome::Fail }
    }
}

#[cfg(test)]
mod tests {
    use net::Failure;
    use wire::ResponseCode;

    use super::*;

    const DOCUMENT: &str = include_str!("../../docs/errors.md");

    /// The cells of the table rows below a heading, without the head and the line under it.
    fn rows(heading: &str) -> Vec<Vec<&'static str>> {
        let (_, section) = DOCUMENT.split_once(&format!("\n## {heading}\n")).expect("the heading");
        let section = section.split("\n## ").next().unwrap_or(section);
        let lines = section.lines().filter(|line| line.starts_with('|')).skip(2);
        lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    #[test]
    fn the_codes_are_those_of_the_document() {
        let mut documented = Vec::new();
        for cells in rows("Codes of a broker") {
            let codes = cells[0].split(", ").map(|code| code.parse::<i32>().expect("a code"));
            let mut first = String::new();
            for (code, name) in codes.zip(cells[1].split(", ")) {
                // "SUBSCRIPTION_NOT_EXIST, _NOT_LATEST": the second name leaves out how the first begins
                let name = match name.strip_prefix('_') {
                    Some(rest) => format!("{}_{rest}", first.split('_').next().unwrap_or_default()),
                    None => name.to_owned(),
                };
                first.clone_from(&name);
                documented.push((code, name));
            }
        }
        let ours: Vec<_> = CODES.iter().map(|row| (row.code, row.name.to_owned())).collect();
        assert_eq!(ours, documented);
        assert!(CODES.is_sorted_by_key(|row| row.code));
    }

    #[test]
    fn the_outcomes_are_those_of_the_document() {
        let outcomes = rows("Three outcomes");
        let names: Vec<_> = outcomes.iter().map(|cells| cells[0]).collect();
        assert_eq!(names, ["done", "not done", "unknown"]);
        let seen = |row: usize| outcomes[row][1];
        // each phrase of the document, and that this table does what it says
        assert_eq!(seen(0), "code 0");
        assert_eq!(Outcome::of_answer(0, ""), Outcome::Ok);
        assert!(
            seen(1).starts_with(
                "any code but 0 and 1; 1 with a remark that does not speak of an unknown outcome"
            )
        );
        for code in (2..=4000).filter(|code| !NEVER.contains(code)) {
            assert_eq!(Outcome::of_answer(code, UNKNOWN_REMARK), Outcome::Fail, "{code}");
        }
        assert_eq!(Outcome::of_answer(1, "header field missing"), Outcome::Fail);
        assert!(seen(1).contains("a connection that cannot be opened"));
        let failure = |failure| CallError::NotSent { peer: "a".into(), failure };
        assert_eq!(
            Outcome::of_call_error(&failure(Failure::Connect(std::io::ErrorKind::ConnectionRefused))),
            Outcome::Fail
        );
        assert!(seen(2).contains(&format!("1 with a remark that begins `{UNKNOWN_REMARK}`")));
        assert_eq!(Outcome::of_answer(1, &format!("{UNKNOWN_REMARK}: no quorum")), Outcome::Info);
        assert!(
            seen(2).contains("a connection that ends, also by reset, before the answer; no answer in time")
        );
        for failure in [Failure::Timeout, Failure::Closed(net::CloseReason::Reset)] {
            assert_eq!(
                Outcome::of_call_error(&CallError::Unknown { peer: "a".into(), failure }),
                Outcome::Info
            );
        }
        assert!(DOCUMENT.contains("Codes 10, 11 and 12 are never used"));
        for code in NEVER {
            assert_eq!(Outcome::of_answer(code, ""), Outcome::Info);
            assert!(!is_documented(code));
        }
    }

    #[test]
    fn each_row_says_what_the_function_says() {
        for row in CODES {
            assert_eq!(Outcome::of_answer(row.code, ""), row.outcome, "{}", row.name);
            assert_eq!(ResponseCode(row.code).name(), Some(row.name));
            assert!(is_documented(row.code));
        }
    }

    #[test]
    fn errors_of_the_client_keep_what_is_unknown() {
        let broker = |code, remark: &str| ClientError::Broker {
            from: "a".into(),
            code: ResponseCode(code),
            remark: remark.into(),
        };
        assert_eq!(Outcome::of_client_error(&broker(14, "")), Outcome::Fail);
        assert_eq!(Outcome::of_client_error(&broker(1, UNKNOWN_REMARK)), Outcome::Info);
        assert_eq!(Outcome::of_client_error(&broker(1, "bad header")), Outcome::Fail);
        let failed = |may_be_stored| ClientError::SendFailed {
            attempts: 2,
            may_be_stored,
            last: Box::new(broker(14, "")),
        };
        assert_eq!(Outcome::of_client_error(&failed(true)), Outcome::Info);
        assert_eq!(Outcome::of_client_error(&failed(false)), Outcome::Fail);
        let unknown = ClientError::Unknown { from: "a".into(), why: "reset".into() };
        assert_eq!(Outcome::of_client_error(&unknown), Outcome::Info);
        let not_sent = ClientError::NotSent { to: "a".into(), why: "refused".into() };
        assert_eq!(Outcome::of_client_error(&not_sent), Outcome::Fail);
        assert_eq!(Outcome::of_status(SendStatus::FlushDiskTimeout), Outcome::Info);
    }
}
