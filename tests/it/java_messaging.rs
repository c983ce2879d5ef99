//! What a broker does beyond storing and handing out, with stock Java clients: delays, timers and their recall, retries and
//! dead letters, transactions, requests, traces, compressed bodies, namespaces. Once in peace and once while leaders die.
//!
//! All versions run side by side, each with all of its clients in one JVM, so that a test costs the time of its longest
//! delay. Every rule is looked at, and one run tells all that is wrong. Apache (`RAFTMQ_TEST_NAMESRV`) needs
//! [`APACHE_SETTINGS`](cluster::APACHE_SETTINGS); rules that it does not keep are left out for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tests::cluster::{self, Cluster, Plan, Running};
use tests::complaints::{Complaints, exactly_once, same_ids};
use tests::history::{self, Delivery, Punctuality, Send, attempt, committed, sent, values};
use tests::remoting::Connection;
use tests::runner::{Requirement, Scratch, Test, test};
use tests::scenario::Scenario;
use tests::{java, mqadmin, wait};

use crate::doubt::{self, ASIDE};

const PATIENCE: Duration = Duration::from_mins(1);
/// Promised is 1 s (features.md) of a broker with cores of its own; here several JVMs start meanwhile.
const LATE_MS: i64 = 2000;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        // Three versions of the clients do everything at once: a machine of two cores is busy with that.
        test("java_messaging::features", &[Requirement::Java], features).alone(),
        test("java_messaging::leader_killed", &[Requirement::Java, Requirement::OwnCluster], leader_killed)
            .calm(),
    ]
}

const TIMERS: &str = "sec:1,ms:1500,at:2500,at:-5000,ms:300";
const TIMER_DELAYS_MS: [i64; 5] = [1000, 1500, 2500, 0, 300];
const DECISIONS: &str = "commit,rollback,later-commit,later-rollback,third-commit";

// How many messages of each kind.
const DELAYED: usize = 12;
const TIMED: usize = 10;
const RECALLABLE: usize = 8;
const RETRIED: usize = 4;
const TRANSACTIONS: usize = 10;
const ORPHANS: usize = 4;
/// Of which nobody ever knows.
const DOUBTFUL: usize = 6;
const REQUESTS: usize = 6;
/// For so long a client waits for a reply, from a consumer that has its queues.
const REQUEST_MS: i64 = 10_000;
const SPACED: usize = 4;
/// Compressed as the client does unless told otherwise, and in each way that 5.x can be told.
const LARGE: usize = 6;
const LARGE_OF_EACH: usize = 2;
const COMPRESSIONS: [&str; 3] = ["LZ4", "ZSTD", "ZLIB"];
const LARGE_BYTES: usize = 20_000;
/// After so many retries a message of the group `dead` is dead.
const RETRIES: u32 = 2;

/// The names that the clients of one version use.
#[derive(Clone)]
struct Names {
    version: String,
    five: bool,
    base: String,
}

impl Names {
    fn new(scratch: &Scratch, kit: &java::Kit) -> Names {
        let base = scratch.unique(&kit.version.replace('.', "_"));
        Names { version: kit.version.clone(), five: kit.is_five(), base }
    }

    fn topic(&self, feature: &str) -> String {
        format!("{}_{feature}", self.base)
    }

    fn group(&self, feature: &str) -> String {
        format!("{}_g_{feature}", self.base)
    }

    fn producers(&self, feature: &str) -> String {
        format!("{}_p_{feature}", self.base)
    }

    /// Of values that meet those of other versions.
    fn prefix(&self) -> String {
        format!("of-{}", self.base)
    }
}

/// What the clients of one version have printed.
#[derive(Clone, Copy)]
struct Seen<'a> {
    names: &'a Names,
    scenario: &'a Scenario,
}

impl Seen<'_> {
    fn sends(&self, feature: &str) -> Vec<Send> {
        self.scenario.sends_to(&self.names.topic(feature))
    }

    fn deliveries(&self, feature: &str) -> Vec<Delivery> {
        self.scenario.deliveries_to(&self.names.group(feature))
    }

    fn has(&self, feature: &str, count: usize) -> bool {
        self.deliveries(feature).len() >= count
    }

    fn requests(&self) -> Vec<Value> {
        self.scenario.others("request")
    }

    /// Enough to be judged.
    fn is_complete(&self) -> bool {
        let five = !self.names.five
            || self.has("timer", TIMED)
                && self.has("recall", RECALLABLE / 2 + 2)
                && self.has("large", LARGE + LARGE_OF_EACH * COMPRESSIONS.len());
        five && self.has("delay", DELAYED)
            && self.has("retry", 3 * RETRIED)
            && self.has("level", 2 * RETRIED)
            && self.has("back", 2 * RETRIED)
            && self.has("dead", (RETRIES as usize + 1) * RETRIED)
            && self.has("never", RETRIED)
            && self.has("lite", RETRIED)
            && committed(&self.sends("tx")).is_subset(&values(&self.deliveries("tx")))
            && self.has("orphan", ORPHANS + 1)
            && self.has("trace", 1)
            && self.has("large", LARGE)
            && self.has("space", SPACED)
            && self.requests().len() >= REQUESTS
    }
}

