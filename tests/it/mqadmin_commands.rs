//! Every command of the stock 5.3.3 mqadmin, each really run against three groups on three nodes, as the table in
//! docs/compatibility.md has it. Tests of what Apache answers otherwise run against RaftMQ alone.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cluster::Running;
use tests::mqadmin::{Shell, rows};
use tests::runner::{Requirement, Scratch, Test, skip, test};
use tests::{java, paths, remoting, wait};

use crate::mqadmin::{cluster_name, field, send_hello};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn tests() -> Vec<Test> {
    let test = |name, check: fn(&Scratch) -> Result<()>| {
        test(name, &[Requirement::Java, Requirement::OwnCluster], check)
    };
    vec![
        test("mqadmin::the_table_has_every_command", the_table_has_every_command),
        test("mqadmin::topics", topics),
        test("mqadmin::groups", groups),
        test("mqadmin::consume_mode", consume_mode),
        test("mqadmin::messages", messages),
        test("mqadmin::traces", traces),
        test("mqadmin::clients", clients),
        test("mqadmin::offsets", offsets),
        // These take permissions away from shared brokers.
        test("mqadmin::brokers", brokers).alone(),
        test("mqadmin::nameservers", nameservers).alone(),
        test("mqadmin::exports", exports),
        test("mqadmin::refused_with_the_reason", refused_with_the_reason),
    ]
}

/// A JVM, the cluster, its name, and a topic of one of its groups' own.
struct Bench {
    mqadmin: Shell,
    cluster: Running,
    name: String,
    /// Of the first group.
    broker: String,
    master: String,
}

impl Bench {
    fn start(scratch: &Scratch) -> Result<Bench> {
        let cluster = Running::get()?;
        let mut mqadmin = Shell::start(scratch.dir(), cluster.namesrv())?;
        let name = cluster_name(&mut mqadmin)?;
        let broker = cluster.groups()[0].clone();
        let master = cluster.master(&broker)?;
        Ok(Bench { mqadmin, cluster, name, broker, master })
    }

    /// Says how often each master is named in what a command wrote for the whole cluster: once.
    fn names_every_master(&self, said: &str) -> Result<()> {
        for group in self.cluster.groups() {
            let master = self.cluster.master(group)?;
            ensure!(said.contains(&master), "{master} of {group} is not named:\n{said}");
        }
        Ok(())
    }
}

