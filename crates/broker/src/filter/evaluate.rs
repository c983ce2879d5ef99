//! What an expression says of one message (RocketMQ's filter/.../expression, ComparisonExpression above all).

use std::cmp::Ordering;

use super::{NAMES_MAX, Node, Order};

/// The values of the properties that a filter names, by their places; `None` is unset.
pub(super) type Values<'a> = [Option<&'a str>; NAMES_MAX];

/// What a part of an expression comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    Double(f64),
    Text(&'a str),
}

/// Two values cannot be compared. Java throws, and then the message does not match, whatever else the expression says.
struct Incomparable;

type Result<T> = std::result::Result<T, Incomparable>;

/// Whether the expression is true: neither false, nor NULL, nor beyond evaluation.
pub(super) fn holds(root: &Node, values: &Values<'_>) -> bool {
    matches!(evaluate(root, values), Ok(Value::Boolean(true)))
}

fn evaluate<'a>(node: &'a Node, values: &Values<'a>) -> Result<Value<'a>> {
    Ok(match node {
        Node::Null => Value::Null,
        Node::Boolean(value) => Value::Boolean(*value),
        Node::Integer(value) => Value::Integer(*value),
        Node::Double(value) => Value::Double(*value),
        Node::Text(value) => Value::Text(value),
        Node::Property(property) => values[*property].map_or(Value::Null, Value::Text),
        Node::Negate(node) => match evaluate(node, values)? {
            Value::Integer(value) => Value::Integer(value.wrapping_neg()),
            Value::Double(value) => Value::Double(-value),
            Value::Null | Value::Boolean(_) | Value::Text(_) => Value::Null,
        },
        Node::Cast(property) => truth(values[*property].map(|_| false)),
        Node::Not(_)
        | Node::And(_)
        | Node::Or(_)
        | Node::Equal(_)
        | Node::IsNull(_)
        | Node::Compare(..)
        | Node::Between(_)
        | Node::NotBetween(_)
        | Node::In { .. }
        | Node::Search { .. } => truth(condition(node, values)?),
    })
}

fn truth<'a>(value: Option<bool>) -> Value<'a> {
    value.map_or(Value::Null, Value::Boolean)
}

/// A part that is true, false, or NULL (`None`).
fn condition(node: &Node, values: &Values<'_>) -> Result<Option<bool>> {
    match node {
        Node::Not(node) => Ok(condition(node, values)?.map(|value| !value)),
        Node::And(nodes) => all(nodes.iter().map(|node| condition(node, values))),
        Node::Or(nodes) => {
            // Not (not a and not b and …).
            let none = all(nodes.iter().map(|node| Ok(condition(node, values)?.map(|value| !value))));
            Ok(none?.map(|value| !value))
        }
        Node::Equal(pair) => equal(evaluate(&pair.0, values)?, evaluate(&pair.1, values)?),
        Node::IsNull(node) => Ok(Some(evaluate(node, values)? == Value::Null)),
        Node::Compare(order, pair) => {
            // As Java: the right side is not looked at where the left one is NULL.
            match evaluate(&pair.0, values)? {
                Value::Null => Ok(None),
                left => compare(*order, left, evaluate(&pair.1, values)?),
            }
        }
        Node::Between(parts) => {
            let value = evaluate(&parts.0, values)?;
            let bounds = [(Order::GreaterOrEqual, &parts.1), (Order::LessOrEqual, &parts.2)];
            all(bounds.map(|(order, bound)| compare(order, value, evaluate(bound, values)?)).into_iter())
        }
        Node::NotBetween(parts) => {
            let value = evaluate(&parts.0, values)?;
            let below = compare(Order::Less, value, evaluate(&parts.1, values)?)?;
            if below == Some(true) {
                return Ok(below);
            }
            let above = compare(Order::Greater, value, evaluate(&parts.2, values)?)?;
            Ok(if above == Some(true) { above } else { below.and(above) })
        }
        Node::In { property, list, not } => {
            let is_there = |value: &str| list.binary_search_by(|text| (**text).cmp(value)).is_ok();
            Ok(values[*property].map(|value| is_there(value) != *not))
        }
        Node::Search { kind, value, part, not } => match evaluate(value, values)? {
            Value::Text(text) if !part.is_empty() => Ok(Some(kind.finds(text, part) != *not)),
            _ => Ok(Some(false)),
        },
        Node::Cast(property) => Ok(values[*property].map(|_| false)),
        Node::Boolean(value) => Ok(Some(*value)),
        Node::Null
        | Node::Integer(_)
        | Node::Double(_)
        | Node::Text(_)
        | Node::Property(_)
        | Node::Negate(_) => Ok(None),
    }
}

