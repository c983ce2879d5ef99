//! One append-only log on disk and the indexes derived from it; survives any crash; knows nothing of elections.
//!
//! ```text
//!            append ─▶ memory (readable at once) ─▶ flusher: pwrite, fdatasync ─▶ done
//! LOCK  manifest  vote  log/00000000000000000000 log/00000000001073741824 …  queues/…  tables/…
//! ```
//! - [`Log`]: entries by index, bytes by position, the vote, the tables; [`Log::open`] recovers.
//! - [`Flusher`]: one per disk.
//! - [`Disk`]: what is asked of a disk; [`OsDisk`] and [`CrashDisk`].
//! - [`index`]: ConsumeQueue and IndexFile, derived from the log.
//!
//! The bytes are those of docs/formats.md. Everything is synchronous; the only threads are the flusher's.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::indexing_slicing))]

mod bytes_at;
mod checked;
mod disk;
mod error;
mod flush;
mod frame;
mod ids;
pub mod index;
pub mod limits;
mod log;
mod manifest;
pub mod mutant;
mod read;
mod records;
mod recovery;
mod room;
mod segment;
mod slot;
mod sparse;
mod tables;
mod writer;

pub use disk::{CrashDisk, Disk, DiskFile, Fault, FaultOp, Map, OsDisk, Work, read_file, replace_file};
pub use error::StoreError;
pub use flush::Flusher;
pub use frame::{Draft, FRAME_MAGIC, Frame, FrameError, FrameKind, frame_len};
pub use ids::{LogId, LogIndex, Term, Vote};
pub use log::{Done, Identity, Log, LogState, NewEntry, Options, ReceivedSnapshot, SealedInfo, SegmentInfo};
pub use mutant::Mutant;
pub use read::{FrameReader, LogItem};
pub use records::Records;
pub use recovery::ForeignSegment;
pub use room::Reservation;
pub use segment::{SegmentKind, opens_segment, place, segment_start};
pub use tables::{TablesKind, TablesMeta};
pub use wire::LogPosition;
