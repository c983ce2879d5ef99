//! The `extFields` of a command: a small ordered list of string pairs in one allocation.
//!
//! ```text
//! text    "a" "group-1" "b" "orders" ...     keys and values back to back
//! fields  (0,1,8) (8,9,15) ...               start of key, start of value, end of value
//! ```

use std::fmt;

use crate::decimal::Decimal;

/// Most fields a decoder accepts; Java clients send at most about 25. The cap keeps the check for
/// repeated keys linear in practice.
pub const EXT_FIELDS_MAX: usize = 256;

/// String pairs in the order they were set; a key occurs once, the last value wins.
#[derive(Clone, Default)]
pub struct ExtFields {
    text: String,
    fields: Vec<Span>,
    /// One bit per class of keys seen, so that a new key is usually known to be new.
    seen: u64,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    key: u32,
    value: u32,
    end: u32,
}

impl ExtFields {
    pub fn new() -> ExtFields {
        ExtFields::default()
    }

    /// Room for `fields` pairs of together `text_bytes` bytes.
    pub(crate) fn with_capacity(fields: usize, text_bytes: usize) -> ExtFields {
        ExtFields { text: String::with_capacity(text_bytes), fields: Vec::with_capacity(fields), seen: 0 }
    }

    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.position(key).and_then(|at| self.value_at(at))
    }

    /// Sets `key`, keeping its place when it is present already.
    pub fn set(&mut self, key: &str, value: &str) {
        if self.fields.capacity() == 0 {
            // What a reply to a send needs.
            self.fields.reserve(8);
            self.text.reserve(256);
        }
        let start = self.begin();
        self.text.push_str(key);
        let middle = self.begin();
        self.text.push_str(value);
        self.finish(start, middle);
    }

    /// Sets `key` to an integer.
    pub fn set_int(&mut self, key: &str, value: impl Into<i64>) {
        self.set(key, Decimal::new(value.into()).as_str());
    }

    /// Takes `key` out; true when it was present.
    pub fn remove(&mut self, key: &str) -> bool {
        match self.position(key) {
            Some(at) => {
                self.fields.remove(at);
                true
            }
            None => false,
        }
    }

    /// The pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|span| (self.slice(span.key, span.value), self.slice(span.value, span.end)))
    }

    /// Bytes of all keys and values, counting replaced ones.
    pub(crate) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// A reader for code that asks for keys in about the order in which they were sent.
    pub(crate) fn cursor(&self) -> Cursor<'_> {
        Cursor { ext: self, next: 0 }
    }

    // The three steps of adding a pair whose text is written in place by a decoder: `begin`, key
    // text, `begin`, value text, `finish`.

    pub(crate) fn begin(&self) -> u32 {
        self.text.len() as u32
    }

    pub(crate) fn text_mut(&mut self) -> &mut String {
        &mut self.text
    }

    pub(crate) fn finish(&mut self, key: u32, value: u32) {
        let span = Span { key, value, end: self.begin() };
        let class = class_of(self.slice(key, value));
        if self.seen & class != 0 {
            let twin = self
                .fields
                .iter()
                .position(|old| self.slice(old.key, old.value) == self.slice(span.key, span.value));
            if let Some(old) = twin.and_then(|at| self.fields.get_mut(at)) {
                *old = span;
                return;
            }
        }
        self.seen |= class;
        self.fields.push(span);
    }

    fn position(&self, key: &str) -> Option<usize> {
        if self.seen & class_of(key) == 0 {
            return None;
        }
        self.fields.iter().position(|span| self.slice(span.key, span.value) == key)
    }

    fn value_at(&self, at: usize) -> Option<&str> {
        self.fields.get(at).map(|span| self.slice(span.value, span.end))
    }

    fn slice(&self, from: u32, to: u32) -> &str {
        self.text.get(from as usize..to as usize).unwrap_or_default()
    }
}

fn class_of(key: &str) -> u64 {
    let bytes = key.as_bytes();
    let first = bytes.first().copied().unwrap_or(0);
    let last = bytes.last().copied().unwrap_or(0);
    // Odd in sum for one-letter keys, so that those of a send fall into classes of their own.
    let mixed = 3 * u32::from(first) + 8 * u32::from(last) + 13 * bytes.len() as u32;
    1 << (mixed & 63)
}

/// Looks keys up from where the last one was found, and round.
pub(crate) struct Cursor<'a> {
    ext: &'a ExtFields,
    next: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn get(&mut self, key: &str) -> Option<&'a str> {
        let ext = self.ext;
        if let Some(span) = ext.fields.get(self.next)
            && ext.slice(span.key, span.value) == key
        {
            self.next += 1;
            return Some(ext.slice(span.value, span.end));
        }
        let at = ext.position(key)?;
        self.next = at + 1;
        ext.value_at(at)
    }
}

impl fmt::Debug for ExtFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Equal when both hold the same pairs, in any order.
impl PartialEq for ExtFields {
    fn eq(&self, other: &ExtFields) -> bool {
        self.len() == other.len() && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl Eq for ExtFields {}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for ExtFields {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> ExtFields {
        let mut ext = ExtFields::new();
        for (key, value) in pairs {
            ext.set(key.as_ref(), value.as_ref());
        }
        ext
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_wins_and_keeps_its_place() {
        let mut ext: ExtFields = [("a", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        assert_eq!(ext.iter().collect::<Vec<_>>(), [("a", "3"), ("b", "2")]);
        assert_eq!(ext.get("c"), None);
        assert!(ext.remove("a"));
        assert!(!ext.remove("a"));
        assert_eq!(ext.len(), 1);
        ext.set_int("n", -5);
        assert_eq!(ext.get("n"), Some("-5"));
    }

    #[test]
    fn cursor_finds_keys_in_any_order() {
        let ext: ExtFields = [("a", "1"), ("b", "2"), ("c", "3")].into_iter().collect();
        let mut cursor = ext.cursor();
        for (key, value) in [("b", "2"), ("c", "3"), ("a", "1"), ("a", "1"), ("c", "3")] {
            assert_eq!(cursor.get(key), Some(value));
        }
        assert_eq!(cursor.get("zz"), None);
    }

    #[test]
    fn equality_ignores_order() {
        let one: ExtFields = [("a", "1"), ("b", "2")].into_iter().collect();
        let two: ExtFields = [("b", "2"), ("a", "1")].into_iter().collect();
        assert_eq!(one, two);
        assert_ne!(one, ExtFields::new());
    }
}
