//! The words of an expression.

use super::FilterError;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    Not,
    And,
    Or,
    Between,
    In,
    True,
    False,
    Null,
    Is,
    Contains,
    StartsWith,
    EndsWith,
    /// Any other word: a property.
    Name(&'a str),
    /// Digits, without the `L` that may follow them.
    Decimal(&'a str),
    Floating(&'a str),
    /// What is between the quotes; two quotes in it are one.
    Quoted(&'a str),
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Plus,
    Minus,
    Comma,
    Open,
    Close,
    End,
}

/// Words that are no properties, in any case.
const RESERVED: [(&str, Token<'static>); 12] = [
    ("NOT", Token::Not),
    ("AND", Token::And),
    ("OR", Token::Or),
    ("BETWEEN", Token::Between),
    ("IN", Token::In),
    ("TRUE", Token::True),
    ("FALSE", Token::False),
    ("NULL", Token::Null),
    ("IS", Token::Is),
    ("CONTAINS", Token::Contains),
    ("STARTSWITH", Token::StartsWith),
    ("ENDSWITH", Token::EndsWith),
];

const SYMBOLS: [(&str, Token<'static>); 11] = [
    ("<>", Token::NotEqual),
    ("<=", Token::LessOrEqual),
    (">=", Token::GreaterOrEqual),
    ("<", Token::Less),
    (">", Token::Greater),
    ("=", Token::Equal),
    ("+", Token::Plus),
    ("-", Token::Minus),
    (",", Token::Comma),
    ("(", Token::Open),
    (")", Token::Close),
];

/// Cuts a text into tokens, each with the byte at which it begins. The last one is [`Token::End`].
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    pub(super) fn next(&mut self) -> Result<(usize, Token<'a>), FilterError> {
        self.skip()?;
        let (begin, rest) = (self.at, self.rest());
        let Some(first) = rest.chars().next() else { return Ok((begin, Token::End)) };
        let (bytes, token) = if is_name_start(first) {
            let word = prefix(rest, |c| is_name_start(c) || c.is_ascii_digit());
            let reserved = RESERVED.iter().find(|(name, _)| word.eq_ignore_ascii_case(name));
            (word.len(), reserved.map_or(Token::Name(word), |(_, token)| *token))
        } else if let Some(number) = number(rest) {
            number
        } else if first == '\'' {
            self.quoted(&rest[1..])?
        } else if let Some((symbol, token)) = SYMBOLS.iter().find(|(symbol, _)| rest.starts_with(symbol)) {
            (symbol.len(), *token)
        } else {
            return Err(self.error(begin, format!("{first:?} has no meaning here")));
        };
        self.at += bytes;
        Ok((begin, token))
    }

    pub(super) fn error(&self, byte: usize, what: impl Into<String>) -> FilterError {
        let position = self.text.get(..byte).map_or(0, |before| before.chars().count());
        FilterError { position, what: what.into() }
    }

    /// What was read from this byte on.
    pub(super) fn since(&self, byte: usize) -> &'a str {
        self.text.get(byte..self.at).unwrap_or_default()
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Passes over space and comments: `--` up to the end of the line, and `/* … */`.
    fn skip(&mut self) -> Result<(), FilterError> {
        loop {
            let rest = self.rest();
            let space = prefix(rest, |c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}')).len();
            if space > 0 {
                self.at += space;
            } else if rest.starts_with("--") {
                self.at += prefix(rest, |c| !matches!(c, '\n' | '\r')).len();
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let Some(end) = comment.find("*/") else {
                    return Err(self.error(self.at, "this comment does not end"));
                };
                self.at += 2 + end + 2;
            } else {
                return Ok(());
            }
        }
    }

    /// `rest` is what follows the first quote.
    fn quoted(&self, rest: &'a str) -> Result<(usize, Token<'a>), FilterError> {
        let mut end = 0;
        while let Some(quote) = rest[end..].find('\'') {
            end += quote;
            if !rest[end + 1..].starts_with('\'') {
                return Ok((end + 2, Token::Quoted(&rest[..end])));
            }
            end += 2;
        }
        Err(self.error(self.at, "this string does not end"))
    }
}

fn is_name_start(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '_' | '$')
}

fn prefix(text: &str, wanted: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|c| !wanted(c)).unwrap_or(text.len())]
}

fn digits(text: &str) -> usize {
    prefix(text, |c| c.is_ascii_digit()).len()
}

/// The number that a text begins with: its length, and what it is.
fn number(text: &str) -> Option<(usize, Token<'_>)> {
    let whole = digits(text);
    let mut end = whole;
    if text[end..].starts_with('.') {
        let fraction = digits(&text[end + 1..]);
        if whole + fraction == 0 {
            return None;
        }
        end += 1 + fraction;
    } else if whole == 0 {
        return None;
    }
    let after = &text[end..];
    let exponent = after.strip_prefix(['e', 'E']).map_or(0, |exponent| {
        let sign = usize::from(exponent.starts_with(['+', '-']));
        match digits(&exponent[sign..]) {
            0 => 0,
            digits => 1 + sign + digits,
        }
    });
    end += exponent;
    if end > whole {
        return Some((end, Token::Floating(&text[..end])));
    }
    // A 0 is a number of its own, whatever follows.
    let whole = if text.starts_with('0') { 1 } else { whole };
    let suffix = usize::from(whole == end && !text.starts_with('0') && after.starts_with(['l', 'L']));
    Some((whole + suffix, Token::Decimal(&text[..whole])))
}
