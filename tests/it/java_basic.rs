//! Stock Java clients against a calm cluster: each kind of send, tags, rebalance, broadcasting.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cluster::Running;
use tests::history::{self, Delivery, Duplicates, Send};
use tests::java;
use tests::remoting::{Connection, LOCK_BATCH_MQ, REQUEST_CODE_NOT_SUPPORTED};
use tests::runner::{Requirement, Scratch, Test, skip, test};
use tests::scenario::Scenario;

const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) fn tests() -> Vec<Test> {
    type Check = fn(&Scratch, &str) -> Result<()>;
    let checks: [(&str, Check); 5] = [
        ("sends", sends),
        ("tags", tags),
        ("rebalance", rebalance),
        ("broadcasting", broadcasting),
        ("orderly", orderly),
    ];
    let mut tests = Vec::new();
    for version in java::versions() {
        for (name, check) in checks {
            let version = version.clone();
            let full = format!("java_basic::{name}_{}", version.replace('.', "_"));
            tests.push(test(full, &[Requirement::Java], move |scratch| check(scratch, &version)));
        }
    }
    tests
}

/// All acknowledged, all delivered where the acknowledgement said, and nothing else.
fn assert_exact(sends: &[Send], deliveries: &[Delivery]) -> Result<()> {
    let none = Vec::<String>::new();
    ensure!(history::failed(sends) == none, "failed sends: {:?}", history::failed(sends));
    ensure!(history::lost(sends, deliveries) == none, "lost: {:?}", history::lost(sends, deliveries));
    ensure!(history::lost_oneway(sends, deliveries) == 0, "lost one-way sends");
    let strange = history::unexpected(sends, deliveries);
    ensure!(strange == none, "unexpected: {strange:?}");
    let contradictions = history::contradictions(sends, deliveries);
    ensure!(contradictions == none, "contradictions: {contradictions:?}");
    ensure!(history::duplicates(deliveries) == Duplicates::default(), "duplicates: {deliveries:?}");
    Ok(())
}

fn by_value(deliveries: &[Delivery]) -> BTreeMap<&str, &Delivery> {
    deliveries.iter().map(|d| (d.value.as_str(), d)).collect()
}

fn sends(scratch: &Scratch, version: &str) -> Result<()> {
    const EACH: usize = 24;
    const MODES: [&str; 7] = ["sync", "async", "oneway", "batch", "pinned", "pinned-async", "explicit"];
    // above compressMsgBodyOverHowmuch: the client sends it compressed
    const LARGE: usize = 20_000;

    let kit = java::kit(version)?;
    let cluster = Running::get()?;
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    let queues = cluster.create_topic(&topic, 4)?;
    let total = EACH * (MODES.len() + 1);

    let mut consumer = kit.scenario(
        scratch.dir(),
        "consumer",
        cluster.namesrv(),
        &["consume", "--topic", &topic, "--group", &group, "--until", &total.to_string()],
    )?;
    consumer.wait_assigned(queues)?;
    let count = EACH.to_string();
    let common =
        ["send", "--topic", &topic, "--count", &count, "--keys", "k", "--threads", "3", "--shards", "6"];
    let modes = MODES.join(",");
    let mut small = kit.scenario(
        scratch.dir(),
        "small",
        cluster.namesrv(),
        &[&common[..], &["--mode", &modes, "--tags", "A,B"]].concat(),
    )?;
    let size = LARGE.to_string();
    let mut large = kit.scenario(
        scratch.dir(),
        "large",
        cluster.namesrv(),
        &[&common[..], &["--mode", "sync", "--size", &size, "--prefix", "large"]].concat(),
    )?;
    small.join(PATIENCE)?;
    large.join(PATIENCE)?;
    consumer.join(PATIENCE)?;

    let sends = [small.sends(), large.sends()].concat();
    let deliveries = consumer.deliveries();
    ensure!(sends.iter().map(|s| s.values.len()).sum::<usize>() == total, "{} sends", sends.len());
    assert_exact(&sends, &deliveries)?;

    let delivered = by_value(&deliveries);
    for send in &sends {
        for (value, msg_id) in send.values.iter().zip(send.msg_id.as_deref().unwrap_or("").split(',')) {
            let delivery = delivered[value.as_str()];
            let number = value.rsplit('-').next().context("a value without number")?;
            ensure!(delivery.keys.as_deref() == Some(&format!("k-{number}")), "keys: {delivery:?}");
            // 5.x gives a batch an id of its own, which Apache's broker writes over those of its messages
            let own_id = send.mode != "batch" && !msg_id.is_empty();
            ensure!(!own_id || delivery.msg_id == msg_id, "{msg_id} became {delivery:?}");
            let large = value.starts_with("large");
            ensure!(delivery.size == if large { LARGE } else { value.len() }, "size: {delivery:?}");
            ensure!(delivery.tags.is_some() != large, "tags: {delivery:?}");
        }
    }
    // the selector's six shards are at most six queues; an explicit queue is one
    for (mode, most) in [("pinned", 6), ("pinned-async", 6), ("explicit", 1)] {
        let places = history::of_mode(&sends, mode).into_iter().filter_map(|send| send.place);
        let used: BTreeSet<(String, u32)> = places.map(|place| (place.broker, place.queue)).collect();
        ensure!((1..=most).contains(&used.len()), "{mode} used {used:?}");
    }
    // round robin reaches every queue
    let used: BTreeSet<_> = deliveries.iter().map(|d| (&d.place.broker, d.place.queue)).collect();
    ensure!(used.len() == queues, "only {used:?} of {queues} queues used");
    Ok(())
}

