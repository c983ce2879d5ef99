//! Stock Java consumers: filters by expression, where a new group begins, lite pull, order through the death of a leader,
//! offsets that an administrator moves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use tests::cluster::{Cluster, Plan, Running};
use tests::history::{self, Delivery};
use tests::java::{self, Kit};
use tests::mqadmin;
use tests::runner::{Requirement, Scratch, Test, test};
use tests::scenario::Scenario;

/// Longer than a client's route poll, 30 s.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn tests() -> Vec<Test> {
    type Check = fn(&Scratch, &str) -> Result<()>;
    let checks: [(&str, Check); 4] = [
        ("sql", sql),
        ("lite_pull", lite_pull),
        ("reset_while_running", reset_while_running),
        ("reset_while_stopped", reset_while_stopped),
    ];
    let versions = java::versions();
    let mut tests = Vec::new();
    for version in &versions {
        for (name, check) in checks {
            let version = version.clone();
            let full = format!("java_consumption::{name}_{}", version.replace('.', "_"));
            tests.push(test(full, &[Requirement::Java], move |scratch| check(scratch, &version)));
        }
    }
    // All versions share a cluster of their own, which saves minutes.
    let needs = [Requirement::Java, Requirement::OwnCluster];
    let all = versions.clone();
    tests.push(test("java_consumption::where_new_groups_begin", &needs, move |scratch| {
        where_new_groups_begin(scratch, &all)
    }));
    tests.push(test("java_consumption::order_through_a_kill", &needs, move |scratch| {
        order_through_a_kill(scratch, &versions)
    }));
    tests
}

/// Starts a consumer of `arguments` and waits until it has its queues.
fn consumer(
    scratch: &Scratch,
    kit: &Kit,
    name: &str,
    namesrv: &str,
    arguments: &[&str],
    queues: usize,
) -> Result<Scenario> {
    let mut consumer = kit.scenario(scratch.dir(), name, namesrv, &[&["consume"], arguments].concat())?;
    consumer.wait_assigned(queues)?;
    Ok(consumer)
}

fn send(
    scratch: &Scratch,
    kit: &Kit,
    name: &str,
    namesrv: &str,
    topic: &str,
    more: &[&str],
) -> Result<Vec<history::Send>> {
    let arguments = [&["send", "--topic", topic], more].concat();
    let mut producer = kit.scenario(scratch.dir(), name, namesrv, &arguments)?;
    producer.join(PATIENCE)?;
    let sends = producer.sends();
    ensure!(history::failed(&sends).is_empty(), "failed sends: {:?}", history::failed(&sends));
    Ok(sends)
}

fn values(deliveries: &[Delivery]) -> BTreeSet<String> {
    deliveries.iter().map(|delivery| delivery.value.clone()).collect()
}

/// The values of a `send` of these numbers.
fn numbered(prefix: &str, numbers: impl IntoIterator<Item = u32>) -> BTreeSet<String> {
    numbers.into_iter().map(|n| format!("{prefix}-sync-{n}")).collect()
}

