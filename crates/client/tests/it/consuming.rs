use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{
    Client, ClientConfig, ConsumeFrom, ConsumeModel, ConsumerConfig, Filter, FlowLimits, Message,
    MessageQueue, ProducerConfig, PullStatus, PushConsumer, QueueOffset, ReceivedMessage, Verdict,
};
use wire::{Body, RemotingCommand, RequestCode, prop};

use crate::{Cluster, until};

fn from_first() -> ConsumerConfig {
    ConsumerConfig { from: ConsumeFrom::First, ..ConsumerConfig::default() }
}

/// Bodies as they came.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn add(&self, messages: &[ReceivedMessage]) {
        let text = |message: &ReceivedMessage| String::from_utf8_lossy(message.body()).into_owned();
        self.0.lock().expect("no panic").extend(messages.iter().map(text));
    }

    fn get(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }

    fn len(&self) -> usize {
        self.get().len()
    }
}

async fn consume(client: &Client, group: &str, config: ConsumerConfig, seen: &Seen) -> PushConsumer {
    let seen = seen.clone();
    client
        .push_consumer(group, config)
        .expect("a group")
        .subscribe("t", Filter::all())
        .listen(move |messages| {
            seen.add(&messages);
            async { Verdict::Success }
        })
        .await
        .expect("a consumer")
}

async fn fill(client: &Client, count: usize) {
    let producer = client.producer("filler", ProducerConfig::default()).await.expect("a producer");
    for number in 0..count {
        producer.send(&Message::new("t", format!("m{number}"))).await.expect("sent");
    }
    producer.shutdown().await;
}

fn topic_queues(consumer: &PushConsumer) -> usize {
    consumer.assigned().iter().filter(|queue| queue.topic == "t").count()
}

#[tokio::test]
async fn messages_come_and_offsets_are_stored_at_the_end() {
    let cluster = Cluster::start(&[2, 2]);
    let client = cluster.client().await;
    fill(&client, 100).await;
    let seen = Seen::default();
    let consumer = consume(&client, "g", from_first(), &seen).await;
    until("100 messages", || seen.len() == 100).await;
    fill(&client, 20).await;
    until("20 more, through held pulls", || seen.len() == 120).await;
    consumer.shutdown().await;
    let stored: i64 = cluster
        .brokers
        .iter()
        .flat_map(|broker| (0..2).filter_map(|queue| broker.offset("g", "t", queue)))
        .sum();
    assert_eq!(stored, 120);
    let left: Vec<_> =
        cluster.brokers[0].unregistered().into_iter().filter_map(|header| header.consumer_group).collect();
    assert_eq!(left, ["g"]);
    // The next one goes on from there.
    let seen = Seen::default();
    let consumer = consume(&client, "g", from_first(), &seen).await;
    fill(&client, 1).await;
    until("one message", || seen.len() == 1).await;
    consumer.shutdown().await;
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn a_group_shares_the_queues_at_once_when_it_changes() {
    let cluster = Cluster::start(&[4]);
    let (client, other) = (cluster.client().await, cluster.client().await);
    let seen = Seen::default();
    let one = consume(&client, "g", from_first(), &seen).await;
    until("all queues", || topic_queues(&one) == 4).await;
    // The periodic round is ten minutes away: notices do it.
    let two = consume(&other, "g", from_first(), &seen).await;
    until("two each", || topic_queues(&one) == 2 && topic_queues(&two) == 2).await;
    fill(&client, 40).await;
    until("40 messages", || seen.len() >= 40).await;
    two.shutdown().await;
    until("all queues again", || topic_queues(&one) == 4).await;
    one.shutdown().await;
}

#[tokio::test]
async fn a_member_that_dies_is_replaced() {
    let cluster = Cluster::start(&[4]);
    let (client, other) = (cluster.client().await, cluster.client().await);
    let seen = Seen::default();
    let one = consume(&client, "g", from_first(), &seen).await;
    let two = consume(&other, "g", from_first(), &seen).await;
    until("two each", || topic_queues(&one) == 2 && topic_queues(&two) == 2).await;
    drop(two);
    other.shutdown().await;
    until("all queues", || topic_queues(&one) == 4).await;
    one.shutdown().await;
}

#[tokio::test]
async fn two_consumers_of_one_group_need_two_clients() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    let seen = Seen::default();
    let one = consume(&client, "g", from_first(), &seen).await;
    let second = client.push_consumer("g", from_first()).expect("a group").subscribe("t", Filter::all());
    assert!(second.listen(|_| async { Verdict::Success }).await.is_err());
    one.shutdown().await;
    consume(&client, "g", from_first(), &seen).await.shutdown().await;
}

