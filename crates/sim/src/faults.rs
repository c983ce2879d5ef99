//! What goes wrong, and when it is well again.

use std::collections::BTreeMap;

use futures::FutureExt as _;

use crate::clock;
use crate::cluster::{Cluster, links};
use crate::disk::Ending;
use crate::plan::{Faults, NODES};
use crate::random::Random;
use crate::served::Served;
use crate::trace::say;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Kill,
    Power,
    Stop,
    Pause,
    Cut,
    Reset,
    SlowLink,
    SlowDisk,
    HungDisk,
    FailedSync,
    FullDisk,
    Clock,
    Transfer,
    Purge,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Power => "power",
            Kind::Stop => "stop",
            Kind::Pause => "pause",
            Kind::Cut => "cut",
            Kind::Reset => "reset",
            Kind::SlowLink => "slow-link",
            Kind::SlowDisk => "slow-disk",
            Kind::HungDisk => "hung-disk",
            Kind::FailedSync => "failed-sync",
            Kind::FullDisk => "full-disk",
            Kind::Clock => "clock",
            Kind::Transfer => "transfer",
            Kind::Purge => "purge",
        }
    }
}

/// What ends a fault.
#[derive(Clone, Copy, Debug)]
enum Cure {
    Start(u64),
    Mend(u64, u64),
    HastenLink(u64, u64),
    HastenDisk(u64),
    FreeDisk(u64),
    EmptyDisk(u64),
    Clock(u64),
    /// A process whose groups have stopped is of no use.
    Renew(u64),
}

pub(crate) struct Nemesis {
    random: Random,
    next_ms: u64,
    /// By the time at which they are due, in the order in which they came.
    cures: Vec<(u64, Cure)>,
    /// The node whose clock is wrong: one at a time, for the clocks of a majority are right.
    wrong_clock: Option<u64>,
    counts: BTreeMap<Kind, u64>,
}

const YEARS_MS: i64 = 10 * 365 * 24 * 3600 * 1000;

impl Nemesis {
    pub(crate) fn new(seed: u64) -> Self {
        Nemesis {
            random: Random::of(seed, "nemesis"),
            next_ms: 0,
            cures: Vec::new(),
            wrong_clock: None,
            counts: BTreeMap::new(),
        }
    }

    /// How often each fault happened, as `name:count` joined by commas.
    pub(crate) fn summary(&self) -> String {
        let counts: Vec<String> =
            self.counts.iter().map(|(kind, count)| format!("{}:{count}", kind.name())).collect();
        if counts.is_empty() { "none".to_owned() } else { counts.join(",") }
    }

    pub(crate) fn tick(&mut self, cluster: &mut Cluster) {
        let now = clock::now_ms();
        self.cure_due(cluster, now);
        for node in cluster.broken() {
            let is_known = self.cures.iter().any(|(_, cure)| matches!(cure, Cure::Renew(of) if *of == node));
            if !is_known {
                let at = now + self.random.between(200, 3000);
                self.cures.push((at, Cure::Renew(node)));
            }
        }
        // A node whose process has ended by itself: a planned stop, or a start on a full disk.
        for node in (1..=NODES).filter(|node| !cluster.is_up(*node)) {
            let is_known = self.cures.iter().any(|(_, cure)| matches!(cure, Cure::Start(of) if *of == node));
            if !is_known {
                self.after(100, 2000, Cure::Start(node));
            }
        }
        if now >= self.next_ms {
            let calm = cluster.plan.calm_ms;
            self.next_ms = now + self.random.between(calm / 4, calm * 7 / 4);
            self.strike(cluster);
        }
    }

    /// Everything is well again; nodes that are down start.
    pub(crate) fn heal(&mut self, cluster: &mut Cluster) {
        self.cures.clear();
        self.wrong_clock = None;
        cluster.heal();
        for node in cluster.broken() {
            cluster.end(node, Ending::Process);
        }
    }

    fn after(&mut self, least_ms: u64, most_ms: u64, cure: Cure) {
        let at = clock::now_ms() + self.random.between(least_ms, most_ms);
        self.cures.push((at, cure));
    }

