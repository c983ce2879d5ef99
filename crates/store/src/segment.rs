//! A segment: a preallocated file of frames (docs/formats.md 2.1), and the rule that says where the next frame goes.
//!
//! ```text
//! 0 ─ header ─ 4096 ─ frame frame frame … frame ─ zeros ─ segment_size ─ two watermark slots (open segment only) ─
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::{Bytes, BytesMut};
use wire::LogPosition;
use xxhash_rust::xxh3::xxh3_128;

use crate::bytes_at::{array, put, u32_at, u64_at};
use crate::disk::{Disk, DiskFile, Map};
use crate::error::{At, StoreError};
use crate::frame::Tail;
use crate::ids::{LogId, LogIndex, Term};
use crate::limits::{SEGMENT_HEADER_LEN, TRAILER_LEN};
use crate::sparse::Sparse;

/// The last two digits are the format version.
const MAGIC: [u8; 8] = *b"RMQSEG01";
/// Bytes of the header that are not zeros.
const USED: usize = 92;

/// The start of the segment that holds `position`.
pub fn segment_start(position: LogPosition, segment_size: u64) -> LogPosition {
    LogPosition(position.0 - position.0 % segment_size)
}

/// Where a frame of `len` bytes goes after a log that ends at `end`: at `end` when it fits the segment, else behind the
/// header of the next one. The rule belongs to the group: every replica computes the same place (log.md 8).
pub fn place(end: LogPosition, len: u64, segment_size: u64) -> LogPosition {
    let start = segment_start(end, segment_size).0;
    let at = end.0.max(start + SEGMENT_HEADER_LEN);
    if at + len <= start + segment_size {
        LogPosition(at)
    } else {
        LogPosition(start + segment_size + SEGMENT_HEADER_LEN)
    }
}

/// True when `position` is that of the first frame of a segment.
pub fn opens_segment(position: LogPosition, segment_size: u64) -> bool {
    position.0 % segment_size == SEGMENT_HEADER_LEN
}

/// The name of the segment that starts at `start`.
pub(crate) fn segment_name(start: LogPosition) -> String {
    format!("{:020}", start.0)
}

/// The start of the segment with this name; `None` for other names.
pub(crate) fn segment_of_name(name: &str) -> Option<LogPosition> {
    let is_name = name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit());
    is_name.then(|| name.parse().ok().map(LogPosition)).flatten()
}

/// A name as 16 bytes: itself when it fits, else its XXH3-128.
fn id_of_name(name: &str) -> [u8; 16] {
    let mut id = [0; 16];
    if name.len() <= id.len() {
        put(&mut id, 0, name.as_bytes());
        id
    } else {
        xxh3_128(name.as_bytes()).to_be_bytes()
    }
}

/// The header of a segment; the same bytes on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    cluster: [u8; 16],
    group: [u8; 16],
    pub(crate) segment_size: u64,
    pub(crate) start: LogPosition,
    pub(crate) first_index: LogIndex,
    pub(crate) prev_term: Term,
    pub(crate) prev_chain: u64,
    pub(crate) prev_time_ms: u64,
}

impl SegmentHeader {
    /// The header of the segment at `start` whose first frame follows `tail`.
    pub(crate) fn new(
        cluster: &str,
        group: &str,
        segment_size: u64,
        start: LogPosition,
        tail: &Tail,
    ) -> Self {
        Self {
            cluster: id_of_name(cluster),
            group: id_of_name(group),
            segment_size,
            start,
            first_index: tail.next,
            prev_term: tail.term(),
            prev_chain: tail.chain,
            prev_time_ms: tail.log_time_ms,
        }
    }

