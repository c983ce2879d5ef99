//! A node that was away while the others purged their logs: it goes on from the leader's snapshot, with an index that starts
//! there.

use store::index::Unit;
use wire::topic::SCHEDULE;
use wire::{LogPosition, QueueId, QueueOffset};

use super::three::Three;
use super::*;
use crate::hosted::Hosted;

/// A message of a mebibyte: a segment holds fifteen of them.
const BODY: usize = 1 << 20;

/// What a node's index says of what the test has sent.
#[derive(Debug, PartialEq)]
struct Indexed {
    gaps: usize,
    /// First and next offset of queue 0 of T, of U and of the level of an hour.
    bounds: Vec<Option<(QueueOffset, QueueOffset)>>,
    /// Of queue 0 of T, from three offsets on.
    units: Vec<Vec<Unit>>,
    /// By the keys `first`, `large` and `last`.
    keys: Vec<Vec<LogPosition>>,
}

fn indexed(hosted: &Hosted, from: [u64; 3]) -> Indexed {
    let index = &hosted.serving().unwrap().index;
    let queues = [("T", 0), ("U", 0), (SCHEDULE, 16)];
    let bounds = queues.map(|(topic, queue)| index.bounds(topic, QueueId(queue)).unwrap());
    let units = from.map(|from| index.units("T", QueueId(0), QueueOffset(from), 100).unwrap());
    let keys = ["first", "large", "last"].map(|key| index.find_key("T", key, 0, u64::MAX, 100).unwrap());
    Indexed { gaps: index.stats().gaps, bounds: bounds.into(), units: units.into(), keys: keys.into() }
}

/// What a client that looks for a key in T gets (12): the code, and the offsets of the messages.
async fn by_key(at: At<'_>, key: &str) -> (i32, Vec<i64>) {
    let header = wire::QueryMessageRequest {
        topic: "T".into(),
        key: key.into(),
        max_num: 64,
        begin_timestamp: 0,
        end_timestamp: i64::MAX,
    };
    let response = at.ask(RequestCode::QUERY_MESSAGE, &header).await;
    let messages = Message::decode_all(&response.body).unwrap();
    (response.code, messages.iter().map(|message| message.queue_offset.0 as i64).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_the_purge_has_the_leaders_queues_and_leads() {
    let mut three = Three::start(|_| {}).await;
    let leader = three.leader().await;
    let away = three.other_than(leader);
    let keyed = |key: &str| properties(&[("KEYS", key)]);
    // Of T, and of U as well, there are messages on both sides of the boundary to which the logs are purged.
    for topic in ["T", "U"] {
        three.at(leader).send(topic, 0, &keyed("first"), "first").await;
    }
    three.level().await;
    three.brokers.remove(&away).unwrap().shutdown(Drain::Now).await;
    let body = "x".repeat(BODY);
    for _ in 0..34 {
        three.at(leader).send("T", 0, &keyed("large"), &body).await;
    }
    for topic in ["T", "U"] {
        three.at(leader).send(topic, 0, &keyed("last"), "last").await;
    }
    three.at(leader).send("T", 0, &properties(&[("DELAY", "17"), ("KEYS", "last")]), "in an hour").await;
    let end = three.at(leader).message("the end").await as u64 + 1;
    three.level().await;
    let mut first_positions = Vec::new();
    for broker in three.brokers.values() {
        let hosted = broker.hosted("b1");
        let (group, log) = (hosted.serving().unwrap().group.clone(), &hosted.serving().unwrap().log);
        // Tables of before a segment are written behind the entry that opened it: those of before the newest one.
        eventually("the newest boundary is there", || async {
            let (at, _) = log.boundary(*log.boundaries().unwrap().last()?).unwrap()?;
            let newest = log.segment_start(log.state().end);
            (at.end.0 + hosted.config.segment_bytes > newest.0).then_some(())
        })
        .await;
        group.purge().await.unwrap().unwrap();
        first_positions.push(log.state().first_position);
    }
    assert_eq!(first_positions[0], first_positions[1]);

    let hosted = three.brokers[&leader].hosted("b1");
    // The first offset whose message is left; those below are in the segments that are gone.
    let first = eventually("the leader's index lets go of what was purged", || async {
        let index = &hosted.serving().unwrap().index;
        let (first, _) = index.bounds("T", QueueId(0)).unwrap()?;
        (first.0 > 1).then_some(first.0)
    })
    .await;
    assert!(first > 15 && first + 5 < end, "{first} of {end}");
    // Below where the node that was away has been, between there and the snapshot, and where the log goes on.
    let from = [0, 5, first];
    let wanted = indexed(&hosted, from);
    assert_eq!(wanted.units.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, (end - first) as usize]);
    assert!(wanted.units[2][0].position >= first_positions[0]);
    assert_eq!(wanted.keys.iter().map(Vec::len).collect::<Vec<_>>(), [0, (end - first - 2) as usize, 1]);

    three.start_node(away).await;
    three.brokers[&away].ready().await;
    three.level().await;
    let same = async |three: &Three, what: &str| {
        let behind = three.brokers[&away].hosted("b1");
        let log = &behind.serving().unwrap().log;
        assert_eq!(log.state().first_position, first_positions[0], "{what}");
        assert_eq!(indexed(&behind, from), wanted, "{what}");
        for topic in ["T", "U", SCHEDULE] {
            assert_eq!(behind.state.queues(topic), hosted.state.queues(topic), "{what}");
        }
    };
    same(&three, "after the snapshot").await;

    // It leads, answers, and goes on.
    eventually("it leads", || async {
        hosted.hand_over(hosted.serving().unwrap(), replica::NodeId(away)).await.ok()
    })
    .await;
    assert_eq!(three.leader().await, away);
    let mut offset = first as i64;
    let mut pulled = Vec::new();
    while offset < end as i64 {
        let answer = three.at(away).pulled(&pull_header("T", 0, offset)).await;
        assert_eq!(answer.0, 0, "from {offset}");
        offset += answer.1.len() as i64;
        pulled.extend(answer.1);
    }
    assert_eq!(pulled.len() as u64, end - first);
    assert_eq!(&pulled[pulled.len() - 2..], ["last", "the end"]);
    for gone in [0, 5] {
        assert_eq!(three.at(away).pulled(&pull_header("T", 0, gone)).await, (19, vec![]), "from {gone}");
    }
    assert_eq!(by_key(three.at(away), "first").await, (22, vec![]));
    assert_eq!(by_key(three.at(away), "last").await, (0, vec![end as i64 - 2]));
    assert_eq!(three.at(away).message("after").await as u64, end);
    assert_eq!(three.at(away).pulled(&pull_header("T", 0, end as i64)).await, (0, vec!["after".to_owned()]));
    three.stop().await;
}