#[tokio::test]
async fn consumption_goes_on_at_the_new_leader() {
    let cluster = Cluster::start(&[2]);
    let client = cluster.client().await;
    let seen = Seen::default();
    let consumer = consume(&client, "g", from_first(), &seen).await;
    fill(&client, 10).await;
    until("10 messages", || seen.len() == 10).await;
    let broker = &cluster.brokers[0];
    broker.down();
    broker.up();
    broker.register();
    fill(&client, 10).await;
    until("10 more", || seen.len() >= 20).await;
    // The new leader was told who we are, before the heartbeat that is ten minutes away.
    assert_eq!(broker.members("g"), 1);
    consumer.shutdown().await;
}

#[tokio::test]
async fn an_illegal_offset_is_corrected() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    fill(&client, 30).await;
    cluster.brokers[0].set_min("t", 0, 20);
    cluster.brokers[0].set_offset("g", "t", 0, 5);
    let seen = Seen::default();
    let consumer = consume(&client, "g", from_first(), &seen).await;
    until("10 messages", || seen.len() == 10).await;
    consumer.shutdown().await;
    let mut bodies = seen.get();
    bodies.sort();
    assert_eq!(bodies, (20..30).map(|number| format!("m{number}")).collect::<Vec<_>>());
    assert_eq!(cluster.brokers[0].offset("g", "t", 0), Some(30));
}

#[tokio::test]
async fn where_a_new_group_begins() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    fill(&client, 10).await;
    // The scripted broker finds every time at offset 1.
    for (from, first) in [(ConsumeFrom::First, 0), (ConsumeFrom::Timestamp(1), 1), (ConsumeFrom::Last, 10)] {
        let seen = Seen::default();
        let group = format!("g{first}");
        let consumer =
            consume(&client, &group, ConsumerConfig { from, ..ConsumerConfig::default() }, &seen).await;
        until("the queue", || topic_queues(&consumer) == 1).await;
        until("the rest", || seen.len() == 10 - first).await;
        consumer.shutdown().await;
        if first == 10 {
            assert_eq!(seen.len(), 0);
        }
    }
}

/// What arrives between two owners of a queue is not skipped, though nobody has consumed anything yet.
#[tokio::test]
async fn a_group_that_begins_at_the_end_skips_nothing() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    fill(&client, 5).await;
    let last = || ConsumerConfig { from: ConsumeFrom::Last, ..ConsumerConfig::default() };
    let seen = Seen::default();
    let consumer = consume(&client, "g", last(), &seen).await;
    until("the queue", || topic_queues(&consumer) == 1).await;
    // It dies without a word.
    drop(consumer);
    fill(&client, 3).await;
    let consumer = consume(&client, "g", last(), &seen).await;
    until("three messages", || seen.len() == 3).await;
    consumer.shutdown().await;
}

#[tokio::test]
async fn json_headers_do_as_well() {
    let cluster = Cluster::start(&[1]);
    let config = ClientConfig { json_headers: true, ..cluster.config() };
    let client = Client::start(config).await.expect("a client");
    fill(&client, 10).await;
    let seen = Seen::default();
    let consumer = consume(&client, "g", from_first(), &seen).await;
    until("10 messages", || seen.len() == 10).await;
    consumer.shutdown().await;
}

#[tokio::test]
async fn failed_messages_go_back() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    fill(&client, 3).await;
    let verdicts = [Verdict::Later, Verdict::LaterAtLevel(5), Verdict::DeadLetter];
    let consumer = client
        .push_consumer("g", ConsumerConfig { reconsume_times: Some(7), ..from_first() })
        .expect("a group")
        .subscribe("t", Filter::all())
        .listen(move |messages| {
            let number: usize = String::from_utf8_lossy(&messages[0].body()[1..]).parse().expect("a number");
            async move { verdicts[number] }
        })
        .await
        .expect("a consumer");
    until("three", || cluster.brokers[0].sent_back().len() == 3).await;
    consumer.shutdown().await;
    let mut levels: Vec<_> = cluster.brokers[0].sent_back().iter().map(|header| header.delay_level).collect();
    levels.sort_unstable();
    assert_eq!(levels, [-1, 0, 5]);
    let header = cluster.brokers[0].sent_back().remove(0);
    assert_eq!(
        (header.group.as_str(), header.max_reconsume_times, header.origin_topic.as_deref()),
        ("g", Some(7), Some("t"))
    );
    assert_eq!(cluster.brokers[0].offset("g", "t", 0), Some(3), "they count as consumed");
}

