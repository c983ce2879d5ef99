//! Pop: 200050 to 200055 and 200151, and 400 and 401, which say who pops.

use std::time::Instant;

use wire::{
    AckMessageRequest, BatchAck, BatchAckMessageRequestBody, Body, ChangeInvisibleTimeRequest,
    ChangeInvisibleTimeResponse, MessageModel, MessageRequestMode, NotificationRequest, PeekMessageRequest,
    PollingInfoRequest, PopHandle, PopMessageRequest, PopMessageResponse, PopSource,
    QueryAssignmentRequestBody, QueryAssignmentResponseBody, SetMessageRequestModeRequestBody,
    SubscriptionGroupConfig, pop_retry_topic, prop,
};

use super::clocks::HOUR_MS;
use super::delaying::plant_record;
use super::three::Three;
use super::*;

/// A pop that does not wait, of a group that begins at the first message.
pub(super) fn pop_header(topic: &str, queue: i32) -> PopMessageRequest {
    PopMessageRequest {
        consumer_group: "g".into(),
        topic: topic.into(),
        queue_id: queue,
        max_msg_nums: 32,
        invisible_time: 60_000,
        ..PopMessageRequest::default()
    }
}

/// What a pop brought, as Java's client understands it.
#[derive(Debug)]
pub(super) struct Popped {
    code: i32,
    header: PopMessageResponse,
    messages: Vec<(Message, PopHandle)>,
}

impl Popped {
    fn read(response: &RemotingCommand) -> Popped {
        let header = PopMessageResponse::decode(&response.ext).unwrap();
        let messages = Message::decode_all(&response.body).unwrap();
        let starts = header.start_offset_info.clone().unwrap_or_default();
        let offsets = header.msg_offset_info.clone().unwrap_or_default();
        let places = wire::parse_pop_offsets(&starts, &offsets)
            .unwrap_or_else(|| panic!("{starts:?} {offsets:?} would be refused"));
        let told: usize = places.iter().map(|place| place.offsets.len()).sum();
        assert_eq!(told, messages.len(), "{starts} {offsets}");
        let mut read: Vec<(Message, PopHandle)> = Vec::new();
        for message in messages {
            let carried = message.property(prop::POP_CK).map(|text| PopHandle::parse(text).unwrap());
            let source = carried.as_ref().map_or(PopSource::of(&message.topic), |handle| handle.source);
            let queue_id = message.queue_id.to_wire();
            let told = places
                .iter()
                .find(|place| (place.source, place.queue) == (source, queue_id))
                .unwrap_or_else(|| panic!("{source:?} {queue_id} is not in {starts}"));
            // Java takes the offset at the message's place among those of its queue.
            let place =
                read.iter().filter(|(_, has)| (has.source, has.queue_id) == (source, queue_id)).count();
            assert_eq!(told.offsets[place], message.queue_offset.to_wire());
            let handle = PopHandle {
                start_offset: told.start,
                pop_time: header.pop_time,
                invisible_time: header.invisible_time,
                revive_queue: header.revive_qid,
                source,
                broker_name: "b1".into(),
                queue_id,
                queue_offset: message.queue_offset.to_wire(),
            };
            assert!(carried.is_none_or(|carried| carried == handle));
            read.push((message, handle));
        }
        Popped { code: response.code, header, messages: read }
    }

    fn bodies(&self) -> Vec<&str> {
        let mut bodies: Vec<_> =
            self.messages.iter().map(|(message, _)| std::str::from_utf8(&message.body).unwrap()).collect();
        bodies.sort_unstable();
        bodies
    }
}

impl At<'_> {
    async fn pop(&self, header: PopMessageRequest) -> Popped {
        let response = self.ask(RequestCode::POP_MESSAGE, &header).await;
        assert!([0, 209, 210].contains(&response.code), "{} {:?}", response.code, response.remark);
        Popped::read(&response)
    }

    async fn ack(&self, handle: &PopHandle) -> i32 {
        let header = AckMessageRequest {
            consumer_group: "g".into(),
            topic: handle.source.real_topic("T", "g"),
            queue_id: handle.queue_id,
            extra_info: handle.to_string(),
            offset: handle.queue_offset,
        };
        self.ask(RequestCode::ACK_MESSAGE, &header).await.code
    }

    async fn ack_all(&self, popped: &Popped) {
        for (_, handle) in &popped.messages {
            assert_eq!(self.ack(handle).await, 0);
        }
    }

    /// Another invisible time; the new handle, or the code.
    async fn change(&self, handle: &PopHandle, invisible_time: i64) -> Result<PopHandle, i32> {
        let header = ChangeInvisibleTimeRequest {
            consumer_group: "g".into(),
            topic: handle.source.real_topic("T", "g"),
            queue_id: handle.queue_id,
            extra_info: handle.to_string(),
            offset: handle.queue_offset,
            invisible_time,
        };
        let response = self.ask(RequestCode::CHANGE_MESSAGE_INVISIBLETIME, &header).await;
        // Java reads it before the code.
        let header = ChangeInvisibleTimeResponse::decode(&response.ext).unwrap();
        if response.code != 0 {
            return Err(response.code);
        }
        Ok(PopHandle {
            start_offset: handle.queue_offset,
            pop_time: header.pop_time,
            invisible_time: header.invisible_time,
            revive_queue: header.revive_qid,
            ..handle.clone()
        })
    }

    async fn max_offset(&self, topic: &str) -> i64 {
        let header = wire::GetMaxOffsetRequest { topic: topic.into(), queue_id: 0, committed: true };
        let response = self.ask(RequestCode::GET_MAX_OFFSET, &header).await;
        wire::OffsetResponse::decode(&response.ext).map_or(-1, |header| header.offset)
    }
}

