//! How soon a group accepts writes again after kill -9 of its leader, seen by a client that asks the survivors.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tests::cluster::{Cluster, Plan};
use tests::history::quantile;
use tests::remoting::{self, Connection, Stored};
use tests::runner::{Requirement, Scratch, Test, test};
use tests::wait;

const GROUP: &str = "broker-a";
const KILLS: usize = 20;
/// The goals of performance.md.
const P50: Duration = Duration::from_millis(700);
const P95: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_millis(1500);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("failover::twenty_kills_of_a_leader", &[Requirement::OwnCluster], |scratch| {
            // It is reaped afterwards: how long it takes to die is not the survivors' affair.
            rounds(scratch, "kill -9", |cluster, leader| cluster.signal(leader, Signal::KILL))
        })
        .calm(),
        test(
            "failover::twenty_stops_of_a_leader",
            &[Requirement::OwnCluster, Requirement::Long],
            |scratch| {
                // it holds its connections and answers nothing
                rounds(scratch, "SIGSTOP", |cluster, leader| cluster.signal(leader, Signal::STOP))
            },
        )
        .calm(),
        test(
            "failover::a_restarted_nameserver_knows_all",
            &[Requirement::OwnCluster],
            a_restarted_nameserver_knows_all,
        )
        .calm(),
    ]
}

fn rounds(scratch: &Scratch, what: &str, fault: fn(&mut Cluster, u64) -> Result<()>) -> Result<()> {
    // No preferred leader: nothing but the fault moves leadership while it is measured.
    let mut cluster = Cluster::start(scratch, Plan { preferred_leaders: false, ..Plan::new(3, 1) })?;
    let topic = scratch.unique("t");
    cluster.create_topic(&topic, 1)?;
    let mut outages = Vec::new();
    let mut acknowledged = Vec::new();
    for round in 0..KILLS {
        let leader = cluster.leader(GROUP)?;
        let survivors: Vec<String> = cluster
            .running()
            .into_iter()
            .filter(|&node| node != leader)
            .map(|node| cluster.address(node, GROUP).to_owned())
            .collect();
        let struck = Instant::now();
        fault(&mut cluster, leader)?;
        let (after, stored) = first_write(&survivors, &topic, round, struck)?;
        outages.push(after.as_nanos() as i64);
        acknowledged.extend(stored);
        if what == "SIGSTOP" {
            cluster.signal(leader, Signal::CONT)?;
        } else {
            cluster.kill(leader)?;
            cluster.start_node(leader)?;
        }
        cluster.wait_whole().with_context(|| format!("after round {round}"))?;
    }
    let ms = |q| Duration::from_nanos(quantile(&outages, q) as u64);
    scratch.report(&format!("{KILLS} × {what}: p50 {:?}, p95 {:?}, max {:?}", ms(0.5), ms(0.95), ms(1.0)));

    // every acknowledged message is at its place on every node
    for node in cluster.running() {
        let mut connection = Connection::open(cluster.address(node, GROUP), Duration::from_secs(3))?;
        for (body, stored) in &acknowledged {
            let read = wait::until("the message", Duration::from_secs(5), || {
                Ok(connection.pull(&topic, stored.queue, stored.offset)?.into_iter().next())
            })?;
            ensure!(
                read.body == body.as_bytes() && read.offset == stored.offset,
                "node {node}: {body} is {read:?}"
            );
        }
    }
    ensure!(ms(0.5) <= P50, "p50 {:?}, allowed {P50:?}", ms(0.5));
    ensure!(ms(0.95) <= P95, "p95 {:?}, allowed {P95:?}", ms(0.95));
    ensure!(ms(1.0) <= MAX, "max {:?}, allowed {MAX:?}", ms(1.0));
    Ok(())
}

/// A nameserver comes back empty: a client that polls it then must not lose queues for long (reliability.md F20: 5 s).
fn a_restarted_nameserver_knows_all(scratch: &Scratch) -> Result<()> {
    const REBUILT: Duration = Duration::from_secs(5);
    let mut cluster = Cluster::start(scratch, Plan { preferred_leaders: false, ..Plan::new(3, 1) })?;
    let topic = scratch.unique("t");
    cluster.create_topic(&topic, 1)?;
    let leader = cluster.leader(GROUP)?;
    let follower = cluster.running().into_iter().find(|&node| node != leader).context("no follower")?;
    cluster.kill(follower)?;
    cluster.start_node(follower)?;
    let namesrv = cluster.nameserver(follower).context("every node is a nameserver")?.to_owned();
    let answers = || remoting::route(&namesrv, &topic);
    wait::until("the nameserver answers", Duration::from_secs(10), || answers().map(Some))?;
    let started = Instant::now();
    wait::until_true("the route of the topic, with all members", REBUILT, || {
        let route = answers()?;
        let members = route.get(GROUP).map_or(0, |members| members.len());
        ensure!(members == 3, "{route:?}");
        Ok(true)
    })?;
    scratch
        .report(&format!("the route is whole {:?} after the nameserver's first answer", started.elapsed()));
    Ok(())
}

/// A writer for each survivor; the time from `struck` to the first acknowledged write, and all acknowledged writes.
fn first_write(
    survivors: &[String],
    topic: &str,
    round: usize,
    struck: Instant,
) -> Result<(Duration, Vec<(String, Stored)>)> {
    let done = AtomicBool::new(false);
    let writes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for (n, address) in survivors.iter().enumerate() {
            let (done, writes) = (&done, &writes);
            scope.spawn(move || {
                let mut attempt = 0;
                while !done.load(Ordering::SeqCst) && struck.elapsed() < Duration::from_secs(20) {
                    attempt += 1;
                    let body = format!("{round}-{n}-{attempt}");
                    let sent = Connection::open(address, Duration::from_secs(3))
                        .and_then(|mut connection| connection.send(topic, 0, body.as_bytes()));
                    match sent {
                        Ok(stored) => {
                            done.store(true, Ordering::SeqCst);
                            let mut writes = writes.lock().unwrap_or_else(PoisonError::into_inner);
                            writes.push((struck.elapsed(), body, stored));
                        }
                        // a client's pace; a node that refuses at once is not to be flooded
                        Err(_) => thread::sleep(Duration::from_millis(5)),
                    }
                }
            });
        }
    });
    let writes = writes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let first = writes.iter().map(|(after, ..)| *after).min().context("no write within 20 s")?;
    Ok((first, writes.into_iter().map(|(_, body, stored)| (body, stored)).collect()))
}