/// The number at the end of a value.
fn number(value: &str) -> usize {
    value.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Of `--delays level:1,level:2,level:99`; levels above the last are the last.
fn level_delay_ms(value: &str) -> i64 {
    let levels = cluster::DELAY_LEVELS_S;
    let seconds = [levels[0], levels[1], levels[levels.len() - 1]][number(value) % 3];
    seconds as i64 * 1000
}

/// Of `--delays` [`TIMERS`].
fn timer_delay_ms(value: &str) -> i64 {
    TIMER_DELAYS_MS[number(value) % TIMER_DELAYS_MS.len()]
}

/// Everything that one version does, in one JVM. Consumers begin at the first message, so nothing waits for them.
fn start(scratch: &Scratch, cluster: &Running, version: &str) -> Result<(Names, Scenario)> {
    let kit = java::kit(version)?;
    let names = Names::new(scratch, &kit);
    for feature in ["delay", "timer", "recall", "retry", "tx", "orphan", "doubt", "request", "trace", "large"]
    {
        cluster.create_topic(&names.topic(feature), 2)?;
    }
    // how a client writes the topic of a namespace
    cluster.create_topic(&format!("space%{}", names.topic("space")), 2)?;

    let send = |feature: &str, producers: &str, rest: &str| {
        let (topic, group) = (names.topic(feature), names.producers(producers));
        format!("send --topic {topic} --group {group} --retries 0 --send-timeout-ms 15000 {rest}")
    };
    let consume = |feature: &str, of: &str, rest: &str| {
        format!("consume --topic {} --group {} --from first {rest}", names.topic(of), names.group(feature))
    };
    let mut lines = vec![
        send("delay", "delay", &format!("--count {DELAYED} --delays level:1,level:2,level:99")),
        consume("delay", "delay", "--properties"),
        send("retry", "retry", &format!("--count {RETRIED}")),
        consume("retry", "retry", "--reject 2 --properties"),
        consume("level", "retry", "--reject 1 --reject-level 2 --properties"),
        consume("back", "retry", "--send-back 1 --properties"),
        consume("dead", "retry", &format!("--reject 99 --max-reconsume {RETRIES} --properties")),
        // a negative level asks for no retry at all
        consume("never", "retry", "--reject 99 --reject-level -1 --properties"),
        format!("lite-pull --topic {} --group {} --from first", names.topic("retry"), names.group("lite")),
        format!(
            "transactions --topic {} --group {} --count {TRANSACTIONS} --decisions {DECISIONS}",
            names.topic("tx"),
            names.producers("tx"),
        ),
        consume("tx", "tx", "--properties"),
        // answers for the producer of the same group that is killed
        // with a message of its own, since clients tell only brokers of topics that they know of themselves
        format!(
            "transactions --topic {} --group {} --count 1 --decisions commit --prefix heir --heartbeat-ms 1000",
            names.topic("orphan"),
            names.producers("orphan"),
        ),
        consume("orphan", "orphan", ""),
        doubtful(&names, DOUBTFUL, ""),
        consume("doubt", "doubt", ""),
        format!(
            "request --topic {} --group {} --count {REQUESTS} --ttl-ms {REQUEST_MS} --mute-last --after {}",
            names.topic("request"),
            names.producers("request"),
            names.group("request"),
        ),
        format!("reply --topic {} --group {} --from first", names.topic("request"), names.group("request")),
        // 5.x consumers trace only what they get after their start is complete
        send(
            "trace",
            "trace",
            &format!("--count 1 --keys traced --trace --stay --after {}", names.group("trace")),
        ),
        consume("trace", "trace", "--trace"),
        send("large", "large", &format!("--count {LARGE} --size {LARGE_BYTES}")),
        consume("large", "large", ""),
        send("space", "space", &format!("--count {SPACED} --namespace space --unit blue")),
        consume("space", "space", "--namespace space --unit blue"),
    ];
    if kit.is_five() {
        lines.extend([
            send("timer", "timer", &format!("--count {TIMED} --delays {TIMERS}")),
            // longer than any broker keeps messages
            send("timer", "far", "--count 1 --delays sec:999999999 --prefix far"),
            consume("timer", "timer", "--properties"),
            send("recall", "recall", &format!("--count {RECALLABLE} --recall 2 --delays sec:4")),
            // due when those that were recalled would have arrived
            send("recall", "last", "--count 2 --delays sec:6 --prefix last"),
            consume("recall", "recall", ""),
        ]);
        let each = |kind: &str| {
            let rest =
                format!("--count {LARGE_OF_EACH} --size {LARGE_BYTES} --compress {kind} --prefix {kind}");
            send("large", kind, &rest)
        };
        lines.extend(COMPRESSIONS.map(each));
    }
    let scenario = kit.together(scratch.dir(), &kit.version, cluster.namesrv(), &lines)?;
    Ok((names, scenario))
}

/// Transactions that stay open, however often their producer is asked. Their values begin with the version.
fn doubtful(names: &Names, count: usize, rest: &str) -> String {
    let (topic, group, prefix) = (names.topic("doubt"), names.producers("doubt"), names.prefix());
    format!(
        "transactions --topic {topic} --group {group} --count {count} --decisions never --prefix {prefix} \
         {rest}"
    )
}

/// What was put aside of these transactions once all of it was, as a stock consumer reads it. Their producers are to live.
fn put_aside(
    scratch: &Scratch,
    namesrv: &str,
    groups: usize,
    wanted: &BTreeSet<String>,
) -> Result<Vec<Delivery>> {
    doubt::wait_topic(namesrv, groups, PATIENCE)?;
    let group = scratch.unique("aside");
    let line = ["lite-pull", "--topic", ASIDE, "--group", &group, "--assign", "--properties"];
    let mut reading = java::kit(java::APACHE)?.scenario(scratch.dir(), "aside", namesrv, &line)?;
    reading.wait_until("what is put aside", PATIENCE, |s| values(&s.deliveries()).is_superset(wanted))?;
    reading.finish()?;
    Ok(reading.deliveries())
}

/// `got`: of the clients that consume. Those of this version.
fn judge_aside(seen: Seen, got: Seen, aside: &[Delivery], c: &mut Complaints) -> Vec<Delivery> {
    let (topic, prefix) = (seen.names.topic("doubt"), seen.names.prefix());
    let (delivered, checks) = (got.deliveries("doubt"), seen.scenario.others("check"));
    doubt::Doubted { topic: &topic, prefix: &prefix, delivered, checks }.judge(aside, c)
}

fn features(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let mut clients = Vec::new();
    for version in java::versions() {
        clients.push(start(scratch, &cluster, &version)?);
    }
    for (names, _) in &clients {
        leave_orphans(scratch, cluster.namesrv(), names)?;
    }
    let mut complaints = Complaints::default();
    for (names, scenario) in &mut clients {
        let topic = names.topic("doubt");
        scenario.wait_until("doubtful ones", PATIENCE, |s| s.sends_to(&topic).len() >= DOUBTFUL)?;
    }
    let doubtful =
        clients.iter().flat_map(|(names, scenario)| sent(&scenario.sends_to(&names.topic("doubt"))));
    let aside = put_aside(scratch, cluster.namesrv(), cluster.groups().len(), &doubtful.collect())?;
    for (names, scenario) in &mut clients {
        complaints.about(&names.version);
        // what has not arrived is told by the rules
        let arrived = scenario
            .wait_until("all deliveries", PATIENCE, |scenario| Seen { names, scenario }.is_complete());
        complaints.result(arrived);
        scenario.finish()?;
        let seen = Seen { names, scenario };
        delays(scratch, &cluster, seen, &mut complaints);
        retries(seen, &mut complaints);
        transactions(&cluster, seen, &mut complaints);
        let own = judge_aside(seen, seen, &aside, &mut complaints);
        exactly_once("transactions put aside", &seen.sends("doubt"), &own, &mut complaints);
        requests(scratch, seen, &mut complaints);
        bodies(&cluster, seen, &mut complaints)?;
        traced(scratch, &cluster, seen, &mut complaints);
        if names.five {
            timers(scratch, &cluster, seen, &mut complaints);
            recalls(seen, &mut complaints);
        }
    }
    let seen: Vec<Seen> = clients.iter().map(|(names, scenario)| Seen { names, scenario }).collect();
    dead_letters(scratch, cluster.namesrv(), &seen, &mut complaints)?;
    if cluster.is_raftmq() {
        for seen in &seen {
            complaints.about(&seen.names.version);
            let told = story(&cluster, *seen);
            complaints.result(told);
        }
    }
    complaints.end()
}

/// A producer leaves transactions undecided and dies.
fn leave_orphans(scratch: &Scratch, namesrv: &str, names: &Names) -> Result<()> {
    let line = format!(
        "transactions --topic {} --group {} --count {ORPHANS} --decisions later-commit --undecided \
         --send-timeout-ms 15000",
        names.topic("orphan"),
        names.producers("orphan"),
    );
    let kit = java::kit(&names.version)?;
    let name = format!("doomed-{}", names.version);
    let mut doomed =
        kit.scenario(scratch.dir(), &name, namesrv, &line.split_whitespace().collect::<Vec<_>>())?;
    doomed.wait_until("half messages", PATIENCE, |doomed| doomed.sends().len() >= ORPHANS)?;
    doomed.kill()
}

fn punctual(
    scratch: &Scratch,
    name: &str,
    found: Option<Punctuality>,
    precision_ms: i64,
    c: &mut Complaints,
) {
    let Some(Punctuality { soonest, latest }) = found else { return };
    scratch.report(&format!("{} {name}: {soonest} ms to {latest} ms late", c.subject()));
    c.check(soonest >= -precision_ms, || format!("{name} {} ms early", -soonest));
    c.check(latest <= LATE_MS, || format!("{name} {latest} ms late"));
}

fn delays(scratch: &Scratch, cluster: &Running, seen: Seen, c: &mut Complaints) {
    let (sends, deliveries) = (seen.sends("delay"), seen.deliveries("delay"));
    exactly_once("delayed messages", &sends, &deliveries, c);
    punctual(scratch, "levels", history::punctuality(&sends, &deliveries, level_delay_ms), 0, c);
    let topic = seen.names.topic("delay");
    let strange =
        deliveries.iter().filter(|d| d.topic != topic || d.properties.get("REAL_TOPIC") != Some(&topic));
    c.none("delayed messages that do not say where they belong", &strange.collect::<Vec<_>>());
    // each is numbered in its real queue, from its first offset on
    if cluster.is_raftmq() {
        c.none("skipped offsets", &history::skipped(&deliveries));
    }
}

fn timers(scratch: &Scratch, cluster: &Running, seen: Seen, c: &mut Complaints) {
    let (far, sends): (Vec<Send>, Vec<Send>) =
        seen.sends("timer").into_iter().partition(|send| send.values[0].starts_with("far"));
    let deliveries = seen.deliveries("timer");
    exactly_once("timer messages", &sends, &deliveries, c);
    // Apache rounds down to whole seconds, and one tick further
    let precision_ms = if cluster.is_raftmq() { 0 } else { 2000 };
    punctual(scratch, "timers", history::punctuality(&sends, &deliveries, timer_delay_ms), precision_ms, c);
    let refused = |send: &Send| send.error.as_ref().is_some_and(|error| error.contains("CODE: 13"));
    c.check(far.len() == 1 && far.iter().all(refused), || format!("a timer too far ahead: {far:?}"));
}

/// Every second one is recalled and never arrives.
fn recalls(seen: Seen, c: &mut Complaints) {
    let recalls = seen.scenario.others("recall");
    let (sends, deliveries) = (seen.sends("recall"), seen.deliveries("recall"));
    c.check(recalls.len() == RECALLABLE / 2, || format!("{} recalls", recalls.len()));
    let failed = recalls.iter().filter(|recall| recall["ok"] != true || recall["same"] != true);
    c.none("recalls refused", &failed.collect::<Vec<_>>());
    let recalled: BTreeSet<&str> = recalls.iter().filter_map(|recall| recall["value"].as_str()).collect();
    let mut wanted = sent(&sends);
    wanted.retain(|value| !recalled.contains(value.as_str()));
    c.none("failed sends of timers to recall", &history::failed(&sends));
    c.same("timers that were not recalled", &values(&deliveries), &wanted);
}

fn retries(seen: Seen, c: &mut Complaints) {
    let sends = seen.sends("retry");
    exactly_once("messages of a lite pull consumer", &sends, &seen.deliveries("lite"), c);
    let levels = cluster::DELAY_LEVELS_S;
    // by attempt: what it waits for, in seconds. Without a level the n-th retry has level 2 + n.
    let groups: [(&str, Vec<u64>); 5] = [
        ("retry", vec![levels[2], levels[3]]),
        ("level", vec![levels[1]]),
        ("back", vec![levels[0]]),
        ("dead", vec![levels[2], levels[3]]),
        ("never", vec![]),
    ];
    let mut places: BTreeMap<&str, &str> = BTreeMap::new();
    for send in &sends {
        places.insert(&send.values[0], send.offset_msg_id.as_deref().unwrap_or(""));
    }
    for (group, delays) in groups {
        let deliveries = seen.deliveries(group);
        same_ids(group, &sends, &deliveries, c);
        let mut attempts: BTreeMap<&str, Vec<&Delivery>> = BTreeMap::new();
        for delivery in &deliveries {
            attempts.entry(&delivery.value).or_default().push(delivery);
        }
        let seen_values: BTreeSet<String> = attempts.keys().map(|value| (*value).to_owned()).collect();
        c.same(&format!("messages of {group}"), &seen_values, &sent(&sends));
        for (value, attempts) in attempts {
            let numbers: Vec<u32> = attempts.iter().map(|attempt| attempt.attempt).collect();
            let wanted: Vec<u32> = (0..=delays.len() as u32).collect();
            c.check(numbers == wanted, || format!("{group} {value}: attempts {numbers:?}, not {wanted:?}"));
            for (pair, seconds) in attempts.windows(2).zip(&delays) {
                let waited = pair[1].stored_ms - pair[0].at / 1_000_000;
                let wanted = *seconds as i64 * 1000;
                c.check((wanted - 1..=wanted + LATE_MS).contains(&waited), || {
                    format!("{group} {value}: attempt {} after {waited} ms, not {wanted}", pair[1].attempt)
                });
            }
            for retry in &attempts[1..] {
                let property = |name: &str| retry.properties.get(name).map(String::as_str);
                let topic = seen.names.topic("retry");
                let known = retry.topic == topic
                    && property("RETRY_TOPIC") == Some(topic.as_str())
                    && property("ORIGIN_MESSAGE_ID") == places.get(value).copied();
                c.check(known, || format!("{group}: a retry that does not say what it is: {retry:?}"));
            }
        }
    }
}

/// Exactly one for each message of the groups that refused them all, read by a lite pull consumer.
fn dead_letters(scratch: &Scratch, namesrv: &str, all: &[Seen], c: &mut Complaints) -> Result<()> {
    const IDLE_MS: u32 = 3000;
    let kit = java::kit(java::APACHE)?;
    let reader = |group: &str| format!("read_{group}");
    let groups = |seen: &Seen| ["dead", "never"].map(|feature| seen.names.group(feature));
    let lines: Vec<String> = all
        .iter()
        .flat_map(groups)
        .map(|group| {
            let reader = reader(&group);
            format!("lite-pull --topic %DLQ%{group} --group {reader} --assign --properties --idle {IDLE_MS}")
        })
        .collect();
    let mut reading = kit.together(scratch.dir(), "dead-letters", namesrv, &lines)?;
    reading.join(PATIENCE)?;
    for seen in all {
        c.about(&seen.names.version);
        let (sends, topic) = (seen.sends("retry"), seen.names.topic("retry"));
        for group in groups(seen) {
            let letters = reading.deliveries_to(&reader(&group));
            exactly_once(&format!("dead letters of {group}"), &sends, &letters, c);
            let strange = letters.iter().filter(|letter| {
                let send = sends.iter().find(|send| send.values[0] == letter.value);
                let origin = send.and_then(|send| send.offset_msg_id.as_deref());
                letter.properties.get("RETRY_TOPIC") != Some(&topic)
                    || letter.properties.get("ORIGIN_MESSAGE_ID").map(String::as_str) != origin
                    || letter.attempt == 0
            });
            c.none("dead letters that do not say what they are", &strange.collect::<Vec<_>>());
        }
    }
    Ok(())
}

/// `raftmq admin why` knows the retries and the death of a message, and that those who took it have passed it.
fn story(cluster: &Running, seen: Seen) -> Result<()> {
    let sends = seen.sends("retry");
    let id = sends.first().and_then(|send| send.msg_id.as_deref()).context("nothing was sent")?;
    let (topic, group) = (seen.names.topic("retry"), |feature: &str| seen.names.group(feature));
    let stories = crate::admin::run(cluster, &["why", id])?;
    let copies: Vec<&Value> =
        stories.as_array().into_iter().flatten().filter_map(|s| s["copies"].as_array()).flatten().collect();
    let in_topic = |topic: &str| copies.iter().filter(|copy| copy["topic"] == topic).count();
    ensure!(in_topic(&topic) == 1, "{stories}");
    ensure!(in_topic(&format!("%RETRY%{}", group("retry"))) >= 2, "two retries: {stories}");
    for dead in ["dead", "never"] {
        ensure!(in_topic(&format!("%DLQ%{}", group(dead))) == 1, "{dead}: {stories}");
    }
    let own = copies.iter().find(|copy| copy["topic"] == topic.as_str()).context("no copy")?;
    let has_passed =
        |reader: &Value| reader["has_passed"] == true && reader["group"] == group("lite").as_str();
    ensure!(own["readers"].as_array().is_some_and(|readers| readers.iter().any(has_passed)), "{stories}");
    Ok(())
}

fn transactions(cluster: &Running, seen: Seen, c: &mut Complaints) {
    let (sends, deliveries) = (seen.sends("tx"), seen.deliveries("tx"));
    c.check(sends.len() == TRANSACTIONS, || format!("{} transactions", sends.len()));
    c.none("failed half messages", &history::failed(&sends));
    c.same("committed transactions", &values(&deliveries), &committed(&sends));
    same_ids("transactions", &sends, &deliveries, c);
    let orphans = seen.deliveries("orphan");
    c.check(values(&orphans).len() == ORPHANS + 1, || format!("{} orphans committed", orphans.len()));
    if cluster.is_raftmq() {
        // Apache checks again what it has not yet noted as decided, and then has two of it
        for deliveries in [&deliveries, &orphans] {
            c.none("transactions committed twice", &history::stored_twice(deliveries));
        }
    }
    let checks = seen.scenario.others("check");
    let checked = |value: &str| checks.iter().filter(|check| check["value"] == value).count();
    for send in &sends {
        let (value, count) = (&send.values[0], checked(&send.values[0]));
        let least = match send.mode.as_str() {
            "third-commit" => 3,
            mode if mode.starts_with("later") => 1,
            _ => 0,
        };
        c.check(count >= least, || format!("{value} was checked {count} times"));
    }
    // answered by the one that lives
    let orphaned = checks.iter().filter(|check| check["topic"] == seen.names.topic("orphan").as_str());
    let mut orphaned: BTreeSet<&str> = orphaned.filter_map(|check| check["value"].as_str()).collect();
    orphaned.retain(|value| !value.starts_with("heir"));
    c.check(orphaned.len() == ORPHANS, || format!("checks of orphans: {orphaned:?}"));
}

/// Every request is replied to, and the reply handed over. A client of 5.3 that waits in the call gives up as soon as the
/// request is stored, unless the reply was faster (apache/rocketmq#9608); its broker cannot help it.
fn requests(scratch: &Scratch, seen: Seen, c: &mut Complaints) {
    let requests = seen.requests();
    c.check(requests.len() == REQUESTS, || format!("{} requests", requests.len()));
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or("").to_owned();
    let timed_out = |request: &Value| text(request, "error").contains("RequestTimeoutException");
    let waited_ms = |request: &Value| {
        (request["end"].as_i64().unwrap_or(0) - request["start"].as_i64().unwrap_or(0)) / 1_000_000
    };
    let gave_up = |request: &Value| timed_out(request) && waited_ms(request) < REQUEST_MS;
    let mute = |request: &Value| text(request, "value").ends_with("-mute");
    let right = |request: &Value| request["reply"] == format!("re: {}", text(request, "value")).as_str();
    let wrong: Vec<&Value> = requests
        .iter()
        .filter(
            |request| if mute(request) { !timed_out(request) } else { !right(request) && !gave_up(request) },
        )
        .collect();
    c.none("requests without the right reply", &wrong);
    let replied = seen.scenario.others("replied");
    c.check(replied.len() == REQUESTS, || format!("{} requests were seen", replied.len()));
    let refused = replied.iter().filter(|reply| reply["ok"] != true && !mute(reply));
    c.none("replies refused", &refused.collect::<Vec<_>>());
    let early = requests.iter().filter(|request| !mute(request) && gave_up(request)).count();
    if early > 0 {
        scratch.report(&format!("{}: {early} requests that the client gave up on itself", c.subject()));
    }
}

/// Large bodies are stored as the client compressed them; namespaces are names to the broker.
fn bodies(cluster: &Running, seen: Seen, c: &mut Complaints) -> Result<()> {
    let (sends, deliveries) = (seen.sends("large"), seen.deliveries("large"));
    exactly_once("large bodies", &sends, &deliveries, c);
    let spoilt = deliveries.iter().filter(|d| d.size != LARGE_BYTES || !d.intact);
    c.none("large bodies spoilt", &spoilt.collect::<Vec<_>>());
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for broker in cluster.groups() {
        let mut connection = Connection::open(&cluster.master(broker)?, Duration::from_secs(3))?;
        for queue in 0..2 {
            for message in connection.pull(&seen.names.topic("large"), queue, 0)? {
                let kind = match message.body.as_slice() {
                    [0x04, 0x22, 0x4D, 0x18, ..] => "LZ4",
                    [0x28, 0xB5, 0x2F, 0xFD, ..] => "ZSTD",
                    [0x78, ..] => "ZLIB",
                    _ => "none",
                };
                *kinds.entry(kind).or_default() += 1;
            }
        }
    }
    let mut wanted = BTreeMap::from([("ZLIB", LARGE)]);
    if seen.names.five {
        for kind in COMPRESSIONS {
            *wanted.entry(kind).or_default() += LARGE_OF_EACH;
        }
    }
    c.check(kinds == wanted, || format!("stored bodies are {kinds:?}, not {wanted:?}"));
    exactly_once("messages in a namespace", &seen.sends("space"), &seen.deliveries("space"), c);
    Ok(())
}

/// What mqadmin tells of a message that was sent and consumed with tracing.
fn traced(scratch: &Scratch, cluster: &Running, seen: Seen, c: &mut Complaints) {
    let sends = seen.sends("trace");
    exactly_once("traced messages", &sends, &seen.deliveries("trace"), c);
    let Some(id) = sends.first().and_then(|send| send.msg_id.as_deref()) else { return };
    let said = wait::until("the trace", Duration::from_secs(20), || {
        let said = mqadmin::run(scratch.dir(), cluster.namesrv(), &["queryMsgTraceById", "-i", id])?;
        let row = |kind: &str| said.lines().any(|line| line.starts_with(kind) && line.contains("success"));
        ensure!(row("Pub") && row("Sub") && said.contains(&seen.names.group("trace")), "{said}");
        Ok(Some(said))
    });
    c.result(said);
}

// While leaders die.

const KILLS: usize = 2;
/// Of each topic.
const QUEUES: usize = 4;
/// So many transactions of which nobody ever knows are begun, one a second: some have been asked of when a leader dies.
const LONG_DOUBTFUL: usize = 30;
/// So long a message waits that is to be recalled.
const RECALL_S: u32 = 3;
/// One group: every message meets the death of its leader. Clients poll routes often, so that this takes seconds.
const GROUP: &str = "broker-a";
/// So many messages may have been under way when a leader died: the listener threads of one consumer.
const IN_FLIGHT: usize = 20;

struct Pair {
    names: Names,
    producers: Scenario,
    consumers: Scenario,
}

impl Pair {
    fn start(scratch: &Scratch, cluster: &Cluster, version: &str) -> Result<Pair> {
        let kit = java::kit(version)?;
        let names = Names::new(scratch, &kit);
        for feature in ["delay", "timer", "retry", "recall", "tx", "orphan", "doubt", "request", "large"] {
            cluster.create_topic(&names.topic(feature), QUEUES as u32)?;
        }
        // how a client writes the topic of a namespace
        cluster.create_topic(&format!("space%{}", names.topic("space")), QUEUES as u32)?;
        let common = "--poll-ms 1000 --heartbeat-ms 1000";
        let send = |feature: &str, rate: u32, rest: &str| {
            let (topic, group) = (names.topic(feature), names.producers(feature));
            format!(
                "failover-producer --topic {topic} --group {group} --retries 0 --rate {rate} {rest} {common}"
            )
        };
        let consume = |feature: &str, of: &str, rest: &str| {
            let (topic, group) = (names.topic(of), names.group(feature));
            format!("consume --topic {topic} --group {group} --from first {rest} {common}")
        };
        let mut sending = vec![
            send("delay", 10, "--delays level:1,level:2,level:99"),
            send("retry", 3, "--tags A,B --keys traced --trace"),
            format!(
                "transactions --topic {} --group {} --retries 0 --count 100000 --rate 5 --decisions {DECISIONS} --settle-ms 2500 {common}",
                names.topic("tx"),
                names.producers("tx"),
            ),
            // Answers for the producer of the same group that is killed.
            format!(
                "transactions --topic {} --group {} --retries 0 --count 1 --decisions commit --prefix heir {common}",
                names.topic("orphan"),
                names.producers("orphan"),
            ),
            doubtful(&names, LONG_DOUBTFUL, &format!("--retries 0 --rate 1 {common}")),
            send("large", 3, &format!("--size {LARGE_BYTES}")),
            send("space", 3, "--namespace space --unit blue"),
            format!(
                "request --topic {} --group {} --count 100000 --rate 3 --ttl-ms 3000 {common}",
                names.topic("request"),
                names.producers("request"),
            ),
        ];
        let (topic, group) = (names.topic("request"), names.group("request"));
        let mut consuming = vec![
            consume("delay", "delay", ""),
            consume("retry", "retry", "--reject 1"),
            consume("level", "retry", "--reject 1 --reject-level 2"),
            consume("back", "retry", "--send-back 1"),
            consume("dead", "retry", "--reject 99 --max-reconsume 1"),
            consume("tx", "tx", ""),
            consume("orphan", "orphan", ""),
            consume("doubt", "doubt", ""),
            consume("large", "large", ""),
            consume("space", "space", "--namespace space --unit blue"),
            format!("reply --topic {topic} --group {group} --from first {common}"),
            // The messages with an even number.
            consume("sql", "retry", "--sql (TAGS='A')AND(n>=0)"),
            consume("tags", "retry", "--tags A"),
            consume("cast", "retry", "--broadcasting"),
            consume("reset", "retry", ""),
            consume("trace", "retry", "--trace"),
            format!(
                "lite-pull --topic {} --group {} --from first {common}",
                names.topic("retry"),
                names.group("lite"),
            ),
            format!(
                "lite-pull --topic {} --group {} --assign {common}",
                names.topic("retry"),
                names.group("assign"),
            ),
        ];
        if names.five {
            sending.push(send("timer", 10, &format!("--delays {TIMERS}")));
            consuming.push(consume("timer", "timer", ""));
            sending.push(send("recall", 6, &format!("--recall 2 --delays sec:{RECALL_S}")));
            // Producers of one group are one producer in a process.
            sending.extend(COMPRESSIONS.map(|kind| {
                let (topic, group) = (names.topic("large"), names.producers(kind));
                format!(
                    "failover-producer --topic {topic} --group {group} --retries 0 --rate 1 \
                     --size {LARGE_BYTES} --compress {kind} --prefix {kind} {common}"
                )
            }));
            consuming.push(consume("recall", "recall", ""));
        }
        let namesrv = cluster.namesrv();
        let name = |what: &str| format!("{what}-{}", names.version);
        let consumers = kit.together(scratch.dir(), &name("consumers"), &namesrv, &consuming)?;
        let producers = kit.together(scratch.dir(), &name("producers"), &namesrv, &sending)?;
        Ok(Pair { names, producers, consumers })
    }

    /// The features that send messages of their own.
    fn sending(&self) -> Vec<&'static str> {
        let mut features = vec!["delay", "retry", "tx", "large", "space"];
        if self.names.five {
            features.extend(["timer", "recall"]);
        }
        features
    }

    /// Waits until every feature works that began after `since` (nanoseconds since 1970).
    fn wait_working(&mut self, since: i64) -> Result<()> {
        let names = self.names.clone();
        let features = self.sending();
        self.producers.wait_until("every feature at work", PATIENCE, |scenario| {
            let seen = Seen { names: &names, scenario };
            let sends = |feature: &&str| seen.sends(feature).iter().any(|s| s.ok && s.start > since);
            let replied = |request: &Value| request["ok"] == true && request["start"].as_i64() > Some(since);
            features.iter().all(sends) && seen.requests().iter().any(replied)
        })
    }

    /// Waits until all that was acknowledged has arrived; what has not is told by the rules.
    fn wait_arrived(&mut self) -> Result<()> {
        let names = self.names.clone();
        let sent_to = |feature: &str| sent(&self.producers.sends_to(&names.topic(feature)));
        let whole = ["delay", "timer", "large", "space"];
        let mut wanted: Vec<(&str, BTreeSet<String>)> =
            whole.map(|feature| (feature, sent_to(feature))).to_vec();
        wanted.push(("tx", committed(&self.producers.sends_to(&names.topic("tx")))));
        let (tried, recalled) = recalls_of(&self.producers);
        let mut kept = sent_to("recall");
        kept.retain(|value| !tried.contains(value) && !recalled.contains(value));
        wanted.push(("recall", kept));
        let retried = sent_to("retry");
        for feature in ["cast", "lite", "assign", "reset", "back"] {
            wanted.push((feature, retried.clone()));
        }
        for feature in ["sql", "tags"] {
            wanted.push((feature, even(&retried)));
        }
        self.consumers.wait_until("all deliveries", PATIENCE, |scenario| {
            let seen = Seen { names: &names, scenario };
            let again = |feature: &&str| {
                let mut deliveries = seen.deliveries(feature);
                deliveries.retain(|delivery| delivery.attempt >= 1);
                retried.is_subset(&values(&deliveries))
            };
            let given_back = given_back(scenario);
            let back: Vec<Delivery> =
                seen.deliveries("back").into_iter().filter(|delivery| delivery.attempt >= 1).collect();
            wanted.iter().all(|(feature, wanted)| wanted.is_subset(&values(&seen.deliveries(feature))))
                && ["retry", "level", "dead"].iter().all(again)
                && given_back.is_subset(&values(&back))
                && values(&seen.deliveries("orphan")).len() > ORPHANS
        })
    }
}

