//! `raftmq drill`: what an operator does to a running cluster to see that it bears it. A canary topic shows what clients see
//! meanwhile, and that nothing acknowledged is lost. Nothing is done to a node unless every group on it keeps a majority.
//!
//! scenario.rs says what is to be done, hands.rs how it is done to a node; watch.rs asks the nodes how they are; canary.rs
//! sends and reads; verdict.rs judges; report.rs and page.rs tell.

mod canary;
mod hands;
mod page;
mod report;
mod scenario;
mod verdict;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use client::{Client, ClientConfig};
use tokio_util::sync::CancellationToken;

use self::canary::Load;
use self::hands::Doer;
use self::scenario::{Deed, Fault, Scenario, Step, Target};
use self::verdict::{Round, Verdict};
use self::watch::Watch;
use crate::DEFAULT_NAMESERVER;

/// How long a group may take to be whole again. A node that was away for long copies what it missed.
const WHOLE: Duration = Duration::from_mins(2);
const WHOLE_AT_START: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(crate) struct DrillArgs {
    /// Nameservers, host:port, separated by ';' [default: the scenario's, or 127.0.0.1:9876]
    #[arg(short = 'n', long, env = "NAMESRV_ADDR", value_name = "ADDRESSES")]
    nameserver: Option<String>,
    /// What the scenario is: its group, its faults, and how each is done to a node; deploy/drills/ has some
    #[arg(value_name = "SCENARIO")]
    scenario: PathBuf,
    /// Only this fault, instead of the scenario's steps
    #[arg(long, value_name = "FAULT", value_parser = fault)]
    fault: Option<Fault>,
    /// Rounds of the fault that --fault names
    #[arg(long, default_value_t = 1, requires = "fault")]
    rounds: u32,
    /// Say what would be done and whether it may be, and do nothing
    #[arg(long)]
    check: bool,
    /// Write the report as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as a page of HTML, with the time line drawn, to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn fault(name: &str) -> Result<Fault, String> {
    use serde::Deserialize as _;
    use serde::de::IntoDeserializer as _;
    use serde::de::value::{Error, StrDeserializer};
    let name: StrDeserializer<'_, Error> = name.into_deserializer();
    Fault::deserialize(name).map_err(|error| error.to_string())
}

pub(crate) fn run(args: DrillArgs) -> anyhow::Result<()> {
    let mut scenario = Scenario::load(&args.scenario)?;
    if let Some(fault) = args.fault {
        scenario = scenario.single(fault, args.rounds).recheck()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        // A client that hears of a new leader within a second: what a longer poll adds is the client's own.
        let poll = Duration::from_secs(1);
        let nameserver = args.nameserver.as_deref().or(scenario.nameserver.as_deref());
        let list = ClientConfig::from_list(nameserver.unwrap_or(DEFAULT_NAMESERVER));
        let client = Client::start(ClientConfig { route_poll: poll, call_timeout: poll, ..list }).await?;
        let result = drill(&client, &scenario, &args).await;
        client.shutdown().await;
        result
    })
}

