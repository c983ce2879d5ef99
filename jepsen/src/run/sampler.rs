//! What nodes say of themselves, five times a second, as lines of the history; and from it, who leads, for the clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::GROUP;
use crate::cluster::admin::{Admin, Asker, Status};
use crate::history::{NodeSample, Op, Recorder};

const EVERY: Duration = Duration::from_millis(200);

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
}

impl Sampler {
    /// A task for each node, so that one that does not answer holds up nobody else's samples.
    pub fn start(
        admin: &Arc<Admin>,
        addresses: &[SocketAddr],
        pids: Vec<Arc<AtomicU32>>,
        recorder: &Recorder,
    ) -> Sampler {
        let (leader, newest_term) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        for ((node, &address), pid) in (1..).zip(addresses).zip(pids) {
            let sampled =
                Sampled { node, address, pid, leader: leader.clone(), newest_term: newest_term.clone() };
            let (asker, recorder, stop) = (admin.asker().clone(), recorder.clone(), stop.clone());
            tasks.push(admin.handle().spawn(async move {
                let sampling = sample(sampled, asker, recorder);
                stop.run_until_cancelled(sampling).await;
            }));
        }
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
        }
        // An answer around a restart may be the old process's or the new one's: then nothing is said of which.
        let pid = (pid == before && pid != 0).then_some(pid);
        recorder.note(Op::Node(Box::new(sample_of(sampled.node, pid, status))));
    }
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

    #[test]
    fn a_node_that_starts_says_nothing() {
        let status =
            |state: &str| Status { state: state.to_owned(), term: 4, leader: 2, ..Status::default() };
        assert_eq!(sample_of(1, Some(7), status("starting")).term, None);
        let sample = sample_of(2, Some(7), status("leader"));
        assert_eq!((sample.term, sample.leader, sample.leads, sample.pid), (Some(4), Some(2), true, Some(7)));
        assert_eq!(sample_of(2, None, Status { leader: 0, ..status("candidate") }).leader, None);
    }
}
