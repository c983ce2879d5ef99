//! Stock Java clients with default settings while leaders die: three nodes, three groups, the topic in all of them.
//!
//! Promised (clients.md rule 3) and asserted: no failed sync, async or batch send, no gap over 1.5 s between their
//! successes, nothing acknowledged is lost, a consumer passes over nothing. Measured and reported: pinned and one-way
//! sends, the consumers' longest wait, duplicates.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Result, bail, ensure};
use tests::cluster::{Cluster, Plan};
use tests::history::{self, Duplicates, Send};
use tests::java;
use tests::runner::{Requirement, Scratch, Test, test, untimely};
use tests::scenario::Scenario;
use tests::{apache, remoting, wait};

const KILLS: usize = 5;
const GAP: Duration = Duration::from_millis(1500);
const PROMISED: [&str; 3] = ["sync", "async", "batch"];
const MEASURED: [&str; 3] = ["pinned", "explicit", "oneway"];
/// How long a killed node stays away.
const DEAD: Duration = Duration::from_secs(3);
/// Longer than a client's route poll, 30 s.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn tests() -> Vec<Test> {
    let needs = [Requirement::Java, Requirement::OwnCluster];
    let long = [&needs[..], &[Requirement::Long]].concat();
    let versions = java::versions();
    type Check = fn(&Scratch, &str) -> Result<()>;
    let alone: [(&str, Check); 3] = [
        ("five_kills", |scratch, version| kills(scratch, &[version.to_owned()], Pace::LeadersSpread)),
        ("five_kills_without_waiting", |scratch, version| {
            kills(scratch, &[version.to_owned()], Pace::NodeBack)
        }),
        ("the_rules_see_apache_fail", the_rules_see_apache_fail),
    ];
    let mut tests = Vec::new();
    for version in &versions {
        for (name, check) in alone {
            let version = version.clone();
            let full = format!("java_failover::{name}_{}", version.replace('.', "_"));
            tests.push(test(full, &long, move |scratch| check(scratch, &version)).calm());
        }
    }
    // All versions meet the same kills, which saves minutes; the long tests run them one by one. Nothing runs beside it: a
    // request that waits for its answer when its leader dies is failed at once by a stock client only if the client *reads*
    // the reset. If it writes the next request first, netty closes the channel without NettyRemotingClient.close, which is
    // where failFast is called, and the first one, an async send, waits for its timeout and is not sent again. So answers must be
    // as quick as on a machine that has time for its clients.
    let all = test("java_failover::five_kills", &needs, move |scratch| {
        kills(scratch, &versions, Pace::LeadersSpread)
    });
    tests.push(all.alone());
    tests
}

/// When the next leader is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Every node leads one group again, and the producers have polled their routes (each 30 s) and know it. Before that
    /// a producer may hold the address of one node for two groups; if this node dies, all three tries of an *async* send
    /// can go to it: clients pick the queue for a retry by a counter of the thread that runs the callback, so that the
    /// third try may return to the first group (TopicPublishInfo.selectOneMessageQueue, ThreadLocalIndex).
    LeadersSpread,
    /// The killed node is back with its whole log; one node may lead all groups. Reported, not asserted: one death may
    /// then take every leader at once.
    NodeBack,
}

struct Clients {
    version: String,
    producer: Scenario,
    consumer: Scenario,
}

fn start(scratch: &Scratch, version: &str, cluster: &Cluster, queues: usize) -> Result<Clients> {
    let kit = java::kit(version)?;
    let name = kit.version.clone();
    let (topic, group) = (topic(scratch, &name), format!("g_{}", name.replace('.', "_")));
    let modes = [PROMISED, MEASURED].concat().join(",");
    let namesrv = cluster.namesrv();
    let mut consumer = kit.scenario(
        scratch.dir(),
        &format!("consumer-{name}"),
        &namesrv,
        &["failover-consumer", "--topic", &topic, "--group", &group],
    )?;
    consumer.wait_assigned(queues)?;
    let mut producer = kit.scenario(
        scratch.dir(),
        &format!("producer-{name}"),
        &namesrv,
        &["failover-producer", "--topic", &topic, "--modes", &modes, "--rate", "20", "--prefix", &name],
    )?;
    producer.wait_until("one success of each kind", PATIENCE, |p| {
        let sends = p.sends();
        [PROMISED, MEASURED].concat().iter().all(|mode| sends.iter().any(|s| s.ok && s.mode == *mode))
    })?;
    Ok(Clients { version: kit.version, producer, consumer })
}