/// The values of which a recall was tried, and those that were taken back.
fn recalls_of(producers: &Scenario) -> (BTreeSet<String>, BTreeSet<String>) {
    let recalls = producers.others("recall");
    let values = |recalls: &[&Value]| -> BTreeSet<String> {
        recalls.iter().filter_map(|recall| recall["value"].as_str()).map(str::to_owned).collect()
    };
    let done: Vec<&Value> = recalls.iter().filter(|recall| recall["ok"] == true).collect();
    (values(&recalls.iter().collect::<Vec<_>>()), values(&done))
}

/// What a listener gave back by a call that succeeded.
fn given_back(consumers: &Scenario) -> BTreeSet<String> {
    let sent = consumers.others("sent_back");
    let done = sent.iter().filter(|sent| sent["ok"] == true);
    done.filter_map(|sent| sent["value"].as_str().map(str::to_owned)).collect()
}

/// Those with an even number, which have the tag A.
fn even(values: &BTreeSet<String>) -> BTreeSet<String> {
    values.iter().filter(|value| number(value).is_multiple_of(2)).cloned().collect()
}

/// A send whose trace tells of the producer and of the consumer, among those that began after `since`.
fn traced_send(shell: &mut mqadmin::Shell, pair: &Pair, since: i64) -> Result<String> {
    wait::until("a trace", PATIENCE, || {
        // A client sends its traces a moment later.
        let aged = |send: &Send| send.ok && send.start > since && now() - send.end > 2_000_000_000;
        let sends = pair.producers.sends_to(&pair.names.topic("retry"));
        let id = sends.iter().rev().find(|send| aged(send)).and_then(|send| send.msg_id.clone());
        let id = id.context("nothing was sent long enough ago")?;
        check_trace(shell, pair, &id)?;
        Ok(Some(id))
    })
}