#[tokio::test]
async fn what_cannot_go_back_is_sent_to_the_retry_topic() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    cluster.brokers[0].refuse_send_back();
    let seen = Seen::default();
    let listener_seen = seen.clone();
    let consumer = client
        .push_consumer("g", from_first())
        .expect("a group")
        .subscribe("t", Filter::all())
        .listen(move |messages| {
            // The retry comes by way of the retry topic, under the original topic's name.
            let is_retry = messages[0].queue().topic == "%RETRY%g";
            assert_eq!(messages[0].topic(), "t");
            listener_seen.add(&messages);
            async move { if is_retry { Verdict::Success } else { Verdict::Later } }
        })
        .await
        .expect("a consumer");
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    let receipt = producer.send(&Message::new("t", "x").tag("a").property("own", "1")).await.expect("sent");
    until("both attempts", || seen.len() >= 2).await;
    consumer.shutdown().await;
    let properties = cluster.brokers[0].first_properties("%RETRY%g", 0).expect("a copy");
    let expect: BTreeMap<&str, &str> = [
        (prop::TAGS, "a"),
        ("own", "1"),
        (prop::UNIQ_KEY, receipt.message_id.as_str()),
        (prop::ORIGIN_MESSAGE_ID, receipt.message_id.as_str()),
        (prop::RETRY_TOPIC, "t"),
        (prop::RECONSUME_TIME, "1"),
        (prop::MAX_RECONSUME_TIMES, "16"),
        (prop::DELAY, "3"),
    ]
    .into();
    let got: BTreeMap<&str, &str> =
        properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(got, expect);
}

#[tokio::test]
async fn a_panic_counts_as_later() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    fill(&client, 1).await;
    let consumer = client
        .push_consumer("g", from_first())
        .expect("a group")
        .subscribe("t", Filter::all())
        .listen(|messages| async move {
            assert!(messages.is_empty(), "this listener panics on purpose");
            Verdict::Success
        })
        .await
        .expect("a consumer");
    until("it went back", || cluster.brokers[0].sent_back().len() == 1).await;
    assert_eq!(consumer.counts(), (0, 1));
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_listener_that_takes_too_long_gives_its_message_back() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    fill(&client, 1).await;
    let consumer = client
        .push_consumer("g", ConsumerConfig { consume_timeout: Duration::from_millis(100), ..from_first() })
        .expect("a group")
        .subscribe("t", Filter::all())
        .listen(|_| std::future::pending::<Verdict>())
        .await
        .expect("a consumer");
    until("it went back", || cluster.brokers[0].sent_back().len() == 1).await;
    assert_eq!(cluster.brokers[0].sent_back()[0].delay_level, 3);
    consumer.shutdown().await;
}

/// A slow listener stops the fetching at the limits, and its end lets it go on.
#[tokio::test]
async fn fetching_stops_at_the_limits() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    fill(&client, 200).await;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (held, count) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&count);
    let flow = FlowLimits { messages_max: 40, bytes_max: usize::MAX, span_max: None };
    let consumer = client
        .push_consumer("g", ConsumerConfig { flow, pull_messages: 10, concurrency: 3, ..from_first() })
        .expect("a group")
        .subscribe("t", Filter::all())
        .listen(move |_| {
            let (held, counted) = (Arc::clone(&held), Arc::clone(&counted));
            async move {
                let _permit = held.acquire().await;
                counted.fetch_add(1, SeqCst);
                Verdict::Success
            }
        })
        .await
        .expect("a consumer");
    let pulls = || cluster.brokers[0].count(RequestCode::PULL_MESSAGE);
    // 10 at a time until more than 40 wait, and one pull is held for the retry topic.
    until("five pulls", || pulls() >= 5).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(pulls() <= 6, "{} pulls", pulls());
    gate.add_permits(200);
    until("all consumed", || count.load(SeqCst) == 200).await;
    consumer.shutdown().await;
    assert_eq!(cluster.brokers[0].offset("g", "t", 0), Some(200));
}

#[tokio::test]
async fn tags_are_compared_exactly_and_the_unwanted_count_as_consumed() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    for tag in ["Aa", "BB", "Aa", "BB"] {
        producer.send(&Message::new("t", tag).tag(tag)).await.expect("sent");
    }
    let seen = Seen::default();
    let listener_seen = seen.clone();
    let consumer = client
        .push_consumer("g", from_first())
        .expect("a group")
        .subscribe("t", Filter::tags("Aa").expect("a tag"))
        .listen(move |messages| {
            listener_seen.add(&messages);
            async { Verdict::Success }
        })
        .await
        .expect("a consumer");
    until("two", || seen.len() == 2).await;
    consumer.shutdown().await;
    assert_eq!(seen.get(), ["Aa", "Aa"]);
    assert_eq!(cluster.brokers[0].offset("g", "t", 0), Some(4));
}

