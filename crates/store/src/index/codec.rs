//! What every file of the index shares: units, ranges of the log and file names, hashes, bounds-checked fields.

use std::fmt;

use wire::LogPosition;

/// Bytes of a ConsumeQueue unit, and of an IndexFile unit (RocketMQ's `CQ_STORE_UNIT_SIZE` and `indexSize`).
pub(super) const UNIT_LEN: usize = 20;

/// What a ConsumeQueue says of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unit {
    /// Position of the stored message in the log, bytes.
    pub position: LogPosition,
    /// Length of the stored message, bytes.
    pub size: u32,
    /// Java hash of its TAGS, sign-extended; 0 without tags (protocol.md 4.7).
    pub tags_code: i64,
}

impl Unit {
    /// As RocketMQ's ConsumeQueue has it: position, size and tags code, big-endian.
    pub fn encode(self) -> [u8; UNIT_LEN] {
        let mut bytes = [0; UNIT_LEN];
        let fields = self
            .position
            .0
            .to_be_bytes()
            .into_iter()
            .chain(self.size.to_be_bytes())
            .chain(self.tags_code.to_be_bytes());
        for (byte, value) in bytes.iter_mut().zip(fields) {
            *byte = value;
        }
        bytes
    }

    /// `None` when fewer than 20 bytes are given.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        Some(Self {
            position: LogPosition(fields.u64()?),
            size: fields.u32()?,
            tags_code: fields.u64()?.cast_signed(),
        })
    }
}

/// The two files that are kept for a range of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    /// ConsumeQueue units of all queues (docs/formats.md 8).
    Queue,
    /// An IndexFile (docs/formats.md 9).
    Keys,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Queue, Self::Keys];

    /// The first bytes of the file; the last two digits are the format version.
    pub(super) const fn magic(self) -> [u8; 8] {
        match self {
            Self::Queue => *b"RMQQUE01",
            Self::Keys => *b"RMQKEY01",
        }
    }

    const fn extension(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Keys => "keys",
        }
    }
}

/// The frames that start at `from` or later and end at `to` or earlier. Ranges of neighbours share a bound, although
/// the end of a segment may hold zeros there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LogRange {
    pub(super) from: u64,
    pub(super) to: u64,
}

impl LogRange {
    pub(super) const fn contains(self, other: Self) -> bool {
        self.from <= other.from && other.to <= self.to
    }

    /// `<from>-<to>.queue`, 20 digits each.
    pub(super) fn file_name(self, kind: Kind) -> String {
        format!("{:020}-{:020}.{}", self.from, self.to, kind.extension())
    }

    /// The reverse of [`LogRange::file_name`]; `None` for any other name.
    pub(super) fn parse_file_name(name: &str) -> Option<(Kind, Self)> {
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| name.strip_suffix(kind.extension()).is_some_and(|stem| stem.ends_with('.')))?;
        let (from, to) = name.strip_suffix(kind.extension())?.strip_suffix('.')?.split_once('-')?;
        let range = Self { from: from.parse().ok()?, to: to.parse().ok()? };
        (range.from < range.to && range.file_name(kind) == name).then_some((kind, range))
    }
}

impl fmt::Display for LogRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.from, self.to)
    }
}

/// Where a queue is found in a directory: XXH3-64 of the topic with the queue id as the seed. Directories are sorted
/// by it, so that the place of a queue can be computed instead of searched.
pub(super) fn queue_hash(topic: &[u8], queue: u32) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(topic, u64::from(queue))
}

/// Goes on with Java's `String.hashCode` (over UTF-16 code units) from the hash of what stands before `text`.
pub(super) fn extend_java_hash(hash: i32, text: &str) -> i32 {
    let step = |hash: i32, unit: u16| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    if text.is_ascii() {
        text.bytes().map(u16::from).fold(hash, step)
    } else {
        text.encode_utf16().fold(hash, step)
    }
}

/// The hash that an IndexFile holds for a key whose Java hash is given: its absolute value, 0 for the one that has
/// none (`IndexFile.indexKeyHashMethod`).
pub(super) const fn key_hash(java_hash: i32) -> u32 {
    match java_hash.checked_abs() {
        Some(hash) => hash.cast_unsigned(),
        None => 0,
    }
}

/// Takes big-endian fields off the front of bytes; `None` when they end too early.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn tag(&mut self) -> Option<[u8; 8]> {
        self.array()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn file_names_are_read_back_and_others_are_not() {
        let range = LogRange { from: 4096, to: 1 << 40 };
        let name = range.file_name(Kind::Queue);
        assert_eq!(name, "00000000000000004096-00000001099511627776.queue");
        assert_eq!(LogRange::parse_file_name(&name), Some((Kind::Queue, range)));
        for bad in [
            "",
            "queue",
            ".queue",
            "-.queue",
            "1-2.queue",
            "00000000000000004096-00000000000000004096.queue",
            "00000000000000004096-00000000000000000001.keys",
            "00000000000000004096-99999999999999999999.keys",
            "+0000000000000004096-00000000000000004097.keys",
            "00000000000000004096-00000000000000004097.keys.new",
        ] {
            assert_eq!(LogRange::parse_file_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn hashes_are_those_of_java() {
        // "TopicTest#key".hashCode() and friends, from a JVM.
        assert_eq!(extend_java_hash(0, "hello"), 99_162_322);
        assert_eq!(extend_java_hash(extend_java_hash(0, "hel"), "lo"), 99_162_322);
        // A letter outside the basic plane is two UTF-16 units.
        let astral = [0xd83d_u16, 0xde00].iter().fold(0_i32, |h, u| h.wrapping_mul(31) + i32::from(*u));
        assert_eq!(extend_java_hash(0, "😀"), astral);
        // "polygenelubricants".hashCode() is Integer.MIN_VALUE.
        assert_eq!(extend_java_hash(0, "polygenelubricants"), i32::MIN);
        assert_eq!(key_hash(i32::MIN), 0);
        assert_eq!(key_hash(-5), 5);
    }

    proptest! {
        #[test]
        fn units_survive(position: u64, size: u32, tags_code: i64) {
            let unit = Unit { position: LogPosition(position), size, tags_code };
            prop_assert_eq!(Unit::decode(&unit.encode()), Some(unit));
        }
    }
}