/// Every message has its number as the property n, and one of three tags.
fn sql(scratch: &Scratch, version: &str) -> Result<()> {
    let kit = java::kit(version)?;
    let cluster = Running::get()?;
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    let queues = cluster.create_topic(&topic, 2)?;
    let all = |n: &u32| (0..60).contains(n);
    type Wanted = fn(u32) -> bool;
    let filters: [(&str, &str, Wanted); 3] = [
        ("between", "n BETWEEN 20 AND 39 AND TAGS = 'A'", |n| (20..40).contains(&n) && n % 3 == 0),
        ("in", "TAGS IN ('B', 'C') AND NOT (n < 50) -- the end of them", |n| n % 3 != 0 && n >= 50),
        ("null", "missing IS NULL AND n <> 7 AND (n = 7 OR n > 55)", |n| n > 55),
    ];
    let mut consumers = Vec::new();
    for (name, expression, _) in &filters {
        let group = format!("{group}_{name}");
        let arguments = ["--topic", &topic, "--group", &group, "--sql", expression];
        consumers.push(consumer(scratch, &kit, name, cluster.namesrv(), &arguments, queues)?);
    }
    send(scratch, &kit, "producer", cluster.namesrv(), &topic, &["--count", "60", "--tags", "A,B,C"])?;
    for ((name, _, wanted), consumer) in filters.iter().zip(&mut consumers) {
        let wanted = numbered("m", (0..60).filter(all).filter(|n| wanted(*n)));
        consumer.wait_until("what it wants", PATIENCE, |c| values(&c.deliveries()).is_superset(&wanted))?;
        consumer.finish()?;
        let deliveries = consumer.deliveries();
        ensure!(values(&deliveries) == wanted && deliveries.len() == wanted.len(), "{name}: {deliveries:?}");
    }
    // The broker says why an expression is none, and the consumer does not start.
    let wrong = ["consume", "--topic", &topic, "--group", &group, "--sql", "n BETWEEN 1"];
    let mut wrong = kit.scenario(scratch.dir(), "wrong", cluster.namesrv(), &wrong)?;
    let error = wrong.join(PATIENCE).err().context("a consumer with a wrong expression has started")?;
    let log = std::fs::read_to_string(scratch.dir().join("wrong.log"))?;
    ensure!(
        !cluster.is_raftmq() || log.contains("where AND was expected at position 11"),
        "{error:#}\n{log}"
    );
    Ok(())
}

fn lite_pull(scratch: &Scratch, version: &str) -> Result<()> {
    let kit = java::kit(version)?;
    let cluster = Running::get()?;
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    cluster.create_topic(&topic, 2)?;
    send(scratch, &kit, "producer", cluster.namesrv(), &topic, &["--count", "40", "--tags", "A,B"])?;
    let all = numbered("m", 0..40);
    for (name, more, wanted) in [
        ("assign", &["--assign"][..], &all),
        ("subscribe", &["--from", "first"][..], &all),
        ("tags", &["--from", "first", "--tags", "A"][..], &numbered("m", (0..40).step_by(2))),
    ] {
        let (group, count) = (format!("{group}_{name}"), wanted.len().to_string());
        let arguments = ["lite-pull", "--topic", &topic, "--group", &group, "--until", &count];
        let arguments = [&arguments[..], more].concat();
        let mut consumer = kit.scenario(scratch.dir(), name, cluster.namesrv(), &arguments)?;
        consumer.join(PATIENCE)?;
        let deliveries = consumer.deliveries();
        ensure!(values(&deliveries) == *wanted && deliveries.len() == wanted.len(), "{name}: {deliveries:?}");
    }
    // What was committed is not read again, and what comes is.
    let again = format!("{group}_subscribe");
    let arguments = ["lite-pull", "--topic", &topic, "--group", &again, "--until", "10", "--from", "first"];
    let mut consumer = kit.scenario(scratch.dir(), "again", cluster.namesrv(), &arguments)?;
    consumer.wait_started()?;
    send(scratch, &kit, "more", cluster.namesrv(), &topic, &["--count", "10", "--prefix", "late"])?;
    consumer.join(PATIENCE)?;
    ensure!(values(&consumer.deliveries()) == numbered("late", 0..10), "{:?}", consumer.deliveries());
    Ok(())
}