#[tokio::test]
async fn broadcasting_gives_everybody_everything_and_remembers() {
    let cluster = Cluster::start(&[2]);
    let dir = tempfile::tempdir().expect("a directory");
    let named = |name: &str| ClientConfig { instance: Some(name.into()), ..cluster.config() };
    let one = Client::start(named("one")).await.expect("a client");
    let two = Client::start(named("two")).await.expect("a client");
    let config = || ConsumerConfig {
        model: ConsumeModel::Broadcasting,
        offset_dir: Some(dir.path().to_owned()),
        ..from_first()
    };
    fill(&one, 10).await;
    let (seen_one, seen_two) = (Seen::default(), Seen::default());
    let first = consume(&one, "g", config(), &seen_one).await;
    let second = consume(&two, "g", config(), &seen_two).await;
    until("10 each", || seen_one.len() == 10 && seen_two.len() == 10).await;
    first.shutdown().await;
    second.shutdown().await;
    fill(&one, 1).await;
    let seen = Seen::default();
    let again = consume(&one, "g", config(), &seen).await;
    until("the new one", || seen.len() == 1).await;
    again.shutdown().await;
    assert_eq!(seen.len(), 1);
    assert_eq!(cluster.brokers[0].count(RequestCode::UPDATE_CONSUMER_OFFSET), 0);
    assert_eq!(cluster.brokers[0].count(RequestCode::GET_CONSUMER_LIST_BY_GROUP), 0);
}

#[tokio::test]
async fn orderly_keeps_the_order_and_tries_the_same_message_again() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    fill(&client, 20).await;
    let seen = Seen::default();
    let (listener_seen, failures) = (seen.clone(), Arc::new(AtomicUsize::new(0)));
    let consumer = client
        .push_consumer("g", from_first())
        .expect("a group")
        .subscribe("t", Filter::all())
        .listen_orderly(move |messages| {
            let fails = messages[0].body()[..] == *b"m7" && failures.fetch_add(1, SeqCst) == 0;
            if !fails {
                listener_seen.add(&messages);
            }
            async move { if fails { Verdict::Later } else { Verdict::Success } }
        })
        .await
        .expect("a consumer");
    let queue = MessageQueue::new("t", "a", 0);
    until("20 messages", || seen.len() == 20).await;
    assert_eq!(seen.get(), (0..20).map(|number| format!("m{number}")).collect::<Vec<_>>());
    assert_eq!(cluster.brokers[0].lock_owner("g", &queue).as_deref(), Some(client.id()));
    consumer.shutdown().await;
    assert_eq!(cluster.brokers[0].lock_owner("g", &queue), None);
    assert_eq!(cluster.brokers[0].offset("g", "t", 0), Some(20));
}

#[tokio::test]
async fn orderly_waits_for_a_lock() {
    let cluster = Cluster::start(&[2]);
    let client = cluster.client().await;
    fill(&client, 10).await;
    cluster.brokers[0].steal_lock("g", &MessageQueue::new("t", "a", 1));
    let seen = Seen::default();
    let listener_seen = seen.clone();
    let consumer = client
        .push_consumer("g", from_first())
        .expect("a group")
        .subscribe("t", Filter::all())
        .listen_orderly(move |messages| {
            listener_seen.add(&messages);
            async { Verdict::Success }
        })
        .await
        .expect("a consumer");
    until("one queue", || seen.len() == 5).await;
    assert_eq!(topic_queues(&consumer), 1);
    consumer.shutdown().await;
}

#[tokio::test]
async fn orderly_gives_a_message_up_after_its_attempts() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    fill(&client, 2).await;
    let seen = Seen::default();
    let listener_seen = seen.clone();
    let consumer = client
        .push_consumer("g", ConsumerConfig { reconsume_times: Some(0), ..from_first() })
        .expect("a group")
        .subscribe("t", Filter::all())
        .listen_orderly(move |messages| {
            let is_retry = messages[0].queue().topic != "t";
            let fails = messages[0].body()[..] == *b"m0" && !is_retry;
            listener_seen.add(&messages);
            async move { if fails { Verdict::Later } else { Verdict::Success } }
        })
        .await
        .expect("a consumer");
    until("both", || seen.get().iter().any(|body| body == "m1")).await;
    consumer.shutdown().await;
    let properties = cluster.brokers[0].first_properties("%RETRY%g", 0).expect("it went to the retry topic");
    assert_eq!(properties.get(prop::RECONSUME_TIME).map(String::as_str), Some("1"));
    assert_eq!(properties.get(prop::MAX_RECONSUME_TIMES).map(String::as_str), Some("0"));
}

