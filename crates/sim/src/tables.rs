//! What the log is applied to, as in the broker (crates/broker/src/life.rs): its tables, and the index of the queues. The
//! oracle sees each entry on the way.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use broker::state::State;
use bytes::Bytes;
use replica::{OpenError, OpenedGroup, Outcome, StateMachine};
use store::index::{IndexError, IndexedLog, QueueIndex, frames_of};
use store::{Frame, Log, StoreError, TablesMeta};
use wire::{LogPosition, QueueId, QueueOffset, StoredMessage};

use crate::oracle::Oracle;

pub(crate) struct Tables {
    node: u64,
    group: usize,
    pub(crate) state: State,
    index: QueueIndex,
    /// End of the newest checkpoint.
    checkpoint: AtomicU64,
    oracle: Arc<Oracle>,
}

/// A message as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) offset: u64,
    pub(crate) value: String,
    pub(crate) position: u64,
}

/// Why there is nothing to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadFailure {
    /// For now.
    Rebuilding,
    /// It is purged.
    Gone,
    /// The log, the tables or the index is not what it ought to be.
    Wrong(String),
}

impl Tables {
    pub(crate) fn open(
        node: u64,
        group: usize,
        opened: &OpenedGroup,
        oracle: Arc<Oracle>,
    ) -> Result<Self, OpenError> {
        let state = State::new();
        let log = opened.log();
        let mut checkpoint = LogPosition(0);
        if let Some((at, tables)) = opened.checkpoint() {
            let unreadable = |reason| OpenError::Group { group: log.identity().group.clone(), reason };
            state.restore(tables, at).map_err(unreadable)?;
            checkpoint = at.end;
        }
        let indexed = IndexedLog {
            start: log.state().first_position,
            checkpoint,
            segment_size: log.identity().segment_size,
            indexes: 1,
        };
        let (disk, dir) = (log.disk().clone(), log.dir());
        let index = QueueIndex::open(disk, dir, &indexed, &frames_of(log), &|index| state.is_void(index))?;
        Ok(Tables { node, group, state, index, checkpoint: AtomicU64::new(checkpoint.0), oracle })
    }

    /// Up to where a start reads nothing.
    pub(crate) fn checkpoint_end(&self) -> LogPosition {
        LogPosition(self.checkpoint.load(Ordering::Relaxed))
    }

    /// Upkeep of the index, as in the broker; true when there is more to do. For the disk's thread.
    pub(crate) fn keep_index(&self, log: &Log) -> Result<bool, StoreError> {
        let index = &self.index;
        index.purge(log.state().first_position)?;
        let synced = log.state().synced_end;
        if index.spill_due(synced) {
            index.spill(synced)?;
        }
        let mut pace = |_: u64| -> ControlFlow<()> { ControlFlow::Continue(()) };
        let is_void = |index| self.state.is_void(index);
        let rebuilding = index.rebuild_step(synced, &frames_of(log), &is_void, &mut pace)?;
        let checkpoint = LogPosition(self.checkpoint.load(Ordering::Relaxed));
        Ok(index.merge_step(checkpoint, &mut pace)? || rebuilding)
    }

    /// Messages of a queue from an offset on, as far as they are applied here: at most `max`.
    pub(crate) fn read(
        &self,
        log: &Log,
        topic: &str,
        queue: u32,
        from: u64,
        max: usize,
    ) -> Result<Vec<Read>, ReadFailure> {
        let Some(range) = self.state.queue(topic, QueueId(queue)) else { return Ok(Vec::new()) };
        let max = max.min(range.next.0.saturating_sub(from) as usize);
        let units = self.index.units(topic, QueueId(queue), QueueOffset(from), max);
        let units = units.map_err(|error| match error {
            IndexError::Rebuilding { .. } => ReadFailure::Rebuilding,
            IndexError::Store(error) => ReadFailure::Wrong(format!("the index: {error}")),
        })?;
        if units.is_empty() && max > 0 && log.state().purged.is_some() {
            return Err(ReadFailure::Gone);
        }
        let mut messages = Vec::new();
        for (n, unit) in units.iter().enumerate() {
            let offset = from + n as u64;
            let wrong = |what: String| {
                ReadFailure::Wrong(format!("{topic}/{queue} offset {offset} at {}: {what}", unit.position))
            };
            let bytes = match log.read_bytes(unit.position, unit.size as usize) {
                Err(StoreError::Purged { .. }) => return Err(ReadFailure::Gone),
                bytes => bytes.map_err(|e| wrong(e.to_string()))?,
            };
            let message = StoredMessage::parse(&bytes).map_err(|e| wrong(e.to_string()))?;
            message.verify().map_err(|e| wrong(e.to_string()))?;
            let is_it = message.topic == topic
                && message.queue_id.0 == queue
                && message.queue_offset.0 == offset
                && message.position == unit.position;
            if !is_it {
                return Err(wrong(format!("another message is there: {message:?}")));
            }
            let value = value_of(message.body).ok_or_else(|| wrong("its body is none of ours".into()))?;
            messages.push(Read { offset, value, position: unit.position.0 });
        }
        Ok(messages)
    }
}

/// What a body says; the rest of it is padding.
pub(crate) fn value_of(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (value, padding) = text.split_once('|')?;
    padding.bytes().all(|byte| byte == b'.').then(|| value.to_owned())
}

/// A body that says it.
pub(crate) fn body_of(value: &str, padding: usize) -> String {
    format!("{value}|{}", ".".repeat(padding))
}

impl StateMachine for Tables {
    fn apply(&self, frame: &Frame) -> Outcome {
        let outcome = self.state.apply(frame);
        match outcome {
            Outcome::Void => self.index.skip(frame),
            Outcome::Messages | Outcome::Command(_) | Outcome::Coupled(_) => self.index.add(frame),
        }
        self.oracle.applied(self.node, self.group, frame, &outcome);
        outcome
    }

    fn pass(&self, frame: &Frame) {
        self.index.skip(frame);
        self.oracle.applied(self.node, self.group, frame, &Outcome::Command(Bytes::new()));
    }

    fn next_offset(&self, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.state.next_offset(topic, queue)
    }

    fn level(&self) -> u32 {
        self.state.level()
    }

    fn encode(&self) -> Vec<u8> {
        self.state.encode()
    }

    fn restore(&self, tables: &[u8], at: &TablesMeta) -> Result<(), String> {
        self.oracle.restored(self.node, self.group, at.last.index.0);
        self.state.restore(tables, at)?;
        self.index.start_behind(at).map_err(|error| error.to_string())
    }

    fn after_apply(&self, end: LogPosition) {
        self.state.after_apply(end);
    }

    fn checkpointed(&self, end: LogPosition) {
        self.state.checkpointed(end);
        self.checkpoint.store(end.0, Ordering::Relaxed);
        // What is not written stays in memory; so in the broker.
        let _ = self.index.spill(end);
    }
}
