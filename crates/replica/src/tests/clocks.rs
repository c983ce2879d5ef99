//! Log time between two entries (log.md 15).

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::{Cluster, command, eventually};
use crate::{GroupConfig, HostConfig, WallClock};

const HOUR: u64 = 3600 * 1000;

/// Three nodes, each with a clock of its own.
async fn three() -> (Cluster, BTreeMap<u64, WallClock>) {
    let mut cluster = Cluster::plan(3);
    let clocks: BTreeMap<u64, WallClock> = (1..=3).map(|node| (node, WallClock::default())).collect();
    let starts = clocks.iter().map(|(node, clock)| {
        let with_clock = |_: &mut HostConfig, group: &mut GroupConfig| group.wall_clock = clock.clone();
        cluster.open_as(*node, &with_clock)
    });
    let started = futures::future::join_all(starts).await;
    for (node, started) in (1..).zip(started) {
        cluster.nodes.insert(node, started.unwrap());
    }
    (cluster, clocks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_group_goes_on_with_its_clocks() {
    let (cluster, clocks) = three().await;
    let leader = cluster.leader().await;
    let group = cluster.group(leader);
    group.propose_command(command("t:1")).await.unwrap();
    let start = group.log_now_ms();
    // One clock that is wrong moves nothing.
    let wrong = i64::try_from(HOUR).unwrap();
    clocks[&leader].set_ahead_ms(wrong);
    for _ in 0..10 {
        let now = group.log_now_ms();
        assert!(now < start + HOUR / 2, "{} ms in the future", now - start);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = group.log().state().last;
    for clock in clocks.values() {
        clock.set_ahead_ms(wrong);
    }
    // As after an hour in which the group was down: a majority says so, and no entry is needed.
    eventually(|| async { (group.log_now_ms() >= start + HOUR).then_some(()) }).await;
    assert_eq!(group.log().state().last, before, "nothing was stored");
    // A clock that is set back: log time stands, and does not fall below the last entry's.
    group.propose_command(command("u:1")).await.unwrap();
    for clock in clocks.values() {
        clock.set_ahead_ms(0);
    }
    assert!(group.log_now_ms() >= start + HOUR);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_of_an_idle_group_does_not_fall_behind() {
    let (mut cluster, clocks) = three().await;
    let leader = cluster.leader().await;
    cluster.group(leader).propose_command(command("t:1")).await.unwrap();
    let start = cluster.group(leader).log_now_ms();
    for clock in clocks.values() {
        clock.set_ahead_ms(i64::try_from(HOUR).unwrap());
    }
    cluster.stop(leader).await;
    let next = eventually(|| async {
        let leads = |node: &u64| cluster.group(*node).role().ready;
        cluster.nodes.keys().copied().find(leads)
    })
    .await;
    // Its first entry is a blank, which has the log time of the last one.
    let group = cluster.group(next);
    eventually(|| async { (group.log_now_ms() >= start + HOUR).then_some(()) }).await;
}
