//! RocketMQ's Go client (github.com/apache/rocketmq-client-go/v2): each kind of send and of consumer, and a leader's death.
//! It speaks the ROCKETMQ header format, where the Java clients speak JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tests::cluster::{self, Cluster, Plan, Running};
use tests::complaints::{Complaints, exactly_once, same_ids};
use tests::go;
use tests::history::{self, Delivery, Punctuality, attempt, committed, sent, values};
use tests::runner::{Requirement, Scratch, Test, test};
use tests::scenario::Scenario;
use tests::{mqadmin, remoting, wait};

use crate::doubt::{self, ASIDE, Doubted};

const PATIENCE: Duration = Duration::from_mins(1);
/// As in java_messaging.rs.
const LATE_MS: i64 = 2000;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("go_client::features", &[Requirement::Go], features).calm(),
        test("go_client::rebalance", &[Requirement::Go], rebalance),
        test("go_client::administration", &[Requirement::Go], administration),
        test(
            "go_client::leader_killed",
            // for mqadmin
            &[Requirement::Go, Requirement::Java, Requirement::OwnCluster],
            leader_killed,
        ),
        test(
            "go_client::features_through_a_kill",
            &[Requirement::Go, Requirement::OwnCluster],
            features_through_a_kill,
        ),
    ]
}

/// Starts one client; names have no blanks, and a '~' stands for one in an expression.
struct Starter<'a> {
    kit: go::Kit,
    scratch: &'a Scratch,
    namesrv: String,
}

impl Starter<'_> {
    fn start(&self, name: &str, line: &str) -> Result<Scenario> {
        let words: Vec<String> = line.split_whitespace().map(|word| word.replace('~', " ")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.kit.scenario(self.scratch.dir(), name, &self.namesrv, &words)
    }

    /// Answers for the producer of the same group that dies; with a message of its own, for clients tell only the brokers of
    /// topics that they know.
    fn heir(&self, base: &str) -> Result<Scenario> {
        let line = format!("transactions -topic {base}_orphan -group {base}_p_orphan -count 1");
        let mut heir = self.start("heir", &format!("{line} -decisions commit -prefix heir"))?;
        heir.wait_until("a commit", PATIENCE, |s| s.sends().iter().any(|send| send.ok))?;
        Ok(heir)
    }

    /// A producer leaves transactions undecided and dies.
    fn leave_orphans(&self, base: &str) -> Result<()> {
        let line = format!("transactions -topic {base}_orphan -group {base}_p_orphan -count {ORPHANS}");
        let mut doomed = self.start("doomed", &format!("{line} -decisions later-commit -undecided"))?;
        doomed.wait_until("half messages", PATIENCE, |s| s.sends().len() >= ORPHANS)?;
        ensure!(history::failed(&doomed.sends()).is_empty(), "{:?}", history::failed(&doomed.sends()));
        doomed.kill()
    }

    /// Transactions of which their producer never knows, once all are sent. It goes on, for it is asked of them.
    fn doubt(&self, name: &str, base: &str) -> Result<Scenario> {
        let line = format!("transactions -topic {base}_doubt -group {base}_p_doubt -count {DOUBTFUL}");
        let mut producer = self.start(name, &format!("{line} -decisions never -prefix {base}-{name}"))?;
        producer.wait_until("half messages", PATIENCE, |s| s.sends().len() >= DOUBTFUL)?;
        Ok(producer)
    }

    /// What was put aside once all of these were.
    fn put_aside(&self, base: &str, groups: usize, wanted: &BTreeSet<String>) -> Result<Vec<Delivery>> {
        doubt::wait_topic(&self.namesrv, groups, PATIENCE)?;
        let mut reading =
            self.start("aside", &format!("consume -topic {ASIDE} -group {base}_g_aside -properties"))?;
        reading.wait_until("what is put aside", PATIENCE, |s| values(&s.deliveries()).is_superset(wanted))?;
        reading.finish()?;
        Ok(reading.deliveries())
    }
}

/// What was put aside of these transactions.
fn judge_aside(
    base: &str,
    delivered: Vec<Delivery>,
    producers: &[Scenario],
    aside: &[Delivery],
    c: &mut Complaints,
) -> Vec<Delivery> {
    let topic = format!("{base}_doubt");
    let checks = producers.iter().flat_map(|producer| producer.others("check")).collect();
    Doubted { topic: &topic, prefix: base, delivered, checks }.judge(aside, c)
}

/// The heir was asked of each and committed it, and its own.
fn check_orphans(heir: &Scenario, deliveries: &[Delivery], c: &mut Complaints) {
    c.check(values(deliveries).len() == ORPHANS + 1, || format!("orphans: {:?}", values(deliveries)));
    c.none("orphans committed twice", &history::stored_twice(deliveries));
    let checks = heir.others("check");
    let asked: BTreeSet<&str> = checks.iter().filter_map(|check| check["value"].as_str()).collect();
    c.check(asked.len() == ORPHANS, || format!("asked of {asked:?}"));
}

const EACH: usize = 12;
const MODES: &str = "sync,async,oneway,batch,ordered";
const LARGE_BYTES: usize = 20_000;
const ORPHANS: usize = 6;
/// Of which nobody ever knows.
const DOUBTFUL: usize = 6;
const DECISIONS: &str = "commit,rollback,later-commit,later-rollback";

