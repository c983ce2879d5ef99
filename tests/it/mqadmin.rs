//! The stock 5.3.3 mqadmin: what operators do daily. The same checks pass against Apache (`RAFTMQ_TEST_NAMESRV`).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::cluster::Running;
use tests::java;
use tests::mqadmin::{Shell, rows};
use tests::remoting::Connection;
use tests::runner::{Requirement, Scratch, Test, test};

pub(crate) fn tests() -> Vec<Test> {
    let test = |name, check: fn(&Scratch) -> Result<()>| test(name, &[Requirement::Java], check);
    vec![
        test("mqadmin::cluster_list_and_broker_status", cluster_list_and_broker_status),
        test("mqadmin::update_topic_list_route_status", update_topic_list_route_status),
        test("mqadmin::update_sub_group_and_consumer_progress", update_sub_group_and_consumer_progress),
        test("mqadmin::send_consume_and_query", send_consume_and_query),
    ]
}

fn cluster_list_and_broker_status(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let mut mqadmin = Shell::start(scratch.dir(), cluster.namesrv())?;
    let said = mqadmin.run(&["clusterList"])?;
    for group in cluster.groups() {
        let master = cluster.master(group)?;
        // #Cluster Name  #Broker Name  #BID  #Addr  #Version ...
        let row = rows(&said)
            .into_iter()
            .find(|row| row.get(1) == Some(&group.as_str()) && row.get(2) == Some(&"0"));
        let row = row.with_context(|| format!("no brokerId 0 of {group}:\n{said}"))?;
        ensure!(row[3] == master && row[4].starts_with('V'), "{row:?}, master {master}");
        if cluster.is_raftmq() {
            let members = rows(&said).into_iter().filter(|row| row.get(1) == Some(&group.as_str())).count();
            ensure!(members == 3, "{members} members of {group}:\n{said}");
        }
    }
    let master = cluster.master(&cluster.groups()[0])?;
    let said = mqadmin.run(&["brokerStatus", "-b", &master])?;
    for name in
        ["brokerVersionDesc", "brokerVersion", "bootTimestamp", "putTps", "commitLogMaxOffset", "runtime"]
    {
        let row = said.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        ensure!(row.is_some(), "brokerStatus lacks {name}:\n{said}");
    }
    Ok(())
}

fn update_topic_list_route_status(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let mut mqadmin = Shell::start(scratch.dir(), cluster.namesrv())?;
    let topic = scratch.unique("t");
    let group = &cluster.groups()[0];
    let master = cluster.master(group)?;
    let said = mqadmin.run(&["updateTopic", "-b", &master, "-t", &topic, "-r", "3", "-w", "3"])?;
    ensure!(said.contains("success"), "{said}");
    tests::wait::until_true("the topic is listed", Duration::from_secs(10), || {
        Ok(!tests::remoting::route(cluster.nameserver(), &topic)?.is_empty())
    })?;
    let said = mqadmin.run(&["topicList"])?;
    ensure!(said.lines().any(|line| line.trim() == topic), "{said}");
    let said = mqadmin.run(&["topicRoute", "-t", &topic])?;
    ensure!(said.contains(&master) && said.contains(group.as_str()), "{said}");
    let wide: String = said.chars().filter(|c| !c.is_whitespace()).collect();
    ensure!(wide.contains("\"readQueueNums\":3") && wide.contains("\"writeQueueNums\":3"), "{said}");

    let mut connection = Connection::open(&master, Duration::from_secs(3))?;
    for _ in 0..5 {
        connection.send(&topic, 1, b"x")?;
    }
    let said = mqadmin.run(&["topicStatus", "-t", &topic])?;
    // #Broker Name  #QID  #Min Offset  #Max Offset  #Last Updated
    let mut offsets: Vec<(&str, &str, &str)> = rows(&said)
        .iter()
        .filter(|row| row.first() == Some(&group.as_str()))
        .map(|r| (r[1], r[2], r[3]))
        .collect();
    offsets.sort_unstable();
    ensure!(offsets == [("0", "0", "0"), ("1", "0", "5"), ("2", "0", "0")], "{offsets:?}:\n{said}");

    // for the whole cluster
    let cluster_name = cluster_name(&mut mqadmin)?;
    let everywhere = format!("{topic}_all");
    let said = mqadmin.run(&["updateTopic", "-c", &cluster_name, "-t", &everywhere])?;
    ensure!(said.contains("success"), "{said}");
    Ok(())
}

pub(crate) fn cluster_name(mqadmin: &mut Shell) -> Result<String> {
    let said = mqadmin.run(&["clusterList"])?;
    let name = rows(&said).first().and_then(|row| row.first()).map(|name| (*name).to_owned());
    name.with_context(|| format!("no cluster:\n{said}"))
}

