//! The matrix (reliability.md b.3): what is run in CI and what at night, row by row.

use std::time::Duration;

use super::Stage;
use crate::nemesis::{Amount, Span, kind};
use crate::workload::{Options, Workload};

/// Faults of a kind, in a row.
#[derive(Clone, Copy, Debug)]
pub enum Dose {
    /// So many of them.
    Times(&'static str, u32),
    /// For so many seconds.
    Seconds(&'static str, u32),
}

use Dose::{Seconds, Times};

/// A row of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub id: &'static str,
    pub about: &'static str,
    pub workload: Workload,
    /// Messages a second and bytes of a body.
    pub rate: u32,
    pub body_bytes: usize,
    pub doses: &'static [Dose],
    /// What the row asks for and this harness, or the broker, does not do yet.
    pub lacks: &'static str,
}

const fn row(
    id: &'static str,
    about: &'static str,
    workload: Workload,
    doses: &'static [Dose],
    lacks: &'static str,
) -> Row {
    Row { id, about, workload, rate: 2_000, body_bytes: 256, doses, lacks }
}

/// Larger messages, so that segments fill and disks run out of room while a fault lasts.
const fn large(row: Row) -> Row {
    Row { body_bytes: 2_048, ..row }
}

/// At night, in full; `--scale` takes a part.
pub const NIGHTLY: &[Row] = &[
    Row { rate: 3_000, ..row("F0", "healthy", Workload::Everything, &[Seconds("none", 1_800)], "") },
    row("F1", "kill -9 of the leader", Workload::Log, &[Times("kill-leader", 500)], ""),
    row(
        "F2",
        "kill -9 of a follower, of two, of all",
        Workload::All,
        &[Times("kill-follower", 200), Times("kill-majority", 200), Times("kill-all", 200)],
        "",
    ),
    row(
        "F3",
        "SIGSTOP",
        Workload::Log,
        &[Times("pause-leader", 130), Times("pause-one", 50), Times("pause-all", 20)],
        "",
    ),
    row(
        "F4",
        "isolation, halves, leader with a minority of clients",
        Workload::All,
        &[
            Times("isolate-leader", 70),
            Times("isolate-follower", 50),
            Times("halves", 40),
            Times("leader-with-clients", 40),
        ],
        "",
    ),
    row(
        "F5",
        "one-way cut, bridge, ring",
        Workload::Log,
        &[Times("cut-one-way", 100), Times("bridge", 100), Times("ring", 100)],
        "",
    ),
    row(
        "F6",
        "loss, delay, flapping",
        Workload::Group,
        &[Seconds("loss", 600), Seconds("delay", 600), Seconds("flapping", 600)],
        "reordering and jitter (needs a forwarder over TUN); pop: row Q",
    ),
    row(
        "F7",
        "power loss",
        Workload::Everything,
        &[
            Times("power-loss-leader", 100),
            Times("power-loss-follower", 60),
            Times("power-loss-one", 60),
            Times("power-loss-all", 80),
        ],
        "the asynchronous mode",
    ),
    row("F8", "power loss and pause", Workload::Log, &[Times("power-loss-and-pause", 100)], ""),
    large(row(
        "F9",
        "torn tail",
        Workload::Log,
        &[Times("torn-tail", 100)],
        "10,000 random cuts: crates/store's tests",
    )),
    large(row(
        "F10",
        "bit flips and overwritten chunks, by zone",
        Workload::Log,
        &[
            Times("flip-log", 70),
            Times("flip-derived", 130),
            Times("flip-vote", 70),
            Times("flip-tables", 100),
            Times("flip-manifest", 60),
            Times("overwrite-log", 70),
        ],
        "a minority at once, helix; repair from a peer is not built: the harness puts the file back; sealed segments are \
         a run of their own (flip-sealed)",
    )),
    large(row(
        "F11",
        "truncated and deleted files",
        Workload::Log,
        &[Times("truncate", 25), Times("delete-file", 25)],
        "an old copy of the directory: nothing in the log could tell it from the true one",
    )),
    row(
        "F12",
        "a lost directory",
        Workload::Log,
        &[],
        "waits for membership: a node that lost its data comes under a new id",
    ),
    large(row(
        "F13",
        "full disks",
        Workload::Log,
        &[
            Times("disk-full-one", 15),
            Times("disk-full-leader", 15),
            Times("disk-full-two", 30),
            Times("disk-full-all", 30),
        ],
        "",
    )),
    row(
        "F14",
        "failed fsync and write",
        Workload::Log,
        &[Times("fsync-error", 50), Times("write-error", 50)],
        "failed reads",
    ),
    row(
        "F15",
        "slow fsync, hung disk",
        Workload::Log,
        &[Times("slow-fsync", 25), Times("hung-disk", 25)],
        "blkio limits",
    ),
    row(
        "F16",
        "wall clocks",
        Workload::Log,
        &[Seconds("clock-jump", 900), Seconds("clock-strobe", 900)],
        "retention is not built; timers: row T, where the clocks of all nodes are left alone",
    ),
    row(
        "F17",
        "leadership given away",
        Workload::All,
        &[Times("transfer", 300)],
        "membership changes are not built",
    ),
    row(
        "F18",
        "snapshots and far followers",
        Workload::Log,
        &[],
        "waits for retention: nothing purges the log yet",
    ),
    row(
        "F19",
        "rolling restart",
        Workload::All,
        &[Times("rolling-restart", 25), Times("rolling-restart-patient", 25)],
        "two versions of the binary",
    ),
    row(
        "F20",
        "nameservers",
        Workload::Group,
        &[Times("nameserver-one", 25), Times("nameserver-all", 25)],
        "a cut between brokers and nameservers alone (halves have one)",
    ),
    row("F21", "consumers come and go", Workload::Group, &[Seconds("none", 1_800)], "pop: row Q"),
    row("F22", "little memory, a large backlog", Workload::Log, &[], "no memory limits in the harness yet"),
    row(
        "F23",
        "chaos",
        Workload::Everything,
        &[Seconds("chaos", 27_000), Seconds("cut-and-crash", 1_800)],
        "",
    ),
    row(
        "Q",
        "pop consumers",
        Workload::Pop,
        &[
            Times("kill-leader", 100),
            Times("power-loss-leader", 50),
            Times("power-loss-all", 20),
            Times("isolate-leader", 50),
            Times("pause-leader", 50),
            Seconds("loss", 300),
        ],
        "clients over gRPC",
    ),
    row(
        "T",
        "delayed messages",
        Workload::Delay,
        &[
            Times("kill-leader", 100),
            Times("power-loss-leader", 50),
            Times("power-loss-all", 20),
            Times("isolate-leader", 50),
            Times("pause-leader", 50),
            Times("clock-jump-one", 50),
        ],
        "recalled messages; F18",
    ),
    row(
        "X",
        "transactions",
        Workload::Transaction,
        &[
            Times("kill-leader", 100),
            Times("power-loss-leader", 50),
            Times("power-loss-all", 20),
            Times("isolate-leader", 50),
            Times("pause-leader", 50),
            Times("transfer", 50),
        ],
        "producers that die",
    ),
];

/// In CI: the quick gates, several rows to a run, so that all of them take ten minutes.
pub const QUICK: &[Row] = &[
    row("Q-F0", "healthy", Workload::Everything, &[Seconds("none", 45)], ""),
    row(
        "Q-F1-F3-F17-F19",
        "processes",
        Workload::All,
        &[
            Times("kill-leader", 10),
            Times("pause-leader", 5),
            Times("transfer", 5),
            Times("rolling-restart", 1),
        ],
        "",
    ),
    row(
        "Q-F4-F20-F21",
        "network, nameservers, consumers",
        Workload::Group,
        &[
            Times("isolate-leader", 2),
            Times("isolate-follower", 1),
            Times("leader-with-clients", 2),
            Times("nameserver-all", 1),
        ],
        "",
    ),
    large(row(
        "Q-F7-F13-F15",
        "disks",
        Workload::Log,
        &[
            Times("power-loss-leader", 2),
            Times("power-loss-one", 1),
            Times("power-loss-all", 2),
            Times("hung-disk", 1),
            Times("disk-full-leader", 1),
            Times("disk-full-two", 1),
            Times("disk-full-all", 1),
        ],
        "",
    )),
];

/// The row of that id.
pub fn nightly(id: &str) -> Option<&'static Row> {
    NIGHTLY.iter().find(|row| row.id.eq_ignore_ascii_case(id))
}