    fn cure_due(&mut self, cluster: &mut Cluster, now: u64) {
        let mut due = Vec::new();
        self.cures.retain(|(at, cure)| {
            let is_due = *at <= now;
            if is_due {
                due.push(*cure);
            }
            !is_due
        });
        for cure in due {
            match cure {
                Cure::Start(node) => {
                    if !cluster.is_up(node) {
                        cluster.start(node);
                    }
                }
                Cure::Mend(from, to) => {
                    say!("mend {from} -> {to}");
                    cluster.net.cut(from, to, false);
                }
                Cure::HastenLink(from, to) => cluster.net.slow(from, to, 0),
                Cure::HastenDisk(node) => {
                    let sync_ms = cluster.plan.sync_ms;
                    cluster.disk(node).set_sync_ms(sync_ms);
                }
                Cure::FreeDisk(node) => {
                    say!("n{node}'s disk answers");
                    cluster.disk(node).hang(false);
                }
                Cure::EmptyDisk(node) => {
                    say!("n{node}'s disk has room");
                    cluster.fill_disk(node, false);
                }
                Cure::Clock(node) => {
                    say!("n{node}'s clock is right");
                    cluster.set_clock(node, 0);
                    self.wrong_clock = None;
                }
                Cure::Renew(node) if cluster.broken().contains(&node) => {
                    say!("n{node} is ended: its groups have stopped");
                    cluster.end(node, Ending::Process);
                }
                Cure::Renew(_) => {}
            }
        }
    }

