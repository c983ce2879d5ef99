//! Space before it is needed: segments are allocated ahead, and callers reserve in what is allocated (log.md 10).
//!
//! A full disk so shows as a refused reservation, never as a failed append. One allocated segment is the spare:
//! reservations for new messages do not touch it, so the entries by which a group gets on without messages (a blank, a
//! membership, a retention entry) find room, also on a follower, and so does what a follower lacks of its leader's log. Once
//! one of them has opened the spare and there is no other, messages may follow it, up to [`SPARE_REST`] bytes before its end.
//!
//! ```text
//!            open              spare                        disk full, the spare is open:
//! messages   ▓▓▓▓▓▓▓░░░░░░│    ───────────────────────      ▓▓▓▓░░░░░░░░░░░░░░───
//! others     ▓▓▓▓▓▓▓░░░░░░│    ░░░░░░░░░░░░░░░░░░░░░░░      ▓▓▓▓░░░░░░░░░░░░░░░░░     ▓ used  ░ to be had
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::DiskFile;
use crate::error::{At, StoreError};
use crate::flush::{Chore, lock};
use crate::limits::{FRAME_LEN_MAX, SEGMENT_HEADER_LEN, SEGMENTS_AHEAD, SPARE_REST, SPARE_TAKE_MAX};
use crate::log::{Inner, Log, State};
use crate::segment::file_len;

/// The name of an allocated segment that is not yet used.
const PREPARED: &str = "next-";

/// Allocated segments. A leaf in the lock order; not held during I/O.
#[derive(Default)]
pub(crate) struct Pool {
    ready: Vec<Prepared>,
    /// The last allocation met a full disk.
    lacks_room: bool,
}

/// An allocated file whose bytes are zeros; durable under its name.
pub(crate) struct Prepared {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// For what room is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Messages,
    /// What a leader has in its log already.
    Behind,
    /// What a group needs to get on.
    Group,
}

/// Bytes that are kept free for one caller until it is dropped: keep it until the append has returned.
#[must_use]
pub struct Reservation {
    log: Log,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = lock(&self.log.0.state);
        state.reserved = state.reserved.saturating_sub(self.bytes);
    }
}

impl Log {
    /// Reserves room for frames of `bytes` in all (headers and padding included) in allocated segments, the spare excepted.
    /// A leader does so before it proposes.
    ///
    /// # Errors
    /// `NoRoom`: try again later; the log allocates by itself as soon as the disk has room. `Poisoned`.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, StoreError> {
        self.reserve_for(Purpose::Messages, bytes)
    }

    /// [`Log::reserve`] for what a leader has in its log: also in the spare segment, up to [`SPARE_REST`] bytes before its end.
    /// A follower does so before an append RPC is given to Raft. What others have committed a follower must be able to store,
    /// or no leader gets on that needs it for a majority: a blank comes behind the messages before it.
    ///
    /// # Errors
    /// As [`Log::reserve`].
    pub fn reserve_behind(&self, bytes: u64) -> Result<Reservation, StoreError> {
        self.reserve_for(Purpose::Behind, bytes)
    }

    /// [`Log::reserve`] for entries without which a group does not get on (blank, membership, retention; never messages): also
    /// in the spare segment, and in what is kept back when that is in use. A new leader's blank so finds room on a follower
    /// whose disk is full. Above [`SPARE_TAKE_MAX`] bytes it is no such entry, and this is [`Log::reserve`].
    ///
    /// # Errors
    /// As [`Log::reserve`].
    pub fn reserve_small(&self, bytes: u64) -> Result<Reservation, StoreError> {
        self.reserve_for(if bytes <= SPARE_TAKE_MAX { Purpose::Group } else { Purpose::Messages }, bytes)
    }

    fn reserve_for(&self, purpose: Purpose, bytes: u64) -> Result<Reservation, StoreError> {
        let inner = &*self.0;
        let mut state = lock(&inner.state);
        state.check_poison()?;
        if state.reserved.saturating_add(bytes) > inner.room(&state, purpose) {
            return Err(StoreError::NoRoom { wanted: bytes });
        }
        state.reserved += bytes;
        drop(state);
        Ok(Reservation { log: self.clone(), bytes })
    }

    /// Bytes that [`Log::reserve`] would still give at this moment: the room for messages. Little of it means a full disk
    /// only together with [`Log::is_disk_full`]; else the next segment is on its way.
    pub fn free_room(&self) -> u64 {
        let state = lock(&self.0.state);
        self.0.room(&state, Purpose::Messages).saturating_sub(state.reserved)
    }

    /// Bytes that the disk has left beyond what this log has allocated.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn disk_free(&self) -> Result<u64, StoreError> {
        self.0.disk.free_space(&self.0.dir).at("stat", &self.0.dir)
    }

    /// True while segments cannot be allocated, because the disk is full or answers with errors. What is allocated already
    /// goes on being used: messages are refused only once [`Log::free_room`] is used up.
    pub fn is_disk_full(&self) -> bool {
        lock(&self.0.pool).lacks_room
    }
}

