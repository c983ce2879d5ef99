//! What a 39 carries as `transactionId`, and the 37 that answers it brings back: Java clients of every version echo it (Go ones
//! that of the message), while those of 4.9 name no broker, and a 37 goes to wherever its 39 came from, which may be another
//! group's listener on another node (clients.md 7).
//!
//! ```text
//! t1 . node . position . length of the key . key group
//! ```
//! The key and the group are clients' and operators' texts; the length tells where one ends.

use std::fmt;

use replica::NodeId;
use wire::LogPosition;

/// Names one half message in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    /// A node that has the group.
    pub(crate) node: NodeId,
    /// The brokerName.
    pub(crate) group: &'a str,
    /// Of the half message.
    pub(crate) position: LogPosition,
    /// Its unique id, or nothing.
    pub(crate) unique: &'a str,
}

const PREFIX: &str = "t1.";

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Token { node, group, position, unique } = self;
        write!(f, "{PREFIX}{}.{}.{}.{unique}{group}", node.0, position.0, unique.len())
    }
}

impl<'a> Token<'a> {
    /// `None`: it is something else, such as the unique id that a producer names of its own accord.
    pub(crate) fn parse(text: &'a str) -> Option<Token<'a>> {
        let mut parts = text.strip_prefix(PREFIX)?.splitn(4, '.');
        let node = NodeId(parts.next()?.parse().ok()?);
        let position = LogPosition(parts.next()?.parse().ok()?);
        let length: usize = parts.next()?.parse().ok()?;
        let (unique, group) = parts.next()?.split_at_checked(length)?;
        (!group.is_empty()).then_some(Token { node, group, position, unique })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_they_are_written() {
        for (unique, group) in [("7F00000100002A9F", "broker-a"), ("", "b"), ("a.b.c", "x_y"), ("ü.1", "g")]
        {
            let token = Token { node: NodeId(3), group, position: LogPosition(1234), unique };
            assert_eq!(Token::parse(&token.to_string()), Some(token));
        }
    }

    #[test]
    fn other_texts_are_no_tokens() {
        for text in [
            "",
            "7F00000100002A9F18B4AAC2",
            "t1.",
            "t1.1.2",
            "t1.1.2.3.ab",
            "t1.1.2.9.abc",
            "t1.x.2.1.ab",
            "t1.1.2.1.üb",
        ] {
            assert_eq!(Token::parse(text), None, "{text}");
        }
    }
}