fn features(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let starter = Starter { kit: go::kit()?, scratch, namesrv: cluster.namesrv().to_owned() };
    let base = scratch.unique("go");
    for feature in ["all", "retry", "tx", "orphan", "doubt", "request", "trace"] {
        cluster.create_topic(&format!("{base}_{feature}"), 2)?;
    }
    // how a client writes the topic of a namespace
    cluster.create_topic(&format!("space%{base}_space"), 2)?;
    let consume = |name: &str, of: &str, rest: &str| {
        starter.start(name, &format!("consume -topic {base}_{of} -group {base}_g_{name} {rest}"))
    };
    let total = MODES.split(',').count() * EACH;
    let until = format!("-until {total}");
    let mut everything = consume("everything", "all", &until)?;
    let mut ordered = consume("ordered", "all", &format!("{until} -orderly"))?;
    let mut tags = consume("tags", "all", "-tags A~||~C")?;
    let mut sql = consume("sql", "all", "-sql n~>=~3~AND~n~<~6")?;
    // each of them gets all; a group's offsets lie in the home of each
    let group = format!("consume -topic {base}_all -group {base}_g_broadcast -broadcasting {until}");
    let mut broadcast = [starter.start("broadcast-1", &group)?, starter.start("broadcast-2", &group)?];
    let mut pull = starter.start("pull", &format!("pull -topic {base}_all -group {base}_g_pull {until}"))?;
    let mut retry = consume("retry", "retry", "-reject 1 -reject-level 2")?;
    let mut dead = consume("dead", "retry", "-reject 9 -max-reconsume 1")?;
    let mut tx = consume("tx", "tx", "")?;
    let mut orphan = consume("orphan", "orphan", "")?;
    let mut in_doubt = consume("doubt", "doubt", "")?;
    let mut space = consume("space", "space", "-namespace space")?;
    let mut traced = consume("traced", "trace", "-trace")?;
    // Traces are messages like any.
    let line = format!("consume -topic RMQ_SYS_TRACE_TOPIC -group {base}_g_traces");
    let mut traces = starter.start("traces", &line)?;
    let mut reply =
        starter.start("reply", &format!("reply -topic {base}_request -group {base}_g_request"))?;
    reply.wait_started()?;

    let send = |topic: &str, rest: &str| format!("send -topic {base}_{topic} -group {base}_p {rest}");
    let rest = format!("-mode {MODES} -count {EACH} -tags A,B,C -keys k");
    let mut producer = starter.start("producer", &send("all", &rest))?;
    let rest = format!("-count 4 -delay 2 -size {LARGE_BYTES} -prefix delayed");
    let mut delayed = starter.start("delayed", &send("retry", &rest))?;
    let line = format!("transactions -topic {base}_tx -group {base}_p_tx -count 8 -decisions {DECISIONS}");
    let mut transactions = starter.start("transactions", &line)?;
    let mut doubtful = [starter.doubt("doubt", &base)?];
    let mut heir = starter.heir(&base)?;
    starter.leave_orphans(&base)?;
    let mut spaced = starter.start("spaced", &send("space", "-count 4 -prefix spaced -namespace space"))?;
    let line = format!("request -topic {base}_request -group {base}_p -count 4");
    let mut requests = starter.start("requests", &line)?;

    let mut tracer = starter.start("tracer", &send("trace", "-count 1 -keys traced -trace"))?;

    let mut c = Complaints::default();
    c.about("go");
    producer.join(PATIENCE)?;
    delayed.join(PATIENCE)?;
    let sends = producer.sends();
    c.check(sent(&sends).len() == total, || format!("{} of {total} sent", sent(&sends).len()));
    for (name, consumer) in
        [("everything", &mut everything), ("ordered", &mut ordered), ("pulled", &mut pull)]
    {
        let arrived = consumer.wait_until("all messages", PATIENCE, |s| s.deliveries().len() >= total);
        c.result(arrived);
        consumer.finish()?;
        exactly_once(name, &sends, &consumer.deliveries(), &mut c);
        c.none("places with two values", &history::contradictions(&sends, &consumer.deliveries()));
    }
    in_order(&ordered.deliveries(), &mut c);
    for consumer in &mut broadcast {
        let arrived = consumer.wait_until("all messages", PATIENCE, |s| s.deliveries().len() >= total);
        c.result(arrived);
        consumer.finish()?;
        exactly_once("broadcast", &sends, &consumer.deliveries(), &mut c);
    }
    let number = |value: &str| value.rsplit('-').next().and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
    let chosen = |choice: fn(usize) -> bool| -> BTreeSet<String> {
        sent(&sends).into_iter().filter(|value| choice(number(value))).collect()
    };
    for (name, consumer, wanted) in
        [("tags", &mut tags, chosen(|n| n % 3 != 1)), ("sql", &mut sql, chosen(|n| (3..6).contains(&n)))]
    {
        let arrived =
            consumer.wait_until("what was asked for", PATIENCE, |s| values(&s.deliveries()) == wanted);
        c.result(arrived);
        consumer.finish()?;
        c.same(name, &values(&consumer.deliveries()), &wanted);
    }

    let delays = delayed.sends();
    for (name, consumer) in [("retry", &mut retry), ("dead", &mut dead)] {
        let arrived =
            consumer.wait_until("two attempts", PATIENCE, |s| s.deliveries().len() >= 2 * delays.len());
        c.result(arrived);
        consumer.finish()?;
        retried(scratch, name, &delays, &consumer.deliveries(), &mut c);
    }
    let line = format!("consume -topic %DLQ%{base}_g_dead -group {base}_g_letters -idle 3000");
    let mut letters = starter.start("letters", &line)?;
    letters.join(PATIENCE)?;
    exactly_once("dead letters", &delays, &letters.deliveries(), &mut c);

    transactions.wait_until("half messages", PATIENCE, |s| s.sends().len() >= 8)?;
    let halves = transactions.sends();
    let committed = committed(&halves);
    let arrived = tx
        .wait_until("committed transactions", PATIENCE, |s| values(&s.deliveries()).is_superset(&committed));
    c.result(arrived);
    transactions.finish()?;
    tx.finish()?;
    c.none("failed half messages", &history::failed(&halves));
    c.same("committed transactions", &values(&tx.deliveries()), &committed);
    if cluster.is_raftmq() {
        c.none("transactions committed twice", &history::stored_twice(&tx.deliveries()));
    }

    let inherited = orphan.wait_until("orphans", PATIENCE, |s| values(&s.deliveries()).len() > ORPHANS);
    c.result(inherited);
    heir.finish()?;
    orphan.finish()?;
    check_orphans(&heir, &orphan.deliveries(), &mut c);
    let aside = starter.put_aside(&base, cluster.groups().len(), &sent(&doubtful[0].sends()))?;
    doubtful[0].finish()?;
    in_doubt.finish()?;
    let aside = judge_aside(&base, in_doubt.deliveries(), &doubtful, &aside, &mut c);
    exactly_once("transactions put aside", &doubtful[0].sends(), &aside, &mut c);
    spaced.join(PATIENCE)?;
    let arrived = space.wait_until("all messages", PATIENCE, |s| s.deliveries().len() >= 4);
    c.result(arrived);
    space.finish()?;
    exactly_once("messages in a namespace", &spaced.sends(), &space.deliveries(), &mut c);

    traced.wait_until("the traced message", PATIENCE, |s| !s.deliveries().is_empty())?;
    let id = tracer.sends().first().and_then(|send| send.msg_id.clone()).context("no id")?;
    // TraceDataEncoder: fields end with \u{1}, traces with \u{2}.
    let wanted = ["Pub", "SubBefore", "SubAfter"];
    let told = traces.wait_until("its traces", PATIENCE, |s| {
        let bodies = values(&s.deliveries());
        let entries: BTreeSet<&str> = bodies
            .iter()
            .flat_map(|body| body.split('\u{2}'))
            .filter(|entry| entry.split('\u{1}').any(|field| field == id))
            .filter_map(|entry| entry.split('\u{1}').next())
            .collect();
        wanted.iter().all(|kind| entries.contains(kind))
    });
    c.result(told);
    for scenario in [&mut traced, &mut tracer, &mut traces] {
        scenario.finish()?;
    }

    requests.join(PATIENCE)?;
    reply.finish()?;
    let requests = requests.others("request");
    let wrong = requests
        .iter()
        .filter(|r| r["reply"] != format!("re: {}", r["value"].as_str().unwrap_or("")).as_str());
    c.none("requests without the right reply", &wrong.collect::<Vec<_>>());
    c.check(requests.len() == 4, || format!("{} requests", requests.len()));
    c.end()
}

