//! RaftMQ's own request for what a replica holds, in few bytes: two that have applied the same entries answer the same. For
//! checks of a cluster that runs; nothing of it is asked of the leader.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::FutureExt;
use serde::{Deserialize, Serialize};
use store::LogIndex;
use store::index::IndexError;
use wire::{QueueId, QueueOffset, RemotingCommand, ResponseCode, to_json};
use xxhash_rust::xxh3::Xxh3;

use crate::call::Call;
use crate::errors::Error;
use crate::handlers::offset::scanning;
use crate::handlers::step::success;
use crate::hosted::{Hosted, Serving};
use crate::limits::{DIGEST_QUEUES_MAX, DIGEST_UNITS_MAX};
use crate::requests::Answer;
use crate::state::{QueueRange, TablesDigest};

/// What the node asked holds of a group, as JSON of [`ReplicaDigest`]. With the field `index` right behind that entry, which
/// must be one to come: the answer waits for it, at most 2.2 s. Without it, of now.
pub const REPLICA_DIGEST: i32 = 30_003;

/// A replica behind one entry. Of replicas with the same `index` everything is equal but `node` and `incarnation`, and units
/// that a node does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaDigest {
    pub group: String,
    pub node: u64,
    pub incarnation: String,
    /// The entry that was asked for, or else the last one of messages or of a command that is applied; none: there was none.
    pub index: Option<u64>,
    /// The term of that entry, where its frame ends, and its chain value in hexadecimal, in which all bytes of the log
    /// before have gone. None when it is purged here.
    pub term: Option<u64>,
    pub end: Option<u64>,
    pub chain: Option<String>,
    /// XXH3, in hexadecimal, of each table as snapshots hold it, by the table's name (docs/formats.md 12.4).
    pub tables: BTreeMap<String, String>,
    /// The first 1,000 queues that have had messages, by topic and queue id.
    pub queues: Vec<QueueDigest>,
}

/// A queue, by the tables and by the index of queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDigest {
    pub topic: String,
    pub queue: u32,
    pub min: u64,
    pub next: u64,
    /// `units` is about the offsets from here to `next`, at most the newest 1,000.
    pub units_from: u64,
    /// XXH3, in hexadecimal, of their units of 20 bytes; none while the index is being built again.
    pub units: Option<String>,
}

pub(crate) fn digest<'a>(hosted: &'a Arc<Hosted>, call: &'a Call) -> Answer<'a> {
    async move {
        let index = wanted(&call.request)?;
        let tables = match index {
            Some(index) => behind(hosted, call, index).await?,
            None => scanning(hosted, call.deadline, |hosted, _| Ok(hosted.state.digest())).await?,
        };
        let index = index.map(LogIndex).or(tables.applied);
        let report =
            scanning(hosted, call.deadline, move |hosted, serving| report(hosted, serving, index, &tables));
        Ok(success(&call.request).with_body(to_json(&report.await?)))
    }
    .boxed()
}

fn wanted(request: &RemotingCommand) -> Result<Option<u64>, Error> {
    let Some(text) = request.ext.get("index") else { return Ok(None) };
    let index = text.parse().map_err(|_| {
        let remark = format!("the field index is {text:?}, which is no number");
        Error::refused(ResponseCode::INVALID_PARAMETER, remark)
    })?;
    Ok(Some(index))
}

fn not_now(remark: impl Into<String>) -> Error {
    Error::refused(ResponseCode::SERVICE_NOT_AVAILABLE, remark)
}

/// The tables behind an entry that is to come.
async fn behind(hosted: &Hosted, call: &Call, index: u64) -> Result<TablesDigest, Error> {
    let serving = hosted.serving().ok_or_else(|| not_now("the log of the group is being recovered"))?;
    let mut waiting =
        hosted.digests.at(index).ok_or_else(|| Error::Overloaded("too many wait for digests".into()))?;
    let applied = serving.group.status().applied.map(|id| id.index.0);
    if applied >= Some(index) {
        // Unless it was applied behind us just now.
        return waiting.try_recv().map_err(|_| {
            let remark = format!("the entry {index} is applied already, the last one is {applied:?}");
            Error::refused(ResponseCode::INVALID_PARAMETER, remark)
        });
    }
    match tokio::time::timeout_at(call.deadline.into(), waiting).await {
        Ok(Ok(tables)) => Ok(tables),
        Ok(Err(_)) => Err(not_now(format!("a snapshot took the tables beyond the entry {index}"))),
        Err(_) => Err(not_now(format!("the entry {index} is not applied in time"))),
    }
}

fn report(
    hosted: &Hosted,
    serving: &Serving,
    index: Option<LogIndex>,
    tables: &TablesDigest,
) -> Result<ReplicaDigest, Error> {
    let hex = |hash: u64| format!("{hash:016x}");
    let frame = match index {
        Some(index) if index >= serving.log.state().first_index => {
            serving.log.read(index, index.next(), 1)?.into_iter().next()
        }
        _ => None,
    };
    let mut queues = Vec::new();
    for (topic, queue, QueueRange { min, next, .. }) in tables.queues.iter().take(DIGEST_QUEUES_MAX) {
        let from = QueueOffset(min.0.max(next.0.saturating_sub(DIGEST_UNITS_MAX)));
        queues.push(QueueDigest {
            topic: topic.to_string(),
            queue: queue.0,
            min: min.0,
            next: next.0,
            units_from: from.0,
            units: units(serving, topic, *queue, from, *next)?.map(hex),
        });
    }
    Ok(ReplicaDigest {
        group: hosted.name().to_owned(),
        node: hosted.node.id.0,
        incarnation: serving.log.incarnation().to_owned(),
        index: index.map(|index| index.0),
        term: frame.as_ref().map(|frame| frame.id().term.0),
        end: frame.as_ref().map(|frame| frame.end().0),
        chain: frame.as_ref().map(|frame| hex(frame.chain())),
        tables: tables.tables.iter().map(|(table, hash)| ((*table).to_owned(), hex(*hash))).collect(),
        queues,
    })
}

/// The hash of a queue's units; `None` where not all are there now.
fn units(
    serving: &Serving,
    topic: &str,
    queue: QueueId,
    from: QueueOffset,
    next: QueueOffset,
) -> Result<Option<u64>, Error> {
    let mut hash = Xxh3::new();
    let mut at = from;
    while at < next {
        let units = match serving.index.units(topic, queue, at, (next.0 - at.0) as usize) {
            Ok(units) if !units.is_empty() => units,
            Ok(_) | Err(IndexError::Rebuilding { .. }) => return Ok(None),
            Err(IndexError::Store(error)) => return Err(error.into()),
        };
        for unit in &units {
            hash.update(&unit.encode());
        }
        at = at.plus(units.len() as u64);
    }
    Ok(Some(hash.digest()))
}