/// A consumer that runs goes back to a time, and forward to the end.
fn reset_while_running(scratch: &Scratch, version: &str) -> Result<()> {
    let kit = java::kit(version)?;
    let cluster = Running::get()?;
    let namesrv = cluster.namesrv();
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    let queues = cluster.create_topic(&topic, 2)?;
    let mut consumer =
        consumer(scratch, &kit, "consumer", namesrv, &["--topic", &topic, "--group", &group], queues)?;
    send(scratch, &kit, "early", namesrv, &topic, &["--count", "30", "--prefix", "early"])?;
    consumer.wait_until("the early ones", PATIENCE, |c| c.deliveries().len() >= 30)?;
    // Of the second half, to the millisecond.
    let newest = consumer.deliveries().iter().map(|d| d.stored_ms).max().context("no delivery")?;
    tests::wait::until_true("the next millisecond", PATIENCE, || Ok(now_ms()? > newest + 1))?;
    send(scratch, &kit, "late", namesrv, &topic, &["--count", "30", "--prefix", "late"])?;
    consumer.wait_until("the late ones", PATIENCE, |c| c.deliveries().len() >= 60)?;
    let before = consumer.deliveries();
    ensure!(before.len() == 60, "{before:?}");

    let time = (newest + 1).to_string();
    let reset = ["resetOffsetByTime", "-g", &group, "-t", &topic, "-s", &time];
    let said = mqadmin::run(scratch.dir(), namesrv, &reset)?;
    let rows = mqadmin::rows(&said);
    ensure!(rows.len() == queues, "{said}");
    // The offset of each queue is that of the first late message there.
    let mut first: BTreeMap<(String, String), i64> = BTreeMap::new();
    for delivery in before.iter().filter(|d| d.value.starts_with("late")) {
        let queue = (delivery.place.broker.clone(), delivery.place.queue.to_string());
        let offset = first.entry(queue).or_insert(i64::MAX);
        *offset = delivery.place.offset.min(*offset);
    }
    for row in rows {
        // #brokerName  #queueId  #offset
        let queue = (row[0].to_owned(), row[1].to_owned());
        if let Some(offset) = first.get(&queue) {
            ensure!(row[2] == offset.to_string(), "{queue:?} begins at {offset}:\n{said}");
        }
    }
    // 4.9 waits 10 s before it takes a queue up again.
    consumer.wait_until("the late ones again", PATIENCE, |c| c.deliveries().len() >= 90)?;
    let again = consumer.deliveries().split_off(60);
    ensure!(values(&again) == numbered("late", 0..30), "{again:?}");

    // Its commits count again: it ends where it has come to.
    consumer.finish()?;
    ensure!(consumer.deliveries().len() == 90, "{:?}", &consumer.deliveries()[90..]);
    let progress = mqadmin::run(scratch.dir(), namesrv, &["consumerProgress", "-g", &group, "-t", &topic])?;
    ensure!(progress.contains("Diff Total: 0"), "{progress}");
    Ok(())
}

/// A group whose consumers are stopped is moved over what it has not read, back to an offset, and another one gets its
/// offsets.
fn reset_while_stopped(scratch: &Scratch, version: &str) -> Result<()> {
    let kit = java::kit(version)?;
    let cluster = Running::get()?;
    let namesrv = cluster.namesrv();
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    let other = format!("{group}_b");
    let queues = cluster.create_topic(&topic, 1)?;
    let arguments = ["--topic", &topic, "--group", &group];
    consumer(scratch, &kit, "first", namesrv, &arguments, queues)?.finish()?;
    send(scratch, &kit, "early", namesrv, &topic, &["--count", "30", "--prefix", "early"])?;

    let said = mqadmin::run(scratch.dir(), namesrv, &["skipAccumulatedMessage", "-g", &group, "-t", &topic])?;
    let skipped: i64 =
        mqadmin::rows(&said).iter().map(|row| row[2].parse::<i64>()).sum::<Result<i64, _>>()?;
    ensure!(skipped == 30, "{said}");
    let late = send(scratch, &kit, "late", namesrv, &topic, &["--count", "30", "--prefix", "late"])?;
    let mut second = consumer(scratch, &kit, "second", namesrv, &arguments, queues)?;
    second.wait_until("what came later", PATIENCE, |c| c.deliveries().len() >= 30)?;
    second.finish()?;
    ensure!(values(&second.deliveries()) == numbered("late", 0..30), "{:?}", second.deliveries());

    // One queue back to an offset.
    let place = late.iter().find_map(|send| send.place.clone()).context("no place")?;
    let master = cluster.master(&place.broker)?;
    let queue = place.queue.to_string();
    let back = place.offset.to_string();
    let reset =
        ["resetOffsetByTime", "-g", &group, "-t", &topic, "-s", "0", "-b", &master, "-q", &queue, "-o"];
    mqadmin::run(scratch.dir(), namesrv, &[&reset[..], &[&back]].concat())?;
    let wanted = |d: &Delivery| {
        d.place.broker == place.broker && d.place.queue == place.queue && d.place.offset >= place.offset
    };
    let wanted: BTreeSet<String> =
        second.deliveries().iter().filter(|d| wanted(d)).map(|d| d.value.clone()).collect();

    // Before anybody takes it up: the other group is to be there, and then begins where this one stands.
    consumer(scratch, &kit, "other-first", namesrv, &["--topic", &topic, "--group", &other], queues)?
        .finish()?;
    mqadmin::run(
        scratch.dir(),
        namesrv,
        &["cloneGroupOffset", "-s", &group, "-d", &other, "-t", &topic, "-o", "true"],
    )?;
    for (name, group) in [("third", &group), ("other", &other)] {
        let arguments = ["--topic", &topic, "--group", group];
        let mut third = consumer(scratch, &kit, name, namesrv, &arguments, queues)?;
        third.wait_until("the queue again", PATIENCE, |c| c.deliveries().len() >= wanted.len())?;
        third.finish()?;
        ensure!(values(&third.deliveries()) == wanted, "{name}: {:?} of {wanted:?}", third.deliveries());
    }
    Ok(())
}