fn tags(scratch: &Scratch, version: &str) -> Result<()> {
    let kit = java::kit(version)?;
    let cluster = Running::get()?;
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    let queues = cluster.create_topic(&topic, 2)?;
    let start = ["consume", "--topic", &topic];
    let dir = scratch.dir();
    let mut some = kit.scenario(
        dir,
        "some",
        cluster.namesrv(),
        &[&start[..], &["--group", &group, "--tags", "A || C"]].concat(),
    )?;
    let other = format!("{group}_all");
    let mut all =
        kit.scenario(dir, "all", cluster.namesrv(), &[&start[..], &["--group", &other]].concat())?;
    some.wait_assigned(queues)?;
    all.wait_assigned(queues)?;
    let send = ["send", "--topic", &topic, "--count", "30", "--tags", "A,B,C"];
    let mut producer = kit.scenario(dir, "producer", cluster.namesrv(), &send)?;
    producer.join(PATIENCE)?;
    all.wait_until("30 messages", PATIENCE, |s| s.deliveries().len() >= 30)?;
    some.wait_until("20 messages", PATIENCE, |s| s.deliveries().len() >= 20)?;
    all.finish()?;
    some.finish()?;
    assert_exact(&producer.sends(), &all.deliveries())?;
    let wanted: BTreeSet<String> = (0..30).filter(|n| n % 3 != 1).map(|n| format!("m-sync-{n}")).collect();
    let deliveries = some.deliveries();
    let got: BTreeSet<String> = deliveries.iter().map(|d| d.value.clone()).collect();
    ensure!(got == wanted, "A || C received {got:?}");
    ensure!(deliveries.len() == 20, "duplicates: {deliveries:?}");
    Ok(())
}

/// The queues of `consumers` are disjoint, complete, and fairly split.
fn fairly_split(consumers: &[&Scenario], queues: usize) -> bool {
    let each: Vec<Vec<String>> = consumers.iter().map(|c| c.assigned()).collect();
    let all: BTreeSet<&String> = each.iter().flatten().collect();
    let sizes = each.iter().map(Vec::len);
    all.len() == queues
        && each.iter().flatten().count() == queues
        && sizes.clone().max().unwrap_or(0) - sizes.min().unwrap_or(0) <= 1
}

