//! What nodes say of themselves, five times a second, as lines of the history; and from it, who leads, for the clients. Every
//! other second all are asked what they hold behind one entry that is to come, so that replicas are compared under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::GROUP;
use crate::cluster::admin::{Admin, Asker, QueueDigest, ReplicaDigest, Status};
use crate::history::{Digest, DigestOf, Machine, NodeSample, Op, Queue, Recorder};
use crate::run::machine::NEWS_MS;

const EVERY: Duration = Duration::from_millis(200);
const DIGESTS_EVERY: Duration = Duration::from_secs(2);
/// So many entries ahead of the leader's last one: some 50 ms of load, in which the question reaches all nodes.
const DIGEST_AHEAD: u64 = 40;

/// Asks until it is stopped, or dropped.
#[derive(Debug)]
pub struct Sampler {
    admin: Arc<Admin>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    leader: Arc<AtomicU64>,
}

/// One node, and what is known of all.
struct Sampled {
    node: u64,
    address: SocketAddr,
    pid: Arc<AtomicU32>,
    leader: Arc<AtomicU64>,
    newest_term: Arc<AtomicU64>,
    /// The last entry of whoever leads.
    last: Arc<AtomicU64>,
}

impl Sampler {
    /// A task for each node, so that one that does not answer holds up nobody else's samples.
    pub fn start(
        admin: &Arc<Admin>,
        addresses: &[SocketAddr],
        pids: Vec<Arc<AtomicU32>>,
        recorder: &Recorder,
    ) -> Sampler {
        let [leader, newest_term, last] = std::array::from_fn(|_| Arc::new(AtomicU64::new(0)));
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        for ((node, &address), pid) in (1..).zip(addresses).zip(pids) {
            let (leader, newest_term, last) = (leader.clone(), newest_term.clone(), last.clone());
            let sampled = Sampled { node, address, pid, leader, newest_term, last };
            let (asker, recorder, stop) = (admin.asker().clone(), recorder.clone(), stop.clone());
            tasks.push(admin.handle().spawn(async move {
                let sampling = sample(sampled, asker, recorder);
                stop.run_until_cancelled(sampling).await;
            }));
        }
        let (asker, recorder, stopped) = (admin.asker().clone(), recorder.clone(), stop.clone());
        let comparing = compare(asker, (1..).zip(addresses.to_vec()).collect(), last, recorder);
        tasks.push(admin.handle().spawn(async move {
            stopped.run_until_cancelled(comparing).await;
        }));
        Sampler { admin: admin.clone(), stop, tasks, leader }
    }

    /// The node that leads, 0 where nobody is known to.
    pub fn leader(&self) -> &Arc<AtomicU64> {
        &self.leader
    }