fn file(scratch: &Scratch, name: &str, text: &str) -> Result<String> {
    let path = scratch.dir().join(name);
    std::fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

/// The code of an answer, whatever it is.
fn ask(address: &str, code: i32, fields: &[(&str, &str)]) -> Result<i32> {
    Ok(remoting::Connection::open(address, PATIENCE)?.ask(code, fields, &[])?.code)
}

fn without_blanks(text: &str) -> String {
    text.split_whitespace().collect()
}

/// The table of docs/compatibility.md lists what mqadmin lists, and these tests run each of it.
fn the_table_has_every_command(scratch: &Scratch) -> Result<()> {
    let mut bench = Bench::start(scratch)?;
    let said = bench.mqadmin.say(&[], PATIENCE)?;
    // "   name      description"; the blanks in front tell a command from the rest.
    let known: BTreeSet<&str> = said
        .lines()
        .filter(|line| line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    ensure!(known.len() > 80, "only {known:?}:\n{said}");
    let text = std::fs::read_to_string(paths::workspace().join("docs/compatibility.md"))?;
    let section = text.split("\n## ").find(|section| section.starts_with("mqadmin")).context("no section")?;
    // Up to the first heading below: what follows are other tables.
    let table = section.split("\n### ").next().unwrap_or_default();
    let listed: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|rest| rest.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    ensure!(listed == known, "differ: {:?}", listed.symmetric_difference(&known).collect::<Vec<_>>());
    let sources = [include_str!("mqadmin.rs"), include_str!("mqadmin_commands.rs")].concat();
    let untried: Vec<_> = known.iter().filter(|name| !sources.contains(&format!("\"{name}\""))).collect();
    ensure!(untried.is_empty(), "not tried: {untried:?}");
    Ok(())
}

fn topics(scratch: &Scratch) -> Result<()> {
    let mut bench = Bench::start(scratch)?;
    let topic = scratch.unique("t");
    let (name, master) = (bench.name.clone(), bench.master.clone());
    let said = bench.mqadmin.run(&[
        "updateTopic",
        "-c",
        &name,
        "-t",
        &topic,
        "-r",
        "3",
        "-w",
        "3",
        "-p",
        "6",
        "-o",
        "true",
        "-a",
        "+message.type=FIFO",
    ])?;
    bench.names_every_master(&said)?;
    ensure!(said.contains("orderConf=["), "{said}");
    wait::until_true("every group has the topic", PATIENCE, || {
        Ok(remoting::route(bench.cluster.nameserver(), &topic)?.len() == bench.cluster.groups().len())
    })?;
    let said = bench.mqadmin.run(&["topicRoute", "-t", &topic, "-l"])?;
    ensure!(bench.cluster.groups().iter().all(|group| said.contains(group)), "{said}");
    let said = bench.mqadmin.run(&["topicClusterList", "-t", &topic])?;
    ensure!(said.trim() == name, "{said}");
    let said = bench.mqadmin.run(&["topicStatus", "-t", &topic])?;
    let queues = rows(&said).iter().filter(|row| bench.cluster.groups().iter().any(|g| row[0] == g)).count();
    ensure!(queues == 3 * bench.cluster.groups().len(), "{said}");
    let said = bench.mqadmin.run(&["topicList", "-c"])?;
    ensure!(rows(&said).iter().any(|row| row[..2] == [name.as_str(), &topic]), "{said}");

    let said = bench.mqadmin.run(&["updateTopicPerm", "-c", &name, "-t", &topic, "-p", "4"])?;
    ensure!(said.contains("from 6 to 4"), "{said}");
    wait::until_true("nameservers have the permission", PATIENCE, || {
        let said = bench.mqadmin.run(&["topicRoute", "-t", &topic])?;
        Ok(without_blanks(&said).matches("\"perm\":4").count() == bench.cluster.groups().len())
    })?;
    let said = bench.mqadmin.run(&["updateTopicPerm", "-b", &master, "-t", &topic, "-p", "6"])?;
    ensure!(said.contains("from 4 to 6"), "{said}");
    // An attribute is what it was.
    let said = bench
        .mqadmin
        .say(&["updateTopic", "-b", &master, "-t", &topic, "-a", "+queue.type=BatchCQ"], PATIENCE)?;
    ensure!(said.contains("queue.type"), "{said}");

    let listed = [scratch.unique("list1"), scratch.unique("list2")];
    let configs = listed.each_ref().map(|topic| {
        format!(r#"{{"topicName":"{topic}","readQueueNums":2,"writeQueueNums":2,"perm":6,"attributes":{{"+message.type":"NORMAL"}}}}"#)
    });
    let path = file(scratch, "topics.json", &format!("[{}]", configs.join(",")))?;
    let said = bench.mqadmin.run(&["updateTopicList", "-c", &name, "-f", &path])?;
    bench.names_every_master(&said)?;
    for topic in &listed {
        wait::until_true("the listed topics are there", PATIENCE, || {
            Ok(remoting::route(bench.cluster.nameserver(), topic)?.len() == bench.cluster.groups().len())
        })?;
    }

    let order = format!("{}:3", bench.broker);
    bench.mqadmin.run(&["updateOrderConf", "-t", &topic, "-m", "put", "-v", &order])?;
    let said = bench.mqadmin.run(&["updateOrderConf", "-t", &topic, "-m", "get"])?;
    ensure!(said.contains(&order), "{said}");
    bench.mqadmin.run(&["updateOrderConf", "-t", &topic, "-m", "delete"])?;
    let said = bench.mqadmin.refused(&["updateOrderConf", "-t", &topic, "-m", "get"])?;
    ensure!(said.contains("CODE: 22"), "{said}");

    let said = bench.mqadmin.run(&["allocateMQ", "-t", &listed[0], "-i", "10.0.0.1,10.0.0.2"])?;
    let queues = 2 * bench.cluster.groups().len();
    ensure!(said.matches("queueId").count() == queues && said.contains("10.0.0.2"), "{said}");

    for topic in [&topic, &listed[0], &listed[1]] {
        let said = bench.mqadmin.run(&["deleteTopic", "-c", &name, "-t", topic])?;
        ensure!(said.contains("from cluster") && said.contains("from NameServer success"), "{said}");
        ensure!(remoting::route(bench.cluster.nameserver(), topic)?.is_empty(), "{topic} is routed still");
    }
    let said = bench.mqadmin.refused(&["deleteTopic", "-c", &name, "-t", "TBW102"])?;
    ensure!(said.contains("conflict with system topic"), "{said}");
    Ok(())
}

fn groups(scratch: &Scratch) -> Result<()> {
    let mut bench = Bench::start(scratch)?;
    let (name, master) = (bench.name.clone(), bench.master.clone());
    let (group, topic) = (scratch.unique("g"), scratch.unique("t"));
    let said = bench.mqadmin.run(&[
        "updateSubGroup",
        "-c",
        &name,
        "-g",
        &group,
        "-s",
        "true",
        "-r",
        "5",
        "-q",
        "2",
    ])?;
    bench.names_every_master(&said)?;
    let said = bench.mqadmin.run(&["getConsumerConfig", "-g", &group])?;
    ensure!(without_blanks(&said).contains("retryMaxTimes=5"), "{said}");
    ensure!(said.matches("retryMaxTimes").count() == bench.cluster.groups().len(), "{said}");
    let listed = [scratch.unique("list1"), scratch.unique("list2")];
    let configs =
        listed.each_ref().map(|group| format!(r#"{{"groupName":"{group}","retryMaxTimes":7}}"#)).join(",");
    let path = file(scratch, "groups.json", &format!("[{configs}]"))?;
    let said = bench.mqadmin.run(&["updateSubGroupList", "-c", &name, "-f", &path])?;
    bench.names_every_master(&said)?;
    let said = bench.mqadmin.run(&["getConsumerConfig", "-g", &listed[1]])?;
    ensure!(
        without_blanks(&said).matches("retryMaxTimes=7").count() == bench.cluster.groups().len(),
        "{said}"
    );

    // With offsets: a group that comes again under the name has none.
    bench.cluster.create_topic(&topic, 1)?;
    remoting::Connection::open(&master, PATIENCE)?.send(&topic, 0, b"x")?;
    let commit =
        [("consumerGroup", group.as_str()), ("topic", &topic), ("queueId", "0"), ("commitOffset", "1")];
    let answer = remoting::call(&master, 15, &commit, &[])?;
    ensure!(answer.code == 0, "{answer:?}");
    let stored = |master: &str| {
        let query = [
            ("consumerGroup", group.as_str()),
            ("topic", &topic),
            ("queueId", "0"),
            ("setZeroIfNotFound", "false"),
        ];
        ask(master, 14, &query)
    };
    ensure!(stored(&master)? == 0, "the offset is stored");
    // What a first heartbeat and a dead letter make.
    for made in [format!("%RETRY%{group}"), format!("%DLQ%{group}")] {
        bench.cluster.create_topic(&made, 1)?;
    }
    let said = bench.mqadmin.run(&["deleteSubGroup", "-c", &name, "-g", &group, "-r", "true"])?;
    bench.names_every_master(&said)?;
    for made in [format!("%RETRY%{group}"), format!("%DLQ%{group}")] {
        ensure!(remoting::route(bench.cluster.nameserver(), &made)?.is_empty(), "{made} is routed still");
    }
    let said = bench.mqadmin.run(&["getConsumerConfig", "-g", &group])?;
    ensure!(said.trim().is_empty(), "{said}");
    bench.mqadmin.run(&["updateSubGroup", "-b", &master, "-g", &group])?;
    ensure!(stored(&master)? == 22, "the offset went with the group");
    // Without: it has them again.
    let answer = remoting::call(&master, 15, &commit, &[])?;
    ensure!(answer.code == 0, "{answer:?}");
    bench.mqadmin.run(&["deleteSubGroup", "-b", &master, "-g", &group])?;
    bench.mqadmin.run(&["updateSubGroup", "-b", &master, "-g", &group])?;
    ensure!(stored(&master)? == 0, "the offset was kept");
    Ok(())
}

fn consume_mode(scratch: &Scratch) -> Result<()> {
    let mut bench = Bench::start(scratch)?;
    let (name, group, topic) = (bench.name.clone(), scratch.unique("g"), scratch.unique("t"));
    bench.cluster.create_topic(&topic, 1)?;
    bench.mqadmin.run(&["updateSubGroup", "-c", &name, "-g", &group])?;
    let mode = ["setConsumeMode", "-c", &name, "-t", &topic, "-g", &group, "-m", "POP", "-q", "2"];
    let said = bench.mqadmin.say(&mode, PATIENCE)?;
    if said.contains("not supported") {
        return Err(skip(Requirement::Feature, "the broker does not claim to have 401"));
    }
    ensure!(!said.contains("Exception"), "{said}");
    bench.names_every_master(&said)
}

fn messages(scratch: &Scratch) -> Result<()> {
    let mut bench = Bench::start(scratch)?;
    let (topic, broker, name) = (scratch.unique("t"), bench.broker.clone(), bench.name.clone());
    bench.cluster.create_topic(&topic, 2)?;
    let id = send_hello(&mut bench.mqadmin, &topic, &broker)?;
    let said = bench.mqadmin.run(&["queryMsgByOffset", "-t", &topic, "-b", &broker, "-i", "1", "-o", "0"])?;
    ensure!(field(&said, "Queue Offset")? == "0" && said.contains(&id), "{said}");
    let offset_id = field(&said, "OffsetID")?;
    let said = bench.mqadmin.run(&["queryMsgById", "-t", &topic, "-i", &offset_id])?;
    ensure!(field(&said, "Keys")?.contains("key-1"), "{said}");
    let said = bench.mqadmin.run(&["queryMsgByKey", "-t", &topic, "-k", "key-1", "-m", "5"])?;
    ensure!(rows(&said).len() == 1 && said.contains(&id), "{said}");
    let said = bench.mqadmin.run(&["queryMsgByUniqueKey", "-t", &topic, "-i", &id, "-a"])?;
    ensure!(said.contains("TagA"), "{said}");
    let said = bench.mqadmin.run(&["printMsg", "-t", &topic, "-d", "true"])?;
    ensure!(said.matches("BODY: hello").count() == 1, "{said}");
    let print =
        ["printMsgByQueue", "-t", &topic, "-a", &broker, "-i", "1", "-p", "true", "-d", "true", "-f", "true"];
    let said = bench.mqadmin.run(&print)?;
    ensure!(said.contains("BODY: hello") && said.contains("TagA"), "{said}");
    let said = bench.mqadmin.run(&[
        "queryCq",
        "-t",
        &topic,
        "-q",
        "1",
        "-i",
        "0",
        "-b",
        &bench.master,
        "-g",
        "none",
    ])?;
    ensure!(
        said.contains("max: 1, min: 0") && said.contains("none@") && said.contains("physicSize="),
        "{said}"
    );

    let said = bench.mqadmin.run(&["checkMsgSendRT", "-t", &topic, "-a", "4", "-s", "64"])?;
    ensure!(rows(&said).iter().filter(|row| row.get(2) == Some(&"true")).count() == 4, "{said}");
    let said = bench.mqadmin.run(&["sendMsgStatus", "-b", &broker, "-c", "3"])?;
    ensure!(said.matches("SEND_OK").count() == 3, "{said}");
    let said =
        bench.mqadmin.watch(&["clusterRT", "-c", &name, "-a", "3", "-i", "30"], Duration::from_secs(5))?;
    let sent = rows(&said).into_iter().filter(|row| row.len() == 5 && row[3..] == ["3", "0"]).count();
    ensure!(sent == bench.cluster.groups().len(), "{said}");
    Ok(())
}

/// A trace is a message of its topic with the traced message's id as its key. mqadmin's own producer is gone before its
/// trace is sent, so one is sent here as a client writes it (TraceDataEncoder).
fn traces(scratch: &Scratch) -> Result<()> {
    let mut bench = Bench::start(scratch)?;
    let topic = scratch.unique("t");
    bench.cluster.create_topic(&topic, 1)?;
    let said = bench.mqadmin.run(&["sendMessage", "-t", &topic, "-p", "traced", "-m", "true"])?;
    let id = rows(&said).first().and_then(|row| row.get(3)).map(|id| (*id).to_owned());
    let id = id.with_context(|| format!("no id:\n{said}"))?;
    let fields = [
        "Pub",
        "1700000000000",
        "DefaultRegion",
        "it_producer",
        &topic,
        &id,
        "TagA",
        "key-1",
        "127.0.0.1:10911",
        "6",
        "3",
        "0",
        "none",
        "true",
        "127.0.0.1",
    ];
    let body = format!("{}\u{2}", fields.join("\u{1}"));
    let traces = scratch.unique("traces");
    bench.cluster.create_topic(&traces, 1)?;
    let properties = format!("KEYS\u{1}{id}\u{2}");
    let fields = remoting::send_fields(&traces, "0", &properties);
    let answer = remoting::call(&bench.master, 10, &fields, body.as_bytes())?;
    ensure!(answer.code == 0, "{answer:?}");
    let said = bench.mqadmin.run(&["queryMsgTraceById", "-i", &id, "-t", &traces])?;
    let row = rows(&said).into_iter().find(|row| row.first() == Some(&"Pub"));
    let row = row.with_context(|| format!("no trace:\n{said}"))?;
    ensure!(row.contains(&"it_producer") && row.contains(&"success"), "{said}");
    Ok(())
}

fn clients(scratch: &Scratch) -> Result<()> {
    let mut bench = Bench::start(scratch)?;
    let namesrv = bench.cluster.namesrv().to_owned();
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    let queues = bench.cluster.create_topic(&topic, 2)?;
    let kit = java::kit(java::APACHE)?;
    let arguments = ["consume", "--topic", &topic, "--group", &group];
    let mut consumer = kit.scenario(scratch.dir(), "consumer", &namesrv, &arguments)?;
    consumer.wait_assigned(queues)?;
    let arguments = ["failover-producer", "--topic", &topic, "--modes", "sync", "--rate", "20"];
    let mut producer = kit.scenario(scratch.dir(), "producer", &namesrv, &arguments)?;
    consumer.wait_until("20 messages", PATIENCE, |c| c.deliveries().len() >= 20)?;

    let said = bench.mqadmin.run(&["consumerConnection", "-g", &group])?;
    ensure!(said.contains("CONSUME_PASSIVELY") && said.contains(&topic) && said.contains("V5_3_3"), "{said}");
    // Index, then the client.
    let client = said.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.first().filter(|first| first.parse::<u32>().is_ok() || first.contains('@'))?;
        words.iter().find(|word| word.contains('@')).map(|word| (*word).to_owned())
    });
    let client = client.with_context(|| format!("no client:\n{said}"))?;
    let said = bench.mqadmin.run(&["producerConnection", "-g", "it_producer_sync", "-t", &topic])?;
    ensure!(said.contains("127.0.0.1"), "{said}");
    // Producers tell leaders alone, and nodes each other.
    for group in bench.cluster.groups() {
        let master = bench.cluster.master(group)?;
        let said = bench.mqadmin.run(&["producer", "-b", &master])?;
        ensure!(said.contains("it_producer_sync"), "{said}");
    }
    let said = bench.mqadmin.run(&["consumerStatus", "-g", &group])?;
    ensure!(said.contains(&client) && said.contains("Rebalance OK"), "{said}");
    // Its settings speak of exceptions, and so may its threads.
    let said = bench.mqadmin.say(&["consumerStatus", "-g", &group, "-i", &client, "-s"], PATIENCE)?;
    ensure!(said.contains("#Consumer Offset") && said.contains(&topic) && said.contains("STATE: "), "{said}");
    let said = bench.mqadmin.run(&["consumerProgress", "-g", &group, "-s", "true"])?;
    let (ip, _) = client.split_once('@').context("an id without an address")?;
    ensure!(said.matches(ip).count() == queues, "who has each queue is not shown:\n{said}");

    // 309: handed to the consumer once more, whose progress stays.
    let said =
        bench.mqadmin.run(&["queryMsgByOffset", "-t", &topic, "-b", &bench.broker, "-i", "0", "-o", "0"])?;
    let id = field(&said, "OffsetID")?;
    let before = consumer.deliveries().len();
    let said = bench.mqadmin.run(&["queryMsgById", "-t", &topic, "-i", &id, "-g", &group, "-d", &client])?;
    ensure!(said.contains("CR_SUCCESS"), "{said}");
    ensure!(consumer.deliveries().len() > before, "the consumer has not seen it");
    let said =
        bench.mqadmin.refused(&["queryMsgById", "-t", &topic, "-i", &id, "-g", &group, "-d", "nobody@1"])?;
    ensure!(said.contains("not online"), "{said}");

    let said = bench.mqadmin.run(&["brokerConsumeStats", "-b", &bench.master, "-t", "5000"])?;
    ensure!(said.contains(&topic[..20]) && said.contains("Diff Total:"), "{said}");
    wait::until_true("the node has counted", PATIENCE, || {
        let said = bench.mqadmin.run(&["statsAll", "-a", "-t", &topic])?;
        let row = rows(&said).into_iter().find(|row| row.first() == Some(&topic.as_str()));
        let row = row.with_context(|| format!("no row:\n{said}"))?;
        // #Topic #Consumer Group #Accumulation #InTPS #OutTPS #InMsg24Hour #OutMsg24Hour
        ensure!(row[1] == group && row[5].parse::<u64>()? > 0 && row[6].parse::<u64>()? > 0, "{said}");
        Ok(true)
    })?;
    // It reports once a minute and has nothing to say at first; it must start.
    let said = bench.mqadmin.say(&["startMonitoring"], Duration::from_secs(2))?;
    ensure!(!said.contains("Exception"), "{said}");
    producer.close_stdin();
    producer.join(PATIENCE)?;
    consumer.finish()?;
    Ok(())
}

fn offsets(scratch: &Scratch) -> Result<()> {
    let mut bench = Bench::start(scratch)?;
    let (topic, group, other) = (scratch.unique("t"), scratch.unique("g"), scratch.unique("h"));
    let queues = bench.cluster.create_topic(&topic, 1)?;
    let name = bench.name.clone();
    for group in [&group, &other] {
        bench.mqadmin.run(&["updateSubGroup", "-c", &name, "-g", group])?;
        // A group's commands find its brokers by its retry topic, which its first heartbeat makes.
        bench.cluster.create_topic(&format!("%RETRY%{group}"), 1)?;
    }
    for broker in bench.cluster.groups() {
        let master = bench.cluster.master(broker)?;
        let mut connection = remoting::Connection::open(&master, PATIENCE)?;
        for _ in 0..3 {
            connection.send(&topic, 0, b"x")?;
        }
        let commit =
            [("consumerGroup", group.as_str()), ("topic", &topic), ("queueId", "0"), ("commitOffset", "2")];
        ensure!(remoting::call(&master, 15, &commit, &[])?.code == 0, "committed");
    }
    let committed = |bench: &Bench, group: &str| {
        let mut sum = 0;
        for broker in bench.cluster.groups() {
            let query = [("consumerGroup", group), ("topic", &topic), ("queueId", "0")];
            let answer = remoting::call(&bench.cluster.master(broker)?, 14, &query, &[])?;
            sum += answer.field("offset")?.parse::<usize>()?;
        }
        Ok::<_, anyhow::Error>(sum)
    };
    let said = bench.mqadmin.run(&["cloneGroupOffset", "-s", &group, "-d", &other, "-t", &topic])?;
    ensure!(said.contains("clone group offset success"), "{said}");
    ensure!(committed(&bench, &other)? == 2 * queues, "cloned");

    let said = bench.mqadmin.say(&["resetOffsetByTime", "-g", &group, "-t", &topic, "-s", "0"], PATIENCE)?;
    if said.contains("not supported") {
        return Err(skip(Requirement::Feature, "the broker does not claim to have 222"));
    }
    ensure!(!said.contains("Exception") && rows(&said).len() >= queues, "{said}");
    let said = bench.mqadmin.run(&["skipAccumulatedMessage", "-g", &other, "-t", &topic])?;
    ensure!(rows(&said).iter().filter(|row| row.last() == Some(&"3")).count() == queues, "{said}");
    Ok(())
}

fn brokers(scratch: &Scratch) -> Result<()> {
    let mut bench = Bench::start(scratch)?;
    let (name, master) = (bench.name.clone(), bench.master.clone());
    let said = bench.mqadmin.run(&["clusterList", "-m"])?;
    ensure!(rows(&said).len() == 3 * bench.cluster.groups().len(), "{said}");
    let said = bench.mqadmin.run(&["brokerStatus", "-c", &name])?;
    bench.names_every_master(&said)?;
    let said = bench.mqadmin.run(&["getBrokerConfig", "-c", &name])?;
    ensure!(said.contains(&master) && without_blanks(&said).contains("brokerRole=SYNC_MASTER"), "{said}");

    // On one node, where it is seen at once and told to the nameservers.
    let config = |bench: &mut Bench| {
        let said = bench.mqadmin.run(&["getBrokerConfig", "-b", &master])?;
        Ok::<_, anyhow::Error>(without_blanks(&said))
    };
    let topic = scratch.unique("t");
    bench.cluster.create_topic(&topic, 1)?;
    let perms = |bench: &mut Bench| {
        let said = bench.mqadmin.run(&["topicRoute", "-t", &topic])?;
        Ok::<_, anyhow::Error>(without_blanks(&said).matches("\"perm\":4").count())
    };
    let said =
        bench.mqadmin.run(&["updateBrokerConfig", "-b", &master, "-k", "brokerPermission", "-v", "4"])?;
    ensure!(said.contains("update broker config success"), "{said}");
    ensure!(config(&mut bench)?.contains("brokerPermission=4"), "it says so");
    wait::until_true("the nameservers say so", PATIENCE, || Ok(perms(&mut bench)? == 1))?;
    bench.mqadmin.run(&["updateBrokerConfig", "-b", &master, "-k", "brokerPermission", "-v", "6"])?;
    wait::until_true("and that it is over", PATIENCE, || Ok(perms(&mut bench)? == 0))?;
    let said = bench.mqadmin.run(&[
        "updateBrokerConfig",
        "-c",
        &name,
        "-a",
        "true",
        "-k",
        "slaveReadEnable",
        "-v",
        "true",
    ])?;
    ensure!(said.matches("success").count() == 3 * bench.cluster.groups().len(), "{said}");
    ensure!(config(&mut bench)?.contains("slaveReadEnable=true"), "it says so");
    bench.mqadmin.run(&[
        "updateBrokerConfig",
        "-c",
        &name,
        "-a",
        "true",
        "-k",
        "slaveReadEnable",
        "-v",
        "false",
    ])?;
    for (key, value, why) in [
        ("storePathRootDir", "/tmp", "cannot be changed while the node runs"),
        ("rocketmqHome", "/tmp", "unknown: rocketmqHome"),
        ("brokerPermission", "7", "brokerPermission is 0, 2"),
    ] {
        let said = bench.mqadmin.refused(&["updateBrokerConfig", "-b", &master, "-k", key, "-v", value])?;
        ensure!(said.contains(why), "{said}");
    }

    for command in ["cleanExpiredCQ", "cleanUnusedTopic"] {
        ensure!(bench.mqadmin.run(&[command, "-b", &master])?.contains("success"), "{command}");
        ensure!(bench.mqadmin.run(&[command, "-c", &name])?.contains("success"), "{command}");
    }
    let said = bench.mqadmin.run(&["haStatus", "-c", &name])?;
    ensure!(said.matches("#InSyncSlaveNum\t2").count() == bench.cluster.groups().len(), "{said}");
    Ok(())
}

fn nameservers(scratch: &Scratch) -> Result<()> {
    let mut bench = Bench::start(scratch)?;
    let topic = scratch.unique("t");
    bench.cluster.create_topic(&topic, 1)?;
    let all = bench.cluster.namesrv().split(';').count();
    bench.mqadmin.run(&["updateKvConfig", "-s", "it", "-k", &topic, "-v", "x"])?;
    let asked = [("namespace", "it"), ("key", topic.as_str())];
    for nameserver in bench.cluster.namesrv().split(';') {
        let answer = remoting::call(nameserver, 101, &asked, &[])?;
        ensure!(answer.field("value")? == "x", "{answer:?}");
    }
    bench.mqadmin.run(&["deleteKvConfig", "-s", "it", "-k", &topic])?;
    ensure!(ask(bench.cluster.nameserver(), 101, &asked)? == 22, "it is still there");

    let writable = |bench: &mut Bench| {
        let said = without_blanks(&bench.mqadmin.run(&["topicRoute", "-t", &topic])?);
        Ok::<_, anyhow::Error>(said.matches("\"perm\":6").count())
    };
    let groups = bench.cluster.groups().len();
    let broker = bench.broker.clone();
    ensure!(writable(&mut bench)? == groups, "all are writable");
    let said = bench.mqadmin.run(&["wipeWritePerm", "-b", &broker])?;
    ensure!(said.matches("OK,").count() == all, "{said}");
    ensure!(writable(&mut bench)? == groups - 1, "one is not");
    let said = bench.mqadmin.run(&["addWritePerm", "-b", &broker])?;
    ensure!(said.matches("OK,").count() == all, "{said}");
    ensure!(writable(&mut bench)? == groups, "all are again");

    let said = bench.mqadmin.run(&["getNamesrvConfig"])?;
    ensure!(said.matches("orderMessageEnable").count() == all, "{said}");
    bench.mqadmin.run(&["updateNamesrvConfig", "-k", "waitSecondsForService", "-v", "44"])?;
    let said = without_blanks(&bench.mqadmin.run(&["getNamesrvConfig"])?);
    ensure!(said.matches("waitSecondsForService=44").count() == all, "{said}");
    bench.mqadmin.run(&["updateNamesrvConfig", "-k", "waitSecondsForService", "-v", "45"])?;
    let said = bench.mqadmin.refused(&["updateNamesrvConfig", "-k", "kvConfigPath", "-v", "/tmp/x"])?;
    ensure!(said.contains("kvConfigPath cannot be updated"), "{said}");
    Ok(())
}

fn exports(scratch: &Scratch) -> Result<()> {
    let mut bench = Bench::start(scratch)?;
    let (topic, name) = (scratch.unique("t"), bench.name.clone());
    bench.cluster.create_topic(&topic, 1)?;
    let out = scratch.dir().join("export").to_string_lossy().into_owned();
    let read = |file: &str| std::fs::read_to_string(scratch.dir().join("export").join(file));
    bench.mqadmin.run(&["exportMetadata", "-c", &name, "-f", &out, "-t"])?;
    ensure!(read("topic.json")?.contains(&topic), "{}", read("topic.json")?);
    bench.mqadmin.run(&["exportMetadata", "-b", &bench.master, "-f", &out, "-g"])?;
    ensure!(read("subscriptionGroup.json")?.contains("subscriptionGroupTable"), "no groups");
    bench.mqadmin.run(&["exportConfigs", "-c", &name, "-f", &out])?;
    let configs = read("configs.json")?;
    ensure!(
        configs.contains(&bench.broker) && without_blanks(&configs).contains("\"masterBrokerSize\":3"),
        "{configs}"
    );
    bench.mqadmin.run(&["exportMetrics", "-c", &name, "-f", &out])?;
    let metrics = read("metrics.json")?;
    ensure!(metrics.contains("runtimeQuota") && metrics.contains("totalMemKBytes"), "{metrics}");
    Ok(())
}

/// What has no counterpart is refused, and what RaftMQ has instead is named where there is something.
fn refused_with_the_reason(scratch: &Scratch) -> Result<()> {
    let mut bench = Bench::start(scratch)?;
    let (name, broker, master) = (bench.name.clone(), bench.broker.clone(), bench.master.clone());
    let nameserver = bench.cluster.nameserver().to_owned();
    let topic = scratch.unique("t");
    let users = "there are no users and access lists yet";
    let election = "elect their leader by Raft";
    let cold = "cold reads have a budget of their own";
    let container = "there is no broker container";
    let rocks = "nothing is kept in RocksDB";
    let refused: [(&[&str], &str); 32] = [
        (&["updateStaticTopic", "-c", &name, "-t", &topic, "-qn", "4"], "static topics"),
        // mqadmin itself finds no mapping to change.
        (&["remappingStaticTopic", "-c", &name, "-t", &broker], "Mapping info should not be null"),
        (&["deleteExpiredCommitLog", "-b", &master], "the log is not shortened on request"),
        (&["resetMasterFlushOffset", "-b", &master, "-o", "0"], "there is no flush offset to reset"),
        (&["getBrokerEpoch", "-b", &broker], "there are no epochs"),
        (&["getSyncStateSet", "-a", &nameserver, "-b", &broker], election),
        (&["getControllerMetaData", "-a", &nameserver], election),
        (&["getControllerConfig", "-a", &master], election),
        (&["updateControllerConfig", "-a", &master, "-k", "a", "-v", "b"], election),
        (&["electMaster", "-a", &nameserver, "-b", "1", "-bn", &broker, "-c", &name], election),
        (&["cleanBrokerMetadata", "-a", &nameserver, "-bn", &broker, "-c", &name, "-l"], election),
        (&["addBroker", "-c", &master, "-b", "/tmp/x"], container),
        (&["removeBroker", "-c", &master, "-b", "c:b:1"], container),
        (&["getColdDataFlowCtrInfo", "-b", &master], cold),
        (&["updateColdDataFlowCtrGroupConfig", "-b", &master, "-g", "g", "-v", "1"], cold),
        (&["removeColdDataFlowCtrGroupConfig", "-b", &master, "-g", "g"], cold),
        (&["setCommitLogReadAheadMode", "-b", &master, "-m", "1"], "read-ahead is not set by request"),
        (&["checkRocksdbCqWriteProgress", "-c", &name, "-t", &topic], rocks),
        (&["rocksDBConfigToJson", "-c", &name, "-t", "topics"], rocks),
        (&["exportPopRecord", "-b", &master], "pop keeps its records in the replicated log"),
        (&["createUser", "-b", &master, "-u", "u", "-p", "p"], users),
        (&["updateUser", "-b", &master, "-u", "u", "-p", "p"], users),
        (&["deleteUser", "-b", &master, "-u", "u"], users),
        (&["getUser", "-b", &master, "-u", "u"], users),
        (&["listUser", "-b", &master], users),
        (&["copyUser", "-f", &master, "-t", &master], users),
        (&["createAcl", "-b", &master, "-s", "User:u", "-r", "Topic:*", "-a", "Pub", "-d", "Allow"], users),
        (&["updateAcl", "-b", &master, "-s", "User:u", "-r", "Topic:*", "-a", "Pub", "-d", "Allow"], users),
        (&["deleteAcl", "-b", &master, "-s", "User:u"], users),
        (&["getAcl", "-b", &master, "-s", "User:u"], users),
        (&["listAcl", "-b", &master], users),
        (&["copyAcl", "-f", &master, "-t", &master], users),
    ];
    for (command, why) in refused {
        let said = bench.mqadmin.say(command, PATIENCE)?;
        ensure!(said.contains(why), "{command:?} does not say why:\n{said}");
    }
    // These read files of Apache's broker and ask no server.
    let said =
        bench.mqadmin.say(&["exportMetadataInRocksDB", "-p", "/nonexistent", "-t", "topics"], PATIENCE)?;
    ensure!(said.contains("invalid"), "{said}");
    let said = bench.mqadmin.say(&["dumpCompactionLog", "-f", "/nonexistent"], PATIENCE)?;
    ensure!(said.contains("not exist"), "{said}");
    // Nothing of it has changed anything.
    let said = bench.mqadmin.run(&["clusterList"])?;
    ensure!(rows(&said).len() == 3 * bench.cluster.groups().len(), "{said}");
    Ok(())
}
