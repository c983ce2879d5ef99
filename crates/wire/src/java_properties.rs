//! The text form of `java.util.Properties`: the bodies of 25, 26, 318 and 319, and broker.conf files.

/// Reads `key=value`, `key:value` or `key value` lines, comments, continued lines and escapes. Every pair, in the order
/// of the text; of a key that is there twice Java keeps the last.
pub fn read(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut lines = text.lines().map(str::trim_start);
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = line.to_owned();
        while ends_with_escape(&logical) {
            logical.pop();
            match lines.next() {
                Some(next) => logical.push_str(next),
                None => break,
            }
        }
        let (key, value) = split_pair(&logical);
        pairs.push((unescaped(key), unescaped(value)));
    }
    pairs
}

/// Writes a line for each pair, as [`read`] reads it back. Keys are RocketMQ's names: letters, digits and underscores.
pub fn write<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        text.push_str(key);
        text.push('=');
        // A blank at the beginning of a value would be taken for layout.
        if value.starts_with(' ') {
            text.push('\\');
        }
        for char in value.chars() {
            match char {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{c}' => text.push_str("\\f"),
                other => text.push(other),
            }
        }
        text.push('\n');
    }
    text
}

fn ends_with_escape(line: &str) -> bool {
    line.len() % 2 != line.trim_end_matches('\\').len() % 2
}

fn split_pair(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|char: char| {
        let ends = !escaped && (char.is_whitespace() || char == '=' || char == ':');
        escaped = char == '\\' && !escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start();
    (key, rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start())
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = escaped.chars();
        match chars.next() {
            Some('u') => {
                let unit = escaped.get(1..5).and_then(|digits| u32::from_str_radix(digits, 16).ok());
                out.push(unit.and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER));
                chars = escaped.get(5..).unwrap_or_default().chars();
            }
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some(other) => out.push(other),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_java_reads_them() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let pairs = read(text);
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            assert_eq!(pairs, expected, "{text:?}");
        };
        check("a=1\nb = 2\r\n  c:3\nd 4\ne", &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "")]);
        check("# x=1\n!y=2\n\n   \na=b=c", &[("a", "b=c")]);
        check("a=1\\\n   2\nb=3", &[("a", "12"), ("b", "3")]);
        check("a\\=b=c\\:d\\u0041\\t\\\\", &[("a=b", "c:dA\t\\")]);
        check("a=1\\\\\nb=2", &[("a", "1\\"), ("b", "2")]);
        check("a=\\", &[("a", "")]);
        check("a=\\u00", &[("a", "\u{fffd}")]);
        check("a=\\uü000", &[("a", "\u{fffd}0")]);
    }

    #[test]
    fn written_with_escapes() {
        assert_eq!(write([("a", "C:\\x\ny"), ("b", " z")]), "a=C:\\\\x\\ny\nb=\\ z\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(values in prop::collection::vec("[a-z \\\\=:#!\t\n\r]{0,12}", 0..4)) {
            let keys = ["one", "two", "three", "four"];
            let pairs: Vec<(&str, &str)> = keys.into_iter().zip(values.iter().map(String::as_str)).collect();
            let back = read(&write(pairs.clone()));
            let back: Vec<(&str, &str)> = back.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            prop_assert_eq!(back, pairs);
        }
    }
}
