//! Groups that usually read at a follower, by stock clients: they read what they are behind with there (the end of a queue is
//! the leader's to tell), go on when it dies, and pass over nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cluster::{Cluster, Plan};
use tests::remoting::Connection;
use tests::runner::{Requirement, Scratch, Test, test};
use tests::scenario::Scenario;
use tests::{go, history, java, mqadmin};

/// Longer than a client's route poll, 30 s.
const PATIENCE: Duration = Duration::from_mins(1);
const QUEUES: u32 = 2;
const BACKLOG: usize = 1000;

pub(crate) fn tests() -> Vec<Test> {
    // mqadmin names the follower.
    let needs = [Requirement::Java, Requirement::OwnCluster, Requirement::Go];
    vec![
        test("reads_at_followers::java", &needs[..2], |scratch| {
            let kits = java::versions().into_iter().map(|version| java::kit(&version).map(Kit::Java));
            check(scratch, kits.collect::<Result<_>>()?)
        }),
        test("reads_at_followers::go", &needs, |scratch| check(scratch, vec![Kit::Go(go::kit()?)])),
    ]
}

enum Kit {
    Java(java::Kit),
    Go(go::Kit),
}

impl Kit {
    fn name(&self) -> String {
        match self {
            Kit::Java(kit) => kit.version.replace('.', "_"),
            Kit::Go(_) => "go".to_owned(),
        }
    }
}

struct Client<'a> {
    kit: Kit,
    scratch: &'a Scratch,
    namesrv: &'a str,
    topic: String,
    group: String,
}

impl Client<'_> {
    /// The two write their options in their own ways.
    fn start(&self, role: &str, java: &str, go: &str) -> Result<Scenario> {
        let (dir, name) = (self.scratch.dir(), format!("{role}-{}", self.kit.name()));
        let (topic, words) = match &self.kit {
            Kit::Java(_) => ("--topic", java),
            Kit::Go(_) => ("-topic", go),
        };
        let (scenario, rest) = words.split_once(' ').unwrap_or((words, ""));
        let mut arguments = vec![scenario, topic, &self.topic];
        arguments.extend(rest.split_whitespace());
        match &self.kit {
            Kit::Java(kit) => kit.scenario(dir, &name, self.namesrv, &arguments),
            Kit::Go(kit) => kit.scenario(dir, &name, self.namesrv, &arguments),
        }
    }

    fn send_backlog(&self) -> Result<Vec<history::Send>> {
        let java = format!("send --count {BACKLOG} --prefix early");
        let go = format!("send -count {BACKLOG} -prefix early -group p");
        let mut producer = self.start("early", &java, &go)?;
        producer.join(PATIENCE)?;
        let sends = producer.sends();
        ensure!(history::failed(&sends).is_empty(), "failed sends: {:?}", history::failed(&sends));
        Ok(sends)
    }

    fn consume(&self) -> Result<Scenario> {
        let group = &self.group;
        // Clients of Java poll routes each second here: the one that dies is a follower, of whose end nobody tells them.
        let java = format!("consume --group {group} --from first --poll-ms 1000");
        self.start("consumer", &java, &format!("consume -group {group}"))
    }

    fn keep_sending(&self) -> Result<Scenario> {
        self.start("producer", "failover-producer --rate 50", "failover -rate 50 -group p")
    }
}

fn check(scratch: &Scratch, kits: Vec<Kit>) -> Result<()> {
    let mut plan = Plan::new(3, 1);
    plan.group_settings.push("follower_reads = true".into());
    let group = plan.groups[0].clone();
    let mut cluster = Cluster::start(scratch, plan)?;
    let namesrv = cluster.namesrv();
    let mut shell = mqadmin::Shell::start(scratch.dir(), &namesrv)?;
    let members = cluster.brokers()?.remove(&group).context("no such group")?;
    let (id, first) = members.into_iter().find(|(id, _)| *id > 0).context("no follower")?;
    let (master, id) = (cluster.address(cluster.leader(&group)?, &group).to_owned(), id.to_string());
    let mut clients = Vec::new();
    for kit in kits {
        let (topic, group) = (format!("t_{}", kit.name()), format!("g_{}", kit.name()));
        cluster.create_topic(&topic, QUEUES)?;
        shell.run(&["updateSubGroup", "-b", &master, "-g", &group, "-s", "true", "-i", &id])?;
        let client = Client { kit, scratch, namesrv: &namesrv, topic, group };
        clients.push((client.send_backlog()?, client));
    }
    let mut consumers = clients.iter().map(|(_, client)| client.consume()).collect::<Result<Vec<_>>>()?;
    for consumer in &mut consumers {
        consumer.wait_until("what there was", PATIENCE, |c| c.deliveries().len() >= BACKLOG)?;
    }
    // The first of each queue came from the leader, and sent them there.
    let runtime = Connection::open(&first, PATIENCE)?.runtime()?;
    let given: usize = runtime.get("msgGetTotalTodayNow").context("no such key")?.parse()?;
    let all = BACKLOG * clients.len();
    ensure!(given * 10 >= all * 7, "the follower gave {given} of {all}");

    let mut producers =
        clients.iter().map(|(_, client)| client.keep_sending()).collect::<Result<Vec<_>>>()?;
    let more = |consumer: &mut Scenario| {
        let so_far = consumer.deliveries().len();
        consumer.wait_until("more messages", PATIENCE, |c| c.deliveries().len() > so_far + 100)
    };
    consumers.iter_mut().try_for_each(more)?;
    let node = (1..=3).find(|node| cluster.address(*node, &group) == first).context("nobody is that")?;
    ensure!(node != cluster.leader(&group)?, "it leads by now");
    cluster.kill(node)?;
    consumers.iter_mut().try_for_each(more).context("once the follower was dead")?;
    for (((early, client), producer), consumer) in clients.iter().zip(&mut producers).zip(&mut consumers) {
        producer.finish()?;
        let sends = [early.clone(), producer.sends()].concat();
        consumer
            .wait_until("every message", PATIENCE, |c| history::lost(&sends, &c.deliveries()).is_empty())?;
        consumer.finish()?;
        let (name, deliveries) = (client.kit.name(), consumer.deliveries());
        let skipped = history::skipped(&deliveries);
        ensure!(skipped.is_empty(), "{name}: {skipped:?}");
        let contradictions = history::contradictions(&sends, &deliveries);
        ensure!(contradictions.is_empty(), "{name}: {contradictions:?}");
    }
    scratch.report(&format!("the follower gave {given} of {all} messages"));
    Ok(())
}
