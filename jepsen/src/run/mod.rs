//! One run from the first process to the verdict.
//!
//! ```text
//!  plan ─▶ cluster up ─▶ load ─▶ faults ─▶ heal ─▶ converge ─▶ drain ─▶ files ─▶ end
//!          topics        clients   nemesis   all     nothing     every    nodes
//!          sampler                           whole   written     node     killed
//! ```
//! All of it is lines of one history. A step that fails does not end the run where it can go on: the checkers want to see the
//! rest. But a run with a problem does not pass, whatever they say.

pub mod digest;
pub mod files;
pub mod machine;
pub mod rows;
pub mod sampler;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use xxhash_rust::xxh3::xxh3_64;

use self::machine::Probe;
use self::sampler::Sampler;
use crate::cluster::wait::Stop;
use crate::cluster::{self, Cluster, GROUP};
use crate::history::{Digest, DigestOf, LivenessBounds, Op, Phase, Plan, Recorder, RequiredFault, Written};
use crate::nemesis::{Amount, Driver, Kind, Need};
use crate::workload::{Field, Load, Options, Workload};

/// Load before the first fault, and after the last.
const LOAD: Duration = Duration::from_secs(4);
const HEALED: Duration = Duration::from_secs(4);
/// From the healing until every node takes part.
const RECOVERY: Duration = Duration::from_secs(90);
/// The same once it is known that something does not recover.
const AFTER_PROBLEM: Duration = Duration::from_secs(5);
/// A new topic is in the routes of every nameserver: brokers register it at once, and every 30 s.
const ROUTES: Duration = Duration::from_secs(45);
/// Of a stored message beyond its body: record, properties, frames, units, keys.
const OVERHEAD_BYTES: u64 = 400;

/// Faults of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    pub kind: Kind,
    pub amount: Amount,
}