/// Each queue in the order of its offsets, and each shard in one queue and in the order of its sends.
fn in_order(deliveries: &[Delivery], c: &mut Complaints) {
    let mut newest: BTreeMap<(&str, u32), i64> = BTreeMap::new();
    for Delivery { place, .. } in deliveries {
        let before = newest.insert((&place.broker, place.queue), place.offset).unwrap_or(-1);
        c.check(before < place.offset, || format!("{place} came after {before}"));
    }
}

/// Delayed by level 2 at first, then rejected once and retried with level 2.
fn retried(
    scratch: &Scratch,
    name: &str,
    sends: &[history::Send],
    deliveries: &[Delivery],
    c: &mut Complaints,
) {
    let level_ms = cluster::DELAY_LEVELS_S[1] as i64 * 1000;
    for n in 0..2 {
        exactly_once(&format!("{name}, attempt {n}"), sends, &attempt(deliveries, n), c);
    }
    same_ids(name, sends, deliveries, c);
    let spoilt = deliveries.iter().filter(|d| d.size != LARGE_BYTES || !d.intact);
    c.none("large bodies spoilt", &spoilt.collect::<Vec<_>>());
    if let Some(Punctuality { soonest, latest }) =
        history::punctuality(sends, &attempt(deliveries, 0), |_| level_ms)
    {
        scratch.report(&format!("go {name}: delayed messages {soonest} to {latest} ms late"));
        c.check(soonest >= 0 && latest <= LATE_MS, || format!("delayed by {soonest} to {latest} ms more"));
    }
}

/// GET_TOPIC_CONFIG, and its refusal of a topic that is not there.
const TOPIC_CONFIG: i32 = 351;
const TOPIC_NOT_EXIST: i32 = 17;

/// What this client has of an administrator: topics made, listed and deleted, and the list of groups.
fn administration(scratch: &Scratch) -> Result<()> {
    const QUEUES: usize = 3;
    let cluster = Running::get()?;
    let starter = Starter { kit: go::kit()?, scratch, namesrv: cluster.namesrv().to_owned() };
    let topic = scratch.unique("go");
    let address = cluster.master(cluster.groups().first().context("no group")?)?;
    let line = format!("admin -topic {topic} -broker {address} -count {QUEUES}");
    let mut admin = starter.start("admin", &line)?;
    let mut said = |event: &str| {
        admin.wait_until(event, PATIENCE, |s| !s.others(event).is_empty())?;
        Ok::<_, anyhow::Error>(admin.others(event).remove(0))
    };
    ensure!(said("queues")?["queues"] == QUEUES, "{}", said("queues")?);
    let groups = said("groups")?;
    let groups = groups["groups"].as_array().context("no list")?;
    ensure!(groups.iter().any(|name| name == "TOOLS_CONSUMER"), "{groups:?}");
    let known =
        || remoting::Connection::open(&address, PATIENCE)?.ask(TOPIC_CONFIG, &[("topic", &topic)], &[]);
    ensure!(known()?.code == 0, "{:?}", known()?);
    admin.finish()?;
    ensure!(!admin.others("deleted").is_empty(), "it did not come to delete it");
    // It tells the nameservers itself, so the broker is asked too.
    ensure!(known()?.code == TOPIC_NOT_EXIST, "{:?}", known()?);
    ensure!(remoting::route(cluster.nameserver(), &topic)?.is_empty(), "there is a route still");
    Ok(())
}

