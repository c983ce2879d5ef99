//! openraft's log storage over [`store::Log`]. Nothing here touches a file: appends, votes and truncations are handed
//! to the flusher of the disk, recent frames are read from memory, older ones on a blocking thread.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use store::{Log, LogIndex};
use tokio::sync::oneshot;

use crate::blocking::blocking;
use crate::limits::REPLICATION_READ_BYTES;
use crate::types::{LogEntry, RaftLogId, RaftVote, TypeConfig, raft_log_id, store_log_id};

#[derive(Clone)]
pub(crate) struct LogStorage {
    log: Log,
}

impl LogStorage {
    pub(crate) fn new(log: Log) -> Self {
        LogStorage { log }
    }

    /// Frames of `[from, until)`, at most about `max_bytes` but at least one where there is one.
    async fn frames(&self, from: u64, until: u64, max_bytes: usize) -> io::Result<Vec<LogEntry>> {
        if from >= until {
            return Ok(Vec::new());
        }
        let (from, until) = (LogIndex(from), LogIndex(until));
        let frames = match self.log.read_in_memory(from, until, max_bytes) {
            Some(frames) => frames,
            None => {
                let log = self.log.clone();
                let read = blocking(&**self.log.disk(), move || log.read(from, until, max_bytes));
                read.await?.map_err(io::Error::other)?
            }
        };
        Ok(frames.into_iter().map(LogEntry::from_frame).collect())
    }

    /// One read, of which a few fit a segment: a follower takes an append only whole, into segments that it has allocated.
    fn read_bytes(&self) -> usize {
        REPLICATION_READ_BYTES.min(self.log.identity().segment_size as usize / 8)
    }

    /// The part of a range that the log holds.
    fn clamp(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let state = self.log.state();
        let first = state.purged.map_or(0, |id| id.index.0 + 1);
        let end = state.last.map_or(first, |id| id.index.0 + 1);
        let from = match range.start_bound() {
            Bound::Included(&i) => i,
            Bound::Excluded(&i) => i + 1,
            Bound::Unbounded => 0,
        };
        let until = match range.end_bound() {
            Bound::Included(&i) => i.saturating_add(1),
            Bound::Excluded(&i) => i,
            Bound::Unbounded => u64::MAX,
        };
        (from.max(first), until.min(end))
    }
}

impl RaftLogReader<TypeConfig> for LogStorage {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let (mut from, until) = self.clamp(&range);
        let mut all = Vec::new();
        while from < until {
            let part = self.frames(from, until, self.read_bytes()).await?;
            if part.is_empty() {
                return Err(io::Error::other(format!("entry {from} of [{from}, {until}) cannot be read")));
            }
            from += part.len() as u64;
            all.extend(part);
        }
        Ok(all)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        let (from, until) = self.clamp(&(start..end));
        if from != start {
            return Err(io::Error::other(format!("entry {start} is not in the log, which starts at {from}")));
        }
        self.frames(from, until, self.read_bytes()).await
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.log.vote().map(|v| {
            if v.committed {
                RaftVote::new_committed(v.term.0, v.node)
            } else {
                RaftVote::new(v.term.0, v.node)
            }
        }))
    }
}

impl RaftLogStorage<TypeConfig> for LogStorage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.state();
        let last_purged_log_id = state.purged.map(raft_log_id);
        Ok(LogState { last_purged_log_id, last_log_id: state.last.map(raft_log_id).or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let vote = store::Vote {
            term: store::Term(vote.leader_id.term),
            node: vote.leader_id.voted_for,
            committed: vote.committed,
        };
        // The same queue as the appends: a saved vote tells openraft that every earlier append is durable (log.md 2).
        let (tx, rx) = oneshot::channel();
        self.log.save_vote(
            vote,
            Box::new(move |result| {
                let _ = tx.send(result);
            }),
        );
        rx.await.map_err(io::Error::other)?
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.log.save_committed(committed.as_ref().map(store_log_id));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        Ok(self.log.read_committed().map(raft_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(LogEntry::into_new_entry).collect();
        self.log
            .append(entries, Box::new(move |result| callback.io_completed(result)))
            .map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last_log_id: Option<RaftLogId>) -> Result<(), io::Error> {
        let log = self.log.clone();
        let last = last_log_id.as_ref().map(store_log_id);
        let truncated = blocking(&**self.log.disk(), move || log.truncate_after(last));
        truncated.await?.map_err(io::Error::other)
    }

    async fn purge(&mut self, log_id: RaftLogId) -> Result<(), io::Error> {
        let log = self.log.clone();
        let upto = store_log_id(&log_id);
        let purged = blocking(&**self.log.disk(), move || log.purge(upto));
        purged.await?.map_err(io::Error::other)
    }
}
