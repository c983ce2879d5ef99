//! Every maximum of this crate in one place, with the assertions between them.

use std::time::Duration;

/// Bytes of a frame header (docs/formats.md 2.2).
pub const HEADER_LEN: usize = 64;
/// Frames start at multiples of this.
pub const FRAME_ALIGN: u64 = 8;
/// Bytes at the start of each segment that hold its header.
pub const SEGMENT_HEADER_LEN: u64 = 4096;
/// Bytes behind each open segment that hold the two slots of the synced watermark; no position addresses them.
pub const TRAILER_LEN: u64 = 2 * SLOT_LEN;
/// Bytes of one slot of the vote file or of a trailer: one page, so that the two never share one.
pub const SLOT_LEN: u64 = 4096;

/// The largest frame, header and padding included: the largest client frame (8 MiB) and its envelope (log.md 19).
pub const FRAME_LEN_MAX: u64 = (8 << 20) + (128 << 10);
/// The smallest segment of a real group, so that the largest frame always fits one.
pub const SEGMENT_SIZE_MIN: u64 = 16 << 20;
/// The usual segment, bytes.
pub const SEGMENT_SIZE_DEFAULT: u64 = 1 << 30;
/// The largest segment, bytes.
pub const SEGMENT_SIZE_MAX: u64 = 64 << 30;
/// The smallest segment that a test may ask for.
pub const SEGMENT_SIZE_TEST_MIN: u64 = 2 * SEGMENT_HEADER_LEN;

/// The last position that is ever written down. No log comes near it, so that sums of positions do not overflow.
pub const POSITION_MAX: u64 = 1 << 62;

/// Recent frames that stay in memory although they are on disk, bytes per log.
pub const RECENT_BYTES_MAX: usize = 6 << 20;
/// A draft whose buffer holds more unused bytes than its frame has, plus this, is copied into one that fits: else
/// `RECENT_BYTES_MAX` would bound something other than memory.
pub const DRAFT_SLACK_MAX: usize = 4096;
/// What one disk read of frames brings in beyond what was asked for: the distance to the frame that the sparse index
/// names.
pub const READ_AHEAD: usize = 256 << 10;
/// The sparse position index names the first frame of each such stretch of a segment.
pub const SPARSE_STEP: u64 = 64 << 10;
/// The largest file of a sparse index that is read back, bytes: 24 for each step of the largest segment.
pub const SPARSE_LEN_MAX: u64 = SEGMENT_SIZE_MAX / SPARSE_STEP * 24;

/// Threads that run fdatasync for one disk (log.md 16).
pub const FLUSH_THREADS_MAX: usize = 4;
/// A small write to blocks that were allocated but never written brings zeros with it up to the next multiple of this
/// (bytes). The file system has to note on disk which blocks have been written, and does so in the fdatasync that
/// acknowledgements wait for: with it done ahead a sync takes half the time and half the CPU (docs/benchmarks.md).
pub const ZEROS_AHEAD: u64 = 256 << 10;
/// A larger write than this, in bytes, brings none: its sync costs little for each byte, and the disk's bandwidth is
/// then worth more.
pub const ZEROS_BATCH_MAX: u64 = 64 << 10;
/// Buffers of one vectored write (Linux's `IOV_MAX`).
pub const IOV_MAX: usize = 1024;
/// The watermark of an idle log is durable after this time.
pub const WATERMARK_IDLE: Duration = Duration::from_millis(50);
/// How long to wait before an allocation that met a full disk is tried again.
pub const ALLOCATE_RETRY: Duration = Duration::from_secs(1);
/// Allocated segments ahead of the open one: the next, and the spare that reservations for messages do not touch (log.md
/// 10).
pub const SEGMENTS_AHEAD: usize = 2;
/// What one reservation may take of the spare, bytes: the largest blank, membership or retention entry.
pub const SPARE_TAKE_MAX: u64 = 64 << 10;
/// Bytes at the end of the last segment there is room for, once it is in use, that stay kept for such entries: thousands of
/// elections. A sixteenth of smaller segments.
pub const SPARE_REST: u64 = 1 << 20;

/// Files that are swapped with a spare one are allocated in such steps, bytes,
pub const SPARE_FILE_STEP: u64 = 16 << 10;
/// when less than this is left behind their content: room for a few dozen more segments in a manifest.
pub const SPARE_FILE_SLACK: u64 = 4 << 10;
/// Checkpoints that are kept.
pub const CHECKPOINTS_KEPT: usize = 2;
/// The largest file of tables that is read back, bytes.
pub const TABLES_LEN_MAX: u64 = 1 << 30;
/// The largest manifest that is read back, bytes (one segment is about 150 bytes of it).
pub const MANIFEST_LEN_MAX: u64 = 64 << 20;
/// The longest name of a cluster or group, bytes.
pub const NAME_LEN_MAX: usize = 255;

/// Messages in memory at which a part of the index is written to files (5 MiB of units, at most 6.3 in memory).
pub const INDEX_PART_UNITS_MAX: usize = 256 << 10;
/// Bytes of log at which it is written, however few messages they hold.
pub const INDEX_PART_LOG_BYTES_MAX: u64 = 256 << 20;
/// Bytes of memory at which it is written, however few messages: many queues and many keys cost too.
pub const INDEX_PART_MEMORY_MAX: usize = 16 << 20;
/// Parts that wait to be written. With more the oldest is given up and built again from the log later: memory stays
/// bounded when the disk takes no more.
pub const INDEX_PARTS_WAITING_MAX: usize = 4;
/// The most units of a merged file of the index (80 MiB). Merging keys takes one byte of memory for each.
pub const INDEX_MERGED_UNITS_MAX: u64 = 4 << 20;
/// Files of like size that are merged while their segment still grows.
pub const INDEX_MERGE_FAN: usize = 8;
/// Descriptors that an index keeps open (log.md 19).
pub const INDEX_DESCRIPTORS_MAX: usize = 1024;
/// The most log that is read again while an index is opened: what one part may cover. More is left to the background, so
/// that a start takes no longer.
pub const INDEX_TAIL_LOG_BYTES_MAX: u64 = INDEX_PART_LOG_BYTES_MAX + FRAME_LEN_MAX;

const _: () = {
    assert!(FRAME_LEN_MAX + SEGMENT_HEADER_LEN <= SEGMENT_SIZE_MIN);
    assert!(SPARE_REST <= SEGMENT_SIZE_MIN / 16 && SPARE_TAKE_MAX <= SPARE_REST / 16);
    assert!(POSITION_MAX < i64::MAX as u64 - SEGMENT_SIZE_MAX);
    assert!(FRAME_LEN_MAX.is_multiple_of(FRAME_ALIGN));
    assert!(FRAME_LEN_MAX < u32::MAX as u64);
    assert!(SEGMENT_HEADER_LEN.is_multiple_of(FRAME_ALIGN));
    assert!((HEADER_LEN as u64).is_multiple_of(FRAME_ALIGN));
    assert!(RECENT_BYTES_MAX as u64 > FRAME_LEN_MAX / 2);
    assert!(SPARSE_STEP > SEGMENT_HEADER_LEN);
    assert!(INDEX_PART_UNITS_MAX as u64 <= INDEX_MERGED_UNITS_MAX);
    assert!(INDEX_MERGE_FAN >= 2 && INDEX_PARTS_WAITING_MAX >= 1);
};
