//! One seed: set up, chaos, heal, release what waits, converge, read everything back; then the power fails everywhere, and once
//! more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;

use crate::clock;
use crate::cluster::Cluster;
use crate::disk::Ending;
use crate::faults::Nemesis;
use crate::oracle::{Answer, Oracle, Queue, Replica};
use crate::plan::{ALL_TOPICS, LOCKERS, NODES, ORDERLY, POPPERS, Plan, QUEUES, READERS, SOURCES, TOPICS};
use crate::served::{Directory, NoAnswer, Served};
use crate::tables::body_of;
use crate::trace::{self, say};
use crate::waiting::{consume_in_order, release_all};
use crate::workload::{Client, consumer_of};

/// A new group forms, elects and has its topics within this.
const SETUP_MS: u64 = 20_000;
/// Once healed, every queue takes a message within this, and all replicas are equal within it.
const HEALED_MS: u64 = 20_000;

pub(crate) struct Report {
    pub(crate) violations: Vec<String>,
    /// For the runner: `key=value`, separated by blanks.
    pub(crate) line: String,
}

pub(crate) fn run(seed: u64, is_quiet: bool) -> Report {
    crate::panics::watch();
    trace::open(is_quiet);
    let plan = Plan::of(seed);
    say!("{plan:?}");
    let oracle = Oracle::new();
    let mut nemesis = Nemesis::new(seed);
    let mut cluster = Cluster::new(plan, oracle.clone());
    if let Err(what) = phases(&mut cluster, &mut nemesis, &oracle) {
        oracle.violated("progress", &what);
    }
    let violations = oracle.violations();
    let counts = oracle.counts();
    let faults = nemesis.summary();
    let now = clock::now_ms();
    let (lines, hash) = trace::close(!violations.is_empty());
    let line = format!(
        "seed={seed} ok={} ms={now} entries={} terms={} voids={} coupled={} coupled_voids={} popped={} locked={} in_order={} \
         again={} resets={} told={} attempts={} installed={} \
         acknowledged={} refused={} unknown={} pulled={} rots={} faults={faults} lines={lines} hash={hash:016x}",
        u8::from(violations.is_empty()),
        counts.entries,
        counts.terms,
        counts.voids,
        counts.coupled,
        counts.coupled_voids,
        counts.popped,
        counts.locked,
        counts.in_order,
        counts.again,
        counts.resets,
        counts.told,
        counts.attempts,
        counts.installed,
        counts.acknowledged,
        counts.refused,
        counts.unknown,
        counts.pulled,
        cluster.rots,
    );
    Report { violations, line }
}

fn phases(cluster: &mut Cluster, nemesis: &mut Nemesis, oracle: &Arc<Oracle>) -> Result<(), String> {
    for node in 1..=NODES {
        cluster.start(node);
    }
    set_up(cluster)?;

    say!("chaos");
    let stop = Arc::new(AtomicBool::new(false));
    let ended = Arc::new(AtomicUsize::new(0));
    let clients = cluster.plan.clients;
    for number in 1..=clients {
        let directory = cluster.directory.clone();
        let client = Client::new(number, &cluster.plan, directory, oracle.clone(), stop.clone());
        let ended = ended.clone();
        cluster.spawn(async move {
            client.run().await;
            ended.fetch_add(1, Ordering::Relaxed);
        });
    }
    let until = clock::now_ms() + cluster.plan.chaos_ms;
    while clock::now_ms() < until {
        nemesis.tick(cluster);
        cluster.tick();
        if oracle.is_violated() {
            return Ok(());
        }
    }

    say!("healed");
    nemesis.heal(cluster);
    stop.store(true, Ordering::Relaxed);
    let are_done = || ended.load(Ordering::Relaxed) == clients as usize;
    until_done(cluster, HEALED_MS, "clients have their answers", &are_done)?;
    let replicas = settle(cluster, oracle)?;
    let Some(replicas) = replicas else { return Ok(()) };
    oracle.ended(&replicas);

    say!("the power fails everywhere");
    for node in 1..=NODES {
        cluster.end(node, Ending::Power);
    }
    let Some(replicas) = settle(cluster, oracle)? else { return Ok(()) };
    oracle.ended(&replicas);
    if oracle.is_violated() {
        return Ok(());
    }
    match crate::rot::damage(cluster) {
        Ok(is_done) => cluster.rots = u64::from(is_done),
        Err(what) => oracle.violated("damage_is_told", &what),
    }
    Ok(())
}