fn topic(scratch: &Scratch, version: &str) -> String {
    let test = scratch.dir().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{test}_{version}").replace('.', "_")
}

fn kills(scratch: &Scratch, versions: &[String], pace: Pace) -> Result<()> {
    let mut cluster = Cluster::start(scratch, Plan::new(3, 3))?;
    let groups = cluster.plan().groups.clone();
    let mut clients = Vec::new();
    for version in versions {
        let resolved = java::kit(version)?.version;
        cluster.create_topic(&topic(scratch, &resolved), 4)?;
        clients.push(start(scratch, version, &cluster, 4 * groups.len())?);
    }
    for kill in 0..KILLS {
        let leader = cluster.leader(&groups[kill % groups.len()])?;
        cluster.kill(leader)?;
        // Later than a supervisor would start it again: no send is saved by the stale address coming back.
        let until = UNIX_EPOCH.elapsed()?.as_nanos() as i64 + DEAD.as_nanos() as i64;
        for client in &mut clients {
            client.producer.wait_until("sends while the node is dead", PATIENCE, |p| {
                let sends = p.sends();
                PROMISED.iter().all(|mode| sends.iter().any(|s| s.ok && s.mode == *mode && s.start > until))
            })?;
        }
        cluster.start_node(leader)?;
        match pace {
            Pace::LeadersSpread => {
                cluster.wait_ready()?;
                let led = cluster.leader_addresses()?;
                for client in &mut clients {
                    let what = "every producer knows the leaders";
                    let modes = [PROMISED, MEASURED].concat();
                    client.producer.wait_until(what, PATIENCE, |p| {
                        let routes = p.routes();
                        modes.iter().all(|mode| routes.get(*mode) == Some(&led))
                    })?;
                }
            }
            Pace::NodeBack => cluster.wait_whole()?,
        }
    }
    for client in &mut clients {
        client.producer.finish()?;
    }
    let mut complaints = Complaints::default();
    for client in &mut clients {
        judge(scratch, client, pace, &mut complaints)?;
    }
    complaints.result(&cluster)
}

/// What is wrong, whatever the machine did, and what was too late: a send fails when its client waits for too long.
#[derive(Default)]
struct Complaints {
    wrong: Vec<String>,
    late: Vec<String>,
}

impl Complaints {
    fn result(self, cluster: &Cluster) -> Result<()> {
        let all = [self.wrong.as_slice(), &self.late].concat().join("\n");
        match (self.wrong.is_empty(), self.late.is_empty()) {
            (true, true) => Ok(()),
            (true, false) => Err(untimely(all, cluster.slow_death())),
            (false, _) => bail!(all),
        }
    }
}