fn now_ms() -> Result<i64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64)
}

/// What its consumers say, as options, and what a group then gets.
type Begin<'a> = (&'a str, &'a [&'a str], Vec<&'a BTreeSet<String>>);

/// In a queue that is not new, a group without offsets begins where its consumers say.
fn where_new_groups_begin(scratch: &Scratch, versions: &[String]) -> Result<()> {
    let mut plan = Plan::new(1, 1);
    plan.broker_settings = vec!["in_memory_percent = 0".into()];
    let cluster = Cluster::start(scratch, plan)?;
    let namesrv = cluster.namesrv();
    for version in versions {
        let kit = java::kit(version)?;
        let name = kit.version.replace('.', "_");
        let topic = format!("t_{name}");
        cluster.create_topic(&topic, 2)?;
        send(
            scratch,
            &kit,
            &format!("early-{name}"),
            &namesrv,
            &topic,
            &["--count", "10", "--prefix", "early"],
        )?;
        // Clients know times by the second.
        let from = (now_ms()? / 1000 + 1) * 1000;
        tests::wait::until_true("the next second", PATIENCE, || Ok(now_ms()? > from))?;
        send(scratch, &kit, &format!("mid-{name}"), &namesrv, &topic, &["--count", "10", "--prefix", "mid"])?;
        let from = from.to_string();
        let (early, mid, late) = (numbered("early", 0..10), numbered("mid", 0..10), numbered("late", 0..10));
        let begins: [Begin<'_>; 4] = [
            ("default", &[], vec![&late]),
            ("last", &["--from", "last"], vec![&late]),
            ("first", &["--from", "first"], vec![&early, &mid, &late]),
            ("time", &["--from-ms", &from], vec![&mid, &late]),
        ];
        let mut consumers = Vec::new();
        for (from, more, _) in &begins {
            let group = format!("g_{from}_{name}");
            let arguments = [&["--topic", &topic, "--group", &group][..], more].concat();
            consumers.push(consumer(scratch, &kit, &format!("{from}-{name}"), &namesrv, &arguments, 2)?);
        }
        // A client looks for the offset of a queue before it counts it as its own.
        for ((from, _, wanted), consumer) in begins.iter().zip(&mut consumers) {
            let so_far: usize = wanted.iter().map(|values| values.len()).sum::<usize>() - late.len();
            consumer.wait_until(from, PATIENCE, |c| c.deliveries().len() >= so_far)?;
        }
        send(
            scratch,
            &kit,
            &format!("late-{name}"),
            &namesrv,
            &topic,
            &["--count", "10", "--prefix", "late"],
        )?;
        for ((from, _, wanted), consumer) in begins.iter().zip(&mut consumers) {
            let wanted: BTreeSet<String> = wanted.iter().copied().flatten().cloned().collect();
            consumer.wait_until("all", PATIENCE, |c| values(&c.deliveries()).is_superset(&wanted))?;
            consumer.finish()?;
            ensure!(
                values(&consumer.deliveries()) == wanted,
                "{version} {from}: {:?}",
                consumer.deliveries()
            );
        }
    }
    Ok(())
}

