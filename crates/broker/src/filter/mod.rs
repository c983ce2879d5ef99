//! SQL92 filters on message properties: the language of `MessageSelector.bySql`.
//!
//! ```text
//! text ─lexer─▶ tokens ─parser─▶ Node (a tree of bounded depth) ─evaluate─▶ matches, once for each message
//! ```
//!
//! The grammar and its meaning are those of RocketMQ (filter/.../parser/SelectorParser.jj and filter/.../expression): all
//! properties are strings; one that is compared with a number, a boolean or by order is read as such, and where it cannot
//! be, the message does not match, whatever the rest of the expression says. Unset properties are NULL, with three-valued
//! logic. Where this differs on purpose: docs/compatibility.md.
//!
//! ```text
//! or      = and { OR and }
//! and     = equal { AND equal }
//! equal   = compare { ("=" | "<>") compare | IS [NOT] NULL }
//! compare = unary { (">" | ">=" | "<" | "<=") unary | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) string
//!                 | [NOT] BETWEEN unary AND unary | [NOT] IN "(" string { "," string } ")" }
//! unary   = ("+" | "-" | NOT) unary | string | number | TRUE | FALSE | NULL | property | "(" or ")"
//! ```
//!
//! A compiled filter is bounded in size and in the time that one message takes, and evaluating it allocates nothing.

mod evaluate;
mod lexer;
mod parser;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use evaluate::Values;

/// Bytes of an expression.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// Depth of an expression: parentheses, signs and comparisons of comparisons.
const DEPTH_MAX: usize = 64;
/// Different properties that an expression names.
const NAMES_MAX: usize = 64;

/// A compiled expression.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Filter {
    root: Node,
    /// The properties that it looks at, sorted.
    names: Vec<Box<str>>,
}

/// Why a text is not an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at position {position}")]
pub(crate) struct FilterError {
    /// Characters before it, from 0.
    pub(crate) position: usize,
    pub(crate) what: String,
}

impl Filter {
    pub(crate) fn compile(text: &str) -> Result<Filter, FilterError> {
        if text.len() > TEXT_BYTES_MAX {
            let what = format!("the expression has {} bytes, more than {TEXT_BYTES_MAX}", text.len());
            return Err(FilterError { position: 0, what });
        }
        parser::parse(text)
    }

    /// Whether a message with these properties (as stored) is wanted.
    pub(crate) fn matches(&self, properties: &str) -> bool {
        let mut values: Values<'_> = [None; NAMES_MAX];
        for (name, value) in wire::properties_iter(properties) {
            // Of a name that occurs twice the last value counts, as in Java's map.
            if let Ok(at) = self.names.binary_search_by(|known| (**known).cmp(name)) {
                values[at] = Some(value);
            }
        }
        evaluate::holds(&self.root, &values)
    }
}

/// A part of an expression.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Null,
    Boolean(bool),
    Integer(i64),
    Double(f64),
    Text(Box<str>),
    /// By its place among the names.
    Property(usize),
    Negate(Box<Node>),
    Not(Box<Node>),
    /// A property in place of a condition: false where it is set, whatever it is, else NULL.
    Cast(usize),
    And(Vec<Node>),
    Or(Vec<Node>),
    Equal(Box<(Node, Node)>),
    IsNull(Box<Node>),
    Compare(Order, Box<(Node, Node)>),
    /// Value, lowest, highest.
    Between(Box<(Node, Node, Node)>),
    NotBetween(Box<(Node, Node, Node)>),
    In {
        property: usize,
        /// Sorted.
        list: Vec<Box<str>>,
        not: bool,
    },
    Search {
        kind: Search,
        value: Box<Node>,
        part: Box<str>,
        not: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn accepts(self, ordering: Ordering) -> bool {
        match self {
            Order::Less => ordering.is_lt(),
            Order::LessOrEqual => ordering.is_le(),
            Order::Greater => ordering.is_gt(),
            Order::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    Contains,
    StartsWith,
    EndsWith,
}

impl Search {
    fn finds(self, text: &str, part: &str) -> bool {
        match self {
            Search::Contains => text.contains(part),
            Search::StartsWith => text.starts_with(part),
            Search::EndsWith => text.ends_with(part),
        }
    }
}