/// Every rule is looked at, so that one run tells all that is wrong.
fn judge(scratch: &Scratch, client: &mut Clients, pace: Pace, complaints: &mut Complaints) -> Result<()> {
    let version = client.version.clone();
    let sends = client.producer.sends();
    let arrived = client.consumer.wait_until("every acknowledged message", PATIENCE, |c| {
        history::lost(&sends, &c.deliveries()).is_empty()
    });
    client.consumer.finish()?;
    let deliveries = client.consumer.deliveries();
    let complain = |list: &mut Vec<String>, what: &str, found: &[String]| {
        if !found.is_empty() {
            let some = &found[..found.len().min(5)];
            list.push(format!("{version}: {} {what}: {some:?}", found.len()));
        }
    };
    let Complaints { wrong, late } = complaints;
    if arrived.is_err() {
        complain(wrong, "lost", &history::lost(&sends, &deliveries));
    }
    complain(wrong, "values that nobody sent", &history::unexpected(&sends, &deliveries));
    complain(wrong, "places with two values", &history::contradictions(&sends, &deliveries));
    complain(wrong, "skipped", &history::skipped(&deliveries));

    for mode in PROMISED {
        let of_mode = history::of_mode(&sends, mode);
        let (failed, gap) = (history::failed(&of_mode), gap(&of_mode));
        scratch.report(&format!(
            "{version} {mode}: {} sends, {} failed, longest gap {gap:?}",
            of_mode.len(),
            failed.len()
        ));
        if pace == Pace::LeadersSpread {
            complain(late, &format!("failed {mode} sends"), &failed);
            if gap > GAP {
                complain(late, &format!("{mode} gap"), &[format!("{gap:?}")]);
            }
        }
    }
    for mode in MEASURED {
        let of_mode = history::of_mode(&sends, mode);
        let lost = history::lost_oneway(&of_mode, &deliveries);
        scratch.report(&format!(
            "{version} {mode}: {} sends, {} failed, {lost} lost one-way, longest gap {:?}",
            of_mode.len(),
            history::failed(&of_mode).len(),
            gap(&of_mode),
        ));
    }
    let wait = Duration::from_nanos(history::longest_wait(&sends, &deliveries) as u64);
    let Duplicates { stored, delivered } = history::duplicates(&deliveries);
    scratch.report(&format!(
        "{version} consumer: {} deliveries, longest wait {wait:?}, {stored} values stored twice, {delivered} delivered again",
        deliveries.len(),
    ));
    Ok(())
}

/// The same clients and rules with two of Apache's brokers, neither replicated: kill -9 of one is seen as what it is.
fn the_rules_see_apache_fail(scratch: &Scratch, version: &str) -> Result<()> {
    let kit = java::kit(version)?;
    let namesrv = apache::nameserver(scratch.dir())?;
    let mut doomed = apache::broker(scratch.dir(), "a", &namesrv.address)?;
    let survivor = apache::broker(scratch.dir(), "b", &namesrv.address)?;
    for broker in [&doomed, &survivor] {
        remoting::create_topic(&broker.address, "t", 4)?;
    }
    wait::until_true("the topic is on both", PATIENCE, || {
        Ok(remoting::route(&namesrv.address, "t")?.len() == 2)
    })?;
    let modes = [PROMISED, MEASURED].concat().join(",");
    let arguments = ["failover-producer", "--topic", "t", "--modes", &modes, "--rate", "20"];
    let mut producer = kit.scenario(scratch.dir(), "producer", &namesrv.address, &arguments)?;
    producer.wait_until("some sends", PATIENCE, |p| p.sends().len() > 200)?;
    doomed.kill()?;
    producer.wait_until("a failed pinned send", PATIENCE, |p| {
        !history::failed(&history::of_mode(&p.sends(), "pinned")).is_empty()
    })?;
    let sent = producer.sends().len();
    producer.wait_until("more sends", PATIENCE, |p| p.sends().len() > sent + 200)?;
    producer.finish()?;
    let sends = producer.sends();
    for mode in [PROMISED, MEASURED].concat() {
        let of_mode = history::of_mode(&sends, mode);
        let failed = history::failed(&of_mode).len();
        let count = of_mode.len();
        scratch.report(&format!(
            "{version} {mode}: {failed} of {count} failed, longest gap {:?}",
            gap(&of_mode)
        ));
    }
    let mut consumer = kit.scenario(
        scratch.dir(),
        "consumer",
        &namesrv.address,
        &["consume", "--topic", "t", "--from", "first", "--idle", "5000"],
    )?;
    consumer.join(PATIENCE)?;
    // whatever only the dead broker had
    let lost = history::lost(&sends, &consumer.deliveries());
    scratch.report(&format!("{version}: {} messages lost with the broker", lost.len()));
    ensure!(!lost.is_empty() && lost.iter().all(|message| message.contains(" of a/")), "lost: {lost:?}");
    Ok(())
}

fn gap(sends: &[Send]) -> Duration {
    Duration::from_nanos(history::longest_gap(sends).map_or(0, |(gap, _)| gap) as u64)
}