fn check_trace(shell: &mut mqadmin::Shell, pair: &Pair, id: &str) -> Result<()> {
    let said = shell.run(&["queryMsgTraceById", "-i", id])?;
    let row = |kind: &str| said.lines().any(|line| line.starts_with(kind) && line.contains("success"));
    ensure!(row("Pub") && row("Sub") && said.contains(&pair.names.group("trace")), "{said}");
    Ok(())
}

/// mqadmin finds a message by its id and by its key; and where it lies, if the broker lives that took it.
fn check_queries(shell: &mut mqadmin::Shell, pair: &Pair, send: &Send, by_place: bool) -> Result<()> {
    let topic = pair.names.topic("retry");
    let (id, place) = (send.msg_id.as_deref(), send.offset_msg_id.as_deref());
    let (id, place) = id.zip(place).context("a send without ids")?;
    let key = format!("traced-{}", number(&send.values[0]));
    let mut finds = |command: &[&str], what: &str| {
        wait::until(command[0], PATIENCE, || {
            let said = shell.run(command)?;
            ensure!(said.contains(what), "{said}");
            Ok(Some(()))
        })
    };
    finds(&["queryMsgByUniqueKey", "-t", &topic, "-i", id], &topic)?;
    finds(&["queryMsgByKey", "-t", &topic, "-k", &key], id)?;
    if by_place {
        finds(&["queryMsgById", "-t", &topic, "-i", place], place)?;
    }
    Ok(())
}

