//! The bounds of an index as values, so that tests can have small ones; the usual ones are in [`crate::limits`].

use crate::limits;

#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// A part in memory is full, and due to be spilled, at so many units,
    pub(super) part_units: usize,
    /// bytes of log,
    pub(super) part_log_bytes: u64,
    /// or bytes of memory.
    pub(super) part_memory_bytes: usize,
    /// Full parts that wait in memory; the oldest is given up (and built again from the log) when there are more.
    pub(super) parts_waiting: usize,
    /// The most units of a merged file.
    pub(super) merged_units: u64,
    /// Neighbours of like size that are merged while their segment still grows.
    pub(super) merge_fan: usize,
    /// Open descriptors.
    pub(super) descriptors: usize,
    /// The most log that is read again while the index is opened; more is left to the background.
    pub(super) tail_log_bytes: u64,
}

impl Sizes {
    /// The bounds of one of several indexes.
    pub(super) fn shared(indexes: usize) -> Self {
        let all = Self::default();
        let share = |whole: usize| (whole / indexes.max(1)).max(whole / 16);
        Self {
            part_units: share(all.part_units),
            part_memory_bytes: share(all.part_memory_bytes),
            descriptors: share(all.descriptors),
            ..all
        }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            part_units: limits::INDEX_PART_UNITS_MAX,
            part_log_bytes: limits::INDEX_PART_LOG_BYTES_MAX,
            part_memory_bytes: limits::INDEX_PART_MEMORY_MAX,
            parts_waiting: limits::INDEX_PARTS_WAITING_MAX,
            merged_units: limits::INDEX_MERGED_UNITS_MAX,
            merge_fan: limits::INDEX_MERGE_FAN,
            descriptors: limits::INDEX_DESCRIPTORS_MAX,
            tail_log_bytes: limits::INDEX_TAIL_LOG_BYTES_MAX,
        }
    }
}
