//! JSON as Java clients write it, made readable for serde.
//!
//! fastjson writes maps with raw keys, `{0:"a"}` and `{{"topic":"T"}:5}`, and some clients write null
//! for an empty list. [`standardise`] turns the first into quoted keys, the second
//! into keys that are strings holding the object, and leaves nulls out, so that absent and null
//! read the same. Our own output has quoted keys throughout, except where Java insists on raw object
//! keys ([`crate::QueueTable`]).

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::compression::DecompressError;

/// Deepest nesting read; the deepest body has 6 levels.
const DEPTH_MAX: usize = 64;

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("body cannot be read: {0}")]
    Json(String),
    #[error("body cannot be decompressed: {0}")]
    Compressed(#[from] DecompressError),
    /// In a binary or text form.
    #[error("body is malformed: {0}")]
    Malformed(&'static str),
}

/// What a command carries as its body.
pub trait Body: Sized {
    fn encode(&self) -> Bytes;
    fn decode(body: &[u8]) -> Result<Self, BodyError>;
}

/// Declares that the body of these types is their JSON.
macro_rules! json_bodies {
    ($($type:ty),* $(,)?) => {$(
        impl $crate::json::Body for $type {
            fn encode(&self) -> ::bytes::Bytes {
                $crate::json::to_json(self)
            }

            fn decode(body: &[u8]) -> Result<Self, $crate::json::BodyError> {
                $crate::json::from_json(body)
            }
        }
    )*};
}
pub(crate) use json_bodies;

/// The JSON of a value: fields in the order declared, maps in the order of their keys.
pub fn to_json<T: Serialize>(value: &T) -> Bytes {
    // Fails only for maps whose keys are neither strings nor numbers, which no body has.
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}

/// Reads standard JSON, or failing that the dialects above.
pub fn from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, BodyError> {
    if let Ok(value) = serde_json::from_slice(json) {
        return Ok(value);
    }
    let standard = standardise(json)?;
    serde_json::from_str(&standard).map_err(|error| BodyError::Json(error.to_string()))
}

/// Rewrites a dialect as standard JSON. Bytes that are not JSON at all give an error here or later
/// in serde.
pub fn standardise(json: &[u8]) -> Result<String, BodyError> {
    let text = std::str::from_utf8(json).map_err(|_| BodyError::Json("it is not UTF-8".into()))?;
    let mut rewrite = Rewrite { text, at: 0, out: String::with_capacity(text.len() + text.len() / 8) };
    rewrite.value(0, false)?;
    rewrite.skip_space();
    if rewrite.at < text.len() {
        return Err(rewrite.error("something follows the value"));
    }
    Ok(rewrite.out)
}

struct Rewrite<'a> {
    text: &'a str,
    at: usize,
    out: String,
}

impl<'a> Rewrite<'a> {
    fn error(&self, what: &str) -> BodyError {
        BodyError::Json(format!("{what} at byte {}", self.at))
    }

    fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.text.as_bytes().get(self.at) {
            self.at += 1;
        }
    }

    /// Copies a value; false if it was null.
    fn value(&mut self, depth: usize, in_key: bool) -> Result<bool, BodyError> {
        if depth > DEPTH_MAX {
            return Err(self.error("nesting is too deep"));
        }
        match self.peek() {
            Some(b'{') => self.object(depth, in_key)?,
            Some(b'[') => self.list(depth, in_key)?,
            Some(b'"') => self.string()?,
            Some(_) => {
                let token = self.token();
                if token.is_empty() {
                    return Err(self.error("a value is missing"));
                }
                self.out.push_str(token);
                return Ok(token != "null");
            }
            None => return Err(self.error("a value is missing")),
        }
        Ok(true)
    }

    fn object(&mut self, depth: usize, in_key: bool) -> Result<(), BodyError> {
        self.at += 1;
        self.out.push('{');
        let mut empty = true;
        loop {
            match self.peek() {
                Some(b'}') => break,
                Some(b',') => {
                    self.at += 1;
                    continue;
                }
                _ => {}
            }
            let before = self.out.len();
            if !empty {
                self.out.push(',');
            }
            self.key(depth, in_key)?;
            if self.peek() != Some(b':') {
                return Err(self.error("':' is missing"));
            }
            self.at += 1;
            self.out.push(':');
            if self.value(depth + 1, in_key)? {
                empty = false;
            } else {
                self.out.truncate(before);
            }
            self.separator(b'}')?;
        }
        self.at += 1;
        self.out.push('}');
        Ok(())
    }

    fn list(&mut self, depth: usize, in_key: bool) -> Result<(), BodyError> {
        self.at += 1;
        self.out.push('[');
        let mut empty = true;
        loop {
            match self.peek() {
                Some(b']') => break,
                Some(b',') => {
                    self.at += 1;
                    continue;
                }
                _ => {}
            }
            let before = self.out.len();
            if !empty {
                self.out.push(',');
            }
            if self.value(depth + 1, in_key)? {
                empty = false;
            } else {
                self.out.truncate(before);
            }
            self.separator(b']')?;
        }
        self.at += 1;
        self.out.push(']');
        Ok(())
    }

    fn separator(&mut self, end: u8) -> Result<(), BodyError> {
        match self.peek() {
            Some(byte) if byte == b',' || byte == end => Ok(()),
            _ => Err(self.error("',' is missing")),
        }
    }

    fn key(&mut self, depth: usize, in_key: bool) -> Result<(), BodyError> {
        match self.peek() {
            Some(b'"') => self.string(),
            // One level only: each further one would double the escapes.
            Some(b'{') if !in_key => {
                let outer = std::mem::take(&mut self.out);
                let read = self.object(depth + 1, true);
                let key = std::mem::replace(&mut self.out, outer);
                read?;
                let quoted =
                    serde_json::to_string(&key).map_err(|error| BodyError::Json(error.to_string()))?;
                self.out.push_str(&quoted);
                Ok(())
            }
            _ => {
                let token = self.token();
                if token.is_empty() {
                    return Err(self.error("a key is missing"));
                }
                self.out.push('"');
                self.out.push_str(token);
                self.out.push('"');
                Ok(())
            }
        }
    }

    /// A bare word or number.
    fn token(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let end = rest
            .bytes()
            .position(|byte| {
                !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'+' | b'-' | b'$'))
            })
            .unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    fn string(&mut self) -> Result<(), BodyError> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        self.at += 1;
        loop {
            match bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => return Err(self.error("a string does not end")),
            }
        }
        self.at += 1;
        match self.text.get(start..self.at) {
            Some(string) => self.out.push_str(string),
            None => return Err(self.error("a string is damaged")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dialects_become_standard() {
        let check =
            |dialect: &str, expect: &str| assert_eq!(standardise(dialect.as_bytes()).as_deref(), Ok(expect));
        check(r#"{0:"a",-1:"b"}"#, r#"{"0":"a","-1":"b"}"#);
        check(r#"{{"brokerName":"b","queueId":0}:5}"#, r#"{"{\"brokerName\":\"b\",\"queueId\":0}":5}"#);
        check(r#"{"a":null,"b":[1,null,2],"c":{"d":null}}"#, r#"{"b":[1,2],"c":{}}"#);
        check(r#" { "a" : [ ] , "b" : "x\"}," , } "#, r#"{"a":[],"b":"x\"},"}"#);
        check("[true,-1.5e3]", "[true,-1.5e3]");
    }

    #[test]
    fn other_bytes_are_errors() {
        let deep = "[".repeat(100_000);
        let nested_key = r#"{{{"a":1}:2}:3}"#;
        for text in
            ["", "{", "{\"a\"}", "{\"a\":}", "[1 2]", "\"open", "{}x", "{:1}", "\"\\", &deep, nested_key]
        {
            assert!(standardise(text.as_bytes()).is_err(), "{text}");
        }
        assert!(standardise(&[0xFF]).is_err());
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            ".{0,8}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
                prop::collection::btree_map(".{0,5}", inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn standard_json_keeps_its_meaning(value in any_json()) {
            let text = standardise(serde_json::to_string_pretty(&value).unwrap().as_bytes()).unwrap();
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        }
    }
}