impl Inner {
    /// Bytes of frames that fit for certain, whatever their lengths: the rest of the open segment, or else `n` whole
    /// ones, of which all but the last may each waste a little less than one frame at their end.
    fn room(&self, state: &State, purpose: Purpose) -> u64 {
        let size = self.identity.segment_size;
        let body = size - SEGMENT_HEADER_LEN;
        let ready = (lock(&self.pool).ready.len() as u64).saturating_sub(state.rolls_queued);
        let rest = match state.tail.end.0 % size {
            0 => 0,
            used => size - used,
        };
        let kept = SPARE_REST.min(size / 16);
        let whole = |n: u64| (n * body).saturating_sub(n.saturating_sub(1) * body.min(FRAME_LEN_MAX));
        match purpose {
            Purpose::Group => rest.max(whole(ready)),
            // Without a spare the end of this segment is kept in its place.
            Purpose::Messages | Purpose::Behind if ready == 0 => rest.saturating_sub(kept),
            Purpose::Messages => rest.max(whole(ready - 1)),
            Purpose::Behind => rest.max(whole(ready).saturating_sub(kept)),
        }
    }

    /// Refuses frames that open more segments than there are when the disk is full. (When it is not, the flusher
    /// allocates what is missing.)
    pub(crate) fn check_room(&self, state: &State, rolls: u64, bytes: u64) -> Result<(), StoreError> {
        let pool = lock(&self.pool);
        if pool.lacks_room && (pool.ready.len() as u64) < state.rolls_queued + rolls {
            return Err(StoreError::NoRoom { wanted: bytes });
        }
        Ok(())
    }

    /// Allocates until there are enough segments ahead; notes a full disk and comes back.
    pub(crate) fn prepare(&self) {
        while lock(&self.pool).ready.len() < SEGMENTS_AHEAD {
            if lock(&self.state).poisoned.is_some() {
                return;
            }
            match self.allocate() {
                Ok(prepared) => {
                    let mut pool = lock(&self.pool);
                    pool.ready.push(prepared);
                    if std::mem::replace(&mut pool.lacks_room, false) {
                        tracing::info!(group = self.identity.group, "there is room for segments again");
                    }
                }
                Err(error) => {
                    let is_new = !std::mem::replace(&mut lock(&self.pool).lacks_room, true);
                    if is_new {
                        tracing::warn!(group = self.identity.group, %error, "cannot allocate a segment ahead");
                    }
                    self.flusher.retry_prepare(self.me.clone());
                    return;
                }
            }
        }
    }

    /// A segment to use now: one that is ready, else a new one.
    pub(crate) fn take_prepared(&self) -> Result<Prepared, StoreError> {
        let ready = lock(&self.pool).ready.pop();
        self.flusher.add_chore(Chore::Prepare(self.me.clone()));
        match ready {
            Some(prepared) => Ok(prepared),
            None => {
                let prepared = self.allocate()?;
                self.disk_answers();
                Ok(prepared)
            }
        }
    }

    /// Allocates a file, durably.
    fn allocate(&self) -> Result<Prepared, StoreError> {
        let number = self.prepared_ever.fetch_add(1, Ordering::Relaxed);
        let path = self.log_dir.join(format!("{PREPARED}{number}"));
        let outcome = (|| {
            let file = self.disk.create(&path)?;
            file.allocate(file_len(self.identity.segment_size))?;
            file.sync_data()?;
            self.disk.sync_dir(&self.log_dir)?;
            Ok(file)
        })();
        match outcome {
            Ok(file) => Ok(Prepared { path, file }),
            Err(error) => {
                // Give back what was taken; when that fails too, the next open does it.
                let _ = self.disk.remove(&path);
                Err(StoreError::io("allocate", &path, error))
            }
        }
    }

    /// At open: takes over the allocated segments of before, as many as are wanted. Their bytes are zeros but for a header
    /// and a watermark that were never used and are written anew.
    pub(crate) fn adopt_prepared(&self, names: &[String]) -> Result<(), StoreError> {
        let want = file_len(self.identity.segment_size);
        for name in names {
            let Some(number) = name.strip_prefix(PREPARED) else { continue };
            let path = self.log_dir.join(name);
            let file = self.disk.open(&path).at("open", &path)?;
            // Its length is set by the allocation, which is synced before the next step.
            let is_whole = file.len().at("stat", &path)? == want && number.parse::<u64>().is_ok();
            if let Ok(number) = number.parse::<u64>() {
                self.prepared_ever.fetch_max(number.saturating_add(1), Ordering::Relaxed);
            }
            let mut pool = lock(&self.pool);
            if is_whole && pool.ready.len() < SEGMENTS_AHEAD {
                pool.ready.push(Prepared { path, file });
            } else {
                drop(pool);
                crate::tables::remove_if_there(&*self.disk, &path)?;
            }
        }
        Ok(())
    }
}
