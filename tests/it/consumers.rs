//! Who is a member of a consumer group, and for how long: its members share the queues, and a queue whose owner is gone is
//! consumed by nobody.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::cluster::Running;
use tests::remoting::{Connection, GET_CONSUMER_LIST_BY_GROUP, HEART_BEAT};
use tests::runner::{Requirement, Scratch, Test, test};
use tests::wait;

const LIMIT: Duration = Duration::from_secs(5);
/// What no answer of a client's host is waited for: below the two minutes of silence after which any client is forgotten.
const GONE: Duration = Duration::from_mins(1);

pub(crate) fn tests() -> Vec<Test> {
    // Apache's broker keeps it for two minutes.
    let requires = [Requirement::OwnCluster, Requirement::Root];
    vec![test("consumers::one_that_vanished_leaves_its_group", &requires, one_that_vanished_leaves_its_group)]
}

fn one_that_vanished_leaves_its_group(scratch: &Scratch) -> Result<()> {
    let cluster = Running::get()?;
    let (topic, group) = (scratch.unique("t"), scratch.unique("g"));
    cluster.create_topic(&topic, 1)?;
    let address = cluster.master(&cluster.groups()[0])?;
    let mut stays = join(&address, &group, &topic, "stays")?;
    let vanishes = join(&address, &group, &topic, "vanishes")?;
    ensure!(members(&mut stays, &group)? == ["stays", "vanishes"]);
    vanishes.vanish().context("root of a container may lack CAP_NET_ADMIN")?;
    wait::until_true("the one that vanished is no member", GONE, || {
        Ok(members(&mut stays, &group)? == ["stays"])
    })
}

/// A push consumer, as far as the broker can tell.
fn join(address: &str, group: &str, topic: &str, id: &str) -> Result<Connection> {
    let heartbeat = json!({
        "clientID": id,
        "producerDataSet": [],
        "consumerDataSet": [{
            "groupName": group, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
            "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "unitMode": false,
            "subscriptionDataSet": [{
                "classFilterMode": false, "topic": topic, "subString": "*", "tagsSet": [], "codeSet": [],
                "subVersion": 1, "expressionType": "TAG",
            }],
        }],
    });
    let mut connection = Connection::open(address, LIMIT)?;
    connection.call(HEART_BEAT, &[], heartbeat.to_string().as_bytes())?;
    Ok(connection)
}

/// Client ids, sorted.
fn members(connection: &mut Connection, group: &str) -> Result<Vec<String>> {
    let answer = connection.call(GET_CONSUMER_LIST_BY_GROUP, &[("consumerGroup", group)], &[])?.json()?;
    let list = answer["consumerIdList"].as_array().context("no consumerIdList")?;
    let mut ids: Vec<String> = list.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect();
    ids.sort_unstable();
    Ok(ids)
}
