//! What the tables come to in few bytes, so that replicas can be compared while they run.

use std::sync::Arc;

use store::LogIndex;
use wire::QueueId;
use xxhash_rust::xxh3::xxh3_64;

use super::{QueueRange, State};

/// The tables after an entry. Replicas that have applied the same entries have equal ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablesDigest {
    /// The last entry of messages or of a command that is in them; `None`: there was none.
    pub applied: Option<LogIndex>,
    /// XXH3 of each table as snapshots hold it, by the table's name (docs/formats.md 12.4).
    pub tables: Vec<(&'static str, u64)>,
    /// All queues that have had messages, by topic and queue id.
    pub queues: Vec<(Arc<str>, QueueId, QueueRange)>,
}

impl State {
    /// See [`TablesDigest`]. Takes as long as a checkpoint's encoding.
    pub fn digest(&self) -> TablesDigest {
        let tables = self.read();
        let mut queues = Vec::new();
        for (_, slot) in tables.topics.iter() {
            let ranges = (0..slot.topic.queue_count()).zip(&slot.queues);
            let written = ranges.filter(|(_, queue)| queue.range.next.0 > 0);
            queues
                .extend(written.map(|(id, queue)| (Arc::clone(&slot.topic.name), QueueId(id), queue.range)));
        }
        let (applied, encoded) = (tables.applied, tables.encode_each());
        drop(tables);
        queues.sort_unstable_by(|a, b| (&a.0, a.1.0).cmp(&(&b.0, b.1.0)));
        let tables = encoded.into_iter().map(|(table, bytes)| (table, xxh3_64(&bytes))).collect();
        TablesDigest { applied, tables, queues }
    }
}