#[tokio::test]
async fn an_administrator_moves_and_asks_a_consumer() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    fill(&client, 10).await;
    let seen = Seen::default();
    let consumer = consume(&client, "g", from_first(), &seen).await;
    until("10 messages", || seen.len() == 10).await;
    let queue = MessageQueue::new("t", "a", 0);
    let broker = &cluster.brokers[0];
    until("the offset is known", || consumer.offsets().contains(&(queue.clone(), QueueOffset(10)))).await;

    let header = wire::GetConsumerStatusRequest { topic: "t".into(), group: "g".into(), client_addr: None };
    let request = RemotingCommand::request(RequestCode::GET_CONSUMER_STATUS_FROM_CLIENT).with_header(&header);
    let answer = broker.ask_member("g", request).await;
    let status = wire::GetConsumerStatusBody::decode(&answer.body).expect("a body");
    assert_eq!(status.message_queue_table.get(&queue), Some(&10));

    let header = wire::GetConsumerRunningInfoRequest {
        consumer_group: "g".into(),
        client_id: client.id().into(),
        jstack_enable: false,
    };
    let request = RemotingCommand::request(RequestCode::GET_CONSUMER_RUNNING_INFO).with_header(&header);
    let answer = broker.ask_member("g", request).await;
    let json: serde_json::Value = wire::from_json(&answer.body).expect("JSON");
    assert_eq!(json["properties"]["PROP_CONSUMEORDERLY"], "false");
    assert!(!json["mqTable"].as_object().expect("a map").is_empty(), "{json}");

    let header = wire::ResetOffsetRequest {
        group: "g".into(),
        topic: "t".into(),
        queue_id: -1,
        offset: None,
        timestamp: 0,
        is_force: true,
    };
    let body = wire::ResetOffsetBody { offset_table: [(queue.clone(), 4)].into_iter().collect() };
    let request = RemotingCommand::request(RequestCode::RESET_CONSUMER_CLIENT_OFFSET)
        .with_header(&header)
        .with_body(body.encode());
    assert_eq!(broker.ask_member("g", request).await.code, 0);
    until("six again", || seen.len() == 16).await;
    consumer.shutdown().await;
    assert_eq!(broker.offset("g", "t", 0), Some(10));
}

#[tokio::test]
async fn pulling_by_hand() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    fill(&client, 50).await;
    let consumer = client.pull_consumer("g").await.expect("a consumer");
    let queue = consumer.queues("t").await.expect("queues").remove(0);
    assert_eq!(consumer.max_offset(&queue).await.expect("an offset"), QueueOffset(50));
    consumer.seek(&queue, QueueOffset(10)).expect("a place");
    let mut count = 0;
    loop {
        let pulled = consumer.poll(&queue, &Filter::all(), 16, None).await.expect("an answer");
        count += pulled.messages.len();
        if pulled.status == PullStatus::NoNewMessages {
            break;
        }
    }
    assert_eq!((count, consumer.position(&queue)), (40, Some(QueueOffset(50))));
    let beyond = consumer.pull(&queue, QueueOffset(99), &Filter::all(), 16, None).await.expect("an answer");
    assert_eq!((beyond.status, beyond.next), (PullStatus::OffsetIllegal, QueueOffset(50)));
    assert_eq!(consumer.committed(&queue).await.expect("an answer"), None);
    consumer.commit(&queue, QueueOffset(33)).await.expect("stored");
    assert_eq!(consumer.committed(&queue).await.expect("an answer"), Some(QueueOffset(33)));
    assert!(consumer.pull(&queue, QueueOffset(0), &Filter::all(), 0, None).await.is_err());
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_pause_stops_fetching() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    let seen = Seen::default();
    let consumer = consume(&client, "g", from_first(), &seen).await;
    until("the queue", || topic_queues(&consumer) == 1).await;
    consumer.pause();
    // The pull that is held already still brings one answer.
    fill(&client, 1).await;
    until("one", || seen.len() <= 1).await;
    fill(&client, 20).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(seen.len() <= 1, "{}", seen.len());
    consumer.resume();
    until("all", || seen.len() == 21).await;
    consumer.shutdown().await;
}