/// Three-valued AND, which stops at the first that is false.
fn all(parts: impl Iterator<Item = Result<Option<bool>>>) -> Result<Option<bool>> {
    let mut all = Some(true);
    for part in parts {
        match part? {
            Some(false) => return Ok(Some(false)),
            Some(true) => {}
            None => all = None,
        }
    }
    Ok(all)
}

/// `=`. Two unset properties are equal; one that is set does not equal one that is not; NULL = value is NULL.
fn equal(left: Value<'_>, right: Value<'_>) -> Result<Option<bool>> {
    match (left, right) {
        (Value::Null, Value::Null) => Ok(Some(true)),
        (Value::Null, _) => Ok(None),
        (_, Value::Null) => Ok(Some(false)),
        (Value::Text(left), Value::Text(right)) => Ok(Some(left == right)),
        (left, right) => Ok(Some(ordering(left, right)? == Some(Ordering::Equal))),
    }
}

fn compare(order: Order, left: Value<'_>, right: Value<'_>) -> Result<Option<bool>> {
    let ordering = match (left, right) {
        (Value::Null, _) | (_, Value::Null) => return Ok(None),
        // Strings have no order: both must be numbers.
        (Value::Text(left), Value::Text(right)) => Some(double(left)?.total_cmp(&double(right)?)),
        (left, right) => ordering(left, right)?,
    };
    Ok(Some(ordering.is_some_and(|ordering| order.accepts(ordering))))
}

/// How two values that are not NULL and not both text compare. `None`: they have no common type.
fn ordering(left: Value<'_>, right: Value<'_>) -> Result<Option<Ordering>> {
    Ok(Some(match (left, right) {
        (Value::Boolean(left), Value::Boolean(right)) => left.cmp(&right),
        (Value::Text(left), Value::Boolean(right)) => left.eq_ignore_ascii_case("true").cmp(&right),
        (Value::Boolean(left), Value::Text(right)) => left.cmp(&right.eq_ignore_ascii_case("true")),
        (Value::Integer(left), Value::Integer(right)) => left.cmp(&right),
        (Value::Text(left), Value::Integer(right)) => integer(left)?.cmp(&right),
        (Value::Integer(left), Value::Text(right)) => left.cmp(&integer(right)?),
        (Value::Double(left), Value::Double(right)) => left.total_cmp(&right),
        (Value::Double(left), Value::Integer(right)) => left.total_cmp(&(right as f64)),
        (Value::Integer(left), Value::Double(right)) => (left as f64).total_cmp(&right),
        (Value::Text(left), Value::Double(right)) => double(left)?.total_cmp(&right),
        (Value::Double(left), Value::Text(right)) => left.total_cmp(&double(right)?),
        _ => return Ok(None),
    }))
}

/// As Java's `Long.valueOf`.
fn integer(text: &str) -> Result<i64> {
    text.parse().map_err(|_| Incomparable)
}

/// As Java's `Double.valueOf`, but for numbers in hexadecimal.
fn double(text: &str) -> Result<f64> {
    let text = text.trim_matches(|c: char| c <= ' ');
    let (sign, number) = match text.strip_prefix(['+', '-']) {
        Some(number) => (if text.starts_with('-') { -1.0 } else { 1.0 }, number),
        None => (1.0, text),
    };
    match number {
        "NaN" => return Ok(f64::NAN),
        "Infinity" => return Ok(sign * f64::INFINITY),
        _ => {}
    }
    let number = number.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(number);
    // Rust also knows other words.
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Err(Incomparable);
    }
    number.parse::<f64>().map(|number| sign * number).map_err(|_| Incomparable)
}
