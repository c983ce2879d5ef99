//! The manifest: who the directory belongs to and which files count (docs/formats.md 5).
//!
//! It is the authority: a segment that it does not name is no part of the log. So every change of the set of segments is
//! one atomic replacement of this file, and files are removed only after it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use wire::LogPosition;

use crate::disk::{Disk, open_spare, read_file, swap_file};
use crate::error::{At, StoreError};
use crate::frame::Tail;
use crate::ids::{LogId, LogIndex, Term};
use crate::limits::{MANIFEST_LEN_MAX, POSITION_MAX, SEGMENT_SIZE_MAX};

pub(crate) const MANIFEST: &str = "manifest";
const MANIFEST_SPARE: &str = "manifest.spare";
const FORMAT: u32 = 1;
pub(crate) const RAFT_V1: &str = "raft-v1";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) cluster: String,
    pub(crate) group: String,
    pub(crate) node: u64,
    /// 32 hex digits, new with each empty directory.
    pub(crate) incarnation: String,
    pub(crate) segment_size: u64,
    /// Where the log starts; the entry before it is the last one that was purged.
    pub(crate) first: Mark,
    /// The tables that openraft sees as the current snapshot: `tables/boundary-<index>`.
    pub(crate) snapshot: Option<Mark>,
    /// Node → incarnation of the members with which the group was formed.
    pub(crate) formed: Option<BTreeMap<u64, String>>,
    pub(crate) segments: Vec<Segment>,
}

/// A place between two frames: `index` and `position` of the next one, the rest of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    pub(crate) index: u64,
    pub(crate) position: u64,
    pub(crate) term: u64,
    #[serde(with = "hex")]
    pub(crate) chain: u64,
    pub(crate) time_ms: u64,
}

impl From<Tail> for Mark {
    fn from(tail: Tail) -> Self {
        Self {
            index: tail.next.0,
            position: tail.end.0,
            term: tail.term().0,
            chain: tail.chain,
            time_ms: tail.log_time_ms,
        }
    }
}

