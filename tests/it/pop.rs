//! Pop with stock 5.x push consumers that leave the rebalance to the broker (`setClientRebalance(false)`): every consumer
//! takes from every queue, messages are acknowledged one by one, and what is not comes again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::Result;
use tests::cluster::{Cluster, Plan, Running};
use tests::complaints::{Complaints, exactly_once, same_ids};
use tests::history::{self, Delivery, sent, values};
use tests::runner::{Requirement, Scratch, Test, test};
use tests::scenario::Scenario;
use tests::{java, mqadmin, remoting};

const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("pop::features", &[Requirement::Java], features).calm(),
        test("pop::leader_killed", &[Requirement::Java, Requirement::OwnCluster], leader_killed),
    ]
}

/// The versions that can pop.
fn versions() -> Vec<String> {
    java::versions().into_iter().filter(|version| !version.starts_with('4')).collect()
}

const SHARED: usize = 60;
const REJECTED: usize = 4;
const TAKEN: usize = 8;
/// The least that a client asks for.
const INVISIBLE_MS: i64 = 5000;
/// After a first rejection the client asks for this, whatever the broker's levels are (popDelayLevel).
const FIRST_RETRY_MS: i64 = 10_000;
const LATE_MS: i64 = 3000;
/// Apache looks for what has become visible with a delay of its own.
const APACHE_LATE_MS: i64 = 10_000;

struct Clients {
    version: String,
    base: String,
    /// Two consumers of one group, one that rejects, and producers.
    scenario: Scenario,
    /// Takes messages and dies.
    hanging: Scenario,
}

impl Clients {
    fn topic(&self, feature: &str) -> String {
        format!("{}_{feature}", self.base)
    }

    fn deliveries(&self, feature: &str) -> Vec<Delivery> {
        self.scenario.deliveries_to(&format!("{}_g_{feature}", self.base))
    }

    fn start(scratch: &Scratch, cluster: &Running, version: &str) -> Result<Clients> {
        let kit = java::kit(version)?;
        let base = scratch.unique(&kit.version.replace('.', "_"));
        for feature in ["shared", "reject", "taken"] {
            let (topic, group) = (format!("{base}_{feature}"), format!("{base}_g_{feature}"));
            cluster.create_topic(&topic, 2)?;
            for broker in cluster.groups() {
                let master = cluster.master(broker)?;
                if feature == "shared" {
                    let mode =
                        ["setConsumeMode", "-b", &master, "-t", &topic, "-g", &group, "-m", "POP", "-q", "0"];
                    let said = mqadmin::run(scratch.dir(), cluster.namesrv(), &mode)?;
                    anyhow::ensure!(said.contains("success"), "{said}");
                } else {
                    remoting::set_request_mode(&master, &topic, &group, "POP")?;
                }
            }
        }
        let consume = |feature: &str, rest: &str| {
            format!(
                "consume --pop --invisible-ms {INVISIBLE_MS} --from first --topic {base}_{feature} \
                 --group {base}_g_{feature} {rest}"
            )
        };
        let hanging = format!("hanging-{}", kit.version);
        let line = consume("taken", "--hang");
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let hanging = kit.scenario(scratch.dir(), &hanging, cluster.namesrv(), &arguments)?;
        let send = |feature: &str, count: usize| {
            format!("send --topic {base}_{feature} --group {base}_p_{feature} --count {count} --rate 50")
        };
        let lines = [
            consume("shared", ""),
            consume("shared", ""),
            consume("reject", "--reject 1 --properties"),
            send("shared", SHARED),
            send("reject", REJECTED),
            send("taken", TAKEN),
        ];
        let scenario = kit.together(scratch.dir(), &kit.version, cluster.namesrv(), &lines)?;
        Ok(Clients { version: kit.version, base, scenario, hanging })
    }
}

