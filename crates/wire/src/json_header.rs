//! The JSON header. A scanner for the shape that every known client sends; whatever it does not
//! understand goes through serde_json, which is slower and equally strict about lengths.
//!
//! Decoding follows fastjson where clients depend on it: unknown keys are ignored, numbers are
//! accepted as field values, null means absent, an unknown language is no error.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::command::{FrameError, RemotingCommand, SerializeType};
use crate::decimal::Decimal;
use crate::ext::{EXT_FIELDS_MAX, ExtFields};
use crate::language::Language;

/// The keys in the order of Java's output (fastjson sorts them).
pub(crate) fn encode(command: &RemotingCommand, out: &mut BytesMut) {
    out.extend_from_slice(b"{\"code\":");
    put_int(command.code, out);
    if !command.ext.is_empty() {
        out.extend_from_slice(b",\"extFields\":{");
        let mut first = true;
        for (key, value) in command.ext.iter() {
            if !first {
                out.put_u8(b',');
            }
            first = false;
            put_string(key, out);
            out.put_u8(b':');
            put_string(value, out);
        }
        out.put_u8(b'}');
    }
    out.extend_from_slice(b",\"flag\":");
    put_int(command.flag, out);
    out.extend_from_slice(b",\"language\":\"");
    out.extend_from_slice(command.language.name().as_bytes());
    out.extend_from_slice(b"\",\"opaque\":");
    put_int(command.opaque, out);
    if let Some(remark) = &command.remark {
        out.extend_from_slice(b",\"remark\":");
        put_string(remark, out);
    }
    out.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    put_int(command.version, out);
    out.put_u8(b'}');
}

fn put_int(value: i32, out: &mut BytesMut) {
    out.extend_from_slice(Decimal::new(i64::from(value)).as_str().as_bytes());
}

pub(crate) fn put_string(text: &str, out: &mut BytesMut) {
    out.put_u8(b'"');
    // Without an early exit this runs over many bytes at once; most strings need no escape.
    if text.bytes().fold(false, |found, byte| found | needs_escape(byte)) {
        put_escaped(text.as_bytes(), out);
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    out.put_u8(b'"');
}

fn needs_escape(byte: u8) -> bool {
    matches!(byte, 0..0x20 | b'"' | b'\\')
}

fn put_escaped(mut rest: &[u8], out: &mut BytesMut) {
    while let Some(at) = rest.iter().position(|&byte| needs_escape(byte)) {
        let (plain, tail) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        let Some((&byte, tail)) = tail.split_first() else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => {
                let hex = |digit: u8| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(other >> 4), hex(other & 15)]);
            }
        }
        rest = tail;
    }
    out.extend_from_slice(rest);
}

/// Index of the first quote or backslash, eight bytes at a time.
fn find_quote_or_backslash(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    /// The high bit of every byte that equals `byte`; above the first such byte also of others.
    fn matches(word: u64, byte: u8) -> u64 {
        let difference = word ^ (ONES * u64::from(byte));
        difference.wrapping_sub(ONES) & !difference & HIGHS
    }
    let (words, tail) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let hits = matches(word, b'"') | matches(word, b'\\');
        if hits != 0 {
            return Some(at * 8 + hits.trailing_zeros() as usize / 8);
        }
    }
    let at = tail.iter().position(|&byte| byte == b'"' || byte == b'\\')?;
    Some(words.len() * 8 + at)
}

pub(crate) fn decode(header: &[u8]) -> Result<RemotingCommand, FrameError> {
    let text = std::str::from_utf8(header).map_err(|_| FrameError::header("it is not UTF-8"))?;
    let mut command = blank();
    match (Scanner { text, bytes: header, at: 0 }).command(&mut command) {
        Some(()) => Ok(command),
        None => decode_slowly(header),
    }
}

fn blank() -> RemotingCommand {
    RemotingCommand {
        code: 0,
        language: Language::Java,
        version: 0,
        opaque: 0,
        flag: 0,
        remark: None,
        ext: ExtFields::new(),
        serialize: SerializeType::Json,
        body: Bytes::new(),
    }
}