/// Offsets that came before their predecessor had come: a consumer of ordered messages may get some again, and goes on
/// from there, but never passes one over.
fn out_of_order(deliveries: &[Delivery]) -> Vec<String> {
    let mut next: BTreeMap<(&str, u32), i64> = BTreeMap::new();
    let mut last: BTreeMap<(&str, u32), i64> = BTreeMap::new();
    let mut found = Vec::new();
    for Delivery { place, .. } in deliveries {
        let queue = (place.broker.as_str(), place.queue);
        let next = next.entry(queue).or_insert(place.offset);
        let is_next_of_last = last.insert(queue, place.offset).is_none_or(|last| place.offset == last + 1);
        // Back is allowed, and then one after the other again.
        if place.offset > *next || !(is_next_of_last || place.offset < *next) {
            found.push(format!("{place} where {next} was next"));
        }
        *next = (*next).max(place.offset + 1);
    }
    found
}

fn order_through_a_kill(scratch: &Scratch, versions: &[String]) -> Result<()> {
    let mut cluster = Cluster::start(scratch, Plan::new(3, 1))?;
    let namesrv = cluster.namesrv();
    let groups = cluster.plan().groups.clone();
    let mut clients = Vec::new();
    for version in versions {
        let kit = java::kit(version)?;
        let name = kit.version.replace('.', "_");
        let (topic, group) = (format!("t_{name}"), format!("g_{name}"));
        cluster.create_topic(&topic, 3)?;
        let arguments = ["--topic", &topic, "--group", &group, "--orderly"];
        let consumer = consumer(scratch, &kit, &format!("consumer-{name}"), &namesrv, &arguments, 3)?;
        let arguments = ["failover-producer", "--topic", &topic, "--modes", "pinned", "--rate", "50"];
        let mut producer = kit.scenario(scratch.dir(), &format!("producer-{name}"), &namesrv, &arguments)?;
        producer.wait_until("sends", PATIENCE, |p| p.sends().len() > 100)?;
        clients.push((version, producer, consumer));
    }
    let leader = cluster.leader(&groups[0])?;
    let killed = clients.iter().map(|(_, producer, _)| producer.sends().len()).collect::<Vec<_>>();
    cluster.kill(leader)?;
    for ((_, producer, _), before) in clients.iter_mut().zip(killed) {
        // Pinned sends fail until the producer polls its route again.
        producer.wait_until("sends at the next leader", PATIENCE, |p| {
            p.sends().iter().skip(before).filter(|send| send.ok).count() > 200
        })?;
    }
    cluster.start_node(leader)?;
    for (version, producer, consumer) in &mut clients {
        producer.finish()?;
        let sends = producer.sends();
        consumer.wait_until("every acknowledged message", PATIENCE, |c| {
            history::lost(&sends, &c.deliveries()).is_empty()
        })?;
        consumer.finish()?;
        let deliveries = consumer.deliveries();
        let disorder = out_of_order(&deliveries);
        ensure!(disorder.is_empty(), "{version}: {disorder:?}");
        let skipped = history::skipped(&deliveries);
        ensure!(skipped.is_empty(), "{version}: {skipped:?}");
        let contradictions = history::contradictions(&sends, &deliveries);
        ensure!(contradictions.is_empty(), "{version}: {contradictions:?}");
        scratch.report(&format!(
            "{version}: {} sends, {} deliveries, {:?}",
            sends.len(),
            deliveries.len(),
            history::duplicates(&deliveries)
        ));
    }
    Ok(())
}