fn features(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let mut all = Vec::new();
    for version in versions() {
        all.push(Clients::start(scratch, &cluster, &version)?);
    }
    let mut c = Complaints::default();
    let mut heirs = Vec::new();
    for clients in &mut all {
        c.about(&clients.version);
        let taken = clients
            .hanging
            .wait_until("messages to hang on", PATIENCE, |s| values(&s.deliveries()).len() >= TAKEN);
        c.result(taken);
        clients.hanging.kill()?;
        // takes over from the dead one; and a newcomer to a group whose messages are all acknowledged
        let base = &clients.base;
        let consume = |feature: &str| {
            format!("consume --pop --from first --topic {base}_{feature} --group {base}_g_{feature}")
        };
        let lines = [consume("taken"), consume("shared")];
        let kit = java::kit(&clients.version)?;
        let name = format!("heir-{}", clients.version);
        heirs.push(kit.together(scratch.dir(), &name, cluster.namesrv(), &lines)?);
    }
    for (clients, heir) in all.iter_mut().zip(&mut heirs) {
        c.about(&clients.version);
        let group = |feature: &str| format!("{}_g_{feature}", clients.base);
        let (shared, reject, taken) = (group("shared"), group("reject"), group("taken"));
        let inherited = heir.wait_until("what the dead consumer had taken", PATIENCE, |s| {
            values(&s.deliveries_to(&taken)).len() >= TAKEN
        });
        c.result(inherited);
        let again = clients.scenario.wait_until("second attempts", PATIENCE, |s| {
            s.deliveries_to(&reject).len() >= 2 * REJECTED && s.deliveries_to(&shared).len() >= SHARED
        });
        c.result(again);
        heir.finish()?;
        clients.scenario.finish()?;
        let late_ms = if cluster.is_raftmq() { LATE_MS } else { APACHE_LATE_MS };
        judge(scratch, clients, heir, late_ms, &mut c);
    }
    c.end()
}

fn judge(scratch: &Scratch, clients: &Clients, heir: &Scenario, late_ms: i64, c: &mut Complaints) {
    let sends = |feature: &str| clients.scenario.sends_to(&clients.topic(feature));
    let group = |feature: &str| format!("{}_g_{feature}", clients.base);
    // the newcomer finds nothing
    let shared = [clients.deliveries("shared"), heir.deliveries_to(&group("shared"))].concat();
    exactly_once("shared messages", &sends("shared"), &shared, c);

    let rejected = clients.deliveries("reject");
    let attempt = |n: u32| -> Vec<Delivery> { rejected.iter().filter(|d| d.attempt == n).cloned().collect() };
    let (first, second) = (attempt(0), attempt(1));
    for (name, deliveries) in [("first attempts", &first), ("second attempts", &second)] {
        exactly_once(name, &sends("reject"), deliveries, c);
    }
    c.check(rejected.len() == 2 * REJECTED, || format!("{} attempts", rejected.len()));
    for retry in &second {
        let before = first.iter().find(|d| d.value == retry.value).map_or(0, |d| d.at);
        let waited = (retry.at - before) / 1_000_000;
        c.check((FIRST_RETRY_MS..=FIRST_RETRY_MS + late_ms).contains(&waited), || {
            format!("{} was retried after {waited} ms", retry.value)
        });
        c.check(retry.topic == clients.topic("reject"), || format!("a retry without its topic: {retry:?}"));
    }

    let taken = clients.hanging.deliveries();
    let inherited = heir.deliveries_to(&group("taken"));
    let name = "messages that a dead consumer had taken";
    c.same(name, &values(&inherited), &sent(&sends("taken")));
    same_ids(name, &sends("taken"), &inherited, c);
    for delivery in &inherited {
        let before = taken.iter().find(|d| d.value == delivery.value).map_or(0, |d| d.at);
        let waited = (delivery.at - before) / 1_000_000;
        // popped before it reached the listener, which is what the broker counts from
        c.check(waited >= INVISIBLE_MS - 1000, || format!("{} came again after {waited} ms", delivery.value));
    }
    scratch.report(&format!("{}: {} taken over", clients.version, inherited.len()));
}

