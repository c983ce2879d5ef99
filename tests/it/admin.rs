//! `raftmq admin`: what an operator looks at and changes, each as `--json` against the shared cluster.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::cluster::Running;
use tests::remoting::{self, Connection};
use tests::runner::{Requirement, Scratch, Test, skip, test};
use tests::{paths, wait};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn tests() -> Vec<Test> {
    let test = |name, check: fn(&Scratch) -> Result<()>| test(name, &[Requirement::OwnCluster], check);
    vec![
        test("admin::topics_and_groups", topics_and_groups),
        // These change settings of the shared brokers.
        test("admin::broker_config", broker_config).alone(),
        test("admin::messages_and_their_story", messages_and_their_story),
        test("admin::reset_tried_and_done", reset_tried_and_done),
        test("admin::dead_letters", dead_letters).alone(),
        test("admin::what_waits", what_waits),
    ]
}

/// Runs `raftmq admin`; an error is what it writes to standard error.
pub(crate) fn run(cluster: &Running, words: &[&str]) -> Result<Value> {
    let mut command = Command::new(paths::raftmq()?);
    command.args(["admin", "-n", cluster.namesrv(), "--json"]).args(words).stdin(Stdio::null());
    let output = command.output().context("run raftmq")?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "raftmq admin {words:?}: {}\n{out}{err}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("raftmq admin {words:?}:\n{out}"))
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("no list: {value}"))
}

/// Creates a consumer group with what its first heartbeat would make too.
fn create_group(cluster: &Running, group: &str) -> Result<()> {
    run(cluster, &["consumer", "create", group, "--retries", "3"])?;
    cluster.create_topic(&format!("%RETRY%{group}"), 1)?;
    Ok(())
}

fn commit(cluster: &Running, group: &str, topic: &str, offset: &str) -> Result<()> {
    for broker in cluster.groups() {
        let fields = [("consumerGroup", group), ("topic", topic), ("queueId", "0"), ("commitOffset", offset)];
        remoting::call(&cluster.master(broker)?, 15, &fields, &[])?;
    }
    Ok(())
}

fn topics_and_groups(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    // mqadmin's names are understood.
    run(&cluster, &["updateTopic", &topic, "--queues", "2"])?;
    let changed = run(&cluster, &["topic", "perm", &topic, "4"])?;
    ensure!(list(&changed)?.len() == cluster.groups().len(), "{changed}");
    ensure!(list(&changed)?.iter().all(|row| row["before"] == 6 && row["perm"] == 4), "{changed}");
    let route = run(&cluster, &["topicRoute", &topic])?;
    ensure!(list(&route["queueDatas"])?.iter().all(|queues| queues["readQueueNums"] == 2), "{route}");
    run(&cluster, &["topic", "delete", &topic])?;
    let error = run(&cluster, &["topic", "route", &topic]).expect_err("deleted").to_string();
    ensure!(error.contains("no topic"), "{error}");
    let error = run(&cluster, &["topic", "perm", &topic, "6"]).expect_err("deleted").to_string();
    ensure!(error.contains("has a topic"), "{error}");

    create_group(&cluster, &group)?;
    let error = run(&cluster, &["consumer", "connection", &group]).expect_err("nobody").to_string();
    ensure!(error.contains("not online"), "{error}");
    let nobody = run(&cluster, &["producer", "connection", "nobody", "--topic", "TBW102"])?;
    ensure!(list(&nobody["connections"])?.is_empty(), "{nobody}");
    run(&cluster, &["consumer", "delete", &group, "--offsets"])?;
    let error = run(&cluster, &["consumer", "connection", &group]).expect_err("deleted").to_string();
    ensure!(error.contains("no route to topic %RETRY%"), "its retry topic went with it: {error}");
    Ok(())
}

