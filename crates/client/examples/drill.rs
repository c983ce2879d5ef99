//! What this crate does against a real cluster, step by step; each step checks what it sees and says
//! so. Run by hand, against Apache RocketMQ or RaftMQ:
//!
//! ```text
//! python3 /work/shared/bench/apache.py --dir /tmp/apache-client --base-port 43000 async -- \
//!     target/debug/examples/drill [steps, such as: sync batch rebalance]
//! ```
//! NAMESRV_ADDR names the cluster.
#![allow(clippy::print_stdout, clippy::too_many_lines)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use client::{
    Assignment, Boundary, Client, ClientConfig, ClientError, ConsumeFrom, ConsumeModel, ConsumerConfig,
    Filter, Message, MessageQueue, Producer, ProducerConfig, PullStatus, QueueOffset, ReceivedMessage,
    SendStatus, Verdict,
};
use wire::{SubscriptionGroupConfig, TopicConfig, perm};

type Outcome = Result<String, ClientError>;

struct Stage {
    nameservers: String,
    client: Client,
    producer: Producer,
    cluster: String,
    /// Sets the names of this run apart.
    run: String,
}

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let nameservers = std::env::var("NAMESRV_ADDR").expect("NAMESRV_ADDR names the cluster");
    let wanted: BTreeSet<String> = std::env::args().skip(1).collect();
    let client = Client::start(ClientConfig::from_list(&nameservers)).await.expect("a client");
    let producer = client.producer("drill_producer", ProducerConfig::default()).await.expect("a producer");
    // A broker registers a few seconds after it listens.
    let started = Instant::now();
    let (cluster, info) = loop {
        let info = client.admin().cluster_info().await.expect("cluster info");
        if let Some(cluster) = info.cluster_addr_table.keys().next().cloned() {
            break (cluster, info);
        }
        assert!(started.elapsed() < Duration::from_mins(1), "no broker has registered");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let stage = Stage { nameservers, client, producer, cluster, run: format!("{seconds}") };
    println!("client {} cluster {} brokers {:?}", stage.client.id(), stage.cluster, info.broker_addr_table);
    let mut failed = 0;
    macro_rules! steps {
        ($($name:ident)*) => {$(
            if wanted.is_empty() || wanted.contains(stringify!($name)) {
                let started = Instant::now();
                let outcome = tokio::time::timeout(Duration::from_secs(150), $name(&stage)).await;
                let took = started.elapsed().as_millis();
                match outcome {
                    Ok(Ok(seen)) => println!("ok    {:12} {took:6} ms  {seen}", stringify!($name)),
                    Ok(Err(error)) => { failed += 1; println!("FAIL  {:12} {took:6} ms  {error}", stringify!($name)) }
                    Err(_) => { failed += 1; println!("FAIL  {:12} {took:6} ms  took too long", stringify!($name)) }
                }
            }
        )*};
    }
    steps!(sync auto_create refused submit oneway batch compressed selector pull tags retry rebalance circle
        broadcast from_when orderly reset admin java_sees_us);
    stage.producer.shutdown().await;
    stage.client.shutdown().await;
    println!(
        "{}",
        if failed == 0 { "all steps passed".to_owned() } else { format!("{failed} steps FAILED") }
    );
    std::process::exit(i32::from(failed > 0));
}

fn wrong(why: impl Into<String>) -> ClientError {
    ClientError::Refused(why.into())
}

fn check(holds: bool, why: impl Into<String>) -> Result<(), ClientError> {
    if holds { Ok(()) } else { Err(wrong(why)) }
}

impl Stage {
    fn name(&self, what: &str) -> String {
        format!("{what}_{}", self.run)
    }

    async fn topic(&self, what: &str, queues: i32) -> Result<String, ClientError> {
        let name = self.name(what);
        let config = TopicConfig::new(&name, queues, perm::READ_WRITE);
        self.client.admin().create_topic(&self.cluster, &config).await?;
        Ok(name)
    }

    async fn another_client(&self) -> Result<Client, ClientError> {
        Client::start(ClientConfig::from_list(&self.nameservers)).await
    }

    async fn fill(&self, topic: &str, count: usize) -> Result<(), ClientError> {
        let mut window = self.producer.window(256);
        for number in 0..count {
            let message = Message::new(topic, format!("m{number}")).tag("x");
            if let Some(((), outcome)) = window.push(message, ()).await {
                outcome?;
            }
        }
        while let Some(((), outcome)) = window.next().await {
            outcome?;
        }
        Ok(())
    }
}

