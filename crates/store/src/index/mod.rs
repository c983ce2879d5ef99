//! ConsumeQueue and IndexFile: what is derived from the log and can be derived again.
//!
//! ```text
//! apply ──add──▶ open part ──full──▶ parts that wait ──spill──▶ files ──merge──▶ about one per segment and kind
//!                └────────── memory ──────────────┘            └── <group>/queues/<from>-<to>.{queue,keys} ──┘
//! ```
//! - **Log order.** [`QueueIndex::add`] sees each frame once, after it was applied; it touches memory only. Together,
//!   files, gaps, parts and the open part cover the log from its start to the *built* position without a hole.
//! - **A range that is missing is a gap**, never an empty queue: whoever needs it gets [`IndexError::Rebuilding`] until
//!   [`QueueIndex::rebuild_step`] has built it again from the log. Gaps come from files that are lost, damaged (every
//!   page has a checksum, looked at whenever it is read) or reach beyond the checkpoint, and from parts that were given
//!   up because the disk could not take them.
//! - **Nothing durable names what this disk does not hold** (log.md 3): files are written up to the fsynced position
//!   only, merged up to the checkpoint only, and those beyond the checkpoint are dropped at open.
//! - **Cost** (log.md 19): one file of each kind for a range of the log, whatever the number of queues; a queue costs 26
//!   bytes and its name in each file, a message 20 bytes and 20 for each of its keys. A look-up is a handful of 4 KiB
//!   reads in one file, through at most [`crate::limits::INDEX_DESCRIPTORS_MAX`] descriptors; no maps, nothing cached but
//!   by the kernel: what is in the page cache is read without leave to wait ([`QueueIndex::units_resident`]).
//! - **Absent here**: which offsets a queue has is decided by the broker's tables, not by this index, and neither is
//!   what was purged.
//!
//! Locks: `upkeep` (merge, rebuild, purge: one at a time) and `spilling` (spill), never both by one thread and never by
//! readers or `add`, are held during reads and writes. Under either, `state` (memory only; `add` writes, readers read)
//! and then the descriptors are taken for moments; nothing is read from or written to a disk under those two.

mod codec;
mod files;
mod key_file;
mod merge;
mod pages;
mod part;
mod queue_file;
mod read;
mod records;
mod shelf;
mod sizes;
mod state;
#[cfg(test)]
mod tests;
mod upkeep;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, RwLock};

use wire::LogPosition;

use self::files::Files;
use self::sizes::Sizes;
use self::state::State;
use crate::error::StoreError;
use crate::frame::Frame;
use crate::ids::LogIndex;
use crate::log::Log;
use crate::read::LogItem;

pub use self::codec::Unit;

/// Why the index has no answer.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The answer depends on a range of the log whose index is being built again: try later, and do not take it for
    /// "nothing there".
    #[error("the index of the log from {from} to {to} is being built again")]
    Rebuilding {
        /// Start of the range.
        from: LogPosition,
        /// Its end.
        to: LogPosition,
    },
    /// The disk, or the log from which a range is built again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Frames of the log in order, starting with the first one that begins at or after a position. The positions that are
/// asked for are ends of frames, starts of segments and the start of the log.
pub type FrameSource<'a> = dyn Fn(LogPosition) -> Result<Frames<'a>, StoreError> + 'a;

/// What a [`FrameSource`] gives.
pub type Frames<'a> = Box<dyn Iterator<Item = Result<Frame, StoreError>> + 'a>;

/// The frames of a log; foreign segments, which hold none, are passed over.
pub fn frames_of(log: &Log) -> impl Fn(LogPosition) -> Result<Frames<'static>, StoreError> + use<> {
    let log = log.clone();
    move |position| {
        let mut reader = log.frames_from(position);
        Ok(Box::new(std::iter::from_fn(move || {
            loop {
                match reader.next_item() {
                    Ok(Some(LogItem::Frame(frame))) => return Some(Ok(frame)),
                    Ok(Some(LogItem::Foreign { .. })) => {}
                    Ok(None) => return None,
                    Err(error) => return Some(Err(error)),
                }
            }
        })))
    }
}

/// Called by background work with the bytes that it has read or written since the last call, a megabyte or so. Wait as
/// long as the disk ought to be left to others; `Break` abandons the work, which leaves no trace.
pub type Pace<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

/// The log as the index needs to know it when it is opened.
#[derive(Clone, Copy, Debug)]
pub struct IndexedLog {
    /// Where the log starts: nothing below is to be had.
    pub start: LogPosition,
    /// End of the last entry of the checkpoint from which the tables were loaded; entries behind it will be applied,
    /// and added, again.
    pub checkpoint: LogPosition,
    /// Bytes of a segment.
    pub segment_size: u64,
    /// Indexes in this process, this one included: together they take the memory of one.
    pub indexes: usize,
}

/// What the index holds at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// The index covers the log up to here.
    pub built: LogPosition,
    /// Units (messages) in memory.
    pub memory_units: usize,
    /// Keys in memory.
    pub memory_keys: usize,
    /// Bytes of memory that they take, with their queues.
    pub memory_bytes: usize,
    /// Bytes of log that the part in memory covers.
    pub memory_log_bytes: u64,
    /// Files in use, of both kinds.
    pub files: usize,
    /// Ranges that are to be built again, of both kinds.
    pub gaps: usize,
    /// Bytes of log in them.
    pub gap_bytes: u64,
    /// Files found damaged or missing since the index was opened.
    pub lost_files: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

/// The index of one group's log. A clone is a handle of the same index.
#[derive(Clone)]
pub struct QueueIndex(Arc<Inner>);

struct Inner {
    files: Files,
    sizes: Sizes,
    segment_size: u64,
    state: RwLock<State>,
    spilling: Mutex<()>,
    upkeep: Mutex<()>,
}

/// Whether an applied entry is void: its bytes stay in the log, and no index points to them (log.md 4).
pub type IsVoid<'a> = dyn Fn(LogIndex) -> bool + 'a;