/// The first send of the topic `retry` that began after `since`.
fn a_send(pair: &Pair, since: i64) -> Result<Send> {
    let sends = pair.producers.sends_to(&pair.names.topic("retry"));
    sends.into_iter().find(|send| send.ok && send.start > since).context("no send")
}

/// Offsets that an administrator moved while the leader died. Times are nanoseconds since 1970.
struct Reset {
    /// To the messages that were stored then, or later, in milliseconds.
    to_ms: i64,
    began: i64,
    tries: usize,
}

/// Moves a group back in the middle of what each pair has consumed, one after the other, until the tool says that it is done.
/// Says so to `begins` when it begins with the second one.
fn reset_all(
    mut shell: mqadmin::Shell,
    groups: &[(String, String, i64)],
    begins: &mpsc::Sender<()>,
) -> Result<(mqadmin::Shell, Vec<Reset>)> {
    let mut resets = Vec::new();
    for (topic, group, to_ms) in groups {
        let (to, began, mut tries) = (to_ms.to_string(), now(), 0);
        if resets.len() == 1 {
            // Nobody listens any more who does not need it.
            let _ = begins.send(());
        }
        wait::until("a reset", PATIENCE, || {
            tries += 1;
            let said = shell.run(&["resetOffsetByTime", "-g", group, "-t", topic, "-s", &to])?;
            ensure!(mqadmin::rows(&said).len() == QUEUES, "{said}");
            Ok(Some(()))
        })?;
        resets.push(Reset { to_ms: *to_ms, began, tries });
    }
    Ok((shell, resets))
}