/// Two consumers share the queues, and the one that stays takes over those of the one that dies.
fn rebalance(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let starter = Starter { kit: go::kit()?, scratch, namesrv: cluster.namesrv().to_owned() };
    let base = scratch.unique("go");
    cluster.create_topic(&base, 4)?;
    let line = format!("consume -topic {base} -group {base}_g");
    let mut first = starter.start("first", &line)?;
    let mut second = starter.start("second", &line)?;
    let mut producer =
        starter.start("producer", &format!("failover -topic {base} -group {base}_p -rate 50"))?;
    for consumer in [&mut first, &mut second] {
        consumer.wait_until("a share of the messages", PATIENCE, |s| {
            s.deliveries().iter().map(|d| &d.place).collect::<BTreeSet<_>>().len() > 20
        })?;
    }
    second.kill()?;
    let killed = producer.sends().len();
    producer.wait_until("more sends", PATIENCE, |s| s.sends().len() > killed + 100)?;
    producer.finish()?;
    let sends = producer.sends();
    let before = second.deliveries();
    first.wait_until("every message", PATIENCE, |s| {
        history::lost(&sends, &[s.deliveries(), before.clone()].concat()).is_empty()
    })?;
    first.finish()?;
    let mut c = Complaints::default();
    c.about("go");
    c.none("failed sends", &history::failed(&sends));
    let deliveries = [first.deliveries(), before].concat();
    c.none("skipped", &history::skipped(&deliveries));
    c.none("contradictions", &history::contradictions(&sends, &deliveries));
    scratch.report(&format!("{} sends, {:?}", sends.len(), history::duplicates(&deliveries)));
    c.end()
}

/// Each with a group of its own, through the death of a leader. Messages with an even number have tag A.
const READERS: [(&str, &str); 5] = [
    ("orderly", "consume -orderly"),
    ("tags", "consume -tags A"),
    ("sql", "consume -sql TAGS~=~'A'~AND~n~>=~0"),
    ("broadcast", "consume -broadcasting"),
    ("pull", "pull"),
];

fn is_even(value: &str) -> bool {
    value.rsplit('-').next().and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n.is_multiple_of(2))
}

/// A group that mqadmin moved while the leader died: what the last try of it began and ended at, nanoseconds since 1970.
struct Moved {
    began: i64,
    ended: i64,
    tries: usize,
}

/// Tries a command that moves a group until the tool says so of every queue.
fn move_group(shell: &mut mqadmin::Shell, command: &[&str], queues: usize) -> Result<Moved> {
    let (mut began, mut tries) = (0, 0);
    wait::until(command[0], PATIENCE, || {
        (began, tries) = (now()?, tries + 1);
        let said = shell.run(command)?;
        ensure!(mqadmin::rows(&said).len() == queues, "{said}");
        Ok(Some(()))
    })?;
    Ok(Moved { began, ended: now()?, tries })
}

/// The tool moves one group after the other while this leader is killed.
fn kill_while_groups_move(
    cluster: &mut Cluster,
    leader: u64,
    shell: &mut mqadmin::Shell,
    commands: &[Vec<&str>],
    queues: usize,
) -> Result<Vec<Moved>> {
    let (begins, begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let moves = scope.spawn(move || {
            let mut moved = Vec::new();
            for command in commands {
                if moved.len() == 1 {
                    // Nobody listens any more who does not need it.
                    let _ = begins.send(());
                }
                moved.push(move_group(shell, command, queues)?);
            }
            Ok(moved)
        });
        // At any moment of the second one.
        if begun.recv_timeout(PATIENCE).is_ok() {
            std::thread::sleep(Duration::from_millis(now()? as u64 % 100));
        }
        cluster.kill(leader)?;
        moves.join().map_err(|_| anyhow!("the moves panicked"))?
    })
}

fn now() -> Result<i64> {
    Ok(UNIX_EPOCH.elapsed().context("a clock before 1970")?.as_nanos() as i64)
}

/// A time in the middle of what was consumed, in milliseconds.
fn middle_ms(deliveries: &[Delivery]) -> Result<i64> {
    let mut stored: Vec<i64> = deliveries.iter().map(|d| d.stored_ms).collect();
    stored.sort_unstable();
    stored.get(stored.len() / 2).copied().context("nothing was consumed")
}

/// Waits until mqadmin shows that a message was sent, and consumed by this group.
fn is_traced(shell: &mut mqadmin::Shell, id: &str, group: &str) -> Result<()> {
    wait::until("its trace", PATIENCE, || {
        let said = shell.run(&["queryMsgTraceById", "-i", id])?;
        let row = |kind: &str| said.lines().any(|line| line.starts_with(kind) && line.contains("success"));
        ensure!(row("Pub") && row("Sub") && said.contains(group), "{said}");
        Ok(Some(()))
    })
}