const KILLS: usize = 2;
const GROUP: &str = "broker-a";
/// So many messages at least are in the hands of a consumer that dies with the leader.
const HUNG: usize = 3;
const CONSUMERS: usize = 2;
/// What a consumer may have taken and not acknowledged: a batch that it has and one that is under way.
const IN_FLIGHT: usize = 64;
/// For so long the one that hangs has what it takes: longer than it takes to start it and to kill the leader.
const LONG_INVISIBLE_MS: i64 = 20_000;

/// Consumers that have the broker assign them what they take: of a group that pops, by a mode that was set before leaders
/// died, and of one of which nothing was said.
fn newcomers_of(scratch: &Scratch, cluster: &Cluster, version: &str, topic: &str) -> Result<Scenario> {
    let lines = ["late", "pull"].map(|group| {
        format!("consume --pop --from first --topic {topic} --group {topic}_{group} --poll-ms 1000 --heartbeat-ms 1000")
    });
    let name = format!("newcomers-{version}");
    java::kit(version)?.together(scratch.dir(), &name, &cluster.namesrv(), &lines)
}

/// All of the broker to the one, each queue of the topic to the other; and both have messages.
fn is_assigned(newcomers: &Scenario, topic: &str) -> bool {
    let (late, pull) = (format!("{topic}_late"), format!("{topic}_pull"));
    let queues: Vec<String> = (0..4).map(|queue| format!("{GROUP}/{queue}")).collect();
    newcomers.assigned_to(&late) == [format!("{GROUP}/-1")]
        && newcomers.assigned_to(&pull) == queues
        && [late, pull].iter().all(|group| !newcomers.deliveries_to(group).is_empty())
}

/// The clients of one version that pop while leaders die: two consumers of `shared`, one that rejects, one that takes over
/// from one that hangs and dies.
struct Pair {
    version: String,
    /// The topic of `shared`, and what the names of the others begin with.
    base: String,
    producers: Scenario,
    consumers: Scenario,
}

impl Pair {
    const QUEUES: u32 = 4;
    /// With messages a second.
    const FEATURES: [(&str, u32); 3] = [("shared", 40), ("reject", 4), ("taken", 10)];

    fn topic(&self, feature: &str) -> String {
        Pair::topic_of(&self.base, feature)
    }

    fn topic_of(base: &str, feature: &str) -> String {
        if feature == "shared" { base.to_owned() } else { format!("{base}_{feature}") }
    }

    fn group_of(base: &str, feature: &str) -> String {
        format!("{base}_g_{feature}")
    }

    fn names(base: &str, feature: &str) -> String {
        let (topic, group) = (Pair::topic_of(base, feature), Pair::group_of(base, feature));
        format!("--topic {topic} --group {group} --poll-ms 1000 --heartbeat-ms 1000")
    }

    fn consume(base: &str, feature: &str, invisible_ms: i64, rest: &str) -> String {
        let names = Pair::names(base, feature);
        format!("consume --pop --invisible-ms {invisible_ms} --from first {names} {rest}")
    }