/// The tool works through what each version's group is to be moved to while this leader is killed.
fn kill_during_resets(
    cluster: &mut Cluster,
    leader: u64,
    shell: mqadmin::Shell,
    pairs: &[Pair],
) -> Result<(mqadmin::Shell, Vec<Reset>)> {
    let mut groups = Vec::new();
    for Pair { names, consumers, .. } in pairs {
        let mut stored: Vec<i64> =
            consumers.deliveries_to(&names.group("reset")).iter().map(|d| d.stored_ms).collect();
        stored.sort_unstable();
        let to_ms = *stored.get(stored.len() / 2).context("nothing was consumed")?;
        groups.push((names.topic("retry"), names.group("reset"), to_ms));
    }
    let (begins, begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let resets = scope.spawn(|| reset_all(shell, &groups, &begins));
        // At any moment of the second one.
        if begun.recv_timeout(PATIENCE).is_ok() {
            std::thread::sleep(Duration::from_millis(now() as u64 % 100));
        }
        cluster.kill(leader)?;
        resets.join().map_err(|_| anyhow!("the resets panicked"))?
    })
}

fn now() -> i64 {
    UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as i64)
}

fn leader_killed(scratch: &Scratch) -> Result<()> {
    let mut cluster = Cluster::start(scratch, Plan { preferred_leaders: false, ..Plan::new(3, 1) })?;
    let mut pairs = Vec::new();
    for version in java::versions() {
        pairs.push(Pair::start(scratch, &cluster, &version)?);
    }
    for pair in &mut pairs {
        pair.wait_working(0)?;
    }
    let mut shell = mqadmin::Shell::start(scratch.dir(), &cluster.namesrv())?;
    let mut traced = Vec::new();
    for pair in &pairs {
        traced.push(traced_send(&mut shell, pair, 0)?);
    }
    // Nobody is left to ask but another producer of the group; of some of them another leader asks.
    for pair in &pairs {
        leave_orphans(scratch, &cluster.namesrv(), &pair.names)?;
    }
    let mut resets = Vec::new();
    let mut killed = 0;
    for round in 1..=KILLS {
        let leader = cluster.leader(GROUP)?;
        if round < KILLS {
            cluster.kill(leader)?;
        } else {
            (shell, resets) = kill_during_resets(&mut cluster, leader, shell, &pairs)?;
        }
        killed = now();
        for pair in &mut pairs {
            pair.wait_working(killed).with_context(|| format!("node {leader} was killed"))?;
        }
        for pair in &pairs {
            for since in [0, killed] {
                check_queries(&mut shell, pair, &a_send(pair, since)?, since == killed)?;
            }
        }
        cluster.start_node(leader)?;
        cluster.wait_whole()?;
    }
    let mut complaints = Complaints::default();
    for (pair, id) in pairs.iter().zip(&traced) {
        complaints.about(&pair.names.version);
        let kept = check_trace(&mut shell, pair, id).context("the trace of before the kills");
        complaints.result(kept);
        let more = traced_send(&mut shell, pair, killed).context("a trace of after the kills");
        complaints.result(more);
        let found = check_queries(&mut shell, pair, &a_send(pair, 0)?, true);
        complaints.result(found.context("a message of before the kills"));
    }
    let doubtful: BTreeSet<String> =
        pairs.iter().flat_map(|pair| sent(&pair.producers.sends_to(&pair.names.topic("doubt")))).collect();
    let aside = put_aside(scratch, &cluster.namesrv(), 1, &doubtful)?;
    for pair in &mut pairs {
        pair.producers.finish()?;
    }
    for pair in &mut pairs {
        complaints.about(&pair.names.version);
        let arrived = pair.wait_arrived();
        complaints.result(arrived);
        pair.consumers.finish()?;
    }
    complaints.none("put aside twice", &history::stored_twice(&aside));
    let letters = letters(scratch, &cluster, &pairs)?;
    for (pair, reset) in pairs.iter().zip(&resets) {
        judge_reset(scratch, pair, reset, &mut complaints);
        complaints.about(&pair.names.version);
        let (topic, group) = (pair.names.topic("retry"), pair.names.group("reset"));
        let progress = shell.run(&["consumerProgress", "-g", &group, "-t", &topic])?;
        complaints.check(progress.contains("Diff Total: 0"), || format!("commits do not count: {progress}"));
        judge(scratch, pair, &letters.deliveries_to(&pair.names.group("letters")), &mut complaints);
        let seen = Seen { names: &pair.names, scenario: &pair.producers };
        let got = Seen { names: &pair.names, scenario: &pair.consumers };
        judge_aside(seen, got, &aside, &mut complaints);
        scratch.report(&format!(
            "{}: {} transactions in doubt",
            pair.names.version,
            seen.sends("doubt").len()
        ));
    }
    complaints.end()
}