/// What a group gets that was moved back to `to_ms` while its consumer ran: all from there again, and nothing that is older.
fn moved_while_running(deliveries: &[Delivery], to_ms: i64, moved: &Moved, c: &mut Complaints) {
    let again = |value: &str| deliveries.iter().filter(|d| d.at >= moved.began && d.value == value).count();
    let before: Vec<&Delivery> = deliveries.iter().filter(|d| d.at < moved.began).collect();
    let newer: Vec<&str> = before.iter().filter(|d| d.stored_ms >= to_ms).map(|d| d.value.as_str()).collect();
    c.none("did not come again", &newer.iter().filter(|value| again(value) == 0).collect::<Vec<_>>());
    // What the dead leader had not committed yet comes again as well; consumers commit each 5 s.
    let is_old = |d: &&&Delivery| d.stored_ms < to_ms && d.at < moved.began - 10_000_000_000;
    let older = before.iter().filter(is_old).map(|d| d.value.as_str());
    c.none("older ones came again", &older.filter(|value| again(value) > 0).collect::<Vec<_>>());
    // Each try that the tool did not hear the end of may have been done, and a new leader tells once more.
    let often = newer.iter().filter(|value| again(value) > moved.tries + 2);
    c.none("came again and again", &often.collect::<Vec<_>>());
}

/// Of a cluster whose leader of one of them dies.
const GROUPS: u8 = 3;

