//! From words to a tree, by the grammar in the module's head.

use super::lexer::{Lexer, Token};
use super::{DEPTH_MAX, Filter, FilterError, NAMES_MAX, Node, Order, Search};

pub(super) fn parse(text: &str) -> Result<Filter, FilterError> {
    let mut parser =
        Parser { lexer: Lexer::new(text), ahead: (0, Token::End), nesting: 0, names: Vec::new() };
    parser.advance()?;
    let root = parser.or()?;
    let root = parser.condition(root)?;
    if parser.ahead.1 != Token::End {
        return Err(parser.unexpected("the end of the expression"));
    }
    let mut names = parser.names;
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_unstable_by(|a, b| names[*a].cmp(&names[*b]));
    let mut place = vec![0; order.len()];
    for (sorted, found) in order.iter().enumerate() {
        place[*found] = sorted;
    }
    names.sort_unstable();
    let mut root = root.node;
    rename(&mut root, &place);
    Ok(Filter { root, names })
}

/// A part that is parsed.
struct Part {
    node: Node,
    /// Nodes from here to the deepest leaf.
    depth: usize,
    /// The byte at which it begins.
    at: usize,
}

impl Part {
    fn leaf(at: usize, node: Node) -> Part {
        Part { node, depth: 1, at }
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The next token.
    ahead: (usize, Token<'a>),
    /// Calls of `unary` within each other: what bounds the stack.
    nesting: usize,
    /// In the order in which they were found.
    names: Vec<Box<str>>,
}

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Result<(usize, Token<'a>), FilterError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.ahead, next))
    }

    /// Passes over a token if it is the next one.
    fn accept(&mut self, token: Token<'_>) -> Result<bool, FilterError> {
        let is_next = self.ahead.1 == token;
        if is_next {
            self.advance()?;
        }
        Ok(is_next)
    }

    fn expect(&mut self, token: Token<'_>, what: &str) -> Result<(), FilterError> {
        if self.accept(token)? { Ok(()) } else { Err(self.unexpected(what)) }
    }

    fn unexpected(&self, wanted: &str) -> FilterError {
        let found = match self.ahead.1 {
            Token::End => "the expression ends".to_owned(),
            _ => format!("{} was found", self.lexer.since(self.ahead.0)),
        };
        self.lexer.error(self.ahead.0, format!("{found} where {wanted} was expected"))
    }

    fn error(&self, part: &Part, what: &str) -> FilterError {
        self.lexer.error(part.at, what)
    }

    /// A node above parts of which the deepest has this depth.
    fn above(&self, at: usize, depth: usize, node: Node) -> Result<Part, FilterError> {
        if depth >= DEPTH_MAX {
            return Err(self.too_deep(at));
        }
        Ok(Part { node, depth: depth + 1, at })
    }

    fn too_deep(&self, at: usize) -> FilterError {
        self.lexer.error(at, format!("the expression is nested more than {DEPTH_MAX} deep"))
    }

    fn or(&mut self) -> Result<Part, FilterError> {
        self.list(Token::Or, Node::Or, Parser::and)
    }

    fn and(&mut self) -> Result<Part, FilterError> {
        self.list(Token::And, Node::And, Parser::equality)
    }

    /// Parts that one word joins: one node, however many there are.
    fn list(
        &mut self,
        word: Token<'_>,
        join: fn(Vec<Node>) -> Node,
        part: fn(&mut Self) -> Result<Part, FilterError>,
    ) -> Result<Part, FilterError> {
        let first = part(self)?;
        if self.ahead.1 != word {
            return Ok(first);
        }
        let first = self.condition(first)?;
        let (at, mut depth, mut nodes) = (first.at, first.depth, vec![first.node]);
        while self.accept(word)? {
            let next = part(self)?;
            let next = self.condition(next)?;
            depth = depth.max(next.depth);
            nodes.push(next.node);
        }
        self.above(at, depth, join(nodes))
    }

    fn equality(&mut self) -> Result<Part, FilterError> {
        let mut left = self.comparison()?;
        loop {
            let at = left.at;
            let not = match self.ahead.1 {
                Token::Equal => false,
                Token::NotEqual => true,
                Token::Is => {
                    self.advance()?;
                    let not = self.accept(Token::Not)?;
                    self.expect(Token::Null, "NULL")?;
                    left = self.above(at, left.depth, Node::IsNull(Box::new(left.node)))?;
                    left = self.negated(left, not)?;
                    continue;
                }
                _ => return Ok(left),
            };
            self.advance()?;
            let right = self.comparison()?;
            for side in [&left, &right] {
                if side.node == Node::Null {
                    return Err(self.error(side, "NULL cannot be compared: IS NULL asks for it"));
                }
            }
            let clash = matches!(left.node, Node::Boolean(_))
                && matches!(right.node, Node::Integer(_) | Node::Double(_) | Node::Text(_));
            if clash {
                return Err(self.error(&right, "this cannot be compared with a boolean"));
            }
            let depth = left.depth.max(right.depth);
            left = self.above(at, depth, Node::Equal(Box::new((left.node, right.node))))?;
            left = self.negated(left, not)?;
        }
    }

    fn negated(&self, part: Part, not: bool) -> Result<Part, FilterError> {
        if not { self.above(part.at, part.depth, Node::Not(Box::new(part.node))) } else { Ok(part) }
    }

    fn comparison(&mut self) -> Result<Part, FilterError> {
        let mut left = self.unary()?;
        loop {
            let order = match self.ahead.1 {
                Token::Less => Order::Less,
                Token::LessOrEqual => Order::LessOrEqual,
                Token::Greater => Order::Greater,
                Token::GreaterOrEqual => Order::GreaterOrEqual,
                Token::Not => {
                    self.advance()?;
                    left = self.worded(left, true)?;
                    continue;
                }
                Token::Between | Token::In | Token::Contains | Token::StartsWith | Token::EndsWith => {
                    left = self.worded(left, false)?;
                    continue;
                }
                _ => return Ok(left),
            };
            self.advance()?;
            let right = self.unary()?;
            self.ordered(&left)?;
            self.ordered(&right)?;
            let depth = left.depth.max(right.depth);
            left = self.above(left.at, depth, Node::Compare(order, Box::new((left.node, right.node))))?;
        }
    }

    /// BETWEEN, IN and the searches, behind NOT if there was one.
    fn worded(&mut self, left: Part, not: bool) -> Result<Part, FilterError> {
        let kind = match self.ahead.1 {
            Token::Between => return self.between(left, not),
            Token::In => return self.list_of(left, not),
            Token::Contains => Search::Contains,
            Token::StartsWith => Search::StartsWith,
            Token::EndsWith => Search::EndsWith,
            _ => return Err(self.unexpected("BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH")),
        };
        self.advance()?;
        let part = self.string()?;
        let value = Box::new(left.node);
        self.above(left.at, left.depth, Node::Search { kind, value, part, not })
    }

    fn between(&mut self, value: Part, not: bool) -> Result<Part, FilterError> {
        self.advance()?;
        let low = self.unary()?;
        self.expect(Token::And, "AND")?;
        let high = self.unary()?;
        for part in [&value, &low, &high] {
            self.ordered(part)?;
        }
        let is_empty = match (&low.node, &high.node) {
            (Node::Integer(low), Node::Integer(high)) => low > high,
            (low, high) => number(low).zip(number(high)).is_some_and(|(low, high)| low > high),
        };
        if is_empty && !not {
            return Err(self.error(&low, "BETWEEN wants the lower value first"));
        }
        let depth = value.depth.max(low.depth).max(high.depth);
        let parts = Box::new((value.node, low.node, high.node));
        let node = if not { Node::NotBetween(parts) } else { Node::Between(parts) };
        self.above(value.at, depth, node)
    }

    fn list_of(&mut self, left: Part, not: bool) -> Result<Part, FilterError> {
        let Node::Property(property) = left.node else {
            return Err(self.error(&left, "IN wants a property before it"));
        };
        self.advance()?;
        self.expect(Token::Open, "(")?;
        let mut list = vec![self.string()?];
        while self.accept(Token::Comma)? {
            list.push(self.string()?);
        }
        self.expect(Token::Close, "a comma or )")?;
        list.sort_unstable();
        list.dedup();
        self.above(left.at, left.depth, Node::In { property, list, not })
    }

    fn unary(&mut self) -> Result<Part, FilterError> {
        if self.nesting >= DEPTH_MAX {
            return Err(self.too_deep(self.ahead.0));
        }
        self.nesting += 1;
        let part = self.nested();
        self.nesting -= 1;
        part
    }

    fn nested(&mut self) -> Result<Part, FilterError> {
        let (at, token) = self.ahead;
        let node = match token {
            Token::Plus => {
                self.advance()?;
                return self.unary();
            }
            Token::Minus => {
                self.advance()?;
                let part = self.unary()?;
                return self.above(at, part.depth, Node::Negate(Box::new(part.node)));
            }
            Token::Not => {
                self.advance()?;
                let part = self.unary()?;
                let part = self.condition(part)?;
                return self.above(at, part.depth, Node::Not(Box::new(part.node)));
            }
            Token::Open => {
                self.advance()?;
                let part = self.or()?;
                self.expect(Token::Close, ")")?;
                return Ok(Part { at, ..part });
            }
            Token::True => Node::Boolean(true),
            Token::False => Node::Boolean(false),
            Token::Null => Node::Null,
            Token::Quoted(_) => return Ok(Part::leaf(at, Node::Text(self.string()?))),
            Token::Decimal(digits) => match digits.parse() {
                Ok(number) => Node::Integer(number),
                Err(_) => {
                    return Err(self.lexer.error(at, format!("{digits} does not fit 64 bits")));
                }
            },
            Token::Floating(text) => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Node::Double(number),
                _ => return Err(self.lexer.error(at, format!("{text} is too large"))),
            },
            Token::Name(name) => Node::Property(self.name(at, name)?),
            _ => return Err(self.unexpected("a value")),
        };
        self.advance()?;
        Ok(Part::leaf(at, node))
    }