/// Consumers that acknowledge nothing by a retry: what they are to get of the messages of `retry`, and no more.
fn judge_readers(sent: &BTreeSet<String>, received: Seen, c: &mut Complaints) {
    for (feature, is_filtered) in
        [("cast", false), ("lite", false), ("assign", false), ("sql", true), ("tags", true)]
    {
        let deliveries = received.deliveries(feature);
        let wanted = if is_filtered { even(sent) } else { sent.clone() };
        let lost: Vec<&String> = wanted.iter().filter(|v| !values(&deliveries).contains(*v)).collect();
        c.none(&format!("{feature}: lost"), &lost);
        if is_filtered {
            let odd = deliveries.iter().filter(|d| !number(&d.value).is_multiple_of(2));
            c.none(&format!("{feature}: what the filter leaves out"), &odd.collect::<Vec<_>>());
        } else {
            c.none(&format!("{feature}: skipped"), &history::skipped(&deliveries));
        }
    }
}

/// A message is taken back or delivered. Where a producer did not learn which, either is right.
fn judge_recalls(scratch: &Scratch, pair: &Pair, c: &mut Complaints) {
    if !pair.names.five {
        return;
    }
    let sends = pair.producers.sends_to(&pair.names.topic("recall"));
    let deliveries = pair.consumers.deliveries_to(&pair.names.group("recall"));
    let (tried, recalled) = recalls_of(&pair.producers);
    let delivered = values(&deliveries);
    c.none("recalled and delivered", &recalled.intersection(&delivered).collect::<Vec<_>>());
    let lost: Vec<String> =
        sent(&sends).into_iter().filter(|v| !tried.contains(v) && !delivered.contains(v)).collect();
    c.none("timers lost that nobody recalled", &lost);
    c.none("timers delivered from two places", &history::stored_twice(&deliveries));
    c.check(recalled.len() >= 5, || format!("only {} recalls", recalled.len()));
    scratch.report(&format!(
        "{} recalls: {} of {} tried, {} timers delivered",
        pair.names.version,
        recalled.len(),
        tried.len(),
        delivered.len()
    ));
}

