//! Everything that a seed decides beforehand. What happens by chance later comes from streams of the same seed (random.rs).

use std::time::Duration;

use replica::CatchUpLimits;

use crate::random::Random;

pub(crate) const NODES: u64 = 3;
/// Queues of each topic.
pub(crate) const QUEUES: u32 = 3;
pub(crate) const TOPICS: [&str; 2] = ["orders", "events"];
/// Topics of messages that wait until they are released into one of the others, or dropped.
pub(crate) const SOURCES: [&str; 2] = ["delays", "halves"];
/// The topic that is popped, the consumer group that pops it, and where what it does not acknowledge goes.
pub(crate) const POPPED: &str = TOPICS[1];
pub(crate) const POPPERS: &str = "poppers";
pub(crate) const RETRIES: &str = "retries";
/// A consumer group whose clients lock the queues of a topic.
pub(crate) const LOCKERS: &str = "lockers";
/// The topic that a consumer group pops in order, and the group.
pub(crate) const ORDERED: &str = TOPICS[0];
pub(crate) const ORDERLY: &str = "orderly";
/// A consumer group whose offsets are reset; all clients commit for it.
pub(crate) const READERS: &str = "readers";
/// Every topic there is.
pub(crate) const ALL_TOPICS: [&str; 5] = [TOPICS[0], TOPICS[1], SOURCES[0], SOURCES[1], RETRIES];
/// Consumer groups whose offsets are committed: each client has its own.
pub(crate) const CONSUMERS: &str = "consumers";

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Raft groups, each on every node.
    pub(crate) groups: usize,
    pub(crate) clients: u32,
    /// How long faults happen.
    pub(crate) chaos_ms: u64,
    /// Between two faults, on average.
    pub(crate) calm_ms: u64,
    pub(crate) faults: Faults,
    pub(crate) latency_ms: (u64, u64),
    pub(crate) loss_permille: u64,
    pub(crate) sync_ms: (u64, u64),
    pub(crate) segment_size: u64,
    pub(crate) recent_bytes_max: usize,
    pub(crate) zeros_ahead: u64,
    /// How fast a node that is behind is sent what it lacks.
    pub(crate) catch_up: CatchUpLimits,
    pub(crate) checkpoint_interval: Duration,
    /// Between two operations of a client.
    pub(crate) think_ms: (u64, u64),
    pub(crate) body_bytes: (u64, u64),
    /// Answers that clients do not get.
    pub(crate) lost_answers_permille: u64,
}

/// Which faults there are; a seed has a few kinds, so that each is met alone as well as among others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) kills: u64,
    pub(crate) power: u64,
    pub(crate) stops: u64,
    pub(crate) pauses: u64,
    pub(crate) cuts: u64,
    pub(crate) resets: u64,
    pub(crate) slow_links: u64,
    pub(crate) slow_disks: u64,
    pub(crate) hung_disks: u64,
    pub(crate) failed_syncs: u64,
    pub(crate) full_disks: u64,
    pub(crate) clocks: u64,
    pub(crate) transfers: u64,
    pub(crate) purges: u64,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Random::of(seed, "plan");
        let faults = Faults::of(&mut random);
        let mut plan = Plan {
            seed,
            groups: random.weighted(&[(3, 1), (1, 2)]),
            clients: random.between(2, 6) as u32,
            chaos_ms: random.between(8, 16) * 1000,
            calm_ms: random.between(300, 1500),
            faults,
            latency_ms: random.weighted(&[(4, (0, 2)), (3, (1, 5)), (1, (2, 20))]),
            loss_permille: random.weighted(&[(3, 0), (1, 5), (1, 30)]),
            sync_ms: random.weighted(&[(4, (1, 4)), (2, (1, 20)), (1, (5, 60))]),
            segment_size: random.weighted(&[(2, 512 << 10), (2, 1 << 20), (1, 4 << 20)]),
            recent_bytes_max: random.weighted(&[(1, 0), (1, 64 << 10), (2, 8 << 20)]),
            zeros_ahead: random.weighted(&[(1, 0), (1, 4096), (1, 256 << 10)]),
            checkpoint_interval: Duration::from_millis(random.weighted(&[(1, 500), (2, 3000), (1, 30_000)])),
            think_ms: random.weighted(&[(2, (0, 10)), (2, (0, 60)), (1, (20, 200))]),
            body_bytes: random.weighted(&[(3, (0, 200)), (2, (0, 4000)), (1, (2000, 30_000))]),
            lost_answers_permille: random.weighted(&[(2, 0), (1, 20)]),
            catch_up: CatchUpLimits::default(),
        };
        // Of its own, so that older seeds do what they did.
        if Random::of(seed, "catch up").percent(40) {
            plan.catch_up = CatchUpLimits { rate: 128 << 10, from: 16 << 10 };
        }
        // Logs with boundaries to purge to: segments fill in a second or two.
        if random.percent(30) {
            plan.faults.purges = random.between(1, 4);
            plan.segment_size = random.weighted(&[(1, 64 << 10), (1, 128 << 10)]);
            plan.body_bytes = (0, 400);
        }
        // Full disks on which also the segments that are allocated fill up.
        if plan.faults.full_disks > 0 && random.percent(60) {
            plan.segment_size = random.weighted(&[(1, 64 << 10), (1, 128 << 10)]);
            plan.body_bytes = (0, 1000);
            plan.think_ms = (0, 10);
        }
        plan
    }
}

impl Faults {
    fn of(random: &mut Random) -> Self {
        let mut faults = Faults::default();
        let Faults {
            kills,
            power,
            stops,
            pauses,
            cuts,
            resets,
            slow_links,
            slow_disks,
            hung_disks,
            failed_syncs,
            full_disks,
            clocks,
            transfers,
            purges: _,
        } = &mut faults;
        let kinds = [
            kills,
            power,
            stops,
            pauses,
            cuts,
            resets,
            slow_links,
            slow_disks,
            hung_disks,
            failed_syncs,
            full_disks,
            clocks,
            transfers,
        ];
        // A third of the kinds, or nearly all.
        let share = random.weighted(&[(3, 33), (1, 90)]);
        for kind in kinds {
            if random.percent(share) {
                *kind = random.between(1, 4);
            }
        }
        // Something happens in every run.
        faults.transfers = faults.transfers.max(1);
        faults
    }
}
