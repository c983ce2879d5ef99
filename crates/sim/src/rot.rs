//! A bit of what a node has fsynced flips while it is down: the node says so and does not start (log.md 5). Were the damage cut
//! off like a torn tail, what others count on would be gone.

use crate::clock;
use crate::cluster::Cluster;
use crate::plan::NODES;
use crate::random::Random;
use crate::trace::say;

/// The watermark of an idle log is written by then.
const IDLE_MS: u64 = 500;
/// A node starts, or does not, within this.
const START_MS: u64 = 20_000;

/// At the end of a run, when all is at rest: damages what one node must read at its start. `Err`: it starts all the same.
/// Returns whether there was something to damage.
pub(crate) fn damage(cluster: &mut Cluster) -> Result<bool, String> {
    let mut random = Random::of(cluster.plan.seed, "rot");
    let until = clock::now_ms() + IDLE_MS;
    while clock::now_ms() < until {
        cluster.tick();
    }
    let node = random.between(1, NODES);
    let group = random.below(cluster.plan.groups as u64) as usize;
    let Some((path, offset)) = cluster.last_frame(node, group) else {
        say!("n{node}'s checkpoint is at the end of its log: nothing that its start reads");
        return Ok(false);
    };
    let offset = offset + random.below(store::limits::HEADER_LEN as u64);
    say!("n{node} is killed, and a bit of {} flips at {offset}", path.display());
    cluster.rot(node, &path, offset)?;
    let until = clock::now_ms() + START_MS;
    while cluster.is_starting(node) && clock::now_ms() < until {
        cluster.tick();
    }
    if cluster.is_up(node) {
        return Err(format!("node {node} starts with a log whose last synced frame is damaged"));
    }
    Ok(true)
}