impl Stage {
    /// How long it will take, about.
    pub fn time(&self) -> Duration {
        match self.amount {
            Amount::Time(time) => time,
            Amount::Times(times) => {
                let mean = |span: crate::nemesis::Span| span.min_ms.midpoint(span.max_ms);
                // Beginning, ending and recovering take a few seconds.
                let one = mean(self.kind.hold) + mean(self.kind.rest) + 3_000;
                Duration::from_millis(one * u64::from(times))
            }
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The row of the matrix, or whatever name.
    pub name: String,
    pub workload: Workload,
    pub stages: Vec<Stage>,
    pub options: Options,
    /// Where history, report and logs go.
    pub out: PathBuf,
    pub cluster: cluster::Plan,
    pub liveness: LivenessBounds,
    /// The search for linearizability will be made: its rules must have something to check.
    pub searched: bool,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct Ran {
    pub history: PathBuf,
    pub written: Option<Written>,
    pub faults: u32,
    /// Why the run does not pass, whatever its history says.
    pub problems: Vec<String>,
}

impl Spec {
    /// What this machine lacks for it.
    pub fn missing(&self) -> Vec<String> {
        let needs = self.stages.iter().flat_map(|stage| stage.kind.needs);
        let mut programs = cluster::PROGRAMS.to_vec();
        programs.extend(needs.clone().filter_map(|need| match need {
            Need::Program(program) => Some(*program),
            Need::FakeClocks => None,
        }));
        let mut missing = cluster::missing(&programs);
        let clocks = needs.clone().any(|need| *need == Need::FakeClocks);
        if clocks && cluster::node::faketime_library().is_none() {
            missing.push("libfaketime".to_owned());
        }
        missing.dedup();
        missing
    }

    /// How long the faults will take, about.
    pub fn time(&self) -> Duration {
        self.stages.iter().map(Stage::time).sum()
    }

    fn cluster_plan(&self) -> cluster::Plan {
        let load = self.time() + LOAD + HEALED;
        let messages = u64::from(self.workload.sends_per_second(&self.options)) * load.as_secs();
        let bytes = messages * (self.options.body_bytes as u64 + OVERHEAD_BYTES);
        let clocks = self.stages.iter().any(|stage| stage.kind.needs.contains(&Need::FakeClocks));
        cluster::Plan {
            out: self.out.clone(),
            disk_bytes: self.cluster.disk_bytes + bytes * 3 / 2,
            fake_clocks: clocks || self.cluster.fake_clocks,
            ..self.cluster.clone()
        }
    }

    /// The first line of the history: what must have happened for the run to count.
    fn plan(&self) -> Plan {
        let mut faults: Vec<RequiredFault> = Vec::new();
        for stage in &self.stages {
            let Some(fault) = stage.kind.fault_name() else { continue };
            let times = match stage.amount {
                Amount::Times(times) => u64::from(times),
                Amount::Time(_) => 1,
            };
            match faults.iter_mut().find(|required| required.fault == fault) {
                Some(required) => required.times += times,
                None => faults.push(RequiredFault { fault: fault.to_owned(), times }),
            }
        }
        // Faults take their share; that a fifth arrives says that load was there at all.
        let sends = u64::from(self.workload.sends_per_second(&self.options)) * self.time().as_secs() / 5;
        Plan {
            run: self.name.clone(),
            seed: self.options.seed,
            commit: commit(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            nodes: self.cluster.node_ids().collect(),
            brokers: vec![GROUP.to_owned()],
            queues: Load::queues(self.workload, &self.options),
            faults,
            rules: self.workload.rules(self.searched),
            ok_sends_min: sends,
            liveness: Some(self.liveness.clone()),
        }
    }
}

/// The commit of the source that this runs in; empty where nobody knows.
fn commit() -> String {
    let said = crate::cluster::shell::run("git", &["describe", "--always", "--dirty", "--abbrev=12"]);
    said.unwrap_or_default().trim().to_owned()
}

/// Runs it. An error says that there is no history worth looking at.
pub fn run(spec: &Spec, stop: &Stop) -> Result<Ran> {
    let missing = spec.missing();
    ensure!(missing.is_empty(), "this machine lacks {}", missing.join(", "));
    std::fs::create_dir_all(&spec.out).with_context(|| format!("create {}", spec.out.display()))?;
    // Two runs into one directory would write one history.
    let lock = spec.out.join("lock");
    let held = std::fs::File::create(&lock).with_context(|| lock.display().to_string())?;
    held.try_lock().with_context(|| format!("another run writes into {}", spec.out.display()))?;
    let history = spec.out.join("history.jsonl");
    let recorder = Recorder::create(&history).with_context(|| history.display().to_string())?;
    recorder.note(Op::Plan(Box::new(spec.plan())));
    let mut run = Run { spec, stop, recorder: recorder.clone(), problems: Vec::new(), faults: 0 };
    if let Err(error) = run.all() {
        run.problem(&error);
    }
    let Run { mut problems, faults, .. } = run;
    let written = match recorder.finish() {
        Ok(written) => Some(written),
        Err(error) => {
            problems.push(error.to_string());
            None
        }
    };
    Ok(Ran { history, written, faults, problems })
}

struct Run<'a> {
    spec: &'a Spec,
    stop: &'a Stop,
    recorder: Recorder,
    problems: Vec<String>,
    faults: u32,
}

impl Run<'_> {
    fn problem(&mut self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        eprintln!("PROBLEM: {text}");
        self.problems.push(text);
    }

    /// Takes a step whose failure does not end the run.
    fn attempt(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.problem(&error);
        }
    }

    fn phase(&self, phase: Phase) {
        say(&format!("{phase:?}").to_lowercase());
        self.recorder.note(Op::Phase(phase));
    }

    fn all(&mut self) -> Result<()> {
        say("starting nodes");
        let mut cluster = Cluster::start(self.spec.cluster_plan(), self.stop)?;
        say(&format!("run {}, disks and namespaces bear this name", cluster.lease().id()));
        self.make_topics(&cluster)?;
        let addresses = cluster.plan().node_addresses();
        let sampler = Sampler::start(cluster.admin(), &addresses, cluster.pids(), &self.recorder);
        let probe = Probe::start(cluster.lease().work(), cluster.pids(), &self.recorder)?;
        let field = Field::new(
            self.spec.options.clone(),
            self.recorder.clone(),
            cluster.spaces().to_vec(),
            addresses,
            &cluster.plan().nameserver_addresses(),
            sampler.leader().clone(),
        );
        self.phase(Phase::Load);
        let load = Load::start(self.spec.workload, field)?;
        self.stop.pass(LOAD)?;

        self.phase(Phase::Faults);
        self.break_it(&mut cluster)?;
        cluster.heal()?;
        self.make_whole(&mut cluster)?;
        self.phase(Phase::Heal);
        self.stop.pass(HEALED)?;

        load.stop_writing(self.stop)?;
        self.phase(Phase::Converge);
        let converged = load.converge(self.stop);
        self.attempt(converged);
        let quiet = cluster.wait_quiet(RECOVERY).map(drop);
        self.attempt(quiet);

        self.phase(Phase::Drain);
        let drained = load.drain(self.stop);
        self.attempt(drained);
        self.tables(&cluster, &load);
        drop(load);
        sampler.stop();
        drop(probe);
        self.look_for_crashes(&mut cluster)?;
        if self.spec.workload.has_coupled_entries() {
            // Which of them are void only tables say that are newer.
            let stopped = cluster.stop_all();
            self.attempt(stopped);
        }
        cluster.end_all()?;
        say("reading the files of all nodes");
        let groups: Vec<(u64, PathBuf)> =
            cluster.ids().into_iter().map(|id| (id, cluster.node(id).group_dir())).collect();
        let queues = Load::queues(self.spec.workload, &self.spec.options);
        let digests = digest::write(&groups, &queues, cluster.struck(), &self.recorder);
        self.attempt(digests);
        self.phase(Phase::End);
        Ok(())
    }

    fn make_topics(&self, cluster: &Cluster) -> Result<()> {
        let admin = cluster.admin();
        let addresses = cluster.plan().node_addresses();
        for (topic, queues) in Load::topics(self.spec.workload, &self.spec.options) {
            self.stop.until(&format!("topic {topic} is made"), RECOVERY, || {
                admin.create_topic(addresses[0], &topic, queues as i32).map(Some)
            })?;
            for nameserver in cluster.plan().nameserver_addresses() {
                self.stop.until_true(&format!("{nameserver} knows {topic}"), ROUTES, || {
                    admin.has_route(nameserver, &topic)
                })?;
            }
        }
        Ok(())
    }

    /// All stages. After a problem no more faults come: what is broken then is to be seen as it is.
    fn break_it(&mut self, cluster: &mut Cluster) -> Result<()> {
        let mut driver = Driver::new(self.spec.options.seed, self.recorder.clone());
        for stage in &self.spec.stages {
            say(&format!("{} ({:?})", stage.kind.name, stage.amount));
            let began = Instant::now();
            let driven = driver.drive(cluster, &stage.kind, stage.amount);
            self.faults = driver.tally().faults;
            if let Err(error) = driven {
                self.problem(&error.context(format!("{}, {:?} in", stage.kind.name, began.elapsed())));
                break;
            }
        }
        driver.note_exits(cluster)?;
        for exit in &driver.tally().crashes {
            self.problems
                .push(format!("node {} ended by itself, {}:\n{}", exit.node, exit.status, exit.last));
        }
        ensure!(!self.stop.is_stopped(), "stopped");
        Ok(())
    }

    /// Waits until every node takes part. If not all do by themselves, that is a problem, and those are started again: what
    /// they hold then tells whether anything is lost.
    fn make_whole(&mut self, cluster: &mut Cluster) -> Result<()> {
        let limit = if self.problems.is_empty() { RECOVERY } else { AFTER_PROBLEM };
        let Err(error) = cluster.wait_whole(limit) else { return Ok(()) };
        self.problem(&error.context("after the last fault"));
        ensure!(!self.stop.is_stopped(), "stopped");
        let restarted = cluster.restart_idle()?;
        say(&format!("nodes {restarted:?} do not take part by themselves and are started again"));
        cluster.wait_whole(RECOVERY).context("after they were started again").map(drop)
    }

    fn look_for_crashes(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.look()?;
        for exit in cluster.take_exits() {
            self.problems
                .push(format!("node {} ended by itself, {}:\n{}", exit.node, exit.status, exit.last));
        }
        Ok(())
    }

    /// The tables that nodes tell: the same of all, now that all have applied the same.
    fn tables(&mut self, cluster: &Cluster, load: &Load) {
        let mut told: Vec<Digest> = Vec::new();
        for node in cluster.ids() {
            for (table, body) in load.tables(node) {
                let Some(body) = body else {
                    self.problems.push(format!("node {node} does not tell its {table}"));
                    continue;
                };
                told.push(Digest {
                    node,
                    broker: GROUP.to_owned(),
                    what: DigestOf::Table,
                    key: table.to_owned(),
                    from: 0,
                    to: 0,
                    hash: format!("{:016x}", xxh3_64(&body)),
                    rebuilt: false,
                    live: false,
                });
            }
        }
        for digest in told {
            self.recorder.note(Op::Digest(Box::new(digest)));
        }
    }
}

/// A line for who watches.
fn say(text: &str) {
    eprintln!("[{:>8.1}] {text}", crate::history::now_ns() as f64 / 1e9);
}

/// The binary under test, where nobody says which: what cargo built last in the workspace's own target directory.
pub fn default_binary() -> Result<PathBuf> {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("jepsen/ lies in the workspace")?;
    let built = ["release", "debug"].map(|profile| workspace.join("target").join(profile).join("raftmq"));
    let found = built.iter().find(|binary| binary.is_file()).cloned();
    found.context("no binary: `cargo build --release -p cli`, or --raftmq PATH")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::kind;

    fn spec(stages: &[(&str, Amount)]) -> Spec {
        let stage = |&(name, amount): &(&str, Amount)| Stage { kind: *kind(name).unwrap(), amount };
        Spec {
            name: "test".into(),
            workload: Workload::Log,
            stages: stages.iter().map(stage).collect(),
            options: Options::default(),
            out: PathBuf::from("out"),
            cluster: cluster::Plan::default(),
            liveness: LivenessBounds::default(),
            searched: false,
        }
    }

    #[test]
    fn a_plan_requires_its_faults() {
        let spec = spec(&[
            ("kill-leader", Amount::Times(10)),
            ("disk-full-one", Amount::Times(1)),
            ("disk-full-all", Amount::Times(2)),
            ("chaos", Amount::Time(Duration::from_mins(1))),
        ]);
        let plan = spec.plan();
        let required: Vec<(&str, u64)> = plan.faults.iter().map(|f| (f.fault.as_str(), f.times)).collect();
        assert_eq!(required, [("kill-leader", 10), ("disk-full", 3)]);
        assert_eq!(plan.queues.len(), 6);
        assert!(plan.ok_sends_min > 0 && spec.time() > Duration::from_mins(2));
    }

    #[test]
    fn clocks_are_faked_where_they_jump() {
        assert!(spec(&[("clock-jump", Amount::Times(1))]).cluster_plan().fake_clocks);
        assert!(!spec(&[("kill-leader", Amount::Times(1))]).cluster_plan().fake_clocks);
    }
}
