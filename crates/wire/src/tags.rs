//! Java's string hash, on which tag filtering and the index rest.

/// `String.hashCode` of Java, over UTF-16 code units.
pub fn java_string_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The tags code in a ConsumeQueue unit: the hash, sign-extended; 0 for no tag.
pub fn tags_code(tags: &str) -> i64 {
    i64::from(java_string_hash(tags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_java() {
        for (text, hash) in
            [("", 0), ("TagA", 2_598_919), ("中文😀", 622_957_533), ("polygenelubricants", i32::MIN)]
        {
            assert_eq!(java_string_hash(text), hash, "{text}");
            assert_eq!(tags_code(text), i64::from(hash));
        }
    }
}
