//! A group whose leader has an address that moves (virtual IP, Service, balancer): sends that are pinned to the group go on
//! when its leader dies, because the address the client knows stays good (clients.md, lever 2).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cluster::{Cluster, Plan};
use tests::relay::Relay;
use tests::runner::{Requirement, Scratch, Test, test};
use tests::{history, java, ports};

const GROUP: &str = "broker-a";
/// Another loopback address than the nodes have.
const VIRTUAL: &str = "127.0.0.9";
const PINNED: [&str; 3] = ["pinned", "pinned-async", "explicit"];

pub(crate) fn tests() -> Vec<Test> {
    let versions = java::versions();
    let needs = [Requirement::Java, Requirement::OwnCluster];
    vec![test("virtual_address::pinned_sends_go_on", &needs, move |scratch| {
        pinned_sends_go_on(scratch, &versions)
    })]
}

fn pinned_sends_go_on(scratch: &Scratch, versions: &[String]) -> Result<()> {
    let address = format!("{VIRTUAL}:{}", ports::free()?);
    let mut plan = Plan::new(3, 1);
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
    let leader = cluster.leader(GROUP)?;
    cluster.kill(leader)?;
    // any survivor will do, also one that does not lead: it forwards
    let heir = cluster.running()[0];
    relay.move_to(cluster.address(heir, GROUP))?;
    let moved = std::time::UNIX_EPOCH.elapsed()?.as_nanos() as i64;
    for (version, producer) in &mut producers {
        let after = moved + Duration::from_secs(3).as_nanos() as i64;
        producer.wait_until("sends after the move", Duration::from_secs(30), |p| {
            PINNED
                .iter()
                .all(|mode| history::of_mode(&p.sends(), mode).iter().any(|s| s.ok && s.start > after))
        })?;
        producer.finish()?;
        for mode in PINNED {
            let sends = history::of_mode(&producer.sends(), mode);
            let (gap, _) = history::longest_gap(&sends).context("no sends")?;
            let failed = history::failed(&sends);
            scratch.report(&format!("{version} {mode}: {} failed, gap {} ms", failed.len(), gap / 1_000_000));
            // What was in flight when the address moved may fail: a pinned send has one attempt.
            let late: Vec<_> = sends.into_iter().filter(|send| !send.ok && send.start > moved).collect();
            ensure!(late.is_empty(), "{version} {mode}: failed after the address had moved: {late:?}");
            ensure!(gap <= 1_500_000_000, "{version} {mode}: a gap of {} ms", gap / 1_000_000);
        }
    }
    Ok(())
}