    /// No sample is written once this returns.
    pub fn stop(mut self) {
        self.stop.cancel();
        for task in std::mem::take(&mut self.tasks) {
            // A task that panicked has written its last sample too.
            let _ = self.admin.handle().block_on(task);
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn sample(sampled: Sampled, asker: Asker, recorder: Recorder) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let before = sampled.pid.load(Ordering::SeqCst);
        let Some(status) = asker.status(sampled.address).await else { continue };
        let pid = sampled.pid.load(Ordering::SeqCst);
        if status.leads() && sampled.newest_term.fetch_max(status.term, Ordering::SeqCst) <= status.term {
            sampled.leader.store(sampled.node, Ordering::Relaxed);
            sampled.last.store(status.last_index, Ordering::Relaxed);
        }
        // An answer around a restart may be the old process's or the new one's: then nothing is said of which.
        let pid = (pid == before && pid != 0).then_some(pid);
        if let Some(flushing_ms) = status.flushing_ms.filter(|ms| *ms >= NEWS_MS) {
            recorder.note(Op::Machine(Machine { flushing_ms, ..Machine::default() }));
        }
        recorder.note(Op::Node(Box::new(sample_of(sampled.node, pid, status))));
    }
}

/// Digests of all nodes behind one entry; where nothing is written, of now.
async fn compare(asker: Asker, nodes: Vec<(u64, SocketAddr)>, last: Arc<AtomicU64>, recorder: Recorder) {
    let mut ticks = tokio::time::interval(DIGESTS_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let ask = async |index: Option<u64>| {
        let asked =
            nodes.iter().map(async |(node, address)| Some((*node, asker.digest(*address, index).await?)));
        let told: Vec<_> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        for (node, digest) in &told {
            for op in digests_of(*node, digest) {
                recorder.note(op);
            }
        }
        !told.is_empty()
    };
    loop {
        ticks.tick().await;
        let index = last.load(Ordering::Relaxed) + DIGEST_AHEAD;
        if !ask(Some(index)).await {
            ask(None).await;
        }
    }
}

/// What a node said that it holds, as lines of the history.
fn digests_of(node: u64, told: &ReplicaDigest) -> Vec<Op> {
    let Some(index) = told.index else { return Vec::new() };
    let digest = |what, key: String, from: u64, to: u64, hash: &str| {
        Op::Digest(Box::new(Digest {
            node,
            broker: GROUP.to_owned(),
            what,
            key,
            from,
            to,
            hash: hash.to_owned(),
            rebuilt: false,
            live: true,
        }))
    };
    let mut ops = Vec::new();
    ops.extend(told.chain.iter().map(|chain| digest(DigestOf::Log, "chain".to_owned(), 0, index, chain)));
    let tables = told.tables.iter();
    ops.extend(tables.map(|(table, hash)| digest(DigestOf::Table, table.clone(), 0, index, hash)));
    let mut minimums = Vec::new();
    for QueueDigest { topic, queue, min, next, units_from, units } in &told.queues {
        let queue = Queue::new(GROUP, topic.as_str(), *queue);
        let units = units.iter();
        ops.extend(units.map(|hash| digest(DigestOf::Units, queue.to_string(), *units_from, *next, hash)));
        minimums.push((queue, *min));
    }
    let sample = NodeSample { node, broker: GROUP.to_owned(), minimums, ..NodeSample::default() };
    ops.push(Op::Node(Box::new(sample)));
    ops
}

/// A node that has not recovered yet knows nothing, and says zeros.
fn sample_of(node: u64, pid: Option<u32>, status: Status) -> NodeSample {
    let known = NodeSample { node, broker: GROUP.to_owned(), pid, ..NodeSample::default() };
    if status.state == "starting" {
        return known;
    }
    let leads = status.leads();
    let Status {
        term,
        leader,
        last_index,
        committed_index,
        applied_index,
        synced_index,
        vote,
        incarnation,
        purged_index,
        snapshot_index,
        checkpoint_index,
        synced_position,
        stopped,
        ..
    } = status;
    NodeSample {
        term: Some(term),
        leader: (leader != 0).then_some(leader),
        leads,
        last: Some(last_index),
        synced: Some(synced_index),
        committed: Some(committed_index),
        applied: Some(applied_index),
        vote,
        incarnation,
        checkpoint: checkpoint_index,
        snapshot: snapshot_index,
        purged: purged_index,
        synced_position,
        stopped,
        ..known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Vote;

    #[test]
    fn a_node_that_starts_says_nothing() {
        let status =
            |state: &str| Status { state: state.to_owned(), term: 4, leader: 2, ..Status::default() };
        assert_eq!(sample_of(1, Some(7), status("starting")).term, None);
        let sample = sample_of(2, Some(7), status("leader"));
        assert_eq!((sample.term, sample.leader, sample.leads, sample.pid), (Some(4), Some(2), true, Some(7)));
        assert_eq!(sample_of(2, None, Status { leader: 0, ..status("candidate") }).leader, None);
    }

    /// The fields of 30001 and 30003 as docs/formats.md 12.4 has them, in the words of a node.
    #[test]
    fn what_a_node_tells_is_in_its_lines() {
        let text = r#"{"group":"b","node":2,"term":4,"leader":2,"state":"leader","last_index":9,"committed_index":8,
            "applied_index":8,"synced_index":9,"synced_position":5000,"incarnation":"0f",
            "vote":{"term":4,"node":2,"committed":true},"purged_index":null,"snapshot_index":3,"checkpoint_index":7}"#;
        let sample = sample_of(2, None, serde_json::from_str(text).unwrap());
        assert_eq!(sample.vote, Some(Vote { term: 4, node: 2, committed: true }));
        assert_eq!((sample.purged, sample.snapshot, sample.checkpoint), (None, Some(3), Some(7)));
        assert_eq!((sample.synced_position, sample.incarnation.as_deref()), (Some(5000), Some("0f")));
        let text = r#"{"group":"b","node":2,"incarnation":"0f","index":9,"term":4,"end":5000,"chain":"c1",
            "tables":{"offsets":"a1","topics":"a2"},"queues":[
            {"topic":"t","queue":1,"min":2,"next":5,"units_from":2,"units":"u1"},
            {"topic":"u","queue":0,"min":0,"next":5,"units_from":0,"units":null}]}"#;
        let ops = digests_of(2, &serde_json::from_str(text).unwrap());
        let digests: Vec<_> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Digest(digest) => Some(&**digest),
                _ => None,
            })
            .map(|digest| (digest.what, digest.key.as_str(), digest.from, digest.to, digest.hash.as_str()))
            .collect();
        let units = format!("{GROUP}/t/1");
        assert_eq!(
            digests,
            [
                (DigestOf::Log, "chain", 0, 9, "c1"),
                (DigestOf::Table, "offsets", 0, 9, "a1"),
                (DigestOf::Table, "topics", 0, 9, "a2"),
                (DigestOf::Units, units.as_str(), 2, 5, "u1"),
            ]
        );
        let Some(Op::Node(sample)) = ops.last() else { panic!("{ops:?}") };
        assert_eq!(sample.minimums, [(Queue::new(GROUP, "t", 1), 2), (Queue::new(GROUP, "u", 0), 0)]);
        assert!(sample.term.is_none() && !sample.leads, "it says nothing of what it does not know");
        assert!(digests_of(2, &ReplicaDigest::default()).is_empty());
    }
}