/// Reads the usual shape; every method gives `None` for anything else.
struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn command(mut self, command: &mut RemotingCommand) -> Option<()> {
        self.expect(b'{')?;
        loop {
            let key = self.plain_string()?;
            self.expect(b':')?;
            match key {
                "code" => command.code = self.int()?,
                "version" => command.version = self.int()?,
                "opaque" => command.opaque = self.int()?,
                "flag" => command.flag = self.int()?,
                "language" => command.language = Language::from_name(self.plain_string()?),
                "remark" => {
                    let mut remark = String::new();
                    self.string_into(&mut remark)?;
                    command.remark = Some(remark);
                }
                "extFields" => self.fields(&mut command.ext)?,
                "serializeTypeCurrentRPC" => {
                    self.plain_string()?;
                }
                _ => return None,
            }
            match self.next_token()? {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
        self.skip_space();
        (self.at == self.bytes.len()).then_some(())
    }

    fn fields(&mut self, ext: &mut ExtFields) -> Option<()> {
        self.expect(b'{')?;
        let left = self.bytes.len() - self.at.min(self.bytes.len());
        *ext = ExtFields::with_capacity(16.min(left / 6 + 1), left);
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            if ext.len() >= EXT_FIELDS_MAX {
                return None;
            }
            let key = ext.begin();
            self.string_into(ext.text_mut())?;
            self.expect(b':')?;
            let value = ext.begin();
            self.string_into(ext.text_mut())?;
            ext.finish(key, value);
            match self.next_token()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.bytes.get(self.at).copied()
    }

    fn next_token(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next_token()? == byte).then_some(())
    }

    fn int(&mut self) -> Option<i32> {
        let negative = self.peek()? == b'-';
        if negative {
            self.at += 1;
        }
        let mut value: i64 = 0;
        let start = self.at;
        while let Some(&digit @ b'0'..=b'9') = self.bytes.get(self.at) {
            value = value * 10 + i64::from(digit - b'0');
            self.at += 1;
            if self.at - start > 10 {
                return None;
            }
        }
        if self.at == start {
            return None;
        }
        i32::try_from(if negative { -value } else { value }).ok()
    }

    /// A string without escapes.
    fn plain_string(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let start = self.at;
        let end = start + find_quote_or_backslash(self.bytes.get(start..)?)?;
        if self.bytes.get(end) != Some(&b'"') {
            return None;
        }
        self.at = end + 1;
        self.text.get(start..end)
    }

    /// A string, its escapes resolved, at the end of `out`.
    fn string_into(&mut self, out: &mut String) -> Option<()> {
        self.expect(b'"')?;
        loop {
            let start = self.at;
            let end = start + find_quote_or_backslash(self.bytes.get(start..)?)?;
            out.push_str(self.text.get(start..end)?);
            self.at = end + 1;
            if self.bytes.get(end) == Some(&b'"') {
                return Some(());
            }
            let escape = *self.bytes.get(self.at)?;
            self.at += 1;
            out.push(match escape {
                b'"' | b'\\' | b'/' => escape as char,
                b'n' => '\n',
                b'r' => '\r',
                b't' => '\t',
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'u' => self.unicode()?,
                _ => return None,
            });
        }
    }

    /// The character after `\u`. Half a surrogate pair becomes U+FFFD, where Java would keep it.
    fn unicode(&mut self) -> Option<char> {
        let high = self.hex4()?;
        if !(0xD800..0xDC00).contains(&high) {
            return Some(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let before = self.at;
        if self.bytes.get(before..before + 2) == Some(b"\\u") {
            self.at += 2;
            let low = self.hex4()?;
            if (0xDC00..0xE000).contains(&low) {
                return char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00));
            }
            self.at = before;
        }
        Some(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Option<u32> {
        let mut value = 0;
        for &byte in self.bytes.get(self.at..self.at + 4)? {
            value = value * 16 + (byte as char).to_digit(16)?;
        }
        self.at += 4;
        Some(value)
    }
}

fn decode_slowly(header: &[u8]) -> Result<RemotingCommand, FrameError> {
    let mut input = serde_json::Deserializer::from_slice(header);
    let command = input
        .deserialize_map(HeaderVisitor)
        .and_then(|command| input.end().map(|()| command))
        .map_err(|error| FrameError::header(error.to_string()))?;
    Ok(command)
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RemotingCommand;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RemotingCommand, A::Error> {
        let mut command = blank();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "code" => command.code = number(map.next_value_seed(Loose)?),
                "version" => command.version = number(map.next_value_seed(Loose)?),
                "opaque" => command.opaque = number(map.next_value_seed(Loose)?),
                "flag" => command.flag = number(map.next_value_seed(Loose)?),
                "language" => {
                    let name = map.next_value_seed(Loose)?.unwrap_or_default();
                    command.language = Language::from_name(&name);
                }
                "remark" => command.remark = map.next_value_seed(Loose)?,
                "extFields" => command.ext = map.next_value_seed(FieldsSeed)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(command)
    }
}

fn number(text: Option<String>) -> i32 {
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

struct FieldsSeed;

impl<'de> DeserializeSeed<'de> for FieldsSeed {
    type Value = ExtFields;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<ExtFields, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldsSeed {
    type Value = ExtFields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of fields, or null")
    }

    fn visit_unit<E>(self) -> Result<ExtFields, E> {
        Ok(ExtFields::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ExtFields, A::Error> {
        let mut ext = ExtFields::new();
        while let Some(key) = map.next_key::<String>()? {
            if ext.len() >= EXT_FIELDS_MAX {
                return Err(serde::de::Error::custom("too many fields"));
            }
            if let Some(value) = map.next_value_seed(Loose)? {
                ext.set(&key, &value);
            }
        }
        Ok(ext)
    }
}

/// Any scalar as text; null, lists and objects as nothing.
struct Loose;

impl<'de> DeserializeSeed<'de> for Loose {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Option<String>, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Loose {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Option<String>, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Option<String>, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Option<String>, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Option<String>, E> {
        Ok(Some(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Option<String>, E> {
        Ok(Some(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Option<String>, E> {
        Ok(Some(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Option<String>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summary(command: &RemotingCommand) -> String {
        let RemotingCommand { code, language, version, opaque, flag, remark, ext, .. } = command;
        format!("{code} {language} {version} {opaque} {flag} {remark:?} {ext:?}")
    }

    fn check(json: &str, expect: &str) {
        assert_eq!(summary(&decode(json.as_bytes()).unwrap()), expect, "{json}");
    }

    #[test]
    fn shapes_that_clients_send() {
        check(
            r#"{"code":105,"language":"GO","version":317,"opaque":-3,"flag":2}"#,
            "105 GO 317 -3 2 None {}",
        );
        check(r#" { "code" : 34 , "extFields" : { } , "remark":"x" } "#, r#"34 JAVA 0 0 0 Some("x") {}"#);
        check(
            r#"{"extFields":{"i":"a\u0001b\u0002\/\n\ud83d\ude00\ud83dx"}}"#,
            r#"0 JAVA 0 0 0 None {"i": "a\u{1}b\u{2}/\n😀�x"}"#,
        );
        check(r#"{"code":1,"serializeTypeCurrentRPC":"JSON"}"#, "1 JAVA 0 0 0 None {}");
        check(r#"{"code":1,"language":"KLINGON"}"#, "1 OTHER 0 0 0 None {}");
    }

    #[test]
    fn odd_shapes_that_java_reads_too() {
        // As fastjson 1.2.83 in RocketMQ 5.3.3 does, but for nested values, which are dropped here.
        check(
            r#"{"code":1,"extFields":{"a":null,"b":3,"c":{"x":1},"d":[1],"e":true}}"#,
            r#"1 JAVA 0 0 0 None {"b": "3", "e": "true"}"#,
        );
        check(r#"{"code":"7","remark":5}"#, r#"7 JAVA 0 0 0 Some("5") {}"#);
        check(r#"{"code":null,"extFields":null,"remark":null,"new":{"deep":[{}]}}"#, "0 JAVA 0 0 0 None {}");
        check(r#"{"\u0063ode":12}"#, "12 JAVA 0 0 0 None {}");
        check("{}", "0 JAVA 0 0 0 None {}");
    }

    #[test]
    fn fields_are_counted() {
        let many: Vec<String> = (0..=EXT_FIELDS_MAX).map(|at| format!("\"k{at}\":\"\"")).collect();
        let json = |fields: &[String]| format!("{{\"extFields\":{{{}}}}}", fields.join(","));
        assert_eq!(decode(json(&many[1..]).as_bytes()).unwrap().ext.len(), EXT_FIELDS_MAX);
        assert!(decode(json(&many).as_bytes()).is_err());
    }

    #[test]
    fn find_agrees_with_a_plain_search() {
        for len in 0..40 {
            for at in 0..len {
                for (byte, filler) in [(b'"', b'!'), (b'\\', b']'), (b'"', 0xA2), (b'\\', 0xDC), (b'"', b'#')]
                {
                    let mut bytes = vec![filler; len];
                    bytes[at] = byte;
                    assert_eq!(find_quote_or_backslash(&bytes), Some(at));
                    bytes[at] = filler;
                    assert_eq!(find_quote_or_backslash(&bytes), None);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn scanner_and_serde_agree(
            code in any::<i32>(),
            remark in prop::option::of(".{0,20}"),
            fields in prop::collection::btree_map(".{0,6}", "(.|[\u{0}-\u{20}]){0,30}", 0..8),
            pretty in any::<bool>(),
        ) {
            let value = serde_json::json!({ "code": code, "remark": remark, "extFields": fields, "opaque": code });
            let json = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let json = json.unwrap();
            let fast = decode(json.as_bytes()).unwrap();
            prop_assert_eq!(&fast, &decode_slowly(json.as_bytes()).unwrap());
            let expect: ExtFields = fields.iter().collect();
            prop_assert_eq!(&fast.ext, &expect);
            prop_assert_eq!(fast.remark, remark);
        }

        #[test]
        fn strings_are_json(text in "(.|[\u{0}-\u{20}\"\\\\]){0,40}") {
            let mut out = BytesMut::new();
            put_string(&text, &mut out);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
