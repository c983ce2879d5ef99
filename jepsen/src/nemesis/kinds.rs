//! All kinds of faults that a run can be asked for, in one table: `jepsen list` prints it.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::Fault;
use super::Who::{All, Follower, Leader, One, Two};
use super::chaos::{Both, draw};
use super::clock::{Jump, Strobe};
use super::corrupt::{Corrupt, Harm, Zone};
use super::disk::{Calls, FailingCalls, Full, Hung, PowerLoss, PowerLossAndPause};
use super::network::{Cut, Delay, How, Loss, Restless, Shape};
use super::process::{Kill, Nameservers, Pause, Rolling, StopLeader, Transfer};
use crate::cluster::disk::PowerCut;

/// A time that is drawn anew for each fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub min_ms: u64,
    pub max_ms: u64,
}

impl Span {
    pub(super) fn pick(self, rng: &mut StdRng) -> Duration {
        Duration::from_millis(rng.random_range(self.min_ms..=self.max_ms))
    }
}

const fn ms(min_ms: u64, max_ms: u64) -> Span {
    Span { min_ms, max_ms }
}

/// What a kind cannot do without, beside what every run needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Program(&'static str),
    /// libfaketime; the nodes of the run are started under it.
    FakeClocks,
}

type Make = fn(&mut StdRng) -> Option<Box<dyn Fault>>;

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub about: &'static str,
    /// How long a fault lasts, and the time between two.
    pub hold: Span,
    pub rest: Span,
    pub needs: &'static [Need],
    /// `None`: this time nothing happens.
    pub(super) make: Make,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kind").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Kind {
    /// The fault's name, where every one of this kind bears the same.
    pub fn fault_name(&self) -> Option<&'static str> {
        let mut rng = StdRng::seed_from_u64(1);
        let mut names = (0..20).map(|_| (self.make)(&mut rng).map(|fault| fault.name()));
        let first = names.next().flatten()?;
        names.all(|name| name == Some(first)).then_some(first)
    }
}

const fn row(name: &'static str, about: &'static str, hold: Span, rest: Span, make: Make) -> Kind {
    Kind { name, about, hold, rest, needs: &[], make }
}

const fn needing(needs: &'static [Need], kind: Kind) -> Kind {
    Kind { needs, ..kind }
}

const STRACE: &[Need] = &[Need::Program("strace")];
const TC: &[Need] = &[Need::Program("tc")];
const CLOCKS: &[Need] = &[Need::FakeClocks];

/// `Some(Box::new(…))` of a row's fault.
macro_rules! fault {
    ($fault:expr) => {
        |_| Some(Box::new($fault))
    };
}

/// Between two faults the group does its work undisturbed for a moment: an election is over in one second.
const REST: Span = ms(2_000, 4_000);