    /// The state that the first frame of the segment continues.
    pub(crate) fn tail(&self) -> Tail {
        let last = self.first_index.0.checked_sub(1);
        Tail {
            id: last.map(|index| LogId { term: self.prev_term, index: LogIndex(index) }),
            next: self.first_index,
            end: self.start,
            chain: self.prev_chain,
            log_time_ms: self.prev_time_ms,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { cluster, group, segment_size, start, first_index, prev_term, prev_chain, prev_time_ms } =
            *self;
        let mut bytes = vec![0; SEGMENT_HEADER_LEN as usize];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &cluster);
        put(&mut bytes, 24, &group);
        put(&mut bytes, 40, &segment_size.to_be_bytes());
        put(&mut bytes, 48, &start.0.to_be_bytes());
        put(&mut bytes, 56, &first_index.0.to_be_bytes());
        put(&mut bytes, 64, &prev_term.0.to_be_bytes());
        put(&mut bytes, 72, &prev_chain.to_be_bytes());
        put(&mut bytes, 80, &prev_time_ms.to_be_bytes());
        let crc = crc32c::crc32c(bytes.get(..88).unwrap_or_default());
        put(&mut bytes, 88, &crc.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < SEGMENT_HEADER_LEN as usize {
            return Err(format!("{} bytes of a segment header", bytes.len()));
        }
        let magic: [u8; 8] = array(bytes, 0);
        if magic != MAGIC {
            return Err(format!("segment magic {:?}", String::from_utf8_lossy(&magic)));
        }
        if crc32c::crc32c(bytes.get(..88).unwrap_or_default()) != u32_at(bytes, 88) {
            return Err("the checksum of the segment header is wrong".into());
        }
        if bytes.iter().skip(USED).any(|byte| *byte != 0) {
            return Err("the rest of the segment header is not zeros".into());
        }
        Ok(Self {
            cluster: array(bytes, 8),
            group: array(bytes, 24),
            segment_size: u64_at(bytes, 40),
            start: LogPosition(u64_at(bytes, 48)),
            first_index: LogIndex(u64_at(bytes, 56)),
            prev_term: Term(u64_at(bytes, 64)),
            prev_chain: u64_at(bytes, 72),
            prev_time_ms: u64_at(bytes, 80),
        })
    }
}

/// What a segment's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// Frames of docs/formats.md 2.2.
    RaftV1,
    /// A sealed file of another log below the first entry: served by position, never interpreted.
    Foreign(String),
}

/// How a sealed segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// The state after its last frame; of a foreign segment only `end` means something.
    pub(crate) tail: Tail,
}

/// A segment as the manifest names it.
#[derive(Clone)]
pub(crate) struct SegmentEntry {
    pub(crate) start: LogPosition,
    pub(crate) kind: SegmentKind,
    /// Index of the first frame that starts here.
    pub(crate) first_index: LogIndex,
    /// `None`: frames are still being added.
    pub(crate) sealed: Option<Sealed>,
    pub(crate) file: Arc<SegmentFile>,
}

/// The file of a segment; opened and mapped when first needed.
pub(crate) struct SegmentFile {
    pub(crate) start: LogPosition,
    pub(crate) path: PathBuf,
    /// Bytes that positions address.
    pub(crate) len: u64,
    file: OnceLock<Arc<dyn DiskFile>>,
    map: OnceLock<Option<Map>>,
    sparse: Mutex<Sparse>,
}

impl SegmentFile {
    pub(crate) fn new(log_dir: &Path, start: LogPosition, len: u64, sparse: Sparse) -> Arc<Self> {
        Arc::new(Self {
            start,
            path: log_dir.join(segment_name(start)),
            len,
            file: OnceLock::new(),
            map: OnceLock::new(),
            sparse: Mutex::new(sparse),
        })
    }

    pub(crate) fn with_file(
        log_dir: &Path,
        start: LogPosition,
        len: u64,
        file: Arc<dyn DiskFile>,
    ) -> Arc<Self> {
        let segment = Self::new(log_dir, start, len, Sparse::default());
        let _ = segment.file.set(file);
        segment
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    pub(crate) fn open(&self, disk: &dyn Disk) -> Result<&Arc<dyn DiskFile>, StoreError> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let file = disk.open(&self.path).at("open", &self.path)?;
        Ok(self.file.get_or_init(|| file))
    }