async fn drill(client: &Client, scenario: &Scenario, args: &DrillArgs) -> anyhow::Result<()> {
    let since = Instant::now();
    let watch = Watch::start(client, since).await?;
    let nodes = watch.nodes(&scenario.group);
    anyhow::ensure!(!nodes.is_empty(), "the nameserver knows no group {}", scenario.group);
    for step in &scenario.steps {
        let missing =
            nodes.iter().find(|node| step.fault.deeds().is_some() && scenario.hands(**node).is_none());
        if let Some(node) = missing {
            anyhow::bail!("{} needs [node.{node}]: the group's nodes are {nodes:?}", step.fault.name());
        }
    }
    watch.whole(WHOLE_AT_START).await.context("a drill begins with a whole cluster")?;
    if args.check {
        return check(scenario, &watch, &nodes);
    }
    let interrupted = CancellationToken::new();
    let open: Open = Arc::default();
    let listener = tokio::spawn({
        let interrupted = interrupted.clone();
        let open = open.clone();
        async move {
            if let Err(error) = interruption().await {
                eprintln!("signals cannot be heard: {error}");
                return;
            }
            eprintln!(
                "interrupted: what was done is undone, then the drill ends; a second time ends it at once"
            );
            interrupted.cancel();
            if interruption().await.is_ok() {
                let open = *lock(&open);
                match open {
                    Some((node, undo)) => eprintln!("ended: `{}` of node {node} is left to do", undo.name()),
                    None => eprintln!("ended"),
                }
                std::process::exit(1);
            }
        }
    });
    make_topic(client, scenario, &watch).await?;
    let load = Load::start(client, &scenario.canary, &scenario.group, since).await?;
    let mut drill = Drill {
        scenario,
        watch,
        since,
        doer: Arc::new(Mutex::new(Doer::default())),
        interrupted,
        open,
        rounds: Vec::new(),
    };
    let ended_early = drill.steps(&load).await.err().map(|error| format!("{error:#}"));
    let seen = load.finish().await?;
    listener.abort();
    let Drill { watch, rounds, .. } = drill;
    let seconds = since.elapsed().as_secs_f64();
    let leaderships = watch.leaderships(&scenario.group);
    let verdict = verdict::judge(&scenario.group, seconds, &seen, rounds, leaderships, ended_early);
    print!("{}", report::text(&verdict));
    tell(args, &verdict, &seen)?;
    anyhow::ensure!(verdict.failures().is_empty(), "the drill failed");
    Ok(())
}

/// Ends with the next signal that ends a program: from its terminal, from who stops it, or because its terminal is gone.
async fn interruption() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut hang_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
        _ = hang_up.recv() => Ok(()),
    }
}

fn tell(args: &DrillArgs, verdict: &Verdict, seen: &canary::Seen) -> anyhow::Result<()> {
    let write = |file: &PathBuf, text: String| {
        std::fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
    };
    if let Some(file) = &args.json {
        write(file, serde_json::to_string_pretty(verdict)?)?;
    }
    if let Some(file) = &args.html {
        write(file, page::page(verdict, seen))?;
    }
    Ok(())
}

/// What would be done, and whether it may be now.
fn check(scenario: &Scenario, watch: &Watch, nodes: &[u64]) -> anyhow::Result<()> {
    let leader = watch.leader(&scenario.group);
    println!("group {}: nodes {nodes:?}, led by {leader:?}", scenario.group);
    for step in &scenario.steps {
        println!("{} × {}, {:.1} s each", step.rounds, step.fault.name(), step.hold().as_secs_f64());
    }
    for node in nodes {
        watch.margin(*node)?;
        println!("node {node} may be taken away: a majority of every group on it is caught up");
    }
    Ok(())
}