/// The client's own settings. mqadmin moves consumers that run and that do not while the leader dies.
fn leader_killed(scratch: &Scratch) -> Result<()> {
    const QUEUES: u32 = 2;
    let mut cluster = Cluster::start(scratch, Plan::new(3, GROUPS))?;
    let starter = Starter { kit: go::kit()?, scratch, namesrv: cluster.namesrv() };
    let base = scratch.unique("go");
    cluster.create_topic(&base, QUEUES)?;
    let consume = |name: &str, group: &str| {
        starter.start(name, &format!("consume -topic {base} -group {base}_{group} -trace"))
    };
    let mut consumer = consume("consumer", "g")?;
    let mut moved = consume("moved", "moved")?;
    let mut stopped = [consume("back", "back")?, consume("skip", "skip")?];
    let mut readers = Vec::new();
    for (name, kind) in READERS {
        readers.push((name, starter.start(name, &format!("{kind} -topic {base} -group {base}_{name}"))?));
    }
    let mut producer = starter
        .start("producer", &format!("failover -topic {base} -group {base}_p -rate 20 -tags A,B -trace"))?;
    consumer.wait_until("deliveries of every group", PATIENCE, |s| {
        let brokers: BTreeSet<String> = s.deliveries().into_iter().map(|d| d.place.broker).collect();
        brokers.len() == usize::from(GROUPS)
    })?;
    for consumer in &mut stopped {
        // All that was acknowledged until now, so that what is older than the middle of it is known.
        let so_far = producer.sends();
        consumer.wait_until("what there is", PATIENCE, |s| {
            s.deliveries().len() > 60 && history::lost(&so_far, &s.deliveries()).is_empty()
        })?;
        consumer.finish()?;
    }
    let back = stopped[0].deliveries();
    moved.wait_until("some", PATIENCE, |s| s.deliveries().len() > 40)?;
    let (moved_to_ms, back_to_ms) = (middle_ms(&moved.deliveries())?, middle_ms(&back)?);
    let mut shell = mqadmin::Shell::start(scratch.dir(), &starter.namesrv)?;
    let traced = producer.sends().first().and_then(|send| send.msg_id.clone()).context("no id")?;
    is_traced(&mut shell, &traced, &format!("{base}_g"))?;
    let leader = cluster.leader("broker-b")?;
    let group = |name: &str| format!("{base}_{name}");
    let (group_moved, group_back, group_skip) = (group("moved"), group("back"), group("skip"));
    let (moved_to, back_to) = (moved_to_ms.to_string(), back_to_ms.to_string());
    let commands = [
        vec!["resetOffsetByTime", "-g", &group_moved, "-t", &base, "-s", &moved_to],
        vec!["resetOffsetByTime", "-g", &group_back, "-t", &base, "-s", &back_to],
        vec!["skipAccumulatedMessage", "-g", &group_skip, "-t", &base],
    ];
    let queues = usize::from(GROUPS) * QUEUES as usize;
    let moves = kill_while_groups_move(&mut cluster, leader, &mut shell, &commands, queues)?;
    let killed = now()?;
    // to the group that lost its leader too
    producer.wait_until("sends to every group", PATIENCE, |s| {
        let since = s.sends().into_iter().filter(|send| send.ok && send.start > killed);
        let brokers: BTreeSet<String> = since.filter_map(|send| Some(send.place?.broker)).collect();
        brokers.len() == usize::from(GROUPS)
    })?;
    // Only now do they look where they are: of the new leader, while the old one is dead.
    let mut stopped = [consume("back-2", "back")?, consume("skip-2", "skip")?];
    for consumer in &mut stopped {
        // A nameserver that has just started does not know the topic yet, and this client takes its word.
        consumer.wait_started()?;
    }
    cluster.start_node(leader)?;
    cluster.wait_whole()?;
    producer.finish()?;
    let sends = producer.sends();
    consumer.wait_until("every acknowledged message", PATIENCE, |s| {
        history::lost(&sends, &s.deliveries()).is_empty()
    })?;
    consumer.finish()?;
    let deliveries = consumer.deliveries();
    let mut c = Complaints::default();
    for (name, reader) in &mut readers {
        c.about(&format!("go {name}"));
        let has_even_only = matches!(*name, "tags" | "sql");
        let mut wanted = sends.clone();
        wanted.retain(|send| !has_even_only || send.values.iter().all(|value| is_even(value)));
        let arrived = reader.wait_until("every acknowledged message", PATIENCE, |s| {
            history::lost(&wanted, &s.deliveries()).is_empty()
        });
        c.result(arrived);
        reader.finish()?;
        let deliveries = reader.deliveries();
        c.none("unexpected", &history::unexpected(&wanted, &deliveries));
        c.none("contradictions", &history::contradictions(&wanted, &deliveries));
        if !has_even_only {
            c.none("skipped", &history::skipped(&deliveries));
        }
        if *name == "orderly" {
            c.none("out of order", &history::out_of_order(&deliveries));
        }
        scratch.report(&format!(
            "{name}: {} deliveries, {:?}",
            deliveries.len(),
            history::duplicates(&deliveries)
        ));
    }
    let [running, to_back, to_skip] = &moves[..] else { bail!("{} moves", moves.len()) };
    // Those that are to be there at the end, and those that are not.
    let acknowledged = |choice: &dyn Fn(&history::Send) -> bool| -> BTreeSet<String> {
        sends.iter().filter(|send| send.ok && choice(send)).flat_map(|send| send.values.clone()).collect()
    };
    let older: BTreeSet<String> =
        back.iter().filter(|d| d.stored_ms < back_to_ms).map(|d| d.value.clone()).collect();
    let all = acknowledged(&|_| true);
    let expected = [
        ("moved back while stopped", all.difference(&older).cloned().collect(), older),
        (
            "moved to the end while stopped",
            acknowledged(&|send| send.start > to_skip.ended),
            acknowledged(&|send| send.end < to_skip.began),
        ),
    ];
    for (consumer, (name, wanted, unwanted)) in stopped.iter_mut().zip(&expected) {
        let wanted: &BTreeSet<String> = wanted;
        c.about(&format!("go, {name}"));
        let arrived = consumer
            .wait_until("what it is to get", PATIENCE, |s| values(&s.deliveries()).is_superset(wanted));
        c.result(arrived);
        consumer.finish()?;
        let deliveries = consumer.deliveries();
        c.none("skipped", &history::skipped(&deliveries));
        c.none("came again", &values(&deliveries).intersection(unwanted).collect::<Vec<_>>());
        scratch.report(&format!("{name}: {} deliveries, {} not wanted", deliveries.len(), unwanted.len()));
    }
    c.about("go, moved back while running");
    let arrived = moved.wait_until("what it is to get again", PATIENCE, |s| {
        let deliveries = s.deliveries();
        let again: BTreeSet<&str> =
            deliveries.iter().filter(|d| d.at >= running.began).map(|d| d.value.as_str()).collect();
        let is_again = |d: &&Delivery| d.at < running.began && d.stored_ms >= moved_to_ms;
        deliveries.iter().filter(is_again).all(|d| again.contains(d.value.as_str()))
            && history::lost(&sends, &deliveries).is_empty()
    });
    c.result(arrived);
    moved.finish()?;
    let moved = moved.deliveries();
    c.none("skipped", &history::skipped(&moved));
    moved_while_running(&moved, moved_to_ms, running, &mut c);
    scratch.report(&format!(
        "moved in {}, {} and {} tries; {} deliveries",
        running.tries,
        to_back.tries,
        to_skip.tries,
        moved.len()
    ));
    c.about("go");
    let kept = is_traced(&mut shell, &traced, &format!("{base}_g")).context("the trace of before the kill");
    c.result(kept);
    c.none("skipped", &history::skipped(&deliveries));
    c.none("contradictions", &history::contradictions(&sends, &deliveries));
    c.none("unexpected", &history::unexpected(&sends, &deliveries));
    let gap = history::longest_gap(&sends).map_or(0, |(gap, _)| gap);
    scratch.report(&format!(
        "{} sends, {} failed, longest gap {:?}, {:?}",
        sends.len(),
        history::failed(&sends).len(),
        Duration::from_nanos(gap as u64),
        history::duplicates(&deliveries),
    ));
    c.end()
}

/// What runs in [`features_through_a_kill`], each in a process of its own.
struct Busy {
    base: String,
    /// By mode; `delay` and `retry` are sends to topics of that name.
    producers: Vec<(&'static str, Scenario)>,
    transactions: Scenario,
    requests: Scenario,
    reply: Scenario,
    heir: Scenario,
    /// Of transactions of which nobody ever knows: one from before the leader's death, and one from after it.
    doubtful: Vec<Scenario>,
    consumers: BTreeMap<&'static str, Scenario>,
}

impl Busy {
    /// Not async: this client ends with a nil dereference when the answer to an asynchronous send does not come.
    const MODES: [&str; 4] = ["sync", "oneway", "batch", "ordered"];