    /// The map of the addressable bytes; `None` where the disk has none.
    pub(crate) fn map(&self, disk: &dyn Disk) -> Result<Option<&Map>, StoreError> {
        if let Some(map) = self.map.get() {
            return Ok(map.as_ref());
        }
        let file = self.open(disk)?;
        // A map may not reach beyond the file: touching it there would be a SIGBUS.
        let map = if file.len().at("stat", &self.path)? >= self.len {
            file.map(self.len).at("map", &self.path)?
        } else {
            None
        };
        Ok(self.map.get_or_init(|| map).as_ref())
    }

    /// Reads `len` bytes at a position of this segment from the file.
    pub(crate) fn read(
        &self,
        disk: &dyn Disk,
        position: LogPosition,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        let mut bytes = BytesMut::zeroed(len);
        let offset = position.0 - self.start.0;
        self.open(disk)?.read_exact_at(offset, &mut bytes).at("read", &self.path)?;
        Ok(bytes.freeze())
    }

    pub(crate) fn header(&self, disk: &dyn Disk) -> Result<SegmentHeader, StoreError> {
        let bytes = self.read(disk, self.start, SEGMENT_HEADER_LEN as usize)?;
        SegmentHeader::decode(&bytes).map_err(|reason| StoreError::damaged(&self.path, reason))
    }

    /// Lock order: innermost; held for look-ups and insertions in memory, and while the index file is read.
    pub(crate) fn sparse(&self) -> MutexGuard<'_, Sparse> {
        self.sparse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of the file of an open segment.
pub(crate) fn file_len(segment_size: u64) -> u64 {
    segment_size + TRAILER_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 16384;

    #[test]
    fn the_place_of_a_frame_depends_on_end_length_and_segment_size_only() {
        let check = |end, len, expect| {
            assert_eq!(place(LogPosition(end), len, SIZE), LogPosition(expect), "{end} {len}");
        };
        check(0, 64, 4096);
        check(4096, 64, 4096);
        check(4160, 64, 4160);
        check(SIZE - 64, 64, SIZE - 64);
        check(SIZE - 56, 64, SIZE + 4096);
        check(SIZE, 64, SIZE + 4096);
        check(4096, SIZE - 4096, 4096);
        check(4104, SIZE - 4096, SIZE + 4096);
        check(3 << 30, 128, (3 << 30) + 4096);
    }

    #[test]
    fn names_are_positions_of_twenty_digits() {
        assert_eq!(segment_name(LogPosition(1 << 30)), "00000000001073741824");
        assert_eq!(segment_of_name("00000000001073741824"), Some(LogPosition(1 << 30)));
        for other in ["", "1073741824", "00000000001073741824.index", "+0000000001073741824", "next-0"] {
            assert_eq!(segment_of_name(other), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn a_header_comes_back_as_it_was(cluster in ".{0,40}", group in "[a-z]{0,40}", size: u64, start: u64, index: u64,
                                         term: u64, chain: u64, time: u64, flip in 0_usize..92) {
            let id = index.checked_sub(1).map(|last| LogId::new(term, last));
            let tail = Tail { id, next: LogIndex(index), end: LogPosition(start), chain, log_time_ms: time };
            let header = SegmentHeader::new(&cluster, &group, size, LogPosition(start), &tail);
            let mut bytes = header.encode();
            proptest::prop_assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
            proptest::prop_assert_eq!(header.tail(), tail);
            bytes[flip] ^= 1;
            proptest::prop_assert!(SegmentHeader::decode(&bytes).is_err());
        }

        #[test]
        fn a_placed_frame_lies_in_one_segment_behind_its_header(end in 0_u64..10 * SIZE, len in 1_u64..=(SIZE - 4096) / 8) {
            let (end, len) = (end & !7, len * 8);
            let at = place(LogPosition(end), len, SIZE).0;
            proptest::prop_assert!(at >= end && at % SIZE >= 4096 && at / SIZE == (at + len - 1) / SIZE && at.is_multiple_of(8));
        }
    }
}