/// The canary's topic, in this group alone.
async fn make_topic(client: &Client, scenario: &Scenario, watch: &Watch) -> anyhow::Result<()> {
    let canary = &scenario.canary;
    let leader = watch.leader(&scenario.group).context("the group has no leader")?;
    let address = watch.address(&scenario.group, leader).context("the leader has no address")?;
    let config = wire::TopicConfig::new(&canary.topic, canary.queues as i32, wire::perm::READ_WRITE);
    client.admin().create_topic_at(address, &config).await?;
    let since = Instant::now();
    loop {
        let route = client.admin().topic_route(&canary.topic).await?;
        let is_there = route.is_some_and(|route| {
            route.queue_datas.iter().any(|queue| {
                queue.broker_name == scenario.group && queue.write_queue_nums >= canary.queues as i32
            })
        });
        if is_there {
            return Ok(());
        }
        anyhow::ensure!(
            since.elapsed() < Duration::from_secs(35),
            "the nameserver does not hear of {}",
            canary.topic
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What was done to a node and how it is undone, while it lasts.
type Open = Arc<Mutex<Option<(u64, Deed)>>>;

struct Drill<'a> {
    scenario: &'a Scenario,
    watch: Watch,
    since: Instant,
    doer: Arc<Mutex<Doer>>,
    interrupted: CancellationToken,
    open: Open,
    rounds: Vec<Round>,
}

impl Drill<'_> {
    async fn steps(&mut self, load: &Load) -> anyhow::Result<()> {
        // Undisturbed first: what the load is like by itself.
        self.pause(Duration::from_secs(1)).await?;
        anyhow::ensure!(load.acked() > 0, "no message of the canary was stored within a second");
        for step in &self.scenario.steps {
            for number in 1..=step.rounds {
                if step.fault.target() == Target::Everyone {
                    self.everyone(step).await?;
                } else {
                    let target = self.target(step.fault, number)?;
                    self.round(step, target).await?;
                }
                self.pause(step.rest()).await?;
            }
        }
        Ok(())
    }

    fn target(&self, fault: Fault, number: u32) -> anyhow::Result<u64> {
        let group = &self.scenario.group;
        let leader = self.watch.leader(group).context("the group has no leader")?;
        if fault.target() == Target::Leader {
            return Ok(leader);
        }
        let followers: Vec<u64> =
            self.watch.nodes(group).into_iter().filter(|node| *node != leader).collect();
        let turn = number as usize % followers.len().max(1);
        followers.get(turn).copied().context("the group has no follower")
    }

    /// Followers one after the other, then the one that leads at that time.
    async fn everyone(&mut self, step: &Step) -> anyhow::Result<()> {
        let mut left = self.watch.nodes(&self.scenario.group);
        while !left.is_empty() {
            let leader = self.watch.leader(&self.scenario.group);
            let at = left.iter().position(|node| Some(*node) != leader).unwrap_or(0);
            let node = left.remove(at);
            self.round(step, node).await?;
        }
        Ok(())
    }

    async fn round(&mut self, step: &Step, node: u64) -> anyhow::Result<()> {
        let fault = step.fault;
        self.watch.whole(WHOLE).await?;
        let leaders_before = self.watch.leaderships(&self.scenario.group).len();
        let from_s = self.seconds();
        eprintln!("{from_s:7.1} s  {} of node {node}", fault.name());
        let undone = match fault.deeds() {
            None => {
                let to = self.successor(node)?;
                self.watch.transfer(&self.scenario.group, node, to).await
            }
            Some((deed, undo)) => {
                self.watch.margin(node)?;
                *lock(&self.open) = Some((node, undo));
                let done = self.act(node, deed).await;
                if done.is_ok() && !self.interrupted.is_cancelled() {
                    tokio::select! {
                        () = tokio::time::sleep(step.hold()) => {}
                        () = self.interrupted.cancelled() => {}
                    }
                }
                // Also where it was done by half.
                let undone = self.act(node, undo).await;
                if undone.is_ok() {
                    *lock(&self.open) = None;
                }
                done.and(undone)
            }
        };
        let until_s = self.seconds();
        let whole = self.watch.whole(WHOLE).await;
        let whole_s = self.seconds();
        let leaders = self.watch.leaderships(&self.scenario.group);
        let elections = (leaders.len() - leaders_before) as u32;
        eprintln!("{whole_s:7.1} s  whole again, {elections} new leader(s)");
        self.rounds.push(Round {
            fault,
            node,
            from_s,
            until_s,
            whole_s,
            bounds: step.bounds(),
            write_gap_s: 0.0,
            read_gap_s: 0.0,
            elections,
            happened: !fault.must_move_the_leader() || elections > 0,
        });
        undone.and(whole)
    }

    fn successor(&self, leader: u64) -> anyhow::Result<u64> {
        let nodes = self.watch.nodes(&self.scenario.group);
        nodes.into_iter().find(|node| *node != leader).context("the group has nobody to hand over to")
    }

    async fn act(&self, node: u64, deed: Deed) -> anyhow::Result<()> {
        let hands = self.scenario.hands(node).context("nothing says how")?.clone();
        let doer = self.doer.clone();
        let work = move || lock(&doer).act(node, &hands, deed);
        tokio::task::spawn_blocking(work).await?
    }

    /// Lets the load go on.
    async fn pause(&self, time: Duration) -> anyhow::Result<()> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.interrupted.cancelled() => anyhow::bail!("interrupted"),
        }
    }

    fn seconds(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