impl From<Mark> for Tail {
    fn from(mark: Mark) -> Self {
        let last = mark.index.checked_sub(1);
        Tail {
            id: last.map(|index| LogId { term: Term(mark.term), index: LogIndex(index) }),
            next: LogIndex(mark.index),
            end: LogPosition(mark.position),
            chain: mark.chain,
            log_time_ms: mark.time_ms,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Segment {
    pub(crate) start: u64,
    pub(crate) kind: String,
    /// Index of the first frame that starts in it (0 in a foreign segment).
    pub(crate) first_index: u64,
    /// After its last frame; missing while frames are being added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sealed: Option<Mark>,
}

impl Segment {
    pub(crate) fn is_foreign(&self) -> bool {
        self.kind != RAFT_V1
    }

    pub(crate) fn raft(start: LogPosition, first_index: LogIndex, sealed: Option<Mark>) -> Self {
        Self { start: start.0, kind: RAFT_V1.to_owned(), first_index: first_index.0, sealed }
    }
}

impl Manifest {
    pub(crate) fn new(identity: (&str, &str, u64, u64), incarnation: String, first: Mark) -> Self {
        let (cluster, group, node, segment_size) = identity;
        Self {
            format: FORMAT,
            cluster: cluster.to_owned(),
            group: group.to_owned(),
            node,
            incarnation,
            segment_size,
            first,
            snapshot: None,
            formed: None,
            segments: Vec::new(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(format!("\ncrc32c:{crc:08x}\n").as_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let expect = format!("\ncrc32c:{:08x}\n", crc32c::crc32c(line));
        // Behind it may be anything: the file is overwritten as it is (`swap_file`).
        if !bytes.get(line.len()..).is_some_and(|rest| rest.starts_with(expect.as_bytes())) {
            return Err("its checksum line is missing or wrong".into());
        }
        // The version first: a later format may have other fields.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if version.format != FORMAT {
            return Err(format!("format {}, this version knows {FORMAT}", version.format));
        }
        let manifest: Self = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    /// What every manifest satisfies, so that later arithmetic needs no care.
    fn check(&self) -> Result<(), String> {
        if self.segment_size == 0 || self.segment_size > SEGMENT_SIZE_MAX {
            return Err(format!("segment size {}", self.segment_size));
        }
        let marks = self.segments.iter().filter_map(|segment| segment.sealed.as_ref());
        if marks.chain(&self.snapshot).chain([&self.first]).any(|mark| mark.position > POSITION_MAX) {
            return Err("a position beyond any log".into());
        }
        let mut before: Option<&Segment> = None;
        for segment in &self.segments {
            let start = segment.start;
            let end = segment.sealed.map_or(start, |mark| mark.position);
            if start > POSITION_MAX || end < start {
                return Err(format!("segment {start} ends at {end}"));
            }
            if segment.is_foreign() {
                if segment.sealed.is_none() || end > self.first.position {
                    return Err(format!("the foreign segment {start} is not sealed below the first entry"));
                }
            } else if !start.is_multiple_of(self.segment_size) || end > start + self.segment_size {
                return Err(format!(
                    "segment {start} is not aligned to segments of {} bytes",
                    self.segment_size
                ));
            }
            if let Some(before) = before {
                let Some(sealed) = before.sealed else {
                    return Err(format!("segment {} is open below segment {start}", before.start));
                };
                let follows = segment.is_foreign() || before.is_foreign() || {
                    before.start + self.segment_size == start && sealed.index == segment.first_index
                };
                if sealed.position > start || !follows || (segment.is_foreign() && !before.is_foreign()) {
                    return Err(format!("segment {start} does not follow segment {}", before.start));
                }
            }
            before = Some(segment);
        }
        if before.is_some_and(|last| !last.is_foreign() && last.sealed.is_some()) {
            return Err("its last segment is sealed".into());
        }
        if let Some(first) = self.segments.iter().find(|segment| !segment.is_foreign()) {
            let is_below = first.first_index < self.first.index && first.start > self.first.position;
            if first.first_index > self.first.index || is_below {
                return Err("the first entry lies below the first segment".into());
            }
        }
        Ok(())
    }

    pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(MANIFEST);
        let Some(bytes) = read_file(disk, &path, MANIFEST_LEN_MAX).at("read", &path)? else {
            return Ok(None);
        };
        match Self::decode(&bytes) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(reason) => Err(StoreError::damaged(&path, reason)),
        }
    }

    pub(crate) fn save(&self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(MANIFEST);
        debug_assert_eq!(self.check(), Ok(()), "{self:?}");
        let spare = dir.join(MANIFEST_SPARE);
        swap_file(disk, &path, &spare, &self.encode()).at("replace", &path)?;
        self.keep_room(disk, dir);
        Ok(())
    }

    /// So that the next change, which may come when the disk is full, finds room.
    pub(crate) fn keep_room(&self, disk: &dyn Disk, dir: &Path) {
        let spare = dir.join(MANIFEST_SPARE);
        if let Err(error) = open_spare(disk, &spare, self.encode().len() as u64) {
            tracing::warn!(path = %spare.display(), %error, "no room is kept for the next manifest");
        }
    }
}

/// A u64 as 16 hex digits: JSON readers keep 53 bits of a number.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(index: u64, position: u64) -> Mark {
        Mark { index, position, term: 2, chain: 0xfedc_ba98_7654_3210, time_ms: 5 }
    }

    fn example() -> Manifest {
        let first = Mark { index: 1_000_001, position: 3 << 30, ..mark(0, 0) };
        let mut manifest = Manifest::new(("c", "g", 1, 1 << 30), "0f".repeat(16), first);
        manifest.formed = Some(BTreeMap::from([(1, "0f".repeat(16)), (2, "1e".repeat(16))]));
        manifest.snapshot = Some(first);
        manifest.segments = vec![
            Segment {
                start: 2 << 30,
                kind: "classic".into(),
                first_index: 0,
                sealed: Some(mark(0, (2 << 30) + 77)),
            },
            Segment::raft(LogPosition(3 << 30), LogIndex(1_000_001), Some(mark(1_000_042, (4 << 30) - 8))),
            Segment::raft(LogPosition(4 << 30), LogIndex(1_000_042), None),
        ];
        manifest
    }

    #[test]
    fn the_bytes_are_one_line_of_json_and_its_checksum() {
        insta::assert_snapshot!(String::from_utf8(example().encode()).unwrap(), @r#"
        {"format":1,"cluster":"c","group":"g","node":1,"incarnation":"0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","segment_size":1073741824,"first":{"index":1000001,"position":3221225472,"term":2,"chain":"fedcba9876543210","time_ms":5},"snapshot":{"index":1000001,"position":3221225472,"term":2,"chain":"fedcba9876543210","time_ms":5},"formed":{"1":"0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","2":"1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e"},"segments":[{"start":2147483648,"kind":"classic","first_index":0,"sealed":{"index":0,"position":2147483725,"term":2,"chain":"fedcba9876543210","time_ms":5}},{"start":3221225472,"kind":"raft-v1","first_index":1000001,"sealed":{"index":1000042,"position":4294967288,"term":2,"chain":"fedcba9876543210","time_ms":5}},{"start":4294967296,"kind":"raft-v1","first_index":1000042}]}
        crc32c:3c6bf510
        "#);
    }

    #[test]
    fn comes_back_as_it_was() {
        assert_eq!(Manifest::decode(&example().encode()), Ok(example()));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let check = |change: &dyn Fn(&mut Manifest), expect: &str| {
            let mut manifest = example();
            change(&mut manifest);
            let error = Manifest::decode(&manifest.encode()).unwrap_err();
            assert!(error.contains(expect), "{error} / {expect}");
        };
        check(&|m| m.format = 2, "format 2, this version knows 1");
        check(&|m| m.segment_size = 0, "segment size 0");
        check(&|m| m.segments[1].sealed = None, "is open below");
        check(&|m| m.segments[2].start += 8, "not aligned");
        check(&|m| m.segments[2].first_index += 1, "does not follow");
        check(&|m| m.segments[1].start = 5 << 30, "ends at");
        check(&|m| m.segments.truncate(2), "its last segment is sealed");
        check(&|m| m.segments[0].sealed = None, "not sealed below the first entry");
        check(&|m| m.first.index = 7, "below the first segment");
        check(&|m| m.first.position = u64::MAX, "beyond any log");
    }

    proptest! {
        #[test]
        fn a_damaged_byte_is_an_error(at in 0_usize..400, bit in 0_u8..8) {
            let mut bytes = example().encode();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(Manifest::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_no_panic(bytes: Vec<u8>) {
            let _ = Manifest::decode(&bytes);
        }

        #[test]
        fn any_numbers_are_no_panic(numbers: [u64; 8], size: u64) {
            let mut manifest = example();
            manifest.segment_size = size;
            manifest.first.position = numbers[0];
            for (segment, n) in manifest.segments.iter_mut().zip(numbers.chunks(2)) {
                segment.start = n[0];
                if let Some(sealed) = &mut segment.sealed { sealed.position = n[1] }
            }
            let _ = Manifest::decode(&manifest.encode());
        }
    }
}