fn broker_config(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let broker = cluster.groups().last().context("no group")?;
    let shown = |key: &str, value: &str| {
        let rows = run(&cluster, &["broker", "config", broker])?;
        ensure!(list(&rows)?.len() == 3, "{rows}");
        Ok(list(&rows)?.iter().all(|row| row["values"][key] == value))
    };
    ensure!(shown("autoCreateTopicEnable", "true")?, "as it was configured");
    let taken = run(&cluster, &["broker", "config", broker, "--set", "autoCreateTopicEnable=false"])?;
    let named =
        |row: &Value| row["taken"].as_str().is_some_and(|text| text.contains("autoCreateTopicEnable=false"));
    ensure!(list(&taken)?.len() == 3 && list(&taken)?.iter().all(named), "{taken}");
    ensure!(shown("autoCreateTopicEnable", "false")?, "on every node");
    let fields = scratch.unique("none");
    let fields = remoting::send_fields(&fields, "0", "");
    let mut connection = Connection::open(&cluster.master(broker)?, PATIENCE)?;
    let answer = connection.ask(10, &fields, b"x")?;
    ensure!(answer.code == 17, "{answer:?}");
    run(&cluster, &["broker", "config", broker, "--set", "autoCreateTopicEnable=true"])?;
    let answer = connection.ask(10, &fields, b"x")?;
    ensure!(answer.code == 0, "{answer:?}");
    let error =
        run(&cluster, &["broker", "config", broker, "--set", "listenPort=1"]).expect_err("fixed").to_string();
    ensure!(error.contains("cannot be changed while the node runs: listenPort"), "{error}");
    let status = run(&cluster, &["broker", "status", broker])?;
    ensure!(list(&status)?.iter().all(|row| row["values"]["brokerActive"] == "true"), "{status}");
    Ok(())
}

fn messages_and_their_story(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    cluster.create_topic(&topic, 1)?;
    create_group(&cluster, &group)?;
    let broker = &cluster.groups()[0];
    let key = scratch.unique("key");
    let properties = format!("KEYS\u{1}{key}\u{2}UNIQ_KEY\u{1}7F00000100010000000000000000ABCD\u{2}");
    let fields = remoting::send_fields(&topic, "0", &properties);
    let answer = remoting::call(&cluster.master(broker)?, 10, &fields, b"hello")?;
    let id = answer.field("msgId")?.to_owned();
    let by_id = run(&cluster, &["message", "id", &id])?;
    ensure!(by_id[0]["body"] == "hello" && by_id[0]["properties"]["KEYS"] == key.as_str(), "{by_id}");
    let by_key = run(&cluster, &["message", "key", &topic, &key])?;
    ensure!(list(&by_key)?.len() == 1 && by_key[0]["offset_id"] == id.as_str(), "{by_key}");
    let unique =
        run(&cluster, &["queryMsgByUniqueKey", "7F00000100010000000000000000ABCD", "--topic", &topic])?;
    ensure!(unique[0]["offset_id"] == id.as_str(), "{unique}");

    commit(&cluster, &group, &topic, "1")?;
    for name in [key.as_str(), &id] {
        let stories = run(&cluster, &["why", name, "--topic", &topic])?;
        let story = list(&stories)?.iter().find(|story| story["group"] == broker.as_str());
        let story = story.with_context(|| format!("no story of {broker}: {stories}"))?;
        let copy = &story["copies"][0];
        ensure!(list(&story["copies"])?.len() == 1 && copy["offset_message_id"] == id.as_str(), "{stories}");
        ensure!(copy["index"].as_u64() > Some(0) && copy["term"].as_u64() > Some(0), "{stories}");
        let reader = &copy["readers"][0];
        ensure!(reader["group"] == group.as_str() && reader["has_passed"] == true, "{stories}");
    }
    let error = run(&cluster, &["why", &scratch.unique("none")]).expect_err("unknown").to_string();
    ensure!(error.contains("no message"), "{error}");
    Ok(())
}

fn reset_tried_and_done(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    cluster.create_topic(&topic, 1)?;
    create_group(&cluster, &group)?;
    for broker in cluster.groups() {
        let mut connection = Connection::open(&cluster.master(broker)?, PATIENCE)?;
        for _ in 0..5 {
            connection.send(&topic, 0, b"x")?;
        }
    }
    commit(&cluster, &group, &topic, "3")?;
    let groups = cluster.groups().len();
    let again = run(&cluster, &["reset", &group, &topic, "--to", "1h", "--dry-run"])?;
    ensure!(again["again"] == 3 * groups && again["skipped"] == 0 && again["dry_run"] == true, "{again}");
    let skipped = run(&cluster, &["reset", &group, &topic, "--to", "now", "--dry-run"])?;
    ensure!(skipped["again"] == 0 && skipped["skipped"] == 2 * groups, "{skipped}");
    let progress = run(&cluster, &["consumer", "progress", &group])?;
    ensure!(progress["lag"] == 2 * groups, "nothing has moved: {progress}");
    for (to, lag) in [("1h", 5 * groups), ("now", 0)] {
        let done = run(&cluster, &["reset", &group, &topic, "--to", to])?;
        ensure!(done["dry_run"] == false, "{done}");
        let progress = run(&cluster, &["consumer", "progress", &group])?;
        ensure!(progress["lag"] == lag, "{to}: {progress}");
    }
    Ok(())
}