fn update_sub_group_and_consumer_progress(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let mut mqadmin = Shell::start(scratch.dir(), cluster.namesrv())?;
    let namesrv = cluster.namesrv();
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    let queues = cluster.create_topic(&topic, 2)?;
    for broker in cluster.groups() {
        let master = cluster.master(broker)?;
        let said = mqadmin.run(&["updateSubGroup", "-b", &master, "-g", &group, "-r", "7"])?;
        ensure!(said.contains("success") && said.contains("retryMaxTimes=7"), "{said}");
    }
    let kit = java::kit(java::APACHE)?;
    let arguments = ["consume", "--topic", &topic, "--group", &group];
    let mut consumer = kit.scenario(scratch.dir(), "consumer", namesrv, &arguments)?;
    consumer.wait_assigned(queues)?;
    let send = ["send", "--topic", &topic, "--count", "12"];
    kit.scenario(scratch.dir(), "producer", namesrv, &send)?.join(Duration::from_secs(30))?;
    consumer.wait_until("12 messages", Duration::from_secs(20), |c| c.deliveries().len() >= 12)?;

    let said = mqadmin.run(&["consumerProgress"])?;
    ensure!(said.lines().any(|line| line.starts_with(&group[..20])), "{group} is not listed:\n{said}");
    // persisted by the consumer's stop
    consumer.finish()?;
    let said = mqadmin.run(&["consumerProgress", "-g", &group])?;
    // #Topic  #Broker Name  #QID  #Broker Offset  #Consumer Offset [#Client IP]  #Diff ...
    let mine: Vec<Vec<&str>> = rows(&said)
        .into_iter()
        .filter(|row| row.first().is_some_and(|t| topic.starts_with(t.trim_end_matches('~'))))
        .collect();
    ensure!(mine.len() == queues, "{} rows of {queues} queues:\n{said}", mine.len());
    let sum = |column: usize| mine.iter().map(|row| row[column].parse::<i64>().unwrap_or(-99)).sum::<i64>();
    ensure!((sum(3), sum(4)) == (12, 12), "broker {}, consumer {}:\n{said}", sum(3), sum(4));
    ensure!(said.contains("Consume Diff Total: 0") || said.contains("Diff Total: 0"), "{said}");
    Ok(())
}

fn send_consume_and_query(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let mut mqadmin = Shell::start(scratch.dir(), cluster.namesrv())?;
    let topic = scratch.unique("t");
    cluster.create_topic(&topic, 2)?;
    let group = &cluster.groups()[0];
    let unique_key = send_hello(&mut mqadmin, &topic, group)?;

    let said =
        mqadmin.run(&["consumeMessage", "-t", &topic, "-b", group, "-i", "1", "-o", "0", "-c", "1"])?;
    ensure!(said.contains("Consume ok") && said.contains("hello") && said.contains(&unique_key), "{said}");

    let said = mqadmin.run(&["queryMsgByUniqueKey", "-t", &topic, "-i", &unique_key])?;
    let offset_id = field(&said, "OffsetID").or_else(|_| field(&said, "Message ID")).unwrap_or_default();
    ensure!(said.contains(&topic) && said.contains("TagA") && said.contains("key-1"), "{said}");

    let said = mqadmin.run(&["queryMsgByKey", "-t", &topic, "-k", "key-1"])?;
    ensure!(said.contains(&unique_key), "{said}");

    let mut connection = Connection::open(&cluster.master(group)?, Duration::from_secs(3))?;
    let stored = connection.send(&topic, 0, b"by offset id")?;
    for id in [offset_id.as_str(), &stored.id].into_iter().filter(|id| id.len() == 32) {
        let said = mqadmin.run(&["queryMsgById", "-t", &topic, "-i", id])?;
        ensure!(said.contains(id) && field(&said, "Topic")? == topic, "{said}");
    }
    Ok(())
}

/// Sends `hello`, with key `key-1` and tag `TagA`, to queue 1 of a group; its unique key.
pub(crate) fn send_hello(mqadmin: &mut Shell, topic: &str, group: &str) -> Result<String> {
    let message = ["sendMessage", "-t", topic, "-p", "hello", "-k", "key-1", "-c", "TagA"];
    let said = mqadmin.run(&[&message[..], &["-b", group, "-i", "1"]].concat())?;
    // #Broker Name  #QID  #Send Result  #MsgId
    let row = rows(&said).into_iter().find(|row| row.first() == Some(&group));
    let row = row.with_context(|| format!("no result:\n{said}"))?;
    ensure!(row[1] == "1" && row[2] == "SEND_OK", "{said}");
    Ok(row[3].to_owned())
}

/// The value of a line `name:   value`.
pub(crate) fn field(said: &str, name: &str) -> Result<String> {
    let value = said.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.with_context(|| format!("no {name} in:\n{said}"))
}
