//! A group whose leader has an address that moves (virtual IP, Service, balancer): sends that are pinned to the group go on
//! when its leader dies, because the address the client knows stays good (clients.md, lever 2). A dead node comes back, and
//! it works a second time: nameservers know no node by an address that it has left.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use tests::cluster::{Cluster, Plan};
use tests::history::Send;
use tests::relay::Relay;
use tests::runner::{Requirement, Scratch, Test, test};
use tests::scenario::Scenario;
use tests::{history, java, ports};

const GROUP: &str = "broker-a";
/// Another loopback address than the nodes have.
const VIRTUAL: &str = "127.0.0.9";
const PINNED: [&str; 3] = ["pinned", "pinned-async", "explicit"];

pub(crate) fn tests() -> Vec<Test> {
    let versions = java::versions();
    let needs = [Requirement::Java, Requirement::OwnCluster];
    let pinned = test("virtual_address::pinned_sends_go_on", &needs, move |scratch| {
        pinned_sends_go_on(scratch, &versions)
    });
    vec![pinned.calm()]
}

/// From the death of a leader until the address has moved, in nanoseconds since 1970.
struct Outage {
    from: i64,
    to: i64,
}

impl Outage {
    /// A pinned send has one attempt: what was in flight in an outage may fail, and the first one after it that finds the
    /// old connection reset. `sends` are those of one producer, by their start.
    fn excuses(&self, send: &Send, sends: &[Send]) -> bool {
        let is_first_after =
            || sends.iter().find(|s| s.start > self.to).is_some_and(|s| s.start == send.start);
        (send.start <= self.to && send.end >= self.from) || is_first_after()
    }
}

fn pinned_sends_go_on(scratch: &Scratch, versions: &[String]) -> Result<()> {
    let address = format!("{VIRTUAL}:{}", ports::free()?);
    // Leadership stays where it is, so that another node leads when the first one is back.
    let mut plan = Plan { preferred_leaders: false, ..Plan::new(3, 1) };
    plan.advertise_leader.insert(GROUP.to_owned(), address.clone());
    let mut cluster = Cluster::prepare(scratch.dir(), plan)?;
    let relay = Relay::start(&address, cluster.address(1, GROUP))?;
    for node in 1..=3 {
        cluster.start_node(node)?;
    }
    cluster.wait_ready()?;
    let topic = scratch.unique("t");
    cluster.create_topic(&topic, 4)?;

    let modes = PINNED.join(",");
    let mut producers = Vec::new();
    for version in versions {
        let kit = java::kit(version)?;
        let name = format!("producer-{}", kit.version);
        let arguments =
            ["failover-producer", "--topic", &topic, "--modes", &modes, "--rate", "20", "--prefix", &name];
        let mut producer = kit.scenario(scratch.dir(), &name, &cluster.namesrv(), &arguments)?;
        producer.wait_until("sends", Duration::from_secs(30), |p| p.sends().len() > 60)?;
        producers.push((kit.version, producer));
    }
    let first = cluster.leader(GROUP)?;
    // any survivor will do, also one that does not lead: it forwards
    let survivor = if first == 1 { 2 } else { 1 };
    let mut outages = vec![fail_over(&mut cluster, &relay, survivor, &mut producers)?];
    // Both times as many members as nodes that run: an heir has left its own address for the one that moves.
    cluster.wait_whole()?;
    cluster.start_node(first)?;
    cluster.wait_whole()?;
    let second = cluster.leader(GROUP)?;
    ensure!(second != first, "node {first} leads again");
    outages.push(fail_over(&mut cluster, &relay, first, &mut producers)?);
    cluster.wait_whole()?;

    for (version, producer) in &mut producers {
        producer.finish()?;
        for mode in PINNED {
            let sends = history::of_mode(&producer.sends(), mode);
            let (gap, _) = history::longest_gap(&sends).context("no sends")?;
            let failed = history::failed(&sends);
            scratch.report(&format!("{version} {mode}: {} failed, gap {} ms", failed.len(), gap / 1_000_000));
            let mut by_start = sends.clone();
            by_start.sort_by_key(|send| send.start);
            let excused = |send: &Send| outages.iter().any(|outage| outage.excuses(send, &by_start));
            let unexcused: Vec<_> = sends.into_iter().filter(|send| !send.ok && !excused(send)).collect();
            ensure!(
                unexcused.is_empty(),
                "{version} {mode}: failed though the address was good: {unexcused:?}"
            );
            ensure!(gap <= 1_500_000_000, "{version} {mode}: a gap of {} ms", gap / 1_000_000);
        }
    }
    Ok(())
}

/// Kills the leader, moves the address to `heir` (which must run and need not lead), and waits until every kind of send
/// goes on.
fn fail_over(
    cluster: &mut Cluster,
    relay: &Relay,
    heir: u64,
    producers: &mut [(String, Scenario)],
) -> Result<Outage> {
    let now = || Ok::<_, anyhow::Error>(UNIX_EPOCH.elapsed()?.as_nanos() as i64);
    let leader = cluster.leader(GROUP)?;
    let from = now()?;
    cluster.kill(leader)?;
    relay.move_to(cluster.address(heir, GROUP))?;
    let to = now()?;
    let after = to + Duration::from_secs(3).as_nanos() as i64;
    for (_, producer) in producers {
        producer.wait_until("sends after the move", Duration::from_secs(30), |p| {
            let sends = p.sends();
            PINNED.iter().all(|mode| history::of_mode(&sends, mode).iter().any(|s| s.ok && s.start > after))
        })?;
    }
    Ok(Outage { from, to })
}