/// Every queue takes a message, what waits is released, what is in order is consumed, and the replicas come to rest. `None`: something is violated meanwhile.
fn settle(cluster: &mut Cluster, oracle: &Arc<Oracle>) -> Result<Option<Vec<Replica>>, String> {
    let left = Arc::new(AtomicUsize::new(0));
    for group in 0..cluster.plan.groups {
        for topic in TOPICS {
            for queue in 0..QUEUES {
                left.fetch_add(1, Ordering::Relaxed);
                let queue = (group, topic.to_owned(), queue);
                let (directory, oracle, left) = (cluster.directory.clone(), oracle.clone(), left.clone());
                let since = clock::now_ms();
                cluster.spawn(async move {
                    send_one(&directory, &oracle, queue, since).await;
                    left.fetch_sub(1, Ordering::Relaxed);
                });
            }
        }
    }
    let are_done = || left.load(Ordering::Relaxed) == 0;
    until_done(cluster, HEALED_MS, "every queue takes a message", &are_done)?;
    if oracle.is_violated() {
        return Ok(None);
    }
    for group in 0..cluster.plan.groups {
        for topic in SOURCES {
            for queue in 0..QUEUES {
                left.fetch_add(1, Ordering::Relaxed);
                let (directory, oracle, left) = (cluster.directory.clone(), oracle.clone(), left.clone());
                let name = format!("end-{}-{group}-{topic}-{queue}", clock::now_ms());
                cluster.spawn(async move {
                    release_all(&directory, &oracle, &(group, topic.to_owned(), queue), &name).await;
                    left.fetch_sub(1, Ordering::Relaxed);
                });
            }
        }
    }
    for group in 0..cluster.plan.groups {
        for queue in 0..QUEUES {
            left.fetch_add(1, Ordering::Relaxed);
            let (directory, oracle, left) = (cluster.directory.clone(), oracle.clone(), left.clone());
            let name = format!("end-{}-{group}-{queue}", clock::now_ms());
            cluster.spawn(async move {
                consume_in_order(&directory, &oracle, group, queue, &name).await;
                left.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
    until_done(cluster, HEALED_MS, "what waits is released, and what is in order consumed", &are_done)?;
    if oracle.is_violated() {
        return Ok(None);
    }
    let replicas = cluster.replicas(HEALED_MS);
    if oracle.is_violated() {
        return Ok(None);
    }
    let replicas = replicas?;
    let held: usize = replicas.iter().flat_map(|replica| replica.queues.values()).map(Vec::len).sum();
    say!("at rest: {} replicas hold {held} messages", replicas.len());
    for replica in &replicas {
        say!(
            "n{} group {}: {} entries, hash {:016x}",
            replica.node,
            replica.group,
            replica.last_index,
            replica.log_hash
        );
    }
    Ok(Some(replicas))
}

/// Goes on, nodes kept up, until something is done.
fn until_done(
    cluster: &mut Cluster,
    within_ms: u64,
    what: &str,
    is_done: &dyn Fn() -> bool,
) -> Result<(), String> {
    let until = clock::now_ms() + within_ms;
    while !is_done() {
        if cluster.oracle.is_violated() {
            return Ok(());
        }
        if clock::now_ms() >= until {
            return Err(format!("not within {within_ms} ms: {what}"));
        }
        cluster.keep_up();
        cluster.tick();
    }
    Ok(())
}

/// Topics and consumer groups in every Raft group.
fn set_up(cluster: &mut Cluster) -> Result<(), String> {
    let left = Arc::new(AtomicUsize::new(0));
    let shared = [POPPERS, LOCKERS, ORDERLY, READERS].map(str::to_owned);
    let consumers: Vec<String> = (0..=cluster.plan.clients).map(consumer_of).chain(shared).collect();
    for group in 0..cluster.plan.groups {
        left.fetch_add(1, Ordering::Relaxed);
        let (directory, consumers, left) = (cluster.directory.clone(), consumers.clone(), left.clone());
        let oracle = cluster.oracle.clone();
        cluster.spawn(async move {
            for topic in ALL_TOPICS {
                let (number, numbers) = prepare(&directory, group, topic, &consumers).await;
                oracle.named(group, number, topic);
                for (consumer, number) in consumers.iter().zip(numbers) {
                    oracle.named_consumer(group, number, consumer);
                }
            }
            left.fetch_sub(1, Ordering::Relaxed);
        });
    }
    until_done(cluster, SETUP_MS, "set up", &|| left.load(Ordering::Relaxed) == 0)
}

/// The numbers of the topic and of the consumer groups.
async fn prepare(
    directory: &Directory,
    group: usize,
    topic: &'static str,
    consumers: &[String],
) -> (u32, Vec<u32>) {
    let mut node = 1;
    loop {
        let consumers = consumers.to_vec();
        let request = move |served: Served| served.prepare(topic, QUEUES, consumers).boxed();
        if let Ok(Ok(numbers)) = directory.ask(node, group, 0, Some(1), request).await {
            return numbers;
        }
        node = node % NODES + 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends until a message is acknowledged.
async fn send_one(directory: &Directory, oracle: &Oracle, queue: Queue, since: u64) {
    for turn in 0.. {
        let values = vec![format!("end-{since}-{}-{}-{}.{turn}", queue.0, queue.1, queue.2)];
        let bodies = vec![body_of(&values[0], 10)];
        oracle.send(&queue, &values);
        let (group, topic, number) = (queue.0, queue.1.clone(), queue.2);
        let request = move |served: Served| served.send(topic, number, bodies).boxed();
        match directory.ask(turn % NODES + 1, group, 0, Some(1), request).await {
            Ok(Ok(receipt)) => {
                let (offset, position) = (receipt.first_offset.0, receipt.position.0);
                oracle.answered(&Answer::Acknowledged { queue, values, offset, position });
                return;
            }
            Ok(Err(error)) if error.is_definite() => oracle.answered(&Answer::Refused { values }),
            Err(NoAnswer::NotSent) => oracle.answered(&Answer::Refused { values }),
            Ok(Err(_)) | Err(NoAnswer::Unknown) => oracle.forget(&values),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