/// The gate of that id.
pub fn quick(id: &str) -> Option<&'static Row> {
    QUICK.iter().find(|row| row.id.eq_ignore_ascii_case(id))
}

impl Row {
    pub fn options(&self, seed: u64) -> Options {
        Options { rate: self.rate, body_bytes: self.body_bytes, seed, ..Options::default() }
    }

    /// The stages of a part of it, at least one fault or ten seconds of each.
    pub fn stages(&self, scale: f64) -> Vec<Stage> {
        let scaled = |whole: u32, least: u32| ((f64::from(whole) * scale).round() as u32).max(least);
        let stage = |dose: &Dose| {
            let (name, amount) = match *dose {
                Times(name, times) => (name, Amount::Times(scaled(times, 1))),
                Seconds(name, seconds) => {
                    (name, Amount::Time(Duration::from_secs(scaled(seconds, 10).into())))
                }
            };
            // A name that there is not is found by the test below.
            kind(name).map(|kind| Stage { kind: *kind, amount })
        };
        self.doses.iter().filter_map(stage).collect()
    }

    /// The same with short faults close together: for the gates, where time is dear.
    pub fn quick_stages(&self) -> Vec<Stage> {
        let mut stages = self.stages(1.0);
        for stage in &mut stages {
            let (least, most) = match stage.kind.name {
                "isolate-leader" | "isolate-follower" | "leader-with-clients" => (15_000, 20_000),
                "disk-full-leader" | "disk-full-two" | "disk-full-all" | "hung-disk" => (10_000, 14_000),
                "pause-leader" => (2_000, 6_000),
                "nameserver-all" => (5_000, 10_000),
                "kill-leader" | "power-loss-leader" | "power-loss-one" => (3_000, 4_000),
                // They last as long as at night, where they are short.
                _ => (stage.kind.hold.min_ms, stage.kind.hold.max_ms),
            };
            stage.kind.hold = Span { min_ms: least, max_ms: most };
            let rest = stage.kind.rest;
            stage.kind.rest = Span { min_ms: rest.min_ms.min(1_000), max_ms: rest.max_ms.min(2_000) };
        }
        stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dose_is_of_a_kind_that_there_is() {
        for row in NIGHTLY.iter().chain(QUICK) {
            assert_eq!(row.stages(1.0).len(), row.doses.len(), "{}", row.id);
            assert!(!row.doses.is_empty() || !row.lacks.is_empty(), "{}", row.id);
        }
    }

    #[test]
    fn a_part_of_a_row_has_something_of_everything() {
        let stages = nightly("f1").unwrap().stages(0.1);
        assert_eq!(stages[0].amount, Amount::Times(50));
        let stages = nightly("F7").unwrap().stages(0.000_1);
        assert!(stages.iter().all(|stage| stage.amount == Amount::Times(1)));
        assert!(nightly("F99").is_none());
        assert_eq!(quick("q-f0").unwrap().id, "Q-F0");
    }

    #[test]
    fn the_gates_fit_in_ten_minutes() {
        let faults: Duration = QUICK.iter().flat_map(Row::quick_stages).map(|stage| stage.time()).sum();
        // Starting, converging, draining and checking take some 30 s for each of the four.
        assert!(faults < Duration::from_mins(8), "{faults:?}");
    }
}