    fn start(scratch: &Scratch, cluster: &Cluster, version: &str) -> Result<Pair> {
        let kit = java::kit(version)?;
        let base = scratch.unique(&kit.version.replace('.', "_"));
        let leader = cluster.address(cluster.leader(GROUP)?, GROUP);
        for (feature, _) in Pair::FEATURES {
            let topic = Pair::topic_of(&base, feature);
            cluster.create_topic(&topic, Pair::QUEUES)?;
            remoting::set_request_mode(leader, &topic, &Pair::group_of(&base, feature), "POP")?;
        }
        remoting::set_request_mode(leader, &base, &format!("{base}_late"), "POP")?;
        let consume = |feature: &str, rest: &str| Pair::consume(&base, feature, INVISIBLE_MS, rest);
        let send = |(feature, rate): (&str, u32)| {
            format!("failover-producer --retries 0 --rate {rate} {}", Pair::names(&base, feature))
        };
        let mut consuming = vec![consume("shared", ""); CONSUMERS];
        consuming.extend([consume("reject", "--reject 1"), consume("taken", "")]);
        let sending = Pair::FEATURES.map(send);
        let namesrv = cluster.namesrv();
        let together = |what: &str, lines: &[String]| {
            kit.together(scratch.dir(), &format!("{what}-{}", kit.version), &namesrv, lines)
        };
        let consumers = together("consumers", &consuming)?;
        let producers = together("producers", &sending)?;
        Ok(Pair { version: kit.version.clone(), base, producers, consumers })
    }

    /// Another consumer of `taken`, which hangs with the first messages that it takes.
    fn start_hanging(&self, scratch: &Scratch, namesrv: &str) -> Result<Scenario> {
        let line = Pair::consume(&self.base, "taken", LONG_INVISIBLE_MS, "--hang");
        let name = format!("hanging-{}", self.version);
        java::kit(&self.version)?.together(scratch.dir(), &name, namesrv, &[line])
    }

    fn sends(&self, feature: &str) -> Vec<history::Send> {
        self.producers.sends_to(&self.topic(feature))
    }

    fn deliveries(&self, feature: &str) -> Vec<Delivery> {
        self.consumers.deliveries_to(&Pair::group_of(&self.base, feature))
    }

    /// Waits for more of everything.
    fn wait_working(&mut self) -> Result<()> {
        let topics = Pair::FEATURES.map(|(feature, _)| self.topic(feature));
        let before = topics.each_ref().map(|topic| sent(&self.producers.sends_to(topic)).len());
        self.producers.wait_until("more sends", PATIENCE, |s| {
            let more = |(topic, before): (&String, &usize)| sent(&s.sends_to(topic)).len() > before + 5;
            topics.iter().zip(&before).all(more)
        })?;
        let groups = Pair::FEATURES.map(|(feature, _)| Pair::group_of(&self.base, feature));
        let before = groups.each_ref().map(|group| self.consumers.deliveries_to(group).len());
        self.consumers.wait_until("more deliveries", PATIENCE, |s| {
            let more = |(group, before): (&String, &usize)| s.deliveries_to(group).len() > before + 5;
            groups.iter().zip(&before).all(more)
        })
    }

    /// Waits until all that was acknowledged has arrived, and what was rejected has come again.
    fn wait_arrived(&mut self) -> Result<()> {
        let wanted = Pair::FEATURES.map(|(feature, _)| (feature, sent(&self.sends(feature))));
        let base = self.base.clone();
        self.consumers.wait_until("every acknowledged message", PATIENCE, |s| {
            wanted.iter().all(|(feature, wanted)| {
                let deliveries = s.deliveries_to(&Pair::group_of(&base, feature));
                wanted.is_subset(&values(&accepted(feature, deliveries)))
            })
        })
    }