    fn string(&mut self) -> Result<Box<str>, FilterError> {
        let Token::Quoted(text) = self.ahead.1 else { return Err(self.unexpected("a string in quotes")) };
        self.advance()?;
        Ok(text.replace("''", "'").into())
    }

    fn name(&mut self, at: usize, name: &str) -> Result<usize, FilterError> {
        if let Some(known) = self.names.iter().position(|known| **known == *name) {
            return Ok(known);
        }
        if self.names.len() == NAMES_MAX {
            return Err(self.lexer.error(at, format!("more than {NAMES_MAX} properties")));
        }
        self.names.push(name.into());
        Ok(self.names.len() - 1)
    }

    /// What may be true or false.
    fn condition(&self, part: Part) -> Result<Part, FilterError> {
        match part.node {
            Node::Property(property) => Ok(Part { node: Node::Cast(property), ..part }),
            ref node if is_condition(node) => Ok(part),
            _ => Err(self.error(&part, "this is not a condition")),
        }
    }

    /// What may be greater or less than something.
    fn ordered(&self, part: &Part) -> Result<(), FilterError> {
        let can_be = match &part.node {
            Node::Text(_) => false,
            node => !is_condition(node),
        };
        if can_be { Ok(()) } else { Err(self.error(part, "only properties and numbers have an order")) }
    }
}