fn waiting(ms: i64) -> PopMessageRequest {
    PopMessageRequest { poll_time: ms, ..pop_header("T", -1) }
}

fn invisible(ms: i64) -> PopMessageRequest {
    PopMessageRequest { invisible_time: ms, ..pop_header("T", -1) }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_goes_to_one_and_is_done_when_it_says_so() {
    let node = OneNode::start().await;
    node.create_topic("T", 3).await;
    for n in 0..7 {
        node.send("T", n % 3, "", &n.to_string()).await;
    }
    let at = node.at();
    let first = at.pop(PopMessageRequest { max_msg_nums: 4, ..pop_header("T", -1) }).await;
    assert_eq!((first.code, first.messages.len(), first.header.rest_num), (0, 4, 3));
    assert!((0..8).contains(&first.header.revive_qid) && first.header.pop_time > 0);
    let second = at.pop(pop_header("T", -1)).await;
    let mut all = [first.bodies(), second.bodies()].concat();
    all.sort_unstable();
    assert_eq!(all, ["0", "1", "2", "3", "4", "5", "6"], "all of them, each once");
    let third = at.pop(pop_header("T", -1)).await;
    assert_eq!((third.code, third.header.rest_num, third.messages.len()), (210, 0, 0));
    at.ack_all(&first).await;
    at.ack_all(&second).await;
    // Once more: it is not the consumer's to know that it said so before.
    at.ack_all(&first).await;
    for (_, handle) in first.messages.iter().chain(&second.messages) {
        assert_eq!(at.change(handle, 0).await, Err(208), "nothing is in flight that could come again");
    }
    assert_eq!(at.pop(pop_header("T", -1)).await.code, 210);
    assert_eq!(at.max_offset(&pop_retry_topic("T", "g")).await, -1, "there was no need of a retry topic");
    for queue in 0..3 {
        let last = if queue == 0 { 3 } else { 2 };
        assert_eq!(super::offsets::stored(&node, "g", "T", queue).await, Some(last));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acknowledged_comes_again_once() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    for n in 0..3 {
        node.send("T", 0, &properties(&[("TAGS", "a"), ("k", "v")]), &n.to_string()).await;
    }
    let at = node.at();
    let first = at.pop(PopMessageRequest { exp: Some("a".into()), ..invisible(1500) }).await;
    assert_eq!(first.bodies(), ["0", "1", "2"]);
    assert_eq!(at.ack(&first.messages[1].1).await, 0);
    let start = Instant::now();
    let mut again = at.pop(waiting(10_000)).await;
    assert!(start.elapsed() < Duration::from_secs(5), "who waits is called");
    if again.messages.len() == 1 {
        // Both came back in one entry, but maybe not in one round.
        again.messages.extend(at.pop(waiting(10_000)).await.messages);
    }
    assert_eq!(again.bodies(), ["0", "2"]);
    for (message, handle) in &again.messages {
        assert_eq!((message.topic.as_str(), message.reconsume_times), ("T", 1));
        assert_eq!((message.tags(), message.property("k")), (Some("a"), Some("v")));
        assert_eq!(message.property(prop::FIRST_POP_TIME), Some(first.header.pop_time.to_string().as_str()));
        assert_eq!((handle.source, handle.queue_id), (PopSource::Retry, 0));
    }
    let retry = pop_retry_topic("T", "g");
    assert_eq!(at.max_offset(&retry).await, 2, "each exactly once");
    // An old handle means nothing any more; the new one does.
    assert_eq!(at.ack(&first.messages[0].1).await, 0);
    assert_eq!(at.change(&first.messages[0].1, 60_000).await, Err(208));
    at.ack_all(&again).await;
    assert_eq!(at.pop(pop_header("T", -1)).await.code, 210);
    assert_eq!(at.max_offset(&retry).await, 2);
    // A consumer that pulls finds them by the group's own name for them.
    let pulled = node.pull(PullMessageRequest { ..pull_header(&retry, 0, 0) }).await;
    assert_eq!(pulled.messages.len(), 2);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invisible_time_can_be_changed() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    for n in 0..2 {
        node.send("T", 0, "", &n.to_string()).await;
    }
    let at = node.at();
    let popped = at.pop(invisible(2000)).await;
    let [(_, longer), (_, shorter)] = &popped.messages[..] else { panic!("{popped:?}") };
    let renewed = at.change(longer, 60_000).await.unwrap();
    assert!(renewed.pop_time >= longer.pop_time);
    assert_eq!((renewed.invisible_time, renewed.revive_queue), (60_000, longer.revive_queue));
    if renewed.pop_time != longer.pop_time {
        assert_eq!(at.change(longer, 60_000).await, Err(208), "the old handle is none any more");
    }
    at.change(shorter, 0).await.unwrap();
    let again = at.pop(waiting(10_000)).await;
    assert_eq!(again.bodies(), ["1"]);
    tokio::time::sleep(Duration::from_millis(2200)).await;
    assert_eq!(at.pop(pop_header("T", -1)).await.code, 210, "the other one is its consumer's still");
    assert_eq!(at.ack(&renewed).await, 0);
    assert_eq!(at.change(&renewed, 0).await, Err(208), "it is done");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_so_many_times_it_is_a_dead_letter() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let config = SubscriptionGroupConfig { retry_max_times: 1, ..SubscriptionGroupConfig::new("g") };
    let create =
        RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).with_body(config.encode());
    assert_eq!(node.call(create).await.code, 0);
    node.send("T", 0, "", "m").await;
    let at = node.at();
    assert_eq!(at.pop(invisible(100)).await.messages.len(), 1);
    let again = at.pop(PopMessageRequest { poll_time: 10_000, ..invisible(100) }).await;
    assert_eq!((again.bodies(), again.messages[0].0.reconsume_times), (vec!["m"], 1));
    let start = Instant::now();
    while at.max_offset("%DLQ%g").await < 1 {
        assert!(start.elapsed() < SOON, "it never came to the dead letters");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(at.pop(pop_header("T", -1)).await.code, 210);
    let dead = node.pull(pull_header("%DLQ%g", 0, 0)).await;
    let [message] = &dead.messages[..] else { panic!("{} dead letters", dead.messages.len()) };
    assert_eq!((message.reconsume_times, message.property(prop::RETRY_TOPIC)), (2, Some("T")));
    assert!(message.property(prop::ORIGIN_MESSAGE_ID).is_some());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_of_a_queue_that_is_hidden_comes_back() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    node.send("T", 1, "", "m").await;
    let at = node.at();
    assert_eq!(at.pop(invisible(1500)).await.bodies(), ["m"]);
    node.create_topic("T", 1).await;
    assert_eq!(at.pop(waiting(10_000)).await.bodies(), ["m"]);
    node.stop().await;
}

fn ordered(attempt: &str, messages: i32, invisible_time: i64) -> PopMessageRequest {
    PopMessageRequest {
        order: true,
        attempt_id: Some(attempt.into()),
        max_msg_nums: messages,
        invisible_time,
        ..pop_header("T", 0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_order_one_batch_is_out_at_a_time() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    for n in 0..5 {
        node.send("T", 0, "", &n.to_string()).await;
    }
    let at = node.at();
    let first = at.pop(ordered("a", 3, 60_000)).await;
    assert_eq!((first.bodies(), first.header.revive_qid), (vec!["0", "1", "2"], 999));
    assert_eq!(first.header.order_count_info.as_deref(), Some("0 0 0"));
    let other = at.pop(ordered("b", 3, 60_000)).await;
    assert_eq!((other.code, other.header.rest_num), (210, 0), "what is blocked calls nobody");
    assert_eq!(super::offsets::stored(&node, "g", "T", 0).await, Some(0));
    // Out of turn: it stays blocked, and who asks with the same attempt gets what is left, and what follows.
    assert_eq!(at.ack(&first.messages[1].1).await, 0);
    assert_eq!(at.pop(ordered("b", 3, 60_000)).await.code, 210);
    let again = at.pop(ordered("a", 3, 60_000)).await;
    assert_eq!(again.bodies(), ["0", "2", "3"], "what is acknowledged does not come again");
    assert_eq!(again.header.order_count_info.as_deref(), Some("0 0 0"), "it was the same attempt");
    // The handles of the first answer are none any more.
    if again.header.pop_time != first.header.pop_time {
        assert_eq!(at.ack(&first.messages[0].1).await, 0);
        assert_eq!(super::offsets::stored(&node, "g", "T", 0).await, Some(0));
    }
    at.ack_all(&again).await;
    assert_eq!(super::offsets::stored(&node, "g", "T", 0).await, Some(4), "past the one out of turn, too");
    let last = at.pop(ordered("b", 3, 60_000)).await;
    assert_eq!(last.bodies(), ["4"]);
    assert_eq!(at.max_offset(&pop_retry_topic("T", "g")).await, -1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_order_a_batch_is_handed_out_again_in_its_place() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    for n in 0..2 {
        node.send("T", 0, "", &n.to_string()).await;
    }
    let at = node.at();
    let first = at.pop(ordered("", 1, 300)).await;
    assert_eq!(first.bodies(), ["0"]);
    let start = Instant::now();
    let again = at.pop(PopMessageRequest { poll_time: 10_000, ..ordered("", 2, 300) }).await;
    assert!((Duration::from_millis(150)..Duration::from_secs(5)).contains(&start.elapsed()));
    assert_eq!(again.bodies(), ["0", "1"]);
    assert_eq!(
        again.header.order_count_info.as_deref(),
        Some("0 qo0%0 1;0 0 0"),
        "one was handed out before"
    );
    // It is blocked as long as the longest invisible time.
    let kept = at.change(&again.messages[1].1, 60_000).await.unwrap();
    assert_eq!(kept.pop_time, again.header.pop_time, "in order the pop time stays");
    assert!(kept.invisible_time >= 60_000);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(at.pop(ordered("", 2, 300)).await.code, 210);
    // Who waits is called when the last of it is acknowledged.
    let (next, ()) =
        tokio::join!(at.pop(PopMessageRequest { poll_time: 10_000, ..ordered("", 2, 300) }), async {
            node.send("T", 0, "", "2").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            at.ack_all(&again).await;
        });
    assert_eq!(next.bodies(), ["2"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_called_by_what_it_wants() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    let at = node.at();
    let start = Instant::now();
    let wants = PopMessageRequest { exp: Some("a".into()), exp_type: Some("TAG".into()), ..waiting(20_000) };
    let info = PollingInfoRequest { consumer_group: "g".into(), topic: "T".into(), queue_id: -1 };
    let (popped, ()) = tokio::join!(at.pop(wants), async {
        while at.ask(RequestCode::POLLING_INFO, &info).await.ext.get("pollingNum") != Some("1") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        node.send("T", 0, &properties(&[("TAGS", "b")]), "not wanted").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let response = at.ask(RequestCode::POLLING_INFO, &info).await;
        assert_eq!(response.ext.get("pollingNum"), Some("1"), "it waits still");
        node.send("T", 1, &properties(&[("TAGS", "a")]), "wanted").await;
    });
    assert_eq!((popped.code, popped.bodies()), (0, vec!["wanted"]));
    assert!(start.elapsed() < SOON);
    // What it did not want, it has passed over.
    let start = Instant::now();
    let none = at.pop(PopMessageRequest { exp: Some("a".into()), ..waiting(300) }).await;
    assert_eq!(none.code, 210);
    assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&start.elapsed()));
    assert_eq!(super::offsets::stored(&node, "g", "T", 0).await, Some(1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expression_chooses() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let at = node.at();
    for n in 0..6 {
        node.send("T", 0, &properties(&[("n", &n.to_string())]), &n.to_string()).await;
    }
    let sql = |text: &str, poll_time| PopMessageRequest {
        exp_type: Some("SQL92".into()),
        exp: Some(text.into()),
        invisible_time: 1000,
        ..waiting(poll_time)
    };
    let popped = at.pop(PopMessageRequest { max_msg_nums: 2, ..sql("n > 1 AND n <> 3", 0) }).await;
    assert_eq!((popped.bodies(), popped.header.rest_num), (vec!["2", "4"], 1));
    assert_eq!(at.pop(sql("n > 9", 0)).await.code, 210);
    assert_eq!(super::offsets::stored(&node, "g", "T", 0).await, Some(6), "all of it was looked at");
    // What was wanted once comes back whatever is wanted now.
    let again = at.pop(sql("n > 9", 10_000)).await;
    assert_eq!(again.bodies(), ["2", "4"]);
    at.ack_all(&again).await;
    let start = Instant::now();
    let wants = sql("n = 8", 20_000);
    let (popped, ()) = tokio::join!(at.pop(wants), async {
        for n in 7..9 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            node.send("T", 0, &properties(&[("n", &n.to_string())]), &n.to_string()).await;
        }
    });
    assert_eq!(popped.bodies(), ["8"]);
    assert!(start.elapsed() < SOON);
    let response = at.ask(RequestCode::POP_MESSAGE, &sql("n >", 0)).await;
    assert_eq!(response.code, 23, "{:?}", response.remark);
    let unknown = PopMessageRequest { exp_type: Some("XPATH".into()), ..sql("n", 0) };
    assert_eq!(at.ask(RequestCode::POP_MESSAGE, &unknown).await.code, 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_wait_share_what_comes() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    let at = node.at();
    let pops = (0..20).map(|_| at.pop(PopMessageRequest { max_msg_nums: 2, ..waiting(20_000) }));
    let (popped, ()) = tokio::join!(futures::future::join_all(pops), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for n in 0..40 {
            node.send("T", n % 2, "", &format!("{n:02}")).await;
        }
    });
    let mut bodies: Vec<_> = popped.iter().flat_map(Popped::bodies).collect();
    bodies.sort_unstable();
    let count = bodies.len();
    bodies.dedup();
    assert_eq!(count, bodies.len(), "each once");
    assert!(popped.iter().all(|popped| popped.code == 0 && !popped.messages.is_empty()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_those_who_wait() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    let pop = RemotingCommand::request(RequestCode::POP_MESSAGE).with_header(&waiting(30_000));
    let notice = NotificationRequest {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: -1,
        poll_time: 30_000,
        ..NotificationRequest::default()
    };
    let notice = RemotingCommand::request(RequestCode::NOTIFICATION).with_header(&notice);
    let waits =
        tokio::spawn(
            async move { tokio::join!(connection.request(pop, SOON), connection.request(notice, SOON)) },
        );
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.stop().await;
    let (pop, notice) = waits.await.unwrap();
    assert_eq!(pop.unwrap().code, 210);
    let notice = notice.unwrap();
    assert_eq!((notice.code, notice.ext.get("hasMsg")), (0, Some("false")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_takes_nothing() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    let at = node.at();
    let header = |poll_time| NotificationRequest {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: -1,
        poll_time,
        ..NotificationRequest::default()
    };
    let has = |response: RemotingCommand| {
        assert_eq!(response.code, 0, "{:?}", response.remark);
        assert_eq!(response.ext.get("pollingFull"), Some("false"));
        response.ext.get("hasMsg") == Some("true")
    };
    assert!(!has(at.ask(RequestCode::NOTIFICATION, &header(0)).await));
    let start = Instant::now();
    let asked = header(20_000);
    let (response, _) = tokio::join!(at.ask(RequestCode::NOTIFICATION, &asked), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.send("T", 1, "", "m").await
    });
    assert!(has(response) && start.elapsed() < SOON);
    assert!(has(at.ask(RequestCode::NOTIFICATION, &header(0)).await), "it is there still");
    assert_eq!(at.pop(invisible(1500)).await.bodies(), ["m"]);
    assert!(!has(at.ask(RequestCode::NOTIFICATION, &header(0)).await));
    assert!(has(at.ask(RequestCode::NOTIFICATION, &header(10_000)).await), "it has come back");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_acknowledged_at_once() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    for n in 0..20 {
        node.send("T", n % 2, "", &n.to_string()).await;
    }
    let at = node.at();
    let popped = at.pop(invisible(2000)).await;
    assert_eq!(popped.messages.len(), 20);
    // All but one, of two queues; and offsets that nobody popped.
    let acks = (0..2).map(|queue| {
        let of_queue = popped.messages.iter().filter(|(_, handle)| handle.queue_id == queue);
        let mut offsets: Vec<i64> = of_queue.map(|(_, handle)| handle.queue_offset).collect();
        offsets.retain(|offset| (queue, *offset) != (1, 4));
        offsets.push(77);
        BatchAck {
            consumer_group: "g".into(),
            topic: "T".into(),
            retry: "0".into(),
            queue_id: queue,
            revive_queue_id: popped.header.revive_qid,
            pop_time: popped.header.pop_time,
            invisible_time: popped.header.invisible_time,
            start_offset: 0,
            bits: BatchAck::bits_of(0, &offsets),
        }
    });
    let unknown = BatchAck { topic: "U".into(), retry: "1".into(), queue_id: 9, ..BatchAck::default() };
    let body = BatchAckMessageRequestBody { broker_name: "b1".into(), acks: acks.chain([unknown]).collect() };
    let request = |body: &BatchAckMessageRequestBody| {
        RemotingCommand::request(RequestCode::BATCH_ACK_MESSAGE).with_body(body.encode())
    };
    assert_eq!(node.call(request(&body)).await.code, 0);
    let left = at.pop(waiting(10_000)).await;
    assert_eq!(left.bodies(), ["9"], "queue 1, offset 4");
    assert_eq!(at.max_offset(&pop_retry_topic("T", "g")).await, 1);
    let empty = BatchAckMessageRequestBody { broker_name: "b1".into(), acks: Vec::new() };
    assert_eq!(node.call(request(&empty)).await.code, 208);
    assert_eq!(node.call(RemotingCommand::request(RequestCode::BATCH_ACK_MESSAGE)).await.code, 208);
    let elsewhere = BatchAckMessageRequestBody { broker_name: "b2".into(), ..body };
    assert_eq!(node.call(request(&elsewhere)).await.code, 13);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peek_takes_nothing() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    let at = node.at();
    let header = |max_msg_nums| PeekMessageRequest {
        consumer_group: "g".into(),
        topic: "T".into(),
        queue_id: -1,
        max_msg_nums,
    };
    assert_eq!(at.ask(RequestCode::PEEK_MESSAGE, &header(32)).await.code, 19);
    for n in 0..4 {
        node.send("T", n % 2, "", &n.to_string()).await;
    }
    for (asked, want) in [(32, 4), (3, 3), (1, 1)] {
        let response = at.ask(RequestCode::PEEK_MESSAGE, &header(asked)).await;
        let messages = Message::decode_all(&response.body).unwrap();
        assert_eq!((response.code, messages.len(), response.ext.get("restNum")), (0, want, Some("4")));
    }
    assert_eq!(at.pop(pop_header("T", -1)).await.messages.len(), 4);
    assert_eq!(at.ask(RequestCode::PEEK_MESSAGE, &header(32)).await.code, 19);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_new_group_begins() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    for n in 0..3 {
        node.send("T", 0, "", &n.to_string()).await;
    }
    let at = node.at();
    // From the end, but the queue is young and has its first message still.
    let young = at.pop(PopMessageRequest { init_mode: 1, ..pop_header("T", 0) }).await;
    assert_eq!(young.bodies(), ["0", "1", "2"]);
    // A group that pulled before goes on where it was.
    super::offsets::commit_two_way(&node, "TOOLS_CONSUMER", 0, 2).await;
    let pulled_before = PopMessageRequest { consumer_group: "TOOLS_CONSUMER".into(), ..pop_header("T", 0) };
    assert_eq!(at.pop(pulled_before.clone()).await.bodies(), ["2"]);
    // And one that popped goes on by pull where it popped to.
    assert_eq!(super::offsets::stored(&node, "TOOLS_CONSUMER", "T", 0).await, Some(3));
    // An offset beyond the end is brought back, and one that is set back is popped again.
    super::offsets::commit_two_way(&node, "TOOLS_CONSUMER", 0, 9).await;
    assert_eq!(at.pop(pulled_before.clone()).await.code, 210);
    assert_eq!(super::offsets::stored(&node, "TOOLS_CONSUMER", "T", 0).await, Some(3));
    super::offsets::commit_two_way(&node, "TOOLS_CONSUMER", 0, 1).await;
    assert_eq!(at.pop(pulled_before).await.bodies(), ["1", "2"]);
    // Who begins with an empty queue misses nothing of what comes.
    node.create_topic("E", 1).await;
    let empty = PopMessageRequest { init_mode: 1, ..pop_header("E", 0) };
    assert_eq!(at.pop(empty.clone()).await.code, 210);
    for n in 0..2 {
        node.send("E", 0, "", &n.to_string()).await;
    }
    assert_eq!(at.pop(empty).await.bodies(), ["0", "1"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_name() {
    let node = OneNode::with(|config| config.groups[0].auto_create_group = false.into()).await;
    node.create_topic("T", 2).await;
    node.send("T", 0, "", "m").await;
    let at = node.at();
    let tools = || PopMessageRequest { consumer_group: "TOOLS_CONSUMER".into(), ..pop_header("T", 0) };
    let long = "a".repeat(127);
    node.create_topic(&long, 1).await;
    for (header, want) in [
        (tools(), 0),
        (pop_header("T", 0), 26),
        (PopMessageRequest { topic: "U".into(), ..tools() }, 17),
        (PopMessageRequest { queue_id: 2, ..tools() }, 29),
        (PopMessageRequest { max_msg_nums: 33, ..tools() }, 29),
        (PopMessageRequest { max_msg_nums: 0, ..tools() }, 29),
        (PopMessageRequest { max_msg_nums: i32::MIN, ..tools() }, 29),
        (PopMessageRequest { invisible_time: -1, ..tools() }, 29),
        (PopMessageRequest { invisible_time: 3 * 86_400_000 + 1, ..tools() }, 29),
        (PopMessageRequest { invisible_time: i64::MAX, ..tools() }, 29),
        (PopMessageRequest { born_time: 1, ..tools() }, 210),
        (PopMessageRequest { born_time: i64::MIN, poll_time: i64::MAX, ..tools() }, 210),
        (PopMessageRequest { exp: Some("||".into()), ..tools() }, 23),
        (PopMessageRequest { attempt_id: Some(long.repeat(3)), ..tools() }, 29),
    ] {
        let response = at.ask(RequestCode::POP_MESSAGE, &header).await;
        assert_eq!(response.code, want, "{header:?} {:?}", response.remark);
        assert!(want == 0 || response.remark.is_some_and(|remark| !remark.is_empty()));
    }
    // Its retry topic would have a name that no topic can have.
    let group = SubscriptionGroupConfig::new(&"g".repeat(200));
    let create =
        RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).with_body(group.encode());
    assert_eq!(node.call(create).await.code, 0);
    let header = PopMessageRequest { consumer_group: "g".repeat(200), ..pop_header(&long, 0) };
    assert_eq!(at.ask(RequestCode::POP_MESSAGE, &header).await.code, 29);

    let handle = "0 1 60000 0 0 b1 0 0";
    let ack = |extra_info: &str| AckMessageRequest {
        consumer_group: "TOOLS_CONSUMER".into(),
        topic: "T".into(),
        queue_id: 0,
        extra_info: extra_info.into(),
        offset: 0,
    };
    for (header, want) in [
        (ack(handle), 0),
        (ack("nonsense"), 13),
        (ack("0 x 60000 0 0 b1 0 0"), 13),
        (ack("0 -1 60000 0 0 b1 0 0"), 13),
        (ack("0 1 60000 0 7 b1 0 0"), 13),
        (ack("0 1 60000 0 0 b2 0 0"), 13),
        (ack(&"9 ".repeat(1000)), 13),
        (AckMessageRequest { topic: "U".into(), ..ack(handle) }, 17),
        (AckMessageRequest { queue_id: 2, ..ack(handle) }, 13),
        (AckMessageRequest { queue_id: -1, ..ack(handle) }, 13),
        (AckMessageRequest { offset: 1, ..ack(handle) }, 0),
        (AckMessageRequest { offset: 2, ..ack(handle) }, 208),
        (AckMessageRequest { offset: -1, ..ack(handle) }, 208),
        (AckMessageRequest { consumer_group: "nobody".into(), ..ack(handle) }, 26),
    ] {
        let response = at.ask(RequestCode::ACK_MESSAGE, &header).await;
        assert_eq!(response.code, want, "{header:?} {:?}", response.remark);
        let change = ChangeInvisibleTimeRequest {
            consumer_group: header.consumer_group,
            topic: header.topic,
            queue_id: header.queue_id,
            extra_info: header.extra_info,
            offset: header.offset,
            invisible_time: 1,
        };
        // What nobody has cannot be changed.
        let want = if want == 0 { 208 } else { want };
        let response = at.ask(RequestCode::CHANGE_MESSAGE_INVISIBLETIME, &change).await;
        assert_eq!(response.code, want, "{change:?} {:?}", response.remark);
        assert_eq!(response.ext.get("popTime"), Some("0"));
    }
    let negative = ChangeInvisibleTimeRequest {
        consumer_group: "TOOLS_CONSUMER".into(),
        topic: "T".into(),
        extra_info: handle.into(),
        invisible_time: -1,
        ..ChangeInvisibleTimeRequest::default()
    };
    assert_eq!(at.ask(RequestCode::CHANGE_MESSAGE_INVISIBLETIME, &negative).await.code, 29);
    let endless = ChangeInvisibleTimeRequest { invisible_time: i64::MAX, ..negative };
    assert_eq!(at.ask(RequestCode::CHANGE_MESSAGE_INVISIBLETIME, &endless).await.code, 29);
    let missing = RemotingCommand::request(RequestCode::ACK_MESSAGE).with_ext("topic", "T");
    assert_eq!(node.call(missing).await.code, 1);
    for code in [RequestCode::NOTIFICATION, RequestCode::PEEK_MESSAGE, RequestCode::POLLING_INFO] {
        for (group, topic, queue, want) in
            [("TOOLS_CONSUMER", "U", 0, 17), ("TOOLS_CONSUMER", "T", 2, 29), ("nobody", "T", 0, 26)]
        {
            let request = RemotingCommand::request(code)
                .with_ext("consumerGroup", group)
                .with_ext("topic", topic)
                .with_ext("queueId", &queue.to_string())
                .with_ext("maxMsgNums", "1");
            assert_eq!(node.call(request).await.code, want, "{code} {group} {topic} {queue}");
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_of_the_short_header_mean_pop() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    node.send("T", 0, "", "m").await;
    let mut request = RemotingCommand::request(RequestCode(3442)).with_header(&pop_header("T", 0));
    request.serialize = SerializeType::RocketMq;
    let response = node.call(request).await;
    assert_eq!(Popped::read(&response).bodies(), ["m"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_assigns_queues_and_says_how() {
    let node = OneNode::start().await;
    node.create_topic("T", 4).await;
    let mut others = Vec::new();
    for client in ["c1", "c2", "c3"] {
        let data = wire::HeartbeatData {
            client_id: client.into(),
            consumer_data_set: vec![wire::ConsumerData {
                group_name: "g".into(),
                consume_type: wire::ConsumeType::Pop,
                ..Default::default()
            }],
            ..Default::default()
        };
        let request = RemotingCommand::request(RequestCode::HEART_BEAT).with_body(data.encode());
        let other = Client::new(ClientConfig::default());
        assert_eq!(other.call(&node.address, request, SOON).await.unwrap().code, 0);
        others.push(other);
    }
    let assigned = |client: &'static str, change: fn(&mut QueryAssignmentRequestBody)| {
        let node = &node;
        async move {
            let mut body = QueryAssignmentRequestBody {
                client_id: client.into(),
                consumer_group: "g".into(),
                message_model: MessageModel::Clustering,
                strategy_name: "AVG".into(),
                topic: "T".into(),
            };
            change(&mut body);
            let request = RemotingCommand::request(RequestCode::QUERY_ASSIGNMENT).with_body(body.encode());
            let response = node.call(request).await;
            assert_eq!(response.code, 0, "{:?}", response.remark);
            let list =
                QueryAssignmentResponseBody::decode(&response.body).unwrap().message_queue_assignments?;
            Some(list.into_iter().map(|one| (one.message_queue.queue_id, one.mode)).collect::<Vec<_>>())
        }
    };
    let pull = MessageRequestMode::Pull;
    assert_eq!(assigned("c1", |_| {}).await, Some(vec![(0, pull), (1, pull)]));
    assert_eq!(assigned("c3", |_| {}).await, Some(vec![(3, pull)]));
    assert_eq!(assigned("c9", |_| {}).await, Some(vec![]));
    let all = Some((0..4).map(|queue| (queue, pull)).collect());
    assert_eq!(assigned("c1", |body| body.message_model = MessageModel::Broadcasting).await, all);
    assert_eq!(assigned("c1", |body| body.strategy_name = "NONE".into()).await, None);
    assert_eq!(assigned("c1", |body| body.topic = "U".into()).await, None);
    assert_eq!(assigned("c1", |body| body.consumer_group = "nobody".into()).await, None);

    let mode = |topic: &str, group: &str, mode, share| SetMessageRequestModeRequestBody {
        consumer_group: group.into(),
        mode,
        pop_share_queue_num: share,
        topic: topic.into(),
    };
    let pop = MessageRequestMode::Pop;
    for (body, want) in [
        (mode("%RETRY%g", "g", pop, 0), 16),
        (mode("U", "g", pop, 0), 17),
        (mode("T", "no body", pop, 0), 26),
        (mode("T", "g", pop, 0), 0),
    ] {
        let request =
            RemotingCommand::request(RequestCode::SET_MESSAGE_REQUEST_MODE).with_body(body.encode());
        assert_eq!(node.call(request).await.code, want, "{body:?}");
    }
    assert_eq!(assigned("c2", |_| {}).await, Some(vec![(-1, pop)]), "any queue of this broker");
    let shared = mode("T", "g", pop, 1);
    let request = RemotingCommand::request(RequestCode::SET_MESSAGE_REQUEST_MODE).with_body(shared.encode());
    assert_eq!(node.call(request).await.code, 0);
    assert_eq!(assigned("c2", |_| {}).await, Some(vec![(2, pop), (3, pop)]), "its own and the next one's");
    assert_eq!(assigned("c1", |body| body.topic = "%RETRY%g".into()).await, Some(vec![(0, pull)]));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_pops() {
    let three = Three::start(|_| {}).await;
    let leader = three.leader().await;
    for n in 0..3 {
        three.at(leader).message(&n.to_string()).await;
    }
    for node in 1..=3 {
        let at = three.at(node);
        let popped = at.pop(PopMessageRequest { max_msg_nums: 1, ..pop_header("T", 0) }).await;
        assert_eq!(popped.messages.len(), 1, "node {node}");
        at.ack_all(&popped).await;
    }
    // Held where it arrives, called by what is applied there.
    for node in 1..=3 {
        let at = three.at(node);
        let start = Instant::now();
        let (popped, ()) = tokio::join!(at.pop(waiting(20_000)), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            three.at(leader).message("late").await;
        });
        assert_eq!(popped.bodies(), ["late"]);
        assert!(start.elapsed() < SOON);
        let notice = NotificationRequest {
            consumer_group: "g".into(),
            topic: "T".into(),
            queue_id: -1,
            ..NotificationRequest::default()
        };
        assert_eq!(at.ask(RequestCode::NOTIFICATION, &notice).await.ext.get("hasMsg"), Some("false"));
        let renewed = at.change(&popped.messages[0].1, 60_000).await.unwrap();
        assert_eq!(at.ack(&renewed).await, 0);
    }
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_below_the_leader_is_called_for_what_another_one_left() {
    let three = Three::start(|_| {}).await;
    let leader = three.leader().await;
    for body in ["0", "1"] {
        three.at(leader).message(body).await;
    }
    assert_eq!(three.at(leader).pop(invisible(1500)).await.messages.len(), 2);
    let at = three.at(three.other_than(leader));
    let one = || PopMessageRequest { max_msg_nums: 1, ..waiting(20_000) };
    let start = Instant::now();
    // Both come back in one entry, which calls one of them.
    let (one, another) = tokio::join!(at.pop(one()), at.pop(one()));
    let mut bodies = [one.bodies(), another.bodies()].concat();
    bodies.sort_unstable();
    assert_eq!(bodies, ["0", "1"]);
    assert!(start.elapsed() < SOON);
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_neither_repeats_what_is_done_nor_loses_what_is_not() {
    let mut three = Three::start(|_| {}).await;
    let leader = three.leader().await;
    let at = three.at(leader);
    for n in 0..20 {
        at.message(&format!("{n:02}")).await;
    }
    let short = PopMessageRequest { max_msg_nums: 10, invisible_time: 4000, ..pop_header("T", 0) };
    let popped = at.pop(short.clone()).await;
    assert_eq!(popped.messages.len(), 10);
    for (_, handle) in &popped.messages[..5] {
        assert_eq!(at.ack(handle).await, 0);
    }
    drop(three.brokers.remove(&leader));
    let at = three.at(three.other_than(leader));
    // A handle of the old leader is as good at the new one. What was on its way to the dead one is of unknown outcome.
    while at.ack(&popped.messages[5].1).await != 0 {}
    let mut seen: Vec<String> = Vec::new();
    let start = Instant::now();
    while seen.len() < 14 {
        assert!(start.elapsed() < SOON * 2, "{seen:?}");
        let popped =
            at.pop(PopMessageRequest { poll_time: 500, invisible_time: 60_000, ..short.clone() }).await;
        at.ack_all(&popped).await;
        seen.extend(popped.bodies().into_iter().map(str::to_owned));
    }
    seen.sort_unstable();
    let want: Vec<String> = (6..20).map(|n| format!("{n:02}")).collect();
    assert_eq!(seen, want);
    assert_eq!(at.pop(short).await.code, 210);
    let retry = pop_retry_topic("T", "g");
    assert_eq!(at.max_offset(&retry).await, 4, "those that were in flight came back, each once");
    three.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_stays_in_its_hands() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    plant_record(&node, "T", "", true).await;
    node.send("T", 0, "", "sound").await;
    let at = node.at();
    // Not decoded: a consumer would see the damage.
    assert_eq!(at.ask(RequestCode::POP_MESSAGE, &invisible(300)).await.code, 0);
    let again = at.pop(waiting(10_000)).await;
    assert_eq!(again.bodies(), ["sound"]);
    assert_eq!(at.max_offset(&pop_retry_topic("T", "g")).await, 1, "the other one was due too");
    let state = &node.broker.hosted("b1").state;
    assert!(state.pop_due(u64::MAX, None, 10).iter().any(|due| &*due.topic == "T" && due.offset.0 == 0));
    node.stop().await;
}

/// The leader's own clock counts for nothing where the group's is another.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_revives_nothing() {
    let clock = replica::WallClock::default();
    clock.set_ahead_ms(-HOUR_MS);
    let node = OneNode::with(|config| config.wall_clock = clock.clone()).await;
    node.create_topic("T", 1).await;
    node.send("T", 0, "", "m").await;
    let at = node.at();
    assert_eq!(at.pop(invisible(60_000)).await.bodies(), ["m"]);
    let hosted = node.broker.hosted("b1");
    let entries = || hosted.serving().unwrap().log.state().last;
    let before = entries();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(entries(), before, "entries that the tables would not have");
    // The group's time leaps, and nothing is stored that would tell of it.
    clock.set_ahead_ms(61_000 - HOUR_MS);
    assert_eq!(at.pop(waiting(10_000)).await.bodies(), ["m"]);
    node.stop().await;
}