    /// `hung`: what the one that hung had when it was killed, and the leader right after it; `killed`: when, in nanoseconds since
    /// 1970.
    fn judge(&self, scratch: &Scratch, hung: &[Delivery], killed: i64, c: &mut Complaints) {
        let version = &self.version;
        for (feature, rate) in Pair::FEATURES {
            c.about(&format!("{version} {feature}"));
            let (sends, deliveries) = (self.sends(feature), self.deliveries(feature));
            c.none("lost", &history::lost(&sends, &deliveries));
            c.none("unexpected", &history::unexpected(&sends, &deliveries));
            let accepted = accepted(feature, deliveries.clone());
            let again = accepted.len() - values(&accepted).len();
            // No more than came in the seconds that a message is invisible, either.
            let limit = KILLS * (CONSUMERS * IN_FLIGHT).min(rate as usize * INVISIBLE_MS as usize / 1000);
            c.check(again <= limit, || format!("{again} deliveries again, more than {limit}"));
            scratch.report(&format!(
                "{version} {feature}: {} sends, {} failed, {} deliveries, {again} again",
                sends.len(),
                history::failed(&sends).len(),
                deliveries.len(),
            ));
        }
        c.about(version);
        let retried = values(&accepted("reject", self.deliveries("reject")));
        c.none(
            "rejected and not retried",
            &sent(&self.sends("reject")).difference(&retried).collect::<Vec<_>>(),
        );
        // Nobody else got them before, and another leader gave them to the one that lives.
        let (hung, heir) = (values(hung), self.deliveries("taken"));
        let of_hung: Vec<&Delivery> = heir.iter().filter(|d| hung.contains(&d.value)).collect();
        c.none("what another consumer had", &of_hung.iter().filter(|d| d.at < killed).collect::<Vec<_>>());
        let inherited: BTreeSet<&str> = of_hung.iter().map(|d| d.value.as_str()).collect();
        c.check(inherited.len() == hung.len(), || format!("{} of {hung:?} were taken over", inherited.len()));
        scratch.report(&format!("{version}: {} taken over from the one that died", inherited.len()));
    }
}

/// Those that their listener did not reject.
fn accepted(feature: &str, mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
    deliveries.retain(|delivery| feature != "reject" || delivery.attempt >= 1);
    deliveries
}

/// One group, so that each kill meets every message.
fn leader_killed(scratch: &Scratch) -> Result<()> {
    let mut cluster = Cluster::start(scratch, Plan { preferred_leaders: false, ..Plan::new(3, 1) })?;
    let mut pairs = Vec::new();
    for version in versions() {
        pairs.push(Pair::start(scratch, &cluster, &version)?);
    }
    for pair in &mut pairs {
        pair.wait_working()?;
    }
    // What they have becomes visible again at another leader.
    let mut hanging = Vec::new();
    for pair in &pairs {
        hanging.push(pair.start_hanging(scratch, &cluster.namesrv())?);
    }
    for scenario in &mut hanging {
        scenario.wait_until("messages to hang on", PATIENCE, |s| values(&s.deliveries()).len() >= HUNG)?;
    }
    let mut hung = Vec::new();
    let mut killed = 0;
    for round in 1..=KILLS {
        let leader = cluster.leader(GROUP)?;
        if round == 1 {
            for scenario in &mut hanging {
                scenario.kill()?;
                hung.push(scenario.deliveries());
            }
        }
        cluster.kill(leader)?;
        if round == 1 {
            killed = UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos() as i64);
        }
        for pair in &mut pairs {
            pair.wait_working()?;
        }
        cluster.start_node(leader)?;
        cluster.wait_whole()?;
    }
    let mut c = Complaints::default();
    let mut newcomers = Vec::new();
    for pair in &pairs {
        newcomers.push(newcomers_of(scratch, &cluster, &pair.version, &pair.base)?);
    }
    for (pair, newcomers) in pairs.iter().zip(&mut newcomers) {
        c.about(&pair.version);
        let told = newcomers.wait_until("what the broker assigns", PATIENCE, |s| is_assigned(s, &pair.base));
        c.result(told);
        newcomers.finish()?;
    }
    for (pair, hung) in pairs.iter_mut().zip(&hung) {
        c.about(&pair.version);
        pair.producers.finish()?;
        let stopped = Instant::now();
        let arrived = pair.wait_arrived();
        c.result(arrived);
        let version = &pair.version;
        scratch
            .report(&format!("{version}: the last message came {:?} after the last send", stopped.elapsed()));
        pair.consumers.finish()?;
        pair.judge(scratch, hung, killed, &mut c);
    }
    c.end()
}