/// Every kind, by the rows of the matrix (reliability.md b.3).
pub const KINDS: &[Kind] = &[
    row("none", "nothing is broken (F0)", ms(1_000, 1_000), ms(0, 0), |_| None),
    row(
        "kill-leader",
        "kill -9 of the leader (F1)",
        ms(4_000, 8_000),
        REST,
        fault!(Kill::new("kill-leader", Leader)),
    ),
    row(
        "kill-follower",
        "kill -9 of a follower (F2)",
        ms(2_000, 6_000),
        REST,
        fault!(Kill::new("kill-follower", Follower)),
    ),
    row("kill-one", "kill -9 of any node", ms(2_000, 8_000), REST, fault!(Kill::new("kill-one", One))),
    row(
        "kill-majority",
        "kill -9 of two nodes (F2)",
        ms(2_000, 6_000),
        REST,
        fault!(Kill::new("kill-majority", Two)),
    ),
    row("kill-all", "kill -9 of all nodes (F2)", ms(500, 3_000), REST, fault!(Kill::new("kill-all", All))),
    row(
        "pause-leader",
        "SIGSTOP of the leader (F3)",
        ms(2_000, 12_000),
        REST,
        fault!(Pause::new("pause-leader", Leader)),
    ),
    row(
        "pause-follower",
        "SIGSTOP of a follower",
        ms(1_000, 8_000),
        REST,
        fault!(Pause::new("pause-follower", Follower)),
    ),
    row("pause-one", "SIGSTOP of any node (F3)", ms(500, 30_000), REST, fault!(Pause::new("pause-one", One))),
    row(
        "pause-majority",
        "SIGSTOP of two nodes",
        ms(1_000, 8_000),
        REST,
        fault!(Pause::new("pause-majority", Two)),
    ),
    row("pause-all", "SIGSTOP of all nodes", ms(1_000, 5_000), REST, fault!(Pause::new("pause-all", All))),
    row(
        "isolate-leader",
        "the leader reaches no other node; clients reach it (F4)",
        ms(8_000, 20_000),
        REST,
        fault!(Cut::new("isolate-leader", Shape::Isolate(Leader))),
    ),
    row(
        "isolate-follower",
        "a follower reaches no other node (F4)",
        ms(5_000, 20_000),
        REST,
        fault!(Cut::new("isolate-follower", Shape::Isolate(Follower))),
    ),
    row(
        "isolate-one",
        "any node reaches no other one",
        ms(4_000, 20_000),
        REST,
        fault!(Cut::new("isolate-one", Shape::Isolate(One))),
    ),
    row(
        "halves",
        "nodes, nameservers and clients in two halves (F4)",
        ms(8_000, 20_000),
        REST,
        fault!(Cut::new("halves", Shape::Halves)),
    ),
    row(
        "leader-with-clients",
        "the leader and one place of clients against all others (F4)",
        ms(8_000, 20_000),
        REST,
        fault!(Cut::new("leader-with-clients", Shape::LeaderWithClients)),
    ),
    row(
        "cut-one-way",
        "one directed link between nodes is dead (F5)",
        ms(5_000, 20_000),
        REST,
        fault!(Cut::new("cut-one-way", Shape::OneWay)),
    ),
    row(
        "bridge",
        "one node reaches two that do not reach each other (F5)",
        ms(5_000, 20_000),
        REST,
        fault!(Cut::new("bridge", Shape::Bridge)),
    ),
    row(
        "ring",
        "the dead link wanders round the ring each second (F5)",
        ms(9_000, 20_000),
        REST,
        fault!(Restless::new("ring", How::Ring)),
    ),
    row(
        "cut-all",
        "no node reaches another",
        ms(2_000, 10_000),
        REST,
        fault!(Cut::new("cut-all", Shape::All)),
    ),
    row(
        "flapping",
        "the leader is cut off and let in each second (F6)",
        ms(8_000, 20_000),
        REST,
        fault!(Restless::new("flapping", How::Flapping)),
    ),
    row("loss", "5 to 30 % of the packets between nodes are lost (F6)", ms(8_000, 20_000), REST, |rng| {
        Some(Box::new(Loss::new(rng.random_range(5..=30))))
    }),
    needing(
        TC,
        row(
            "delay",
            "packets to a node queue up before a thin link (F6)",
            ms(8_000, 20_000),
            REST,
            fault!(Delay::new(One)),
        ),
    ),
    row(
        "power-loss-leader",
        "the leader loses power and all unsynced writes (F7)",
        ms(3_000, 8_000),
        REST,
        fault!(PowerLoss::new("power-loss-leader", Leader, PowerCut::Everything)),
    ),
    row(
        "power-loss-follower",
        "a follower does (F7)",
        ms(2_000, 8_000),
        REST,
        fault!(PowerLoss::new("power-loss-follower", Follower, PowerCut::Everything)),
    ),
    row(
        "power-loss-one",
        "any node does, of unsynced writes all or the data only (F7)",
        ms(2_000, 8_000),
        REST,
        |rng| {
            let cut = if rng.random_ratio(1, 3) { PowerCut::Data } else { PowerCut::Everything };
            Some(Box::new(PowerLoss::new("power-loss-one", One, cut)))
        },
    ),
    row("power-loss-all", "all three at once (F7)", ms(500, 3_000), REST, |rng| {
        let cut = if rng.random_ratio(1, 3) { PowerCut::Data } else { PowerCut::Everything };
        Some(Box::new(PowerLoss::new("power-loss-all", All, cut)))
    }),
    row(
        "power-loss-and-pause",
        "one sleeps while another loses power and comes back (F8)",
        ms(5_000, 10_000),
        REST,
        fault!(PowerLossAndPause::new()),
    ),
    row(
        "torn-tail",
        "garbage behind the last frame of one node (F9)",
        ms(4_000, 6_000),
        REST,
        fault!(Corrupt::new("torn-tail", Zone::Tail, Harm::Overwrite)),
    ),
    row(
        "flip-log",
        "a bit of the segment that is written (F10)",
        ms(6_000, 8_000),
        REST,
        fault!(Corrupt::new("bit-flips", Zone::OpenSegment, Harm::Flip)),
    ),
    row(
        "flip-sealed",
        "a bit of an older segment (F10)",
        ms(6_000, 8_000),
        REST,
        fault!(Corrupt::new("bit-flips", Zone::SealedSegment, Harm::Flip)),
    ),
    row("flip-derived", "a bit of a queue, key or position file (F10)", ms(4_000, 6_000), REST, |rng| {
        let zones = [Zone::Queue, Zone::Keys, Zone::Positions];
        Some(Box::new(Corrupt::new("bit-flips", zones[rng.random_range(0..zones.len())], Harm::Flip)))
    }),
    row(
        "flip-vote",
        "a bit of one copy of the vote (F10)",
        ms(4_000, 6_000),
        REST,
        fault!(Corrupt::new("bit-flips", Zone::Vote, Harm::Flip)),
    ),
    row("flip-tables", "a bit of a checkpoint or boundary (F10)", ms(4_000, 6_000), REST, |rng| {
        let zone = if rng.random() { Zone::Checkpoint } else { Zone::Boundary };
        Some(Box::new(Corrupt::new("bit-flips", zone, Harm::Flip)))
    }),
    row(
        "flip-manifest",
        "a bit of the manifest (F10)",
        ms(4_000, 6_000),
        REST,
        fault!(Corrupt::new("bit-flips", Zone::Manifest, Harm::Flip)),
    ),
    row(
        "overwrite-log",
        "512 bytes of the segment that is written (F10)",
        ms(6_000, 8_000),
        REST,
        fault!(Corrupt::new("overwrite", Zone::OpenSegment, Harm::Overwrite)),
    ),
    row(
        "truncate",
        "a file is cut off: a segment, a queue file, the vote (F11)",
        ms(4_000, 6_000),
        REST,
        |rng| {
            let zones = [Zone::OpenSegment, Zone::SealedSegment, Zone::Queue, Zone::Keys, Zone::Checkpoint];
            Some(Box::new(Corrupt::new("truncate", zones[rng.random_range(0..zones.len())], Harm::Truncate)))
        },
    ),
    row(
        "delete-file",
        "a segment in the middle or a derived file is gone (F11)",
        ms(4_000, 6_000),
        REST,
        |rng| {
            let zones = [Zone::SealedSegment, Zone::Queue, Zone::Keys, Zone::Positions];
            Some(Box::new(Corrupt::new("delete-file", zones[rng.random_range(0..zones.len())], Harm::Delete)))
        },
    ),
    row("disk-full-one", "one node's disk is full (F13)", ms(15_000, 25_000), REST, fault!(Full::new(One))),
    row(
        "disk-full-leader",
        "the leader's disk is full (F13)",
        ms(15_000, 25_000),
        REST,
        fault!(Full::new(Leader)),
    ),
    row("disk-full-two", "two disks are full (F13)", ms(15_000, 25_000), REST, fault!(Full::new(Two))),
    row("disk-full-all", "all disks are full (F13)", ms(15_000, 25_000), REST, fault!(Full::new(All))),
    needing(
        STRACE,
        row(
            "fsync-error",
            "an fsync fails once (F14)",
            ms(5_000, 8_000),
            REST,
            fault!(FailingCalls::new(Calls::FsyncFails, One)),
        ),
    ),
    needing(
        STRACE,
        row(
            "write-error",
            "a write finds no room (F14)",
            ms(5_000, 8_000),
            REST,
            fault!(FailingCalls::new(Calls::WriteFails, One)),
        ),
    ),
    needing(
        STRACE,
        row(
            "slow-fsync",
            "every fsync of the leader takes half a second more (F15)",
            ms(10_000, 20_000),
            REST,
            fault!(FailingCalls::new(Calls::FsyncSlow, Leader)),
        ),
    ),
    row("hung-disk", "the leader's disk hangs (F15)", ms(10_000, 20_000), REST, fault!(Hung::new(Leader))),
    needing(
        CLOCKS,
        row("clock-jump", "wall clocks jump by seconds to ten years (F16)", ms(5_000, 15_000), REST, |rng| {
            Some(Box::new(Jump::new(if rng.random_ratio(1, 4) { All } else { One })))
        }),
    ),
    needing(
        CLOCKS,
        row(
            "clock-jump-one",
            "the wall clock of one node jumps (F16)",
            ms(5_000, 15_000),
            REST,
            fault!(Jump::new(One)),
        ),
    ),
    needing(
        CLOCKS,
        row(
            "clock-strobe",
            "a wall clock jumps to and fro (F16)",
            ms(8_000, 15_000),
            REST,
            fault!(Strobe::new()),
        ),
    ),
    row(
        "transfer",
        "leadership is given to another node (F17)",
        ms(500, 1_500),
        ms(1_000, 2_000),
        fault!(Transfer::new()),
    ),
    row("stop-leader", "the leader is stopped as planned", ms(3_000, 6_000), REST, fault!(StopLeader::new())),
    row(
        "rolling-restart",
        "every node is stopped and started, hastily (F19)",
        ms(0, 0),
        REST,
        fault!(Rolling::new(false)),
    ),
    row(
        "rolling-restart-patient",
        "the same, waiting out the 35 s that are left to clients (F19)",
        ms(0, 0),
        REST,
        fault!(Rolling::new(true)),
    ),
    row(
        "nameserver-one",
        "a nameserver dies and comes back empty (F20)",
        ms(3_000, 10_000),
        REST,
        fault!(Nameservers::new(false)),
    ),
    row(
        "nameserver-all",
        "all nameservers do (F20)",
        ms(3_000, 20_000),
        REST,
        fault!(Nameservers::new(true)),
    ),
    row(
        "cut-and-crash",
        "a cut together with a crash, a pause or a power loss",
        ms(5_000, 15_000),
        REST,
        Both::draw,
    ),
    row(
        "chaos",
        "a mix of all that a group must bear, a quarter of it quiet (F23)",
        ms(2_000, 20_000),
        ms(0, 8_000),
        draw,
    ),
];

/// The kind of that name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::faults::fault_of;

    #[test]
    fn names_are_unique_and_the_checkers_know_each_fault() {
        let mut rng = StdRng::seed_from_u64(1);
        for (at, row) in KINDS.iter().enumerate() {
            assert!(KINDS[..at].iter().all(|other| other.name != row.name), "{}", row.name);
            assert!(row.hold.min_ms <= row.hold.max_ms && row.rest.min_ms <= row.rest.max_ms);
            for _ in 0..20 {
                if let Some(fault) = (row.make)(&mut rng) {
                    assert!(fault_of(fault.name()).is_some(), "{}: {}", row.name, fault.name());
                }
            }
        }
    }
}