fn rebalance(scratch: &Scratch, version: &str) -> Result<()> {
    let kit = java::kit(version)?;
    let cluster = Running::get()?;
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    let queues = cluster.create_topic(&topic, 4)?;
    let arguments = ["consume", "--topic", &topic, "--group", &group];
    let consumer = |name| kit.scenario(scratch.dir(), name, cluster.namesrv(), &arguments);
    let mut first = consumer("first")?;
    first.wait_assigned(queues)?;
    let mut producer = kit.scenario(
        scratch.dir(),
        "producer",
        cluster.namesrv(),
        &["failover-producer", "--topic", &topic, "--modes", "sync", "--rate", "50"],
    )?;
    producer.wait_started()?;

    let mut second = consumer("second")?;
    second.wait_until("a share of the queues", PATIENCE, |second| fairly_split(&[&first, second], queues))?;
    // an orderly leave tells the broker; the other is told at once
    first.finish()?;
    second.wait_assigned(queues)?;
    let mut third = consumer("third")?;
    third.wait_until("a share of the queues", PATIENCE, |third| fairly_split(&[&second, third], queues))?;
    // a killed consumer's closed connection is noticed
    third.kill()?;
    second.wait_assigned(queues)?;

    producer.finish()?;
    let sends = producer.sends();
    let everything = |s: &Scenario| {
        let deliveries = [first.deliveries(), s.deliveries(), third.deliveries()].concat();
        history::lost(&sends, &deliveries).is_empty()
    };
    second.wait_until("every message", PATIENCE, everything)?;
    second.finish()?;
    let deliveries = [first.deliveries(), second.deliveries(), third.deliveries()].concat();
    ensure!(history::failed(&sends).is_empty(), "failed sends: {:?}", history::failed(&sends));
    ensure!(history::skipped(&deliveries).is_empty(), "skipped: {:?}", history::skipped(&deliveries));
    ensure!(history::contradictions(&sends, &deliveries).is_empty(), "contradictions");
    scratch.report(&format!("{} sends, {:?}", sends.len(), history::duplicates(&deliveries)));
    Ok(())
}

fn broadcasting(scratch: &Scratch, version: &str) -> Result<()> {
    let kit = java::kit(version)?;
    let cluster = Running::get()?;
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    let queues = cluster.create_topic(&topic, 2)?;
    let arguments = ["consume", "--topic", &topic, "--group", &group, "--broadcasting", "--until", "20"];
    let consumer = |name| kit.scenario(scratch.dir(), name, cluster.namesrv(), &arguments);
    let mut consumers = [consumer("first")?, consumer("second")?];
    for consumer in &mut consumers {
        consumer.wait_assigned(queues)?;
    }
    let send = ["send", "--topic", &topic, "--count", "20"];
    let mut producer = kit.scenario(scratch.dir(), "producer", cluster.namesrv(), &send)?;
    producer.join(PATIENCE)?;
    for consumer in &mut consumers {
        consumer.join(PATIENCE)?;
        assert_exact(&producer.sends(), &consumer.deliveries())?;
    }
    Ok(())
}

/// Messages of one shard arrive in the order in which they were sent.
fn orderly(scratch: &Scratch, version: &str) -> Result<()> {
    let kit = java::kit(version)?;
    let cluster = Running::get()?;
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    let master = cluster.master(&cluster.groups()[0])?;
    if Connection::open(&master, PATIENCE)?.ask(LOCK_BATCH_MQ, &[], b"{}")?.code == REQUEST_CODE_NOT_SUPPORTED
    {
        return Err(skip(Requirement::Feature, format!("request {LOCK_BATCH_MQ}, order locks")));
    }
    let queues = cluster.create_topic(&topic, 2)?;
    let arguments = ["consume", "--topic", &topic, "--group", &group, "--orderly", "--until", "60"];
    let mut consumer = kit.scenario(scratch.dir(), "consumer", cluster.namesrv(), &arguments)?;
    consumer.wait_assigned(queues)?;
    let send = ["pinned", "--topic", &topic, "--count", "60", "--shards", "5"];
    let mut producer = kit.scenario(scratch.dir(), "producer", cluster.namesrv(), &send)?;
    producer.join(PATIENCE)?;
    consumer.join(PATIENCE)?;
    let deliveries = consumer.deliveries();
    assert_exact(&producer.sends(), &deliveries)?;
    let mut newest: BTreeMap<(&str, u32), i64> = BTreeMap::new();
    for Delivery { place, .. } in &deliveries {
        let before = newest.insert((&place.broker, place.queue), place.offset).unwrap_or(-1);
        ensure!(before < place.offset, "{place} arrived after {before}");
    }
    Ok(())
}
