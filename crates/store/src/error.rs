//! What can go wrong, in variants that a caller can act on.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use wire::LogPosition;

use crate::ids::LogIndex;

/// An error of the log. After [`StoreError::Poisoned`] or [`StoreError::Corrupt`] the replica must stop; every other
/// variant leaves the log as it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk refused.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried: a verb.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The answer of the operating system.
        source: io::Error,
    },
    /// Bytes that this disk had made durable are no longer what they were. They are never cut: repair them from a
    /// peer.
    #[error("{} is damaged at position {position} (index {index}): {reason}", file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Position in the log of the first damaged frame (0 outside the log).
        position: LogPosition,
        /// Index of the entry that ought to be there (0 outside the log).
        index: LogIndex,
        /// What is wrong.
        reason: String,
    },
    /// The directory belongs to another cluster, group, node, segment size or format.
    #[error("{} holds {what} {found}, not {expected}: refusing to open it", dir.display())]
    Identity {
        /// The directory of the group.
        dir: PathBuf,
        /// Which part differs.
        what: &'static str,
        /// What was asked for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A part of the directory is gone. A node that lost its vote or log would vote twice under its id: give it a new
    /// node id and an empty directory (log.md 19).
    #[error("{} is incomplete: {missing}; a node that lost its files must come back under a new node id", dir.display())]
    Incomplete {
        /// The directory of the group.
        dir: PathBuf,
        /// What is missing.
        missing: String,
    },
    /// Another process has the directory open.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A write or an fsync failed earlier: this log takes no more writes until the process is started again
    /// (log.md 16).
    #[error("the log stopped after a disk error: {reason}")]
    Poisoned {
        /// The first error.
        reason: String,
    },
    /// The entry does not continue the log. From a peer this stops the replica (log.md 8).
    #[error("entry {index} does not continue the log: {reason}")]
    Mismatch {
        /// Index of the refused entry.
        index: LogIndex,
        /// What differs.
        reason: String,
    },
    /// The entry is larger than a frame may be.
    #[error("a frame of {len} bytes exceeds the maximum of {max}")]
    TooLarge {
        /// Bytes of the frame.
        len: u64,
        /// The most there may be.
        max: u64,
    },
    /// No allocated space is left; nothing was appended. Reserve before you append (log.md 10).
    #[error("no room for {wanted} bytes in allocated segments")]
    NoRoom {
        /// Bytes that were asked for.
        wanted: u64,
    },
    /// What was asked for has been purged.
    #[error("purged: the log starts at index {first_index}, position {first_position}")]
    Purged {
        /// The first index that is still here.
        first_index: LogIndex,
        /// The first position that is still here.
        first_position: LogPosition,
    },
    /// What was asked for lies beyond the end, or in bytes that are no frame.
    #[error("position {position} + {len} bytes is outside the log, which ends at {end}")]
    OutOfRange {
        /// First position that was asked for.
        position: LogPosition,
        /// Bytes that were asked for.
        len: u64,
        /// End of the log.
        end: LogPosition,
    },
    /// Something durable would name an entry that this disk does not hold (log.md 3).
    #[error("index {index} is not durable here: the disk holds the log up to {synced:?}")]
    NotDurable {
        /// The entry that would be named.
        index: LogIndex,
        /// The last one that is fsynced.
        synced: Option<LogIndex>,
    },
    /// A rule of this crate or of its caller is broken; nothing was done.
    #[error("invariant broken: {0}")]
    Invariant(String),
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }

    /// Damage outside the frames.
    pub(crate) fn damaged(file: &Path, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            file: file.to_owned(),
            position: LogPosition(0),
            index: LogIndex(0),
            reason: reason.into(),
        }
    }

    /// True when bytes are lost for good: they are not what they were, or the disk cannot give them back.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Io { source, .. } => {
                // What Linux answers for a bad sector, and file systems for their own broken checksums and structures.
                let lost = [Errno::IO, Errno::BADMSG, Errno::UCLEAN].map(Errno::raw_os_error);
                source.raw_os_error().is_some_and(|errno| lost.contains(&errno))
            }
            _ => false,
        }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { what, path, source } => {
                io::Error::new(source.kind(), format!("{what} {}: {source}", path.display()))
            }
            StoreError::Corrupt { .. } => io::Error::new(io::ErrorKind::InvalidData, error),
            StoreError::NoRoom { .. } => io::Error::new(io::ErrorKind::StorageFull, error),
            other => io::Error::other(other),
        }
    }
}

/// Short for `map_err(|e| StoreError::io(what, path, e))`.
pub(crate) trait At<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::io(what, path, source))
    }
}