fn dead_letters(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    create_group(&cluster, &group)?;
    cluster.create_topic(&topic, 1)?;
    let none = run(&cluster, &["dlq", "list", &group])?;
    ensure!(list(&none)?.is_empty(), "{none}");
    cluster.create_topic(&format!("%DLQ%{group}"), 1)?;
    let master = cluster.master(&cluster.groups()[0])?;
    let dead = format!("%DLQ%{group}");
    for n in ["1", "lost", "2", "3"] {
        let origin = if n == "lost" { String::new() } else { format!("RETRY_TOPIC\u{1}{topic}\u{2}") };
        let properties = format!("{origin}KEYS\u{1}k{n}\u{2}");
        let fields = remoting::send_fields(&dead, "0", &properties);
        let answer = Connection::open(&master, PATIENCE)?.ask(10, &fields, n.as_bytes())?;
        if answer.code != 0 {
            return Err(skip(Requirement::Feature, "the broker takes no dead letters from tools"));
        }
    }
    let letters = run(&cluster, &["dlq", "list", &group])?;
    ensure!(list(&letters)?.len() == 4 && letters[0]["origin_topic"] == topic.as_str(), "{letters}");
    // Where brokers make no groups by themselves, the offset could not be noted.
    let switch = |on: &str| {
        for broker in cluster.groups() {
            let set = format!("autoCreateSubscriptionGroup={on}");
            run(&cluster, &["broker", "config", broker, "--set", &set])?;
        }
        Ok::<_, anyhow::Error>(())
    };
    switch("false")?;
    run(&cluster, &["consumer", "delete", "CID_RMQ_SYS_REDRIVE"])?;
    let sent = run(&cluster, &["dlq", "redrive", &group, "--to", "topic", "--max", "3"]);
    switch("true")?;
    let sent = sent?;
    ensure!(list(&sent)?.len() == 3 && sent[0]["sent_to"] == topic.as_str(), "{sent}");
    // One that does not say where it came from is not in the way of the others.
    ensure!(sent[1]["skipped"].is_string() && sent[2]["sent_to"] == topic.as_str(), "{sent}");
    let left = run(&cluster, &["dlq", "list", &group])?;
    ensure!(list(&left)?.len() == 1 && left[0]["properties"]["KEYS"] == "k3", "{left}");
    let all = run(&cluster, &["dlq", "list", &group, "--all"])?;
    ensure!(list(&all)?.iter().filter(|letter| letter["redriven"] == true).count() == 3, "{all}");
    run(&cluster, &["dlq", "redrive", &group, "--to", "group"])?;
    let nothing = run(&cluster, &["dlq", "redrive", &group])?;
    ensure!(list(&nothing)?.is_empty(), "nothing goes twice: {nothing}");
    wait::until_true("they are in their topic", PATIENCE, || {
        let found = run(&cluster, &["message", "key", &topic, "k1"])?;
        Ok(list(&found)?.len() == 1)
    })
}

fn what_waits(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let topic = scratch.unique("t");
    cluster.create_topic(&topic, 1)?;
    let broker = &cluster.groups()[0];
    // Two hours; the levels of the cluster are short.
    let fields = remoting::send_fields(&topic, "0", "TIMER_DELAY_SEC\u{1}7200\u{2}KEYS\u{1}later\u{2}");
    let answer = remoting::call(&cluster.master(broker)?, 10, &fields, b"later")?;
    let id = answer.field("msgId")?.to_owned();
    let waiting = run(&cluster, &["delay", "--topic", &topic, "--group", broker])?;
    let row = &waiting[0]["topics"][0];
    ensure!(row["topic"] == topic.as_str() && row["messages"] == 1 && row["retries"] == 0, "{waiting}");
    ensure!(waiting[0]["waiting"].as_u64() > Some(0), "{waiting}");
    let soon = run(&cluster, &["delay", "--topic", &topic, "--group", broker, "--within", "1h"])?;
    ensure!(list(&soon[0]["topics"])?.is_empty(), "{soon}");
    let stories = run(&cluster, &["why", &id])?;
    let story = list(&stories)?.iter().find(|story| story["group"] == broker.as_str());
    let copy = &story.with_context(|| format!("no story of {broker}: {stories}"))?["copies"][0];
    ensure!(copy["real_topic"] == topic.as_str() && copy["is_done"] == false, "{stories}");
    Ok(())
}