fn from_first() -> ConsumerConfig {
    ConsumerConfig { from: ConsumeFrom::First, ..ConsumerConfig::default() }
}

async fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Result<(), ClientError> {
    let end = Instant::now() + limit;
    while !holds() {
        check(Instant::now() < end, format!("not in {limit:?}: {what}"))?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Bodies seen, and how often.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<HashMap<String, usize>>>);

impl Seen {
    fn add(&self, messages: &[ReceivedMessage]) {
        let mut seen = self.0.lock().expect("no panic");
        for message in messages {
            *seen.entry(String::from_utf8_lossy(message.body()).into_owned()).or_default() += 1;
        }
    }

    fn distinct(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }

    fn total(&self) -> usize {
        self.0.lock().expect("no panic").values().sum()
    }
}

async fn sync(stage: &Stage) -> Outcome {
    let topic = stage.topic("sync", 4).await?;
    let mut per_queue: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for number in 0..40 {
        let receipt =
            stage.producer.send(&Message::new(topic.as_str(), format!("m{number}")).key("k")).await?;
        check(receipt.status == SendStatus::Stored, format!("{:?}", receipt.status))?;
        per_queue.entry(receipt.queue_id.get()).or_default().push(receipt.queue_offset.get());
    }
    check(per_queue.len() == 4, format!("queues used: {per_queue:?}"))?;
    for offsets in per_queue.values() {
        check(*offsets == (0..10).collect::<Vec<_>>(), format!("offsets {offsets:?}"))?;
    }
    Ok("40 sends over 4 queues, each with offsets 0..10".into())
}

async fn auto_create(stage: &Stage) -> Outcome {
    let topic = stage.name("auto");
    let receipt = stage.producer.send(&Message::new(topic.as_str(), "first")).await?;
    let borrowed = stage.producer.queues(&topic.as_str().into()).await?.len();
    let mut real = 0;
    for _ in 0..100 {
        real = stage.client.read_queues(&topic).await.map_or(0, |queues| queues.len());
        if real > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    check(real > 0, "the topic has no route")?;
    Ok(format!(
        "stored at {} offset {}; {borrowed} queues borrowed, {real} real",
        receipt.broker, receipt.queue_offset
    ))
}

async fn refused(stage: &Stage) -> Outcome {
    let send = async |message: Message| match stage.producer.send(&message).await {
        Ok(receipt) => Err(wrong(format!("stored: {receipt:?}"))),
        Err(error) => Ok(error.to_string()),
    };
    let mut told = vec![send(Message::new("a/b", "x")).await?];
    told.push(send(Message::new("RMQ_SYS_TRANS_HALF_TOPIC", "x")).await?);
    told.push(send(Message::new("t", "")).await?);
    told.push(send(Message::new("t", vec![0; 4 * 1024 * 1024 + 1])).await?);
    let topic = stage.topic("refused", 1).await?;
    let nowhere = MessageQueue::new(&topic, "no_such_broker", 0);
    let pinned = stage.producer.send_to(&Message::new(topic.as_str(), "x"), &nowhere).await;
    told.push(pinned.expect_err("no such broker").to_string());
    let queue = stage.producer.queues(&topic.as_str().into()).await?.remove(0);
    let beyond = MessageQueue { queue_id: 99, ..queue };
    told.push(
        stage
            .producer
            .send_to(&Message::new(topic.as_str(), "x"), &beyond)
            .await
            .expect_err("queue 99")
            .to_string(),
    );
    Ok(told.join(" | "))
}

async fn submit(stage: &Stage) -> Outcome {
    let topic = stage.topic("submit", 4).await?;
    let started = Instant::now();
    let mut pending = Vec::new();
    for number in 0..2000 {
        pending.push(stage.producer.submit(Message::new(topic.as_str(), format!("m{number}"))).await?);
    }
    let mut ids = BTreeSet::new();
    for pending in pending {
        ids.insert(pending.await?.message_id);
    }
    check(ids.len() == 2000, format!("{} ids", ids.len()))?;
    let called = Arc::new(AtomicUsize::new(0));
    for number in 0..500 {
        let called = Arc::clone(&called);
        let message = Message::new(topic.as_str(), format!("c{number}"));
        stage
            .producer
            .submit_then(message, move |outcome| drop(outcome.map(|_| called.fetch_add(1, SeqCst))))
            .await?;
    }
    until("500 callbacks", Duration::from_secs(10), || called.load(SeqCst) == 500).await?;
    Ok(format!("2500 asynchronous sends in {} ms", started.elapsed().as_millis()))
}

async fn oneway(stage: &Stage) -> Outcome {
    let topic = stage.topic("oneway", 4).await?;
    for number in 0..200 {
        stage.producer.send_oneway(&Message::new(topic.as_str(), format!("m{number}"))).await?;
    }
    let mut stored = 0;
    for _ in 0..100 {
        let stats = stage.client.admin().topic_stats(&topic).await?;
        stored = stats.offset_table.values().map(|offset| offset.max_offset).sum();
        if stored == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    check(stored == 200, format!("{stored} of 200 stored"))?;
    Ok("200 one-way sends stored".into())
}

async fn batch(stage: &Stage) -> Outcome {
    let topic = stage.topic("batch", 2).await?;
    let messages: Vec<_> = (0..500)
        .map(|number| {
            Message::new(topic.as_str(), format!("b{number}")).tag("b").key(&format!("key{number}"))
        })
        .collect();
    let mut window = stage.producer.window(8);
    let mut count = 0;
    for batch in stage.producer.batches(&messages)? {
        count += 1;
        let _ = window.push_batch(batch, ()).await;
    }
    let mut ids = 0;
    while let Some(((), outcome)) = window.next().await {
        ids += outcome?.offset_message_id.split(',').count();
    }
    check(ids == 500, format!("{ids} offset ids"))?;
    let big: Vec<_> = (0..9).map(|_| Message::new(topic.as_str(), vec![7; 1024 * 1024])).collect();
    let batches = stage.producer.batches(&big)?;
    for batch in &batches {
        stage.producer.send_batch(batch).await?;
    }
    let consumer = stage.client.pull_consumer(&stage.name("batch_group")).await?;
    let mut bodies = BTreeSet::new();
    for queue in consumer.queues(&topic).await? {
        loop {
            let pulled = consumer.poll(&queue, &Filter::tags("b")?, 32, None).await?;
            bodies.extend(
                pulled.messages.iter().map(|message| String::from_utf8_lossy(message.body()).into_owned()),
            );
            if pulled.status == PullStatus::NoNewMessages {
                break;
            }
        }
    }
    consumer.shutdown().await;
    check(bodies.len() == 500, format!("{} of 500 bodies", bodies.len()))?;
    Ok(format!("500 messages in {count} batch, 9 MiB in {} batches, all read back", batches.len()))
}

async fn compressed(stage: &Stage) -> Outcome {
    let topic = stage.topic("compressed", 1).await?;
    let config = ProducerConfig { compress_from_bytes: Some(4096), ..ProducerConfig::default() };
    let producer = stage.client.producer("drill_compressing", config).await?;
    let body = "abcdefgh".repeat(10_000);
    producer.send(&Message::new(topic.as_str(), body.clone())).await?;
    producer.shutdown().await;
    let consumer = stage.client.pull_consumer(&stage.name("compressed_group")).await?;
    let queue = consumer.queues(&topic).await?.remove(0);
    let pulled = consumer.pull(&queue, QueueOffset(0), &Filter::all(), 1, None).await?;
    consumer.shutdown().await;
    let message = &pulled.messages[0];
    check(message.body()[..] == *body.as_bytes(), "the body is another")?;
    check(message.record_bytes() < 2000, format!("record of {} bytes", message.record_bytes()))?;
    Ok(format!("80,000 bytes stored in {}", message.record_bytes()))
}

async fn selector(stage: &Stage) -> Outcome {
    let topic = stage.topic("selector", 8).await?;
    let mut queues = BTreeSet::new();
    for number in 0..10 {
        let message = Message::new(topic.as_str(), format!("m{number}"));
        queues.insert(stage.producer.send_by_key(&message, "order-1").await?.queue());
    }
    check(queues.len() == 1, format!("{queues:?}"))?;
    let last = stage.producer.send_by(&Message::new(topic.as_str(), "x"), |queues| queues.len() - 1).await?;
    check(last.queue_id.get() == 7, format!("{last:?}"))?;
    Ok(format!("10 sends by key to queue {}", queues.first().map_or(0, |queue| queue.queue_id)))
}

async fn pull(stage: &Stage) -> Outcome {
    let topic = stage.topic("pull", 1).await?;
    let consumer = stage.client.pull_consumer(&stage.name("pull_group")).await?;
    let queue = consumer.queues(&topic).await?.remove(0);
    check(consumer.earliest_store_time_ms(&queue).await?.is_none(), "an empty queue has a store time")?;
    let held = Instant::now();
    let empty =
        consumer.pull(&queue, QueueOffset(0), &Filter::all(), 32, Some(Duration::from_secs(2))).await?;
    let held = held.elapsed();
    check(
        empty.status == PullStatus::NoNewMessages && held > Duration::from_secs(1),
        format!("{empty:?} in {held:?}"),
    )?;
    // A held pull is answered by the message that arrives.
    let everything = Filter::all();
    let waiting = consumer.pull(&queue, QueueOffset(0), &everything, 32, Some(Duration::from_secs(10)));
    let send = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let sent = Instant::now();
        stage.producer.send(&Message::new(topic.as_str(), "m0")).await.map(|_| sent)
    };
    let (pulled, sent) = tokio::join!(waiting, send);
    let latency = sent?.elapsed();
    check(pulled?.messages.len() == 1, "the held pull brought no message")?;
    let middle = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64 + 50;
    tokio::time::sleep(Duration::from_millis(120)).await;
    stage.fill(&topic, 99).await?;
    let (min, max) = (consumer.min_offset(&queue).await?, consumer.max_offset(&queue).await?);
    check((min, max) == (QueueOffset(0), QueueOffset(100)), format!("{min} {max}"))?;
    let found = consumer.search_offset(&queue, middle, Boundary::First).await?;
    check(found == QueueOffset(1), format!("search by time found {found}"))?;
    consumer.seek(&queue, QueueOffset(40))?;
    let mut offsets = Vec::new();
    while offsets.len() < 60 {
        let pulled = consumer.poll(&queue, &Filter::all(), 32, None).await?;
        offsets.extend(pulled.messages.iter().map(|message| message.offset().get()));
    }
    check(offsets == (40..100).collect::<Vec<_>>(), format!("{offsets:?}"))?;
    // Apache answers 0 for a group without an offset while the queue is young (protocol.md 3.3, code 14).
    let fresh = consumer.committed(&queue).await?;
    check(fresh.is_none_or(|offset| offset == QueueOffset(0)), format!("{fresh:?} is stored"))?;
    consumer.commit(&queue, QueueOffset(77)).await?;
    check(consumer.committed(&queue).await? == Some(QueueOffset(77)), "another offset is stored")?;
    let beyond = consumer.pull(&queue, QueueOffset(5000), &Filter::all(), 32, None).await?;
    check(
        beyond.status == PullStatus::OffsetIllegal && beyond.next == QueueOffset(100),
        format!("{beyond:?}"),
    )?;
    consumer.shutdown().await;
    Ok(format!(
        "long poll answered {latency:?} after the send; seek, search, commit, illegal offset as expected"
    ))
}

async fn tags(stage: &Stage) -> Outcome {
    let topic = stage.topic("tags", 4).await?;
    // "Aa" and "BB" have one hash: the broker lets both pass.
    for number in 0..300 {
        let tag = ["Aa", "BB", "C"][number % 3];
        stage.producer.submit(Message::new(topic.as_str(), format!("{tag}{number}")).tag(tag)).await?.await?;
    }
    let seen = Seen::default();
    let listener_seen = seen.clone();
    let consumer = stage
        .client
        .push_consumer(&stage.name("tags_group"), from_first())?
        .subscribe(&topic, Filter::tags("Aa || C")?)
        .listen(move |messages| {
            listener_seen.add(&messages);
            async { Verdict::Success }
        })
        .await?;
    until("200 messages", Duration::from_secs(30), || seen.distinct() >= 200).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    check(seen.distinct() == 200 && seen.total() == 200, format!("{} / {}", seen.distinct(), seen.total()))?;
    check(!seen.0.lock().expect("no panic").keys().any(|body| body.starts_with("BB")), "a BB came through")?;
    let group = consumer.group().to_owned();
    consumer.shutdown().await;
    let stats = stage.client.admin().consume_stats(&group, Some(&topic)).await?;
    let behind: i64 =
        stats.offset_table.values().map(|offset| offset.broker_offset - offset.consumer_offset).sum();
    check(behind == 0, format!("{behind} behind after shutdown: {stats:?}"))?;
    Ok("200 of 300 by exact tag, offsets stored at shutdown, nothing behind".into())
}

async fn retry(stage: &Stage) -> Outcome {
    let topic = stage.topic("retry", 1).await?;
    let group = stage.name("retry_group");
    stage
        .client
        .admin()
        .update_group(
            &stage.cluster,
            &SubscriptionGroupConfig { group_name: group.clone(), ..SubscriptionGroupConfig::default() },
        )
        .await?;
    let receipt = stage.producer.send(&Message::new(topic.as_str(), "again").key("k")).await?;
    /// Times consumed before, topic, id, and when it came.
    type Attempt = (i32, String, String, Instant);
    let attempts: Arc<Mutex<Vec<Attempt>>> = Arc::default();
    let listener = Arc::clone(&attempts);
    let consumer = stage
        .client
        .push_consumer(&group, from_first())?
        .subscribe(&topic, Filter::all())
        .listen(move |messages| {
            let mut attempts = listener.lock().expect("no panic");
            for message in &messages {
                let (topic, id) = (message.topic().to_owned(), message.message_id());
                attempts.push((message.reconsume_times(), topic, id, Instant::now()));
            }
            let first = attempts.len() == 1;
            async move { if first { Verdict::LaterAtLevel(1) } else { Verdict::Success } }
        })
        .await?;
    until("a second attempt", Duration::from_mins(1), || attempts.lock().expect("no panic").len() >= 2)
        .await?;
    consumer.shutdown().await;
    let attempts = attempts.lock().expect("no panic").clone();
    check(attempts[1].0 == 1 && attempts[1].1 == topic, format!("{attempts:?}"))?;
    check(attempts.iter().all(|attempt| attempt.2 == receipt.message_id), "another message id")?;
    Ok(format!("second attempt after {:?}, under the original topic and id", attempts[1].3 - attempts[0].3))
}

async fn two_consumers(stage: &Stage, what: &str, assignment: Assignment) -> Outcome {
    let topic = stage.topic(what, 8).await?;
    let group = stage.name(&format!("{what}_group"));
    let start = async |client: &Client, seen: &Seen| {
        let seen = seen.clone();
        client
            .push_consumer(&group, ConsumerConfig { assignment, ..from_first() })?
            .subscribe(&topic, Filter::all())
            .listen(move |messages| {
                seen.add(&messages);
                async { Verdict::Success }
            })
            .await
    };
    let own = |queues: Vec<MessageQueue>| -> Vec<i32> {
        queues.into_iter().filter(|queue| queue.topic == topic).map(|queue| queue.queue_id).collect()
    };
    let (seen, other_seen) = (Seen::default(), Seen::default());
    let one = start(&stage.client, &seen).await?;
    until("8 queues", Duration::from_secs(10), || own(one.assigned()).len() == 8).await?;
    stage.fill(&topic, 1000).await?;
    until("1000 messages", Duration::from_secs(20), || seen.distinct() == 1000).await?;
    let other_client = stage.another_client().await?;
    let joined = Instant::now();
    let two = start(&other_client, &other_seen).await?;
    until("4 queues each", Duration::from_secs(30), || {
        own(one.assigned()).len() == 4 && own(two.assigned()).len() == 4
    })
    .await?;
    let balanced = joined.elapsed();
    let shares = [own(one.assigned()), own(two.assigned())];
    let expect = match assignment {
        Assignment::Averagely => [vec![0, 1, 2, 3], vec![4, 5, 6, 7]],
        Assignment::AveragelyByCircle => [vec![0, 2, 4, 6], vec![1, 3, 5, 7]],
    };
    let mut sorted = shares.clone();
    sorted.sort();
    check(sorted == expect, format!("{shares:?}"))?;
    let before = (seen.total(), other_seen.total());
    for number in 0..1000 {
        stage.producer.submit(Message::new(topic.as_str(), format!("second{number}"))).await?.await?;
    }
    let second = || {
        let of = |seen: &Seen| {
            seen.0.lock().expect("no panic").keys().filter(|body| body.starts_with("second")).count()
        };
        (of(&seen), of(&other_seen))
    };
    until("1000 more", Duration::from_secs(20), || second().0 + second().1 >= 1000).await?;
    let (first_part, second_part) = second();
    // Not exactly half each: a send that took long makes the only broker unavailable for a while, and then
    // its queues take turns by another count.
    check(first_part.abs_diff(second_part) < 100, format!("{first_part} and {second_part}"))?;
    let left = Instant::now();
    two.shutdown().await;
    other_client.shutdown().await;
    until("8 queues again", Duration::from_secs(30), || own(one.assigned()).len() == 8).await?;
    let taken = left.elapsed();
    one.shutdown().await;
    let repeated = before.1 + (seen.total() + other_seen.total()) - before.1 - 2000;
    Ok(format!(
        "{shares:?} after {balanced:?}, {first_part} and {second_part} messages, all 8 back {taken:?} after one left, {repeated} repeated"
    ))
}

async fn rebalance(stage: &Stage) -> Outcome {
    two_consumers(stage, "rebalance", Assignment::Averagely).await
}

async fn circle(stage: &Stage) -> Outcome {
    two_consumers(stage, "circle", Assignment::AveragelyByCircle).await
}

async fn broadcast(stage: &Stage) -> Outcome {
    let topic = stage.topic("broadcast", 4).await?;
    let group = stage.name("broadcast_group");
    let dir = tempfile::tempdir().expect("a directory");
    let config = || ConsumerConfig {
        model: ConsumeModel::Broadcasting,
        offset_dir: Some(dir.path().to_owned()),
        ..from_first()
    };
    let named = |instance: &str| ClientConfig {
        instance: Some(instance.into()),
        ..ClientConfig::from_list(&stage.nameservers)
    };
    let clients = [Client::start(named("one")).await?, Client::start(named("two")).await?];
    stage.fill(&topic, 200).await?;
    let mut counts = Vec::new();
    for round in 0..2 {
        let mut consumers = Vec::new();
        for client in &clients {
            let seen = Seen::default();
            let listener_seen = seen.clone();
            let consumer = client
                .push_consumer(&group, config())?
                .subscribe(&topic, Filter::all())
                .listen(move |messages| {
                    listener_seen.add(&messages);
                    async { Verdict::Success }
                })
                .await?;
            consumers.push((consumer, seen));
        }
        if round == 1 {
            // The second start goes on where the first one stopped.
            stage.producer.send(&Message::new(topic.as_str(), "late")).await?;
        }
        let expect = if round == 0 { 200 } else { 1 };
        for (_, seen) in &consumers {
            until("every member has every message", Duration::from_secs(20), || seen.distinct() >= expect)
                .await?;
        }
        for (consumer, seen) in consumers {
            consumer.shutdown().await;
            counts.push(seen.total());
        }
    }
    for client in &clients {
        client.shutdown().await;
    }
    check(counts == [200, 200, 1, 1], format!("{counts:?}"))?;
    Ok(format!("messages per member, before and after a restart: {counts:?}"))
}

async fn from_when(stage: &Stage) -> Outcome {
    let topic = stage.topic("from", 2).await?;
    stage.fill(&topic, 50).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let middle = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    tokio::time::sleep(Duration::from_millis(50)).await;
    for number in 0..30 {
        stage.producer.send(&Message::new(topic.as_str(), format!("n{number}"))).await?;
    }
    let mut counts = Vec::new();
    let starts = [ConsumeFrom::First, ConsumeFrom::Timestamp(middle), ConsumeFrom::Last];
    for (number, from) in starts.into_iter().enumerate() {
        let seen = Seen::default();
        let listener_seen = seen.clone();
        let consumer = stage
            .client
            .push_consumer(
                &stage.name(&format!("from{number}")),
                ConsumerConfig { from, ..ConsumerConfig::default() },
            )?
            .subscribe(&topic, Filter::all())
            .listen(move |messages| {
                listener_seen.add(&messages);
                async { Verdict::Success }
            })
            .await?;
        until("queues", Duration::from_secs(10), || {
            consumer.assigned().iter().filter(|queue| queue.topic == topic).count() == 2
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        counts.push(seen.distinct());
        consumer.shutdown().await;
    }
    // Apache answers a new group with 0 while a young queue is still in memory whole (protocol.md 3.3,
    // code 14), whatever the group asked for.
    check(counts[0] == 80, format!("{counts:?}"))?;
    Ok(format!("first, timestamp, last: {counts:?} of 80"))
}

async fn orderly(stage: &Stage) -> Outcome {
    let topic = stage.topic("orderly", 4).await?;
    let group = stage.name("orderly_group");
    for number in 0..400 {
        let message = Message::new(topic.as_str(), format!("{number}"));
        stage.producer.send_by(&message, |queues| number % queues.len()).await?;
    }
    let orders: Arc<Mutex<BTreeMap<i32, Vec<u64>>>> = Arc::default();
    let refusals = Arc::new(AtomicUsize::new(0));
    let start = async |client: &Client| {
        let (orders, refusals) = (Arc::clone(&orders), Arc::clone(&refusals));
        client
            .push_consumer(&group, from_first())?
            .subscribe(&topic, Filter::all())
            .listen_orderly(move |messages| {
                let (orders, refusals) = (Arc::clone(&orders), Arc::clone(&refusals));
                async move {
                    // Fails once, at a message in the middle of queue 2.
                    if messages[0].body()[..] == *b"202" && refusals.fetch_add(1, SeqCst) == 0 {
                        return Verdict::Later;
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    let mut orders = orders.lock().expect("no panic");
                    for message in &messages {
                        orders.entry(message.queue().queue_id).or_default().push(message.offset().get());
                    }
                    Verdict::Success
                }
            })
            .await
    };
    let one = start(&stage.client).await?;
    let other_client = stage.another_client().await?;
    let two = start(&other_client).await?;
    let distinct = || {
        let orders = orders.lock().expect("no panic");
        orders.values().map(|offsets| offsets.iter().collect::<BTreeSet<_>>().len()).sum::<usize>()
    };
    until("400 messages", Duration::from_secs(90), || distinct() == 400).await?;
    let shares = (one.assigned().len(), two.assigned().len());
    two.shutdown().await;
    other_client.shutdown().await;
    one.shutdown().await;
    let orders = orders.lock().expect("no panic").clone();
    let mut repeated = 0;
    for (queue, offsets) in &orders {
        // At least once: a handover may repeat, never skip.
        let mut highest = None;
        for offset in offsets {
            match highest {
                Some(highest) if *offset <= highest => repeated += 1,
                Some(highest) => check(*offset == highest + 1, format!("queue {queue} skips to {offset}"))?,
                None => check(*offset == 0, format!("queue {queue} begins at {offset}"))?,
            }
            highest = highest.max(Some(*offset));
        }
    }
    Ok(format!(
        "400 messages in order, {} refused once, {repeated} repeated at handover, queues {shares:?}",
        refusals.load(SeqCst) - 1
    ))
}

async fn reset(stage: &Stage) -> Outcome {
    // A position far beyond the end: the broker answers 21 and the consumer begins where it says.
    let topic = stage.topic("reset", 1).await?;
    let group = stage.name("reset_group");
    stage.fill(&topic, 10).await?;
    let pull = stage.client.pull_consumer(&group).await?;
    let queue = pull.queues(&topic).await?.remove(0);
    pull.commit(&queue, QueueOffset(4)).await?;
    pull.shutdown().await;
    let seen = Seen::default();
    let listener_seen = seen.clone();
    let consumer = stage
        .client
        .push_consumer(&group, from_first())?
        .subscribe(&topic, Filter::all())
        .listen(move |messages| {
            listener_seen.add(&messages);
            async { Verdict::Success }
        })
        .await?;
    until("6 messages", Duration::from_secs(10), || seen.distinct() == 6).await?;
    // As mqadmin resetOffsetByTime does: the broker hands the new offset out with the next pull.
    let header = wire::ResetOffsetRequest {
        group: group.clone(),
        topic: topic.clone(),
        queue_id: -1,
        offset: None,
        timestamp: 0,
        is_force: true,
    };
    let address = stage.client.admin().masters(&stage.cluster).await?.remove(0);
    let raw = net::Client::new(net::ClientConfig::default());
    let request =
        wire::RemotingCommand::request(wire::RequestCode::INVOKE_BROKER_TO_RESET_OFFSET).with_header(&header);
    let answer = raw
        .call(&address, request, Duration::from_secs(3))
        .await
        .map_err(|error| wrong(error.to_string()))?;
    check(answer.code == 0, format!("{answer:?}"))?;
    let asked = Instant::now();
    until("all 10 again", Duration::from_secs(40), || seen.distinct() == 10).await?;
    let took = asked.elapsed();
    consumer.shutdown().await;
    Ok(format!("began at the stored offset 4; reset to the start took {took:?}; {} deliveries", seen.total()))
}

async fn admin(stage: &Stage) -> Outcome {
    let admin = stage.client.admin();
    let topic = stage.topic("admin", 3).await?;
    let receipt = stage
        .producer
        .send(&Message::new(topic.as_str(), "hello").tag("a").key("order-1").property("p", "v"))
        .await?;
    let route = admin.topic_route(&topic).await?.ok_or_else(|| wrong("no route"))?;
    check(route.queue_datas[0].write_queue_nums == 3, format!("{route:?}"))?;
    check(admin.topic_list().await?.topic_list.contains(&topic), "the topic is not listed")?;
    let viewed = admin.view_message(&receipt.offset_message_id).await?;
    check(
        viewed.message_id() == receipt.message_id && viewed.property("p") == Some("v"),
        format!("{viewed:?}"),
    )?;
    let (mut by_key, mut by_id) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        by_key = admin.query_by_key(&topic, "order-1", 0, u64::MAX, 10).await?;
        by_id = admin.query_by_unique_id(&topic, &receipt.message_id).await?;
        if !by_key.is_empty() && !by_id.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    check(by_key.len() == 1 && by_id.len() == 1, format!("{} by key, {} by id", by_key.len(), by_id.len()))?;
    let address = admin.masters(&stage.cluster).await?.remove(0);
    let runtime = admin.broker_runtime_info(&address).await?;
    let group = stage.name("admin_group");
    let consumer = stage
        .client
        .push_consumer(&group, from_first())?
        .subscribe(&topic, Filter::all())
        .listen(|_| async { Verdict::Success })
        .await?;
    until("queues", Duration::from_secs(10), || !consumer.assigned().is_empty()).await?;
    let connection = admin.consumer_connection(&group).await?;
    check(
        connection.connection_set.iter().any(|one| one.client_id == stage.client.id()),
        format!("{connection:?}"),
    )?;
    consumer.shutdown().await;
    Ok(format!(
        "{} runtime keys, version {:?}, language {}",
        runtime.len(),
        runtime.get("brokerVersionDesc"),
        connection.connection_set[0].language
    ))
}

/// What a tool asks a consumer through its broker: 307, 309, 221's relatives.
async fn java_sees_us(stage: &Stage) -> Outcome {
    let topic = stage.topic("seen", 2).await?;
    let group = stage.name("seen_group");
    let receipt = stage.producer.send(&Message::new(topic.as_str(), "direct")).await?;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let consumer = stage
        .client
        .push_consumer(&group, from_first())?
        .subscribe(&topic, Filter::all())
        .listen(move |_| {
            counted.fetch_add(1, SeqCst);
            async { Verdict::Success }
        })
        .await?;
    until("the message", Duration::from_secs(10), || calls.load(SeqCst) == 1).await?;
    let address = stage.client.admin().masters(&stage.cluster).await?.remove(0);
    let raw = net::Client::new(net::ClientConfig::default());
    let call = async |request| {
        raw.call(&address, request, Duration::from_secs(5)).await.map_err(|error| wrong(error.to_string()))
    };
    let info = wire::GetConsumerRunningInfoRequest {
        consumer_group: group.clone(),
        client_id: stage.client.id().into(),
        jstack_enable: false,
    };
    let info =
        call(wire::RemotingCommand::request(wire::RequestCode::GET_CONSUMER_RUNNING_INFO).with_header(&info))
            .await?;
    check(info.code == 0, format!("307: {info:?}"))?;
    let json = wire::standardise(&info.body).map_err(|error| wrong(error.to_string()))?;
    let direct = wire::ConsumeMessageDirectlyRequest {
        consumer_group: group.clone(),
        client_id: Some(stage.client.id().into()),
        msg_id: Some(receipt.offset_message_id.clone()),
        broker_name: Some(receipt.broker.to_string()),
        topic: Some(topic.clone()),
        topic_sys_flag: None,
        group_sys_flag: None,
    };
    let direct = call(
        wire::RemotingCommand::request(wire::RequestCode::CONSUME_MESSAGE_DIRECTLY).with_header(&direct),
    )
    .await?;
    check(direct.code == 0 && calls.load(SeqCst) == 2, format!("309: {direct:?}"))?;
    let result = String::from_utf8_lossy(&direct.body).into_owned();
    let stay = std::env::var("DRILL_STAY_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    if stay > 0 {
        println!("      consumer of group {group} stays for {stay} s");
        tokio::time::sleep(Duration::from_secs(stay)).await;
    }
    consumer.shutdown().await;
    Ok(format!("307 gives {} bytes of JSON, 309 {result}", json.len()))
}
