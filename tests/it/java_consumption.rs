//! Stock Java consumers: filters by expression, where a new group begins, lite pull, order through the death of a leader,
//! offsets that an administrator moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use tests::cluster::{Cluster, Plan, Running};
use tests::history::{self, Delivery};
use tests::java::{self, Kit};
use tests::mqadmin;
use tests::runner::{Requirement, Scratch, Test, test};
use tests::scenario::Scenario;

/// Longer than a client's route poll, 30 s.
const PATIENCE: Duration = Duration::from_mins(1);
/// Of the topic whose groups are moved while leaders die.
const QUEUES: usize = 2;

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
        where_new_groups_begin(scratch, &all, 1)
    }));
    let all = versions.clone();
    tests.push(test("java_consumption::where_groups_begin_while_the_leader_dies", &needs, move |scratch| {
        where_new_groups_begin(scratch, &all, 3)
    }));
    let all = versions.clone();
    tests.push(test("java_consumption::order_through_a_kill", &needs, move |scratch| {
        order_through_a_kill(scratch, &all)
    }));
    tests.push(test("java_consumption::reset_through_kills", &needs, move |scratch| {
        reset_through_kills(scratch, &versions)
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

    // One queue back to an offset.
    let place =
        consumer.deliveries().iter().map(|d| d.place.clone()).max_by_key(|p| p.offset).context("none")?;
    let (master, queue) = (cluster.master(&place.broker)?, place.queue.to_string());
    let back = (place.offset - 2).to_string();
    let to = ["-s", "0", "-b", &master, "-q", &queue, "-o", &back];
    mqadmin::run(
        scratch.dir(),
        namesrv,
        &[&["resetOffsetByTime", "-g", &group, "-t", &topic], &to[..]].concat(),
    )?;
    consumer.wait_until("three again", PATIENCE, |c| c.deliveries().len() >= 93)?;
    let again = consumer.deliveries().split_off(90);
    let offsets: BTreeSet<i64> = again.iter().map(|d| d.place.offset).collect();
    let wanted = (place.offset - 2..=place.offset).collect();
    ensure!(again.iter().all(|d| d.place.queue == place.queue) && offsets == wanted, "{again:?}");

    // To the end, where it stands already: nothing comes again, and it goes on.
    let said = mqadmin::run(
        scratch.dir(),
        namesrv,
        &["resetOffsetByTime", "-g", &group, "-t", &topic, "-s", "now"],
    )?;
    ensure!(mqadmin::rows(&said).len() == queues, "{said}");
    send(scratch, &kit, "last", namesrv, &topic, &["--count", "10", "--prefix", "last"])?;
    consumer.wait_until("the last ones", PATIENCE, |c| c.deliveries().len() >= 103)?;

    // Its commits count again: it ends where it has come to.
    consumer.finish()?;
    let deliveries = consumer.deliveries();
    ensure!(
        deliveries.len() == 103 && values(&deliveries[93..]) == numbered("last", 0..10),
        "{deliveries:?}"
    );
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

/// A group that has no offsets.
struct Begin {
    name: &'static str,
    /// What its consumers say, as options.
    says: String,
    /// What it gets then.
    gets: &'static [&'static str],
}

/// Those of one version, in a topic whose queues are not new.
struct NewGroups {
    kit: Kit,
    topic: String,
    begins: [Begin; 4],
}

impl NewGroups {
    const QUEUES: usize = 2;
    const COUNT: u32 = 10;

    /// Stores what is there before the groups are.
    fn prepare(scratch: &Scratch, cluster: &Cluster, version: &str) -> Result<NewGroups> {
        let kit = java::kit(version)?;
        let topic = format!("t_{}", kit.version.replace('.', "_"));
        cluster.create_topic(&topic, NewGroups::QUEUES as u32)?;
        let begin = |name, says: &str, gets| Begin { name, says: says.to_owned(), gets };
        let begins = [
            begin("default", "", &["late"][..]),
            begin("last", "--from last", &["late"]),
            begin("first", "--from first", &["early", "mid", "late"]),
            begin("time", "--from-ms", &["mid", "late"]),
        ];
        let mut groups = NewGroups { kit, topic, begins };
        let namesrv = cluster.namesrv();
        groups.send(scratch, &namesrv, "early")?;
        // Clients know times by the second.
        let from = (now_ms()? / 1000 + 1) * 1000;
        tests::wait::until_true("the next second", PATIENCE, || Ok(now_ms()? > from))?;
        groups.send(scratch, &namesrv, "mid")?;
        groups.begins[3].says = format!("--from-ms {from}");
        Ok(groups)
    }

    fn send(&self, scratch: &Scratch, namesrv: &str, prefix: &str) -> Result<Vec<history::Send>> {
        let (name, count) = (format!("{prefix}-{}", self.topic), NewGroups::COUNT.to_string());
        let more = ["--count", &count, "--prefix", prefix];
        send(scratch, &self.kit, &name, namesrv, &self.topic, &more)
    }

    fn group(&self, name: &str) -> String {
        format!("g_{name}_{}", self.topic)
    }

    fn start(&self, scratch: &Scratch, namesrv: &str) -> Result<Scenario> {
        let line = |Begin { name, says, .. }: &Begin| {
            let (topic, group) = (&self.topic, self.group(name));
            format!("consume --topic {topic} --group {group} {says} --poll-ms 1000 --heartbeat-ms 1000")
        };
        let lines = self.begins.each_ref().map(line);
        self.kit.together(scratch.dir(), &format!("consumers-{}", self.topic), namesrv, &lines)
    }

    fn wanted(prefixes: &[&str]) -> BTreeSet<String> {
        prefixes.iter().flat_map(|prefix| numbered(prefix, 0..NewGroups::COUNT)).collect()
    }

    /// Waits until each group has its queues and what is there. A client looks for the offset of a queue before it counts it as
    /// its own.
    fn wait_begun(&self, consumers: &mut Scenario) -> Result<()> {
        for Begin { name, gets, .. } in &self.begins {
            let (group, wanted) = (self.group(name), NewGroups::wanted(&gets[..gets.len() - 1]));
            consumers.wait_until(name, PATIENCE, |c| {
                c.assigned_to(&group).len() == NewGroups::QUEUES
                    && values(&c.deliveries_to(&group)).is_superset(&wanted)
            })?;
        }
        Ok(())
    }

    /// Ends them once each has all that it is to get.
    fn judge(&self, consumers: &mut Scenario) -> Result<()> {
        for Begin { name, gets, .. } in &self.begins {
            let (group, wanted) = (self.group(name), NewGroups::wanted(gets));
            consumers
                .wait_until("all", PATIENCE, |c| values(&c.deliveries_to(&group)).is_superset(&wanted))?;
        }
        consumers.finish()?;
        for Begin { name, gets, .. } in &self.begins {
            let deliveries = consumers.deliveries_to(&self.group(name));
            let version = &self.kit.version;
            ensure!(values(&deliveries) == NewGroups::wanted(gets), "{version} {name}: {deliveries:?}");
        }
        Ok(())
    }
}

/// In a queue that is not new, a group without offsets begins where its consumers say. `nodes`: of one that is alone, or the
/// leader of three dies while they ask.
fn where_new_groups_begin(scratch: &Scratch, versions: &[String], nodes: u64) -> Result<()> {
    let mut plan = Plan { preferred_leaders: false, ..Plan::new(nodes, 1) };
    plan.broker_settings = vec!["in_memory_percent = 0".into()];
    let mut cluster = Cluster::start(scratch, plan)?;
    let mut all = Vec::new();
    for version in versions {
        all.push(NewGroups::prepare(scratch, &cluster, version)?);
    }
    let leader = cluster.leader("broker-a")?;
    // A Java client does not start, and its first send fails, where the nameserver that it asks first is dead.
    let others = (1..=nodes).filter(|node| nodes == 1 || *node != leader);
    let namesrv: Vec<&str> = others.filter_map(|node| cluster.nameserver(node)).collect();
    let namesrv = namesrv.join(";");
    let mut running = Vec::new();
    for groups in &all {
        running.push(groups.start(scratch, &namesrv)?);
    }
    if nodes > 1 {
        tests::wait::until_true("a consumer that asks", PATIENCE, || {
            Ok(running.iter().any(|consumers| !consumers.others("started").is_empty()))
        })?;
        cluster.kill(leader)?;
        let has_begun = |(groups, consumers): (&NewGroups, &Scenario)| {
            let assigned = |begin: &&Begin| !consumers.assigned_to(&groups.group(begin.name)).is_empty();
            groups.begins.iter().filter(assigned).count()
        };
        let begun: usize = all.iter().zip(&running).map(has_begun).sum();
        let count = 4 * all.len();
        ensure!(begun < count, "all of them had queues before the leader died");
        scratch.report(&format!("{begun} of {count} groups had queues when the leader died"));
    }
    for (groups, consumers) in all.iter().zip(&mut running) {
        groups.wait_begun(consumers)?;
    }
    for groups in &all {
        groups.send(scratch, &namesrv, "late")?;
    }
    for (groups, consumers) in all.iter().zip(&mut running) {
        groups.judge(consumers)?;
    }
    Ok(())
}

/// A producer that sends to each queue in order, and the consumers of one version, in the order in which they came.
struct Ordered {
    version: String,
    kit: Kit,
    topic: String,
    group: String,
    producer: Scenario,
    consumers: Vec<Scenario>,
}

impl Ordered {
    const QUEUES: usize = 3;

    fn start(scratch: &Scratch, cluster: &Cluster, version: &str) -> Result<Ordered> {
        let (kit, namesrv) = (java::kit(version)?, cluster.namesrv());
        let name = version.replace('.', "_");
        let (topic, group) = (format!("t_{name}"), format!("g_{name}"));
        cluster.create_topic(&topic, Ordered::QUEUES as u32)?;
        let arguments = ["failover-producer", "--topic", &topic, "--modes", "pinned", "--rate", "50"];
        let producer = kit.scenario(scratch.dir(), &format!("producer-{name}"), &namesrv, &arguments)?;
        let version = version.to_owned();
        let mut ordered = Ordered { version, kit, topic, group, producer, consumers: Vec::new() };
        ordered.join(scratch, cluster)?;
        ordered.producer.wait_until("sends", PATIENCE, |p| p.sends().len() > 100)?;
        Ok(ordered)
    }

    /// One more consumer.
    fn join(&mut self, scratch: &Scratch, cluster: &Cluster) -> Result<()> {
        let name = format!("{}-{}", self.group, self.consumers.len());
        let arguments = ["consume", "--topic", &self.topic, "--group", &self.group, "--orderly"];
        self.consumers.push(self.kit.scenario(scratch.dir(), &name, &cluster.namesrv(), &arguments)?);
        Ok(())
    }

    /// Waits until those that are left have every queue among them, and each has one at least.
    fn wait_shared(&mut self, running: std::ops::Range<usize>) -> Result<()> {
        for at in running.clone() {
            let consumer = &mut self.consumers[at];
            consumer.wait_until("queues of its own", PATIENCE, |c| !c.assigned().is_empty())?;
        }
        tests::wait::until_true("every queue once", PATIENCE, || {
            let mut all: Vec<String> =
                self.consumers[running.clone()].iter().flat_map(Scenario::assigned).collect();
            all.sort_unstable();
            let count = all.len();
            all.dedup();
            Ok(count == Ordered::QUEUES && all.len() == count)
        })
    }

    /// Waits for what is acknowledged from now on.
    fn wait_sends(&mut self, count: usize) -> Result<()> {
        let before = self.producer.sends().len();
        self.producer.wait_until("sends", PATIENCE, |p| {
            p.sends().iter().skip(before).filter(|send| send.ok).count() > count
        })
    }

    /// What all of them got, in the order of time.
    fn deliveries(&self) -> Vec<Delivery> {
        let mut all: Vec<Delivery> = self.consumers.iter().flat_map(Scenario::deliveries).collect();
        all.sort_by_key(|delivery| delivery.at);
        all
    }

    fn judge(&mut self, scratch: &Scratch) -> Result<()> {
        self.producer.finish()?;
        let sends = self.producer.sends();
        tests::wait::until_true("every acknowledged message", PATIENCE, || {
            Ok(history::lost(&sends, &self.deliveries()).is_empty())
        })?;
        // The first one has stopped.
        for consumer in &mut self.consumers[1..] {
            consumer.finish()?;
        }
        let (version, deliveries) = (&self.version, self.deliveries());
        let disorder = history::out_of_order(&deliveries);
        ensure!(disorder.is_empty(), "{version}: {disorder:?}");
        let skipped = history::skipped(&deliveries);
        ensure!(skipped.is_empty(), "{version}: {skipped:?}");
        let contradictions = history::contradictions(&sends, &deliveries);
        ensure!(contradictions.is_empty(), "{version}: {contradictions:?}");
        let of_each: Vec<usize> = self.consumers.iter().map(|c| c.deliveries().len()).collect();
        ensure!(of_each.iter().all(|count| *count > 0), "{version}: one has got nothing: {of_each:?}");
        scratch.report(&format!(
            "{version}: {} sends, {of_each:?} deliveries, {:?}",
            sends.len(),
            history::duplicates(&deliveries)
        ));
        Ok(())
    }
}

/// A consumer joins, the leader dies, a consumer stops and another comes: each queue goes on in order all the time.
fn order_through_a_kill(scratch: &Scratch, versions: &[String]) -> Result<()> {
    let mut cluster = Cluster::start(scratch, Plan::new(3, 1))?;
    let groups = cluster.plan().groups.clone();
    let mut all = Vec::new();
    for version in versions {
        all.push(Ordered::start(scratch, &cluster, version)?);
    }
    for ordered in &mut all {
        ordered.join(scratch, &cluster)?;
    }
    for ordered in &mut all {
        ordered.wait_shared(0..2)?;
        ordered.wait_sends(50)?;
    }
    let leader = cluster.leader(&groups[0])?;
    cluster.kill(leader)?;
    for ordered in &mut all {
        // Pinned sends fail until the producer polls its route again.
        ordered.wait_sends(200).context("sends at the next leader")?;
    }
    cluster.start_node(leader)?;
    // A nameserver that has just started knows no topic yet, and who comes now may ask it.
    cluster.wait_whole()?;
    for ordered in &mut all {
        ordered.consumers[0].finish()?;
        ordered.wait_shared(1..2)?;
        ordered.join(scratch, &cluster)?;
    }
    for ordered in &mut all {
        ordered.wait_shared(1..3)?;
        ordered.wait_sends(50)?;
        let version = ordered.version.clone();
        ordered.judge(scratch).context(version)?;
    }
    Ok(())
}

/// What is done to a stopped group while leaders die: moved back to the middle, or past all that it has not read.
struct Moved {
    version: String,
    kit: Kit,
    topic: String,
    back: String,
    ahead: String,
    /// Between the first messages and the others, milliseconds since 1970.
    middle_ms: i64,
}

impl Moved {
    /// Both groups have been here and are gone: one has read everything, one nothing.
    fn prepare(scratch: &Scratch, cluster: &Cluster, version: &str) -> Result<Moved> {
        let (kit, namesrv) = (java::kit(version)?, cluster.namesrv());
        let name = version.replace('.', "_");
        let (topic, back, ahead) = (format!("t_{name}"), format!("back_{name}"), format!("ahead_{name}"));
        cluster.create_topic(&topic, QUEUES as u32)?;
        let start = |group: &str| {
            let arguments = ["--topic", &topic, "--group", group];
            consumer(scratch, &kit, &format!("first-{group}"), &namesrv, &arguments, QUEUES)
        };
        start(&ahead)?.finish()?;
        let mut reader = start(&back)?;
        let count = |prefix| ["--count", "30", "--prefix", prefix];
        send(scratch, &kit, &format!("early-{name}"), &namesrv, &topic, &count("early"))?;
        reader.wait_until("the early ones", PATIENCE, |c| c.deliveries().len() >= 30)?;
        let newest = reader.deliveries().iter().map(|d| d.stored_ms).max().context("no delivery")?;
        tests::wait::until_true("the next millisecond", PATIENCE, || Ok(now_ms()? > newest + 1))?;
        send(scratch, &kit, &format!("late-{name}"), &namesrv, &topic, &count("late"))?;
        reader.wait_until("the late ones", PATIENCE, |c| c.deliveries().len() >= 60)?;
        reader.finish()?;
        Ok(Moved { version: version.to_owned(), kit, topic, back, ahead, middle_ms: newest + 1 })
    }

    /// Asks as an administrator would: again until the tool says that it is done.
    fn reset(&self, shell: &mut mqadmin::Shell) -> Result<()> {
        let middle = self.middle_ms.to_string();
        let commands = [
            vec!["resetOffsetByTime", "-g", &self.back, "-t", &self.topic, "-s", &middle],
            vec!["skipAccumulatedMessage", "-g", &self.ahead, "-t", &self.topic],
        ];
        for command in commands {
            tests::wait::until("a reset", PATIENCE, || {
                let said = shell.run(&command)?;
                ensure!(mqadmin::rows(&said).len() == QUEUES, "{said}");
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    /// Each group goes on from where it was moved to.
    fn check(&self, scratch: &Scratch, namesrv: &str) -> Result<()> {
        let count = ["--count", "10", "--prefix", "new"];
        send(scratch, &self.kit, &format!("new-{}", self.version), namesrv, &self.topic, &count)?;
        let new = numbered("new", 0..10);
        let late_and_new = &numbered("late", 0..30) | &new;
        for (group, wanted) in [(&self.back, late_and_new), (&self.ahead, new)] {
            let arguments = ["--topic", &self.topic, "--group", group];
            let name = format!("second-{group}");
            let mut again = consumer(scratch, &self.kit, &name, namesrv, &arguments, QUEUES)?;
            again.wait_until("what it was moved to", PATIENCE, |c| c.deliveries().len() >= wanted.len())?;
            again.finish()?;
            let deliveries = again.deliveries();
            ensure!(
                values(&deliveries) == wanted && deliveries.len() == wanted.len(),
                "{group}: {deliveries:?}"
            );
        }
        Ok(())
    }
}

/// The leader dies while groups that nobody consumes for are moved, and the next one before anybody does: what the tool has
/// said is done stays done.
fn reset_through_kills(scratch: &Scratch, versions: &[String]) -> Result<()> {
    let plan = Plan { preferred_leaders: false, ..Plan::new(3, 1) };
    let group = plan.groups[0].clone();
    let mut cluster = Cluster::start(scratch, plan)?;
    let mut moved = Vec::new();
    for version in versions {
        moved.push(Moved::prepare(scratch, &cluster, version)?);
    }
    let mut shell = mqadmin::Shell::start(scratch.dir(), &cluster.namesrv())?;
    let leader = cluster.leader(&group)?;
    let (begins, begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let resets = scope.spawn(|| {
            for (n, moved) in moved.iter().enumerate() {
                if n == 1 || versions.len() == 1 {
                    // Nobody listens any more who does not need it.
                    let _ = begins.send(());
                }
                moved.reset(&mut shell)?;
            }
            anyhow::Ok(())
        });
        begun.recv_timeout(PATIENCE).context("the resets have not begun")?;
        cluster.kill(leader)?;
        resets.join().map_err(|_| anyhow!("the resets panicked"))?
    })?;
    cluster.start_node(leader)?;
    cluster.wait_whole()?;
    let leader = cluster.leader(&group)?;
    cluster.kill(leader)?;
    tests::wait::until_true("another leader", PATIENCE, || Ok(cluster.leader(&group)? != leader))?;
    // A client may begin with any nameserver, and 5.3.3 gives up where it is the dead node's.
    cluster.start_node(leader)?;
    cluster.wait_whole()?;
    for moved in &moved {
        moved.check(scratch, &cluster.namesrv()).with_context(|| moved.version.clone())?;
    }
    Ok(())
}