    fn kind(&mut self, faults: &Faults) -> Kind {
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
            purges,
        } = *faults;
        self.random.weighted(&[
            (kills, Kind::Kill),
            (power, Kind::Power),
            (stops, Kind::Stop),
            (pauses, Kind::Pause),
            (cuts, Kind::Cut),
            (resets, Kind::Reset),
            (slow_links, Kind::SlowLink),
            (slow_disks, Kind::SlowDisk),
            (hung_disks, Kind::HungDisk),
            (failed_syncs, Kind::FailedSync),
            (full_disks, Kind::FullDisk),
            (clocks, Kind::Clock),
            (transfers, Kind::Transfer),
            (purges, Kind::Purge),
        ])
    }

    fn strike(&mut self, cluster: &mut Cluster) {
        let kind = self.kind(&cluster.plan.faults);
        let node = self.node(cluster);
        let happened = match kind {
            Kind::Kill => self.kill(cluster, node),
            Kind::Power => self.power(cluster, node),
            Kind::Stop => Self::stop(cluster, node),
            Kind::Pause => {
                let ms = self.random.weighted(&[(3, 300), (2, 1500), (1, 4000)]);
                let ms = self.random.between(20, ms);
                say!("n{node} is paused for {ms} ms");
                cluster.pause(node, clock::now_ms() + ms);
                cluster.is_up(node)
            }
            Kind::Cut => self.cut(cluster, node),
            Kind::Reset => {
                let other = self.other(node);
                let count = cluster.net.reset(node, other);
                say!("{count} connections of n{node} and n{other} are reset");
                count > 0
            }
            Kind::SlowLink => {
                let other = self.other(node);
                let ms = self.random.between(20, 400);
                say!("{node} -> {other} takes {ms} ms more");
                cluster.net.slow(node, other, ms);
                self.after(300, 4000, Cure::HastenLink(node, other));
                true
            }
            Kind::SlowDisk => {
                let most = self.random.between(30, 600);
                say!("n{node}'s disk takes up to {most} ms");
                cluster.disk(node).set_sync_ms((most / 4, most));
                self.after(500, 4000, Cure::HastenDisk(node));
                true
            }
            Kind::HungDisk => {
                say!("n{node}'s disk hangs");
                cluster.disk(node).hang(true);
                self.after(200, 6000, Cure::FreeDisk(node));
                true
            }
            Kind::FailedSync => {
                say!("the next sync of n{node}'s disk fails");
                cluster.break_disk(node);
                cluster.is_up(node)
            }
            Kind::FullDisk => self.fill(cluster, node),
            Kind::Clock => self.clock(cluster, node),
            Kind::Transfer => self.transfer(cluster),
            Kind::Purge => self.purge(cluster),
        };
        if happened {
            *self.counts.entry(kind).or_default() += 1;
        }
    }

    /// Any node, a leader more often.
    fn node(&mut self, cluster: &Cluster) -> u64 {
        let group = self.random.below(cluster.plan.groups as u64) as usize;
        let any = self.random.between(1, NODES);
        if self.random.percent(40) { cluster.leader(group).unwrap_or(any) } else { any }
    }

    fn other(&mut self, node: u64) -> u64 {
        let others: Vec<u64> = (1..=NODES).filter(|other| *other != node).collect();
        *self.random.pick(&others)
    }

    /// This node, mostly alone; else with another one, or all of them.
    fn some(&mut self, node: u64) -> Vec<u64> {
        match self.random.weighted(&[(6, 1), (2, 2), (2, 3)]) {
            1 => vec![node],
            2 => vec![node, self.other(node)],
            _ => (1..=NODES).collect(),
        }
    }

    fn kill(&mut self, cluster: &mut Cluster, node: u64) -> bool {
        if !cluster.is_up(node) {
            return false;
        }
        say!("n{node} is killed");
        cluster.end(node, Ending::Process);
        self.after(20, 3000, Cure::Start(node));
        true
    }

    fn power(&mut self, cluster: &mut Cluster, node: u64) -> bool {
        let mut nodes = self.some(node);
        nodes.retain(|node| cluster.is_up(*node));
        for node in &nodes {
            say!("n{node} loses power");
            cluster.end(*node, Ending::Power);
            self.after(20, 3000, Cure::Start(*node));
        }
        !nodes.is_empty()
    }

    /// No segment is to be had for a while; what is allocated goes on being used.
    fn fill(&mut self, cluster: &mut Cluster, node: u64) -> bool {
        let most = self.random.weighted(&[(2, 5000), (1, 12_000)]);
        for node in self.some(node) {
            say!("n{node}'s disk is full");
            cluster.fill_disk(node, true);
            // One that is full already has room again with the first cure.
            self.after(500, most, Cure::EmptyDisk(node));
        }
        true
    }

    fn stop(cluster: &mut Cluster, node: u64) -> bool {
        let stops = cluster.stop(node);
        if stops {
            say!("n{node} is asked to stop");
        }
        stops
    }

    fn cut(&mut self, cluster: &mut Cluster, node: u64) -> bool {
        let other = self.other(node);
        let around = |is_in: bool, is_out: bool| {
            let is_cut = move |link: &(u64, u64)| (is_out && link.0 == node) || (is_in && link.1 == node);
            links().filter(is_cut).collect::<Vec<_>>()
        };
        let cut: Vec<(u64, u64)> = match self.random.below(6) {
            0 | 1 => around(true, true),
            2 => around(true, false),
            3 => around(false, true),
            4 => vec![(node, other)],
            _ => vec![(node, other), (other, node)],
        };
        let most = self.random.weighted(&[(3, 800), (2, 3000), (1, 7000)]);
        let ms = self.random.between(50, most);
        let at = clock::now_ms() + ms;
        say!("cut for {ms} ms: {cut:?}");
        for (from, to) in cut {
            cluster.net.cut(from, to, true);
            // A cut that is there already is mended by the first cure; that one is all there is to it.
            self.cures.push((at, Cure::Mend(from, to)));
        }
        true
    }

    fn clock(&mut self, cluster: &mut Cluster, node: u64) -> bool {
        if self.wrong_clock.is_some() {
            return false;
        }
        let hour = 3_600_000;
        let far = [500, 5000, 50_000, hour, 24 * hour, YEARS_MS];
        let ahead = *self.random.pick(&far) * if self.random.percent(50) { 1 } else { -1 };
        say!("n{node}'s clock is {ahead} ms ahead");
        cluster.set_clock(node, ahead);
        self.wrong_clock = Some(node);
        self.after(200, 6000, Cure::Clock(node));
        true
    }

    /// Logs of a group are purged to their newest boundaries, on all nodes or on some; who is behind needs the snapshot then.
    fn purge(&mut self, cluster: &mut Cluster) -> bool {
        let group = self.random.below(cluster.plan.groups as u64) as usize;
        let nodes: Vec<u64> =
            (1..=NODES).filter(|node| cluster.is_up(*node) && self.random.percent(80)).collect();
        for node in &nodes {
            let (directory, node) = (cluster.directory.clone(), *node);
            cluster.spawn(async move {
                let request = move |served: Served| served.purge().boxed();
                match directory.ask(node, group, 0, Some(1), request).await {
                    Ok(Ok(gone)) => say!("n{node}, group {group}: purged to {gone:?}"),
                    Ok(Err(error)) => say!("n{node}, group {group}: not purged: {error}"),
                    Err(why) => say!("n{node}, group {group}, to be purged: {why:?}"),
                }
            });
        }
        !nodes.is_empty()
    }

    fn transfer(&mut self, cluster: &mut Cluster) -> bool {
        let group = self.random.below(cluster.plan.groups as u64) as usize;
        let Some(leader) = cluster.leader(group) else { return false };
        let to = self.other(leader);
        say!("group {group} is to go from n{leader} to n{to}");
        let directory = cluster.directory.clone();
        cluster.spawn(async move {
            let request = move |served: Served| served.transfer(to).boxed();
            let answer = directory.ask(leader, group, 0, Some(1), request).await;
            match answer {
                Ok(Ok(())) => say!("group {group} has gone to n{to}"),
                Ok(Err(error)) => say!("group {group} has not gone to n{to}: {error}"),
                Err(why) => say!("group {group}, to n{to}: {why:?}"),
            }
        });
        true
    }
}