/// Everything from the time on came again, nothing that is older, and nothing is passed over.
fn judge_reset(scratch: &Scratch, pair: &Pair, reset: &Reset, c: &mut Complaints) {
    c.about(&pair.names.version);
    let deliveries = pair.consumers.deliveries_to(&pair.names.group("reset"));
    c.none("reset: skipped", &history::skipped(&deliveries));
    let sends = pair.producers.sends_to(&pair.names.topic("retry"));
    let lost: Vec<String> = sent(&sends).difference(&values(&deliveries)).cloned().collect();
    c.none("reset: lost", &lost);
    let before: Vec<&Delivery> = deliveries.iter().filter(|d| d.at < reset.began).collect();
    let again = |value: &str| deliveries.iter().filter(|d| d.at >= reset.began && d.value == value).count();
    let newer: Vec<&&Delivery> = before.iter().filter(|d| d.stored_ms >= reset.to_ms).collect();
    let missing: Vec<&str> = newer.iter().map(|d| d.value.as_str()).filter(|v| again(v) == 0).collect();
    c.none("reset: did not come again", &missing);
    // What the dead leader had not committed yet comes again as well; consumers commit each 5 s.
    let old = |d: &&&Delivery| d.stored_ms < reset.to_ms && d.at < reset.began - 10_000_000_000;
    let older: Vec<&str> =
        before.iter().filter(old).map(|d| d.value.as_str()).filter(|v| again(v) > 0).collect();
    c.none("reset: older ones came again", &older);
    // Each try that the tool did not hear the end of may have been done; and consumers are told once more by a new leader.
    let most = reset.tries + 2;
    let often: Vec<&str> = newer.iter().map(|d| d.value.as_str()).filter(|v| again(v) > most).collect();
    c.none("reset: came again and again", &often);
    scratch.report(&format!(
        "{} reset in {} tries: {} messages came again",
        pair.names.version,
        reset.tries,
        newer.len()
    ));
}

fn letters(scratch: &Scratch, cluster: &Cluster, pairs: &[Pair]) -> Result<Scenario> {
    let lines: Vec<String> = pairs
        .iter()
        .map(|pair| {
            let (dead, letters) = (pair.names.group("dead"), pair.names.group("letters"));
            format!("lite-pull --topic %DLQ%{dead} --group {letters} --assign --idle 3000")
        })
        .collect();
    let kit = java::kit(java::APACHE)?;
    let mut reading = kit.together(scratch.dir(), "dead-letters", &cluster.namesrv(), &lines)?;
    reading.join(PATIENCE)?;
    Ok(reading)
}

fn judge(scratch: &Scratch, pair: &Pair, letters: &[Delivery], c: &mut Complaints) {
    let sent_by = Seen { names: &pair.names, scenario: &pair.producers };
    let received = Seen { names: &pair.names, scenario: &pair.consumers };
    let version = pair.names.version.clone();
    for feature in ["delay", "timer"] {
        let (sends, deliveries) = (sent_by.sends(feature), received.deliveries(feature));
        c.none(
            &format!("{feature} lost"),
            &sent(&sends).difference(&values(&deliveries)).collect::<Vec<_>>(),
        );
        c.none(&format!("{feature} unexpected"), &history::unexpected(&sends, &deliveries));
        // The clients send nothing twice, so this is a delivery that a new leader has made again.
        c.none(&format!("{feature} delivered from two places"), &history::stored_twice(&deliveries));
        c.none(&format!("{feature} skipped"), &history::skipped(&deliveries));
        let delay_ms = if feature == "delay" { level_delay_ms } else { timer_delay_ms };
        if let Some(Punctuality { soonest, latest }) = history::punctuality(&sends, &deliveries, delay_ms) {
            c.check(soonest >= 0, || format!("{feature} {} ms early", -soonest));
            scratch.report(&format!(
                "{version} {feature}: {} sends, {} failed, {soonest} to {latest} ms late, {:?}",
                sends.len(),
                history::failed(&sends).len(),
                history::duplicates(&deliveries),
            ));
        }
    }

    let (sends, deliveries) = (sent_by.sends("tx"), received.deliveries("tx"));
    let lost: Vec<String> = committed(&sends).difference(&values(&deliveries)).cloned().collect();
    c.none("committed transactions lost", &lost);
    let rolled_back = deliveries.iter().filter(|d| d.value.contains("rollback"));
    c.none("rolled back and delivered", &rolled_back.collect::<Vec<_>>());
    c.none("transactions committed twice", &history::stored_twice(&deliveries));
    scratch.report(&format!(
        "{version} transactions: {} sends, {} failed, {} checks",
        sends.len(),
        history::failed(&sends).len(),
        pair.producers.others("check").len(),
    ));

    let orphans = received.deliveries("orphan");
    c.check(values(&orphans).len() == ORPHANS + 1, || format!("{} orphans committed", orphans.len()));
    c.none("orphans committed twice", &history::stored_twice(&orphans));
    for feature in ["large", "space"] {
        let (sends, deliveries) = (sent_by.sends(feature), received.deliveries(feature));
        let lost: Vec<String> = sent(&sends).difference(&values(&deliveries)).cloned().collect();
        c.none(&format!("{feature} lost"), &lost);
        c.none(&format!("{feature} unexpected"), &history::unexpected(&sends, &deliveries));
        c.none(&format!("{feature} skipped"), &history::skipped(&deliveries));
        c.none(&format!("{feature} spoilt"), &deliveries.iter().filter(|d| !d.intact).collect::<Vec<_>>());
    }

    let sends = sent_by.sends("retry");
    let given_back = given_back(&pair.consumers);
    for (group, delays) in [("retry", 1), ("level", 1), ("back", 1), ("dead", 1)] {
        let deliveries = received.deliveries(group);
        for n in 0..=delays {
            // A call that fails is the listener's to repeat, and this one does not.
            let wanted = if group == "back" && n > 0 { given_back.clone() } else { sent(&sends) };
            let lost: Vec<String> = wanted.difference(&values(&attempt(&deliveries, n))).cloned().collect();
            c.none(&format!("{group}: lost at attempt {n}"), &lost);
        }
        let again = history::stored_twice(&attempt(&deliveries, 1));
        c.check(again.len() <= KILLS * IN_FLIGHT, || format!("{group}: retried twice: {again:?}"));
        scratch.report(&format!(
            "{version} {group}: {} sends, {} deliveries, {} retried twice",
            sends.len(),
            deliveries.len(),
            again.len()
        ));
    }
    c.none("dead letters lost", &sent(&sends).difference(&values(letters)).collect::<Vec<_>>());
    let again = history::stored_twice(letters);
    c.check(again.len() <= KILLS * IN_FLIGHT, || format!("dead twice: {again:?}"));
    judge_readers(&sent(&sends), received, c);
    judge_recalls(scratch, pair, c);
    let requests = sent_by.requests();
    let failed = requests.iter().filter(|request| request["ok"] != true).count();
    let dead = letters.len();
    scratch.report(&format!(
        "{version} requests: {}, {failed} failed; {dead} dead letters, {} twice",
        requests.len(),
        again.len()
    ));
}
