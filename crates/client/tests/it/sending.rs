use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use client::{Client, ClientConfig, ClientError, Message, ProducerConfig, SendStatus};
use wire::{RequestCode, ResponseCode, prop};

use crate::scripted::{Broker, Misdeed, Registry};
use crate::{Cluster, until};

fn message(body: &str) -> Message {
    Message::new("t", body.to_owned())
}

#[tokio::test]
async fn sends_take_turns_over_all_queues() {
    let cluster = Cluster::start(&[2, 1]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    let mut queues = Vec::new();
    for number in 0..6 {
        let receipt = producer.send(&message(&format!("m{number}"))).await.expect("sent");
        assert_eq!((receipt.status, receipt.attempts, receipt.message_id.len()), (SendStatus::Stored, 1, 32));
        queues.push((receipt.broker.to_string(), receipt.queue_id.get()));
    }
    assert_eq!(queues[..3], queues[3..]);
    queues.sort();
    queues.dedup();
    assert_eq!(queues, [("a".into(), 0), ("a".into(), 1), ("b".into(), 0)]);
    assert_eq!(cluster.brokers[0].bodies("t").len() + cluster.brokers[1].bodies("t").len(), 6);
}

/// Every kind of failure sends the message to the other broker, and the one that failed is left alone.
#[tokio::test]
async fn a_failed_send_goes_to_another_broker() {
    for misdeed in
        [Misdeed::Answer(14), Misdeed::Answer(2), Misdeed::Answer(1500), Misdeed::Answer(1), Misdeed::Reset]
    {
        let cluster = Cluster::start(&[2, 2]);
        let client = cluster.client().await;
        let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
        cluster.brokers[0].always(Some(misdeed));
        let mut attempts = 0;
        for number in 0..8 {
            let receipt = producer.send(&message(&format!("m{number}"))).await.expect("sent");
            assert_eq!(&*receipt.broker, "b", "{misdeed:?}");
            attempts += receipt.attempts;
        }
        assert_eq!(attempts, 9, "{misdeed:?}: one send met the bad broker, the others avoided it");
    }
}

#[tokio::test]
async fn a_dead_broker_costs_one_attempt() {
    let cluster = Cluster::start(&[2, 2]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    for number in 0..4 {
        producer.send(&message(&format!("m{number}"))).await.expect("sent");
    }
    cluster.brokers[1].down();
    for number in 4..12 {
        let receipt = producer.send(&message(&format!("m{number}"))).await.expect("sent");
        assert_eq!(&*receipt.broker, "a");
    }
}

#[tokio::test]
async fn without_fault_tolerance_a_bad_broker_is_tried_each_time() {
    let cluster = Cluster::start(&[1, 1]);
    let client = cluster.client().await;
    let config = ProducerConfig { fault_tolerance: false, ..ProducerConfig::default() };
    let producer = client.producer("p", config).await.expect("a producer");
    cluster.brokers[0].always(Some(Misdeed::Answer(14)));
    let mut attempts = 0;
    for number in 0..8 {
        attempts += producer.send(&message(&format!("m{number}"))).await.expect("sent").attempts;
    }
    assert!(attempts > 9, "{attempts}");
    assert_eq!(cluster.brokers[1].bodies("t").len(), 8);
}

#[tokio::test]
async fn a_final_code_is_not_tried_again() {
    let cluster = Cluster::start(&[1, 1]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    cluster.brokers.iter().for_each(|broker| broker.always(Some(Misdeed::Answer(13))));
    let error = producer.send(&message("m")).await.expect_err("refused");
    assert!(
        matches!(&error, ClientError::Broker { code: ResponseCode::MESSAGE_ILLEGAL, remark, .. } if remark == "as told")
    );
    assert!(!error.may_have_happened());
    let sends: usize = cluster.brokers.iter().map(|broker| broker.count(RequestCode::SEND_MESSAGE_V2)).sum();
    assert_eq!(sends, 1);
}

/// With a single group there is nobody else to try: the send waits for the leader, wherever it comes
/// back.
#[tokio::test]
async fn a_send_waits_for_a_leader_that_moves() {
    let cluster = Cluster::start(&[2]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    let pinned = producer.send(&message("before")).await.expect("sent").queue();
    let broker = &cluster.brokers[0];
    broker.down();
    let (plain, to_queue) = (message("during"), message("pinned"));
    let come_back = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        broker.up();
        broker.register();
    };
    let (plain, to_queue, ()) =
        tokio::join!(producer.send(&plain), producer.send_to(&to_queue, &pinned), come_back);
    assert!(plain.expect("sent").attempts > 1);
    assert_eq!(to_queue.expect("sent").queue(), pinned);
    let mut bodies = broker.bodies("t");
    bodies.sort();
    assert_eq!(bodies, ["before", "during", "pinned"]);
}

#[tokio::test]
async fn not_waiting_fails_at_once() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    let config = ProducerConfig { wait_for_leader: false, ..ProducerConfig::default() };
    let producer = client.producer("p", config).await.expect("a producer");
    cluster.brokers[0].always(Some(Misdeed::Answer(14)));
    let error = producer.send(&message("m")).await.expect_err("refused");
    assert!(matches!(&error, ClientError::SendFailed { attempts: 3, may_be_stored: false, .. }), "{error:?}");
    assert_eq!(error.code(), Some(ResponseCode::SERVICE_NOT_AVAILABLE));
}

#[tokio::test]
async fn an_unknown_outcome_says_so() {
    let cluster = Cluster::start(&[1, 1]);
    let client = cluster.client().await;
    let config = |retry_unknown| ProducerConfig {
        retry_unknown,
        send_timeout: Duration::from_millis(400),
        ..ProducerConfig::default()
    };
    cluster.brokers.iter().for_each(|broker| broker.always(Some(Misdeed::Silence)));
    let producer = client.producer("p", config(false)).await.expect("a producer");
    let error = producer.send(&message("m")).await.expect_err("no answer");
    assert!(matches!(error, ClientError::Unknown { .. }), "{error:?}");
    cluster.brokers.iter().for_each(Broker::speak);

    // Stored, but told to be an error of unknown outcome; then a definite refusal. Together: unknown.
    cluster.brokers.iter().for_each(|broker| broker.always(Some(Misdeed::Answer(13))));
    cluster.brokers.iter().for_each(|broker| broker.misbehave(&[Misdeed::StoreAndAnswer(1)]));
    let once = ProducerConfig { retries: 2, ..config(true) };
    let producer = client.producer("q", once).await.expect("a producer");
    let error = producer.send(&message("m")).await.expect_err("refused");
    assert!(matches!(&error, ClientError::SendFailed { attempts: 3, may_be_stored: true, .. }), "{error:?}");
    assert!(error.may_have_happened());
}

/// With a limit per attempt a silent broker leaves time for another.
#[tokio::test]
async fn a_limit_per_attempt_leaves_time_for_another_broker() {
    let cluster = Cluster::start(&[1, 1]);
    let client = cluster.client().await;
    let attempt_timeout = Some(Duration::from_millis(200));
    let producer = client
        .producer("p", ProducerConfig { attempt_timeout, ..ProducerConfig::default() })
        .await
        .expect("a producer");
    cluster.brokers[0].always(Some(Misdeed::Silence));
    for number in 0..4 {
        let receipt = producer.send(&message(&format!("m{number}"))).await.expect("sent");
        assert_eq!(&*receipt.broker, "b");
    }
}

#[tokio::test]
async fn a_topic_without_route_is_an_error_or_is_made() {
    let cluster = Cluster::start(&[8]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    let error = producer.send(&Message::new("new", "m")).await.expect_err("no route");
    assert!(matches!(error, ClientError::NoRoute { .. }), "{error:?}");
    cluster.registry.add_topic("TBW102");
    let queues = producer.queues(&"new".into()).await.expect("borrowed queues");
    assert_eq!(queues.len(), 4, "the 8 of TBW102, but no more than the producer's default");
    producer.send(&Message::new("new", "m")).await.expect("sent");
    assert_eq!(cluster.brokers[0].bodies("new"), ["m"]);
    // The real route comes on its own.
    let mut real = 0;
    for _ in 0..1000 {
        real = producer.queues(&"new".into()).await.expect("queues").len();
        if real == 8 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(real, 8);
}

#[tokio::test]
async fn a_topic_that_nobody_can_write_now_is_waited_for() {
    let cluster = Cluster::start(&[1]);
    let address = cluster.brokers[0].address();
    cluster.registry.register("a", &[(1, &address)], 1);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    let elect = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.registry.register("a", &[(0, &address)], 1);
    };
    let m = message("m");
    let (sent, ()) = tokio::join!(producer.send(&m), elect);
    assert_eq!(&*sent.expect("sent").broker, "a");
}

#[tokio::test]
async fn selectors_choose_among_all_queues() {
    let cluster = Cluster::start(&[2, 1]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    let receipt = producer.send_by(&message("m"), |queues| queues.len() - 1).await.expect("sent");
    assert_eq!((&*receipt.broker, receipt.queue_id.get()), ("b", 0));
    assert!(matches!(producer.send_by(&message("m"), <[_]>::len).await, Err(ClientError::Refused(_))));
    let first = producer.send_by_key(&message("m"), "key").await.expect("sent").queue();
    let second = producer.send_by_key(&message("m"), "key").await.expect("sent").queue();
    assert_eq!(first, second);
    // A queue of a broker that nobody has heard of is an error at once.
    let nowhere = client::MessageQueue::new("t", "nowhere", 0);
    assert!(matches!(producer.send_to(&message("m"), &nowhere).await, Err(ClientError::NoRoute { .. })));
}

#[tokio::test]
async fn nameservers_take_over_from_each_other() {
    let registry = Registry::new();
    registry.add_topic("t");
    registry.add_topic("u");
    let (first, second) = (registry.nameserver(), registry.nameserver());
    let _broker = Broker::start(&registry, "a", 1);
    let client = Client::start(ClientConfig::new([first.address.clone(), second.address.clone()]))
        .await
        .expect("a client");
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    producer.send(&message("m")).await.expect("sent");
    drop(first);
    producer.send(&Message::new("u", "m")).await.expect("sent");
    drop(second);
    // Nobody left: what is known goes on.
    producer.send(&message("m")).await.expect("sent");
    let error = producer.send(&Message::new("v", "m")).await.expect_err("no nameserver");
    assert!(!error.may_have_happened(), "{error:?}");
}

/// Its host sleeps: the kernel takes the connection and what is written to it, and nobody answers.
#[tokio::test]
async fn a_nameserver_that_sleeps_is_not_waited_for() {
    let cluster = Cluster::start(&[1]);
    let asleep = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let asleep = asleep.local_addr().expect("an address").to_string();
    // Each begins with one of the two at random.
    for number in 0..6 {
        let nameservers = [asleep.clone(), cluster.nameserver.address.clone()];
        let long = Duration::from_mins(10);
        let client = Client::start(ClientConfig { call_timeout: long, ..ClientConfig::new(nameservers) });
        let client = client.await.expect("a client");
        let config = ProducerConfig { send_timeout: long, ..ProducerConfig::default() };
        let producer = client.producer("p", config).await.expect("a producer");
        let message = message(&format!("m{number}"));
        let sent = tokio::time::timeout(Duration::from_mins(1), producer.send(&message)).await;
        sent.expect("it does not wait for the one that sleeps").expect("sent");
    }
}

/// What is sent while another send waits for a leader that sleeps goes to the new one as soon as there is one.
#[tokio::test]
async fn a_send_that_waits_looks_for_another_leader() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    let config = ProducerConfig { send_timeout: Duration::from_mins(10), ..ProducerConfig::default() };
    let producer = client.producer("p", config).await.expect("a producer");
    let queue = producer.send(&message("first")).await.expect("sent").queue();
    let asleep = &cluster.brokers[0];
    asleep.always(Some(Misdeed::Silence));
    let before = asleep.count(RequestCode::SEND_MESSAGE_V2);
    let waiting = {
        let (producer, queue) = (producer.clone(), queue.clone());
        tokio::spawn(async move { producer.send_to(&message("lost"), &queue).await })
    };
    until("it waits", || asleep.count(RequestCode::SEND_MESSAGE_V2) > before).await;
    let leads = Broker::start(&cluster.registry, "a", 1);
    let asked = || *crate::scripted::locked(&cluster.registry.asked);
    let before = asked();
    until("the route is asked for", || asked() > before + 1).await;
    let sent = tokio::time::timeout(Duration::from_mins(1), producer.send_to(&message("next"), &queue)).await;
    sent.expect("it does not wait with the other one").expect("sent");
    assert_eq!(leads.bodies("t"), ["next"]);
    assert!(!waiting.is_finished());
    waiting.abort();
}

#[tokio::test]
async fn brokers_hear_of_a_producer_with_its_connection_and_when_it_leaves() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    producer.send(&message("m")).await.expect("sent");
    let broker = &cluster.brokers[0];
    until("a heartbeat", || !broker.heartbeats().is_empty()).await;
    let heartbeat = broker.heartbeats().remove(0);
    assert_eq!(heartbeat.client_id, client.id());
    let groups = |heartbeat: &wire::HeartbeatData| -> Vec<String> {
        heartbeat.producer_data_set.iter().map(|producer| producer.group_name.clone()).collect()
    };
    assert_eq!(groups(&heartbeat), ["p"]);
    // A second group is told at once, on the connection that is there.
    let second = client.producer("q", ProducerConfig::default()).await.expect("a producer");
    let last = broker.heartbeats().pop().expect("a heartbeat");
    assert_eq!(groups(&last).len(), 2);
    producer.shutdown().await;
    let left = broker.unregistered();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].producer_group.as_deref(), left[0].consumer_group.as_deref()), (Some("p"), None));
    assert!(matches!(producer.send(&message("m")).await, Err(ClientError::Closed)));
    second.send(&message("m")).await.expect("the other goes on");
}