    fn start(starter: &Starter<'_>, base: String) -> Result<Busy> {
        let mut consumers = BTreeMap::new();
        for (name, of, rest) in [
            ("everything", "all", ""),
            ("orderly", "all", "-orderly"),
            ("delay", "delay", ""),
            ("retry", "retry", "-reject 1 -reject-level 2"),
            ("plain", "retry", "-reject 1"),
            ("dead", "retry", "-reject 9 -max-reconsume 1"),
            ("tx", "tx", ""),
            ("orphan", "orphan", ""),
            ("doubt", "doubt", ""),
            ("space", "space", "-namespace space"),
        ] {
            let line = format!("consume -topic {base}_{of} -group {base}_g_{name} {rest}");
            consumers.insert(name, starter.start(name, &line)?);
        }
        let line = format!("reply -topic {base}_request -group {base}_g_request");
        let mut reply = starter.start("reply", &line)?;
        reply.wait_started()?;
        for consumer in consumers.values_mut() {
            consumer.wait_started()?;
        }
        let send = |name: &'static str, topic: &str, rest: &str| {
            let line = format!("failover -topic {base}_{topic} -group {base}_p_{name} -prefix {name} {rest}");
            anyhow::Ok((name, starter.start(&format!("producer-{name}"), &line)?))
        };
        let mut producers = Vec::new();
        for mode in Busy::MODES {
            producers.push(send(mode, "all", &format!("-mode {mode} -rate 10"))?);
        }
        // large enough to be compressed
        producers.push(send("delay", "delay", &format!("-rate 10 -delay 2 -size {LARGE_BYTES}"))?);
        producers.push(send("retry", "retry", "-rate 3")?);
        producers.push(send("space", "space", "-rate 10 -namespace space")?);
        let line = format!("transactions -topic {base}_tx -group {base}_p_tx -count 1000000 -rate 5");
        // Nothing is sent twice, so what is committed twice is the broker's doing.
        let line = format!("{line} -retries 0");
        let transactions = starter.start("transactions", &format!("{line} -decisions {DECISIONS}"))?;
        let line = format!("request -topic {base}_request -group {base}_p -count 1000000 -rate 3");
        let requests = starter.start("requests", &line)?;
        let heir = starter.heir(&base)?;
        let doubtful = vec![starter.doubt("doubt-1", &base)?];
        Ok(Busy { base, producers, transactions, requests, reply, heir, doubtful, consumers })
    }

    /// Waits until each gets to every group what it began after `since`, nanoseconds since 1970. A request goes where its
    /// client likes.
    fn wait_working(&mut self, since: i64, groups: usize) -> Result<()> {
        let all = self.producers.iter_mut().map(|(_, producer)| producer).chain([&mut self.transactions]);
        for producer in all {
            producer.wait_until("sends to every group", PATIENCE, |s| {
                let fresh: Vec<history::Send> =
                    s.sends().into_iter().filter(|send| send.ok && send.start > since).collect();
                let places = fresh.iter().filter_map(|send| send.place.as_ref());
                let brokers: BTreeSet<&str> = places.map(|place| place.broker.as_str()).collect();
                // One-way sends are told no place; enough of them have been everywhere.
                brokers.len() == groups || (fresh.len() > 20 * groups && brokers.is_empty())
            })?;
        }
        self.requests.wait_until("an answered request", PATIENCE, |s| {
            s.others("request").iter().any(|r| r["ok"] == true && r["start"].as_i64() > Some(since))
        })
    }

    fn sends(&self, name: &str) -> Vec<history::Send> {
        self.producers.iter().filter(|(of, _)| *of == name).flat_map(|(_, p)| p.sends()).collect()
    }

    /// Ends what sends, then waits for what was acknowledged, of transactions for `tx`, and ends what consumes: what each consumer
    /// got, and the dead letters.
    fn finish(
        &mut self,
        starter: &Starter<'_>,
        tx: &[history::Send],
        c: &mut Complaints,
    ) -> Result<BTreeMap<&'static str, Vec<Delivery>>> {
        for (_, producer) in &mut self.producers {
            producer.finish()?;
        }
        self.requests.finish()?;
        self.reply.finish()?;
        let all: Vec<history::Send> = Busy::MODES.iter().flat_map(|mode| self.sends(mode)).collect();
        let [delay, retry, space] = ["delay", "retry", "space"].map(|name| self.sends(name));
        for (name, consumer) in &mut self.consumers {
            let arrived = match *name {
                "everything" | "orderly" | "delay" | "space" => {
                    let sends = match *name {
                        "delay" => &delay,
                        "space" => &space,
                        _ => &all,
                    };
                    consumer.wait_until(name, PATIENCE, |s| history::lost(sends, &s.deliveries()).is_empty())
                }
                "orphan" => consumer.wait_until(name, PATIENCE, |s| values(&s.deliveries()).len() > ORPHANS),
                // Nothing is to come.
                "doubt" => Ok(()),
                // Its producer goes on, for it is asked of what it decides later.
                "tx" => consumer
                    .wait_until(name, PATIENCE, |s| values(&s.deliveries()).is_superset(&committed(tx))),
                _ => consumer.wait_until(name, PATIENCE, |s| {
                    values(&attempt(&s.deliveries(), 1)).is_superset(&sent(&retry))
                }),
            };
            c.about(name);
            c.result(arrived);
        }
        // One that is told to stop gives back no more.
        let line = format!("consume -topic %DLQ%{0}_g_dead -group {0}_g_letters", self.base);
        let mut letters = starter.start("letters", &line)?;
        let arrived =
            letters.wait_until("letters", PATIENCE, |s| values(&s.deliveries()).is_superset(&sent(&retry)));
        c.about("letters");
        c.result(arrived);
        self.consumers.insert("letters", letters);
        let doubtful: Vec<history::Send> = self.doubtful.iter().flat_map(Scenario::sends).collect();
        let aside = starter.put_aside(&self.base, GROUPS.into(), &sent(&doubtful))?;
        for scenario in [&mut self.transactions, &mut self.heir].into_iter().chain(&mut self.doubtful) {
            scenario.finish()?;
        }
        let mut got = BTreeMap::new();
        for (name, consumer) in &mut self.consumers {
            consumer.finish()?;
            got.insert(*name, consumer.deliveries());
        }
        got.insert("aside", aside);
        Ok(got)
    }
}