fn is_condition(node: &Node) -> bool {
    match node {
        Node::Integer(_) | Node::Double(_) | Node::Text(_) | Node::Property(_) | Node::Negate(_) => false,
        Node::Null
        | Node::Boolean(_)
        | Node::Not(_)
        | Node::Cast(_)
        | Node::And(_)
        | Node::Or(_)
        | Node::Equal(_)
        | Node::IsNull(_)
        | Node::Compare(..)
        | Node::Between(_)
        | Node::NotBetween(_)
        | Node::In { .. }
        | Node::Search { .. } => true,
    }
}

fn number(node: &Node) -> Option<f64> {
    match node {
        Node::Integer(number) => Some(*number as f64),
        Node::Double(number) => Some(*number),
        _ => None,
    }
}

/// Gives each property its place among the sorted names.
fn rename(node: &mut Node, place: &[usize]) {
    match node {
        Node::Property(property) | Node::Cast(property) | Node::In { property, .. } => {
            *property = place[*property];
        }
        Node::Negate(node) | Node::Not(node) | Node::IsNull(node) | Node::Search { value: node, .. } => {
            rename(node, place);
        }
        Node::And(nodes) | Node::Or(nodes) => nodes.iter_mut().for_each(|node| rename(node, place)),
        Node::Equal(pair) | Node::Compare(_, pair) => {
            rename(&mut pair.0, place);
            rename(&mut pair.1, place);
        }
        Node::Between(parts) | Node::NotBetween(parts) => {
            rename(&mut parts.0, place);
            rename(&mut parts.1, place);
            rename(&mut parts.2, place);
        }
        Node::Null | Node::Boolean(_) | Node::Integer(_) | Node::Double(_) | Node::Text(_) => {}
    }
}