#[tokio::test]
async fn sends_under_way_are_bounded() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    let config = ProducerConfig { in_flight_max: 2, ..ProducerConfig::default() };
    let producer = client.producer("p", config).await.expect("a producer");
    let broker = &cluster.brokers[0];
    broker.always(Some(Misdeed::Silence));
    let _first = producer.submit(message("1")).await.expect("taken");
    let _second = producer.submit(message("2")).await.expect("taken");
    until("two sends", || broker.count(RequestCode::SEND_MESSAGE_V2) == 2).await;
    let third = producer.submit(message("3"));
    assert!(tokio::time::timeout(Duration::from_millis(100), third).await.is_err(), "a third was taken");
    assert_eq!(broker.count(RequestCode::SEND_MESSAGE_V2), 2);
    broker.always(None);
    broker.speak();
    producer.submit(message("3")).await.expect("taken").await.expect("sent");
}

#[tokio::test]
async fn submitted_messages_are_sent_whether_or_not_anybody_waits() {
    let cluster = Cluster::start(&[2]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    let told = Arc::new(AtomicUsize::new(0));
    for number in 0..100 {
        drop(producer.submit(message(&format!("m{number}"))).await.expect("taken"));
        let told = Arc::clone(&told);
        let then = move |outcome: Result<_, _>| drop(outcome.map(|_| told.fetch_add(1, SeqCst)));
        producer.submit_then(message(&format!("n{number}")), then).await.expect("taken");
    }
    // Waits for what is under way.
    producer.shutdown().await;
    assert_eq!(told.load(SeqCst), 100);
    assert_eq!(cluster.brokers[0].bodies("t").len(), 200);
}

#[tokio::test]
async fn a_window_tells_every_outcome_once() {
    let cluster = Cluster::start(&[2]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    let mut window = producer.window(8);
    let mut tags = Vec::new();
    for number in 0..100 {
        tags.extend(
            window
                .push(message(&format!("m{number}")), number)
                .await
                .map(|(tag, outcome)| outcome.map(|_| tag).expect("sent")),
        );
        assert!(window.len() <= 8);
    }
    while let Some((tag, outcome)) = window.next().await {
        outcome.expect("sent");
        tags.push(tag);
    }
    tags.sort_unstable();
    assert_eq!(tags, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn batches_travel_whole() {
    let cluster = Cluster::start(&[2]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    let messages: Vec<_> = (0..50).map(|number| message(&format!("m{number}"))).collect();
    let batches = producer.batches(&messages).expect("batches");
    assert_eq!(batches.len(), 1);
    let receipt = producer.send_batch(&batches[0]).await.expect("sent");
    assert_eq!(receipt.message_id.split(',').count(), 50);
    assert_eq!(
        cluster.brokers[0].bodies("t"),
        (0..50).map(|number| format!("m{number}")).collect::<Vec<_>>()
    );
    let properties = cluster.brokers[0].first_properties("t", receipt.queue_id.to_wire()).expect("stored");
    assert_eq!(properties.get(prop::UNIQ_KEY), Some(&batches[0].message_ids()[0]));
}

#[tokio::test]
async fn one_way_messages_leave() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    for number in 0..20 {
        producer.send_oneway(&message(&format!("m{number}"))).await.expect("sent");
    }
    until("20 messages", || cluster.brokers[0].bodies("t").len() == 20).await;
}

#[tokio::test]
async fn a_dropped_client_stops() {
    let cluster = Cluster::start(&[1]);
    let client = cluster.client().await;
    let producer = client.producer("p", ProducerConfig::default()).await.expect("a producer");
    producer.send(&message("m")).await.expect("sent");
    client.shutdown().await;
    let error = producer.send(&message("m")).await.expect_err("closed");
    assert!(!error.may_have_happened(), "{error:?}");
    assert!(client.producer("q", ProducerConfig::default()).await.is_err());
}