/// Every kind of send, delays, retries and dead letters, transactions and requests, while a leader of three groups dies.
fn features_through_a_kill(scratch: &Scratch) -> Result<()> {
    /// May have been under way when the leader died: what a consumer of this client handles at once.
    const IN_FLIGHT: usize = 20;
    let mut cluster = Cluster::start(scratch, Plan::new(3, GROUPS))?;
    let starter = Starter { kit: go::kit()?, scratch, namesrv: cluster.namesrv() };
    let base = scratch.unique("go");
    for topic in ["all", "delay", "retry", "tx", "orphan", "doubt", "request"] {
        cluster.create_topic(&format!("{base}_{topic}"), 2)?;
    }
    cluster.create_topic(&format!("space%{base}_space"), 2)?;
    let mut busy = Busy::start(&starter, base)?;
    busy.wait_working(0, GROUPS.into())?;
    // Of some of them another leader asks.
    starter.leave_orphans(&busy.base)?;
    let leader = cluster.leader("broker-b")?;
    cluster.kill(leader)?;
    let killed = now()?;
    busy.wait_working(killed, GROUPS.into())?;
    busy.doubtful.push(starter.doubt("doubt-2", &busy.base)?);
    cluster.start_node(leader)?;
    cluster.wait_whole()?;

    let mut c = Complaints::default();
    let tx = busy.transactions.sends();
    let got = busy.finish(&starter, &tx, &mut c)?;
    let all: Vec<history::Send> = Busy::MODES.iter().flat_map(|mode| busy.sends(mode)).collect();
    for name in ["everything", "orderly"] {
        c.about(name);
        c.none("lost", &history::lost(&all, &got[name]));
        c.none("skipped", &history::skipped(&got[name]));
        c.none("unexpected", &history::unexpected(&all, &got[name]));
        c.none("contradictions", &history::contradictions(&all, &got[name]));
    }
    c.none("out of order", &history::out_of_order(&got["orderly"]));

    c.about("space");
    c.none("lost", &history::lost(&busy.sends("space"), &got["space"]));
    c.none("unexpected", &history::unexpected(&busy.sends("space"), &got["space"]));
    c.about("orphans");
    check_orphans(&busy.heir, &got["orphan"], &mut c);

    c.about("delay");
    let (delay, retry) = (busy.sends("delay"), busy.sends("retry"));
    c.none("lost", &history::lost(&delay, &got["delay"]));
    c.none("unexpected", &history::unexpected(&delay, &got["delay"]));
    let level_ms = cluster::DELAY_LEVELS_S[1] as i64 * 1000;
    let Punctuality { soonest, latest } =
        history::punctuality(&delay, &got["delay"], |_| level_ms).context("no delayed message")?;
    c.check(soonest >= 0, || format!("{} ms early", -soonest));
    let spoilt = got["delay"].iter().filter(|d| d.size != LARGE_BYTES || !d.intact);
    c.none("large bodies spoilt", &spoilt.collect::<Vec<_>>());

    c.about("in doubt");
    let aside = judge_aside(&busy.base, got["doubt"].clone(), &busy.doubtful, &got["aside"], &mut c);
    for producer in &busy.doubtful {
        let sends = producer.sends();
        c.none("failed half messages", &history::failed(&sends));
        c.none("lost", &sent(&sends).difference(&values(&aside)).collect::<Vec<_>>());
    }
    c.none("put aside twice", &history::stored_twice(&aside));

    for name in ["retry", "plain", "dead"] {
        c.about(name);
        for n in 0..=1 {
            let lost: Vec<String> =
                sent(&retry).difference(&values(&attempt(&got[name], n))).cloned().collect();
            c.none(&format!("lost at attempt {n}"), &lost);
        }
        let again = history::stored_twice(&attempt(&got[name], 1));
        c.check(again.len() <= IN_FLIGHT, || format!("retried twice: {again:?}"));
    }
    let lost: Vec<String> = sent(&retry).difference(&values(&got["letters"])).cloned().collect();
    c.none("dead letters lost", &lost);

    c.about("transactions");
    c.none("lost", &committed(&tx).difference(&values(&got["tx"])).collect::<Vec<_>>());
    c.none("rolled back", &got["tx"].iter().filter(|d| d.value.contains("rollback")).collect::<Vec<_>>());
    c.none("committed twice", &history::stored_twice(&got["tx"]));

    c.about("requests");
    let requests = busy.requests.others("request");
    let is_wrong = |r: &&serde_json::Value| {
        r["ok"] == true && r["reply"] != format!("re: {}", r["value"].as_str().unwrap_or("")).as_str()
    };
    c.none("the wrong reply", &requests.iter().filter(is_wrong).collect::<Vec<_>>());
    for (name, producer) in &busy.producers {
        let sends = producer.sends();
        scratch.report(&format!("{name}: {} sends, {} failed", sends.len(), history::failed(&sends).len()));
    }
    scratch.report(&format!(
        "delayed messages {soonest} to {latest} ms late; {} transactions, {} failed; {} requests, {} failed; {:?}",
        tx.len(),
        history::failed(&tx).len(),
        requests.len(),
        requests.iter().filter(|r| r["ok"] != true).count(),
        history::duplicates(&got["everything"]),
    ));
    c.end()
}
