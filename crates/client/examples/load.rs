//! Sends as fast as a window allows, or at a rate, and prints each second what happened: what the
//! crate costs, and what a producer sees while servers fail.
//!
//! ```text
//! NAMESRV_ADDR=… load [--topic T] [--window 1024] [--rate MSG/S] [--bytes 1024] [--seconds 10] [--threads 1]
//!                     [--consume] [--sink]
//! ```
//! `--consume` runs a push consumer beside it and looks for lost and repeated messages. `--sink` starts
//! no client but a nameserver and a broker that only answer sends, to measure the client alone.
#![allow(clippy::print_stdout)]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::{Client, ClientConfig, ConsumeFrom, ConsumerConfig, Filter, Message, ProducerConfig, Verdict};
use net::{Handler, Listeners, Replier, Server, ServerConfig};
use wire::{
    Body, BrokerData, Header, QueueData, RemotingCommand, RequestCode, ResponseCode, SendMessageResponse,
    TopicRouteData,
};

struct Options {
    topic: String,
    window: usize,
    rate: Option<f64>,
    bytes: usize,
    seconds: u64,
    threads: usize,
    consume: bool,
    sink: bool,
}

fn options() -> Options {
    let mut options = Options {
        topic: "load".into(),
        window: 1024,
        rate: None,
        bytes: 1024,
        seconds: 10,
        threads: 1,
        consume: false,
        sink: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().expect("a value");
        match word.as_str() {
            "--topic" => options.topic = value(),
            "--window" => options.window = value().parse().expect("a number"),
            "--rate" => options.rate = Some(value().parse().expect("a number")),
            "--bytes" => options.bytes = value().parse().expect("a number"),
            "--seconds" => options.seconds = value().parse().expect("a number"),
            "--threads" => options.threads = value().parse().expect("a number"),
            "--consume" => options.consume = true,
            "--sink" => options.sink = true,
            other => panic!("unknown option {other}"),
        }
    }
    options
}

fn main() {
    let options = options();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut builder = if options.threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(options.threads);
        builder
    };
    let runtime = builder.enable_all().build().expect("a runtime");
    if options.sink { runtime.block_on(sink()) } else { runtime.block_on(load(options)) }
}

/// User and system time of this process, in microseconds.
fn cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<u64>().expect("a number");
    (ticks(11) + ticks(12)) * 10_000
}

#[derive(Default)]
struct Second {
    stored: u64,
    failed: u64,
    worst_ms: u64,
    attempts: u64,
}

async fn load(options: Options) {
    let nameservers = std::env::var("NAMESRV_ADDR").expect("NAMESRV_ADDR names the cluster");
    let client = Client::start(ClientConfig::from_list(&nameservers)).await.expect("a client");
    let producer = client.producer("load", ProducerConfig::default()).await.expect("a producer");
    let received: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
    let consumer = if options.consume {
        let received = Arc::clone(&received);
        let config = ConsumerConfig { from: ConsumeFrom::Last, batch: 32, ..ConsumerConfig::default() };
        let builder = client.push_consumer(&format!("load_{}", std::process::id()), config).expect("a group");
        // The topic must be there for the consumer to begin at its end.
        producer.send(&Message::new(options.topic.as_str(), "first")).await.expect("sent");
        let consumer = builder
            .subscribe(&options.topic, Filter::all())
            .listen(move |messages| {
                let mut received = received.lock().expect("no panic");
                for message in &messages {
                    if let Some(number) = message.property("n").and_then(|text| text.parse().ok()) {
                        *received.entry(number).or_default() += 1;
                    }
                }
                async { Verdict::Success }
            })
            .await
            .expect("a consumer");
        // A queue that is taken up later begins after what was sent to it meanwhile.
        loop {
            let queues = client.read_queues(&options.topic).await.unwrap_or_default();
            let assigned = consumer.assigned();
            if !queues.is_empty() && queues.iter().all(|queue| assigned.contains(queue)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(consumer)
    } else {
        None
    };
    let body = bytes::Bytes::from(vec![b'x'; options.bytes]);
    let mut window = producer.window(options.window);
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    let mut acknowledged = Vec::new();
    let mut latencies = Vec::new();
    let (mut total, mut second) = (0, Second::default());
    let (started, cpu_before) = (Instant::now(), cpu_us());
    let mut next_report = Duration::from_secs(1);
    let mut longest_gap = Duration::ZERO;
    let mut last_stored = Instant::now();
    let mut number = 0_u64;
    let mut is_over = false;
    loop {
        is_over |= started.elapsed() >= Duration::from_secs(options.seconds);
        let is_due = options.rate.is_none_or(|rate| started.elapsed().as_secs_f64() * rate >= number as f64);
        let outcome = if is_over {
            window.next().await
        } else if is_due {
            let message = Message::new(options.topic.as_str(), body.clone());
            let message = if options.consume { message.property("n", &number.to_string()) } else { message };
            let tag = (number, Instant::now());
            number += 1;
            window.push(message, tag).await
        } else {
            // Until the next is due, outcomes may come.
            tokio::time::timeout(Duration::from_millis(1), window.next()).await.unwrap_or_default()
        };
        match outcome {
            None if is_over => break,
            None if !is_due && window.is_empty() => tokio::time::sleep(Duration::from_micros(200)).await,
            None => {}
            Some(((number, sent), Ok(receipt))) => {
                let latency = sent.elapsed();
                second.worst_ms = second.worst_ms.max(latency.as_millis() as u64);
                second.stored += 1;
                second.attempts += u64::from(receipt.attempts);
                latencies.push(latency.as_micros() as u32);
                longest_gap = longest_gap.max(last_stored.elapsed());
                last_stored = Instant::now();
                if options.consume {
                    acknowledged.push(number);
                }
            }
            Some((_, Err(error))) => {
                second.failed += 1;
                *errors.entry(error.to_string().chars().take(120).collect()).or_default() += 1;
            }
        }
        if started.elapsed() >= next_report {
            let Second { stored, failed, worst_ms, attempts } = second;
            println!(
                "{:4} s  {stored:7} stored {failed:5} failed  worst {worst_ms:5} ms  {} retries",
                next_report.as_secs(),
                attempts - stored
            );
            total += stored;
            second = Second::default();
            next_report += Duration::from_secs(1);
        }
    }
    total += second.stored;
    let seconds = started.elapsed().as_secs_f64();
    let cpu = cpu_us() - cpu_before;
    latencies.sort_unstable();
    let at = |share: f64| {
        latencies.get((latencies.len() as f64 * share) as usize).map_or(0.0, |us| f64::from(*us) / 1000.0)
    };
    println!(
        "{total} stored in {seconds:.1} s: {:.0}/s, {:.1} us CPU each; p50 {:.2} ms p99 {:.2} ms p99.9 {:.2} ms; longest gap {longest_gap:?}",
        total as f64 / seconds,
        cpu as f64 / total.max(1) as f64,
        at(0.5),
        at(0.99),
        at(0.999)
    );
    for (error, count) in &errors {
        println!("{count:6} × {error}");
    }
    if let Some(consumer) = consumer {
        let missing = || {
            let received = received.lock().expect("no panic");
            acknowledged.iter().filter(|number| !received.contains_key(number)).count()
        };
        let end = Instant::now() + Duration::from_secs(40);
        while missing() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let lost = missing();
        if lost > 0 {
            let received = received.lock().expect("no panic");
            let numbers: Vec<_> =
                acknowledged.iter().filter(|number| !received.contains_key(number)).take(50).collect();
            println!("lost: {numbers:?}");
        }
        let (distinct, deliveries) = {
            let received = received.lock().expect("no panic");
            (received.len(), received.values().map(|count| *count as usize).sum::<usize>())
        };
        println!(
            "{} acknowledged, {distinct} received, {lost} lost, {} repeated",
            acknowledged.len(),
            deliveries - distinct
        );
        consumer.shutdown().await;
    }
    producer.shutdown().await;
    client.shutdown().await;
}

/// Answers routes and sends.
struct Sink(std::sync::OnceLock<String>);

impl Handler for Sink {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        let mut response = RemotingCommand::request(RequestCode(ResponseCode::SUCCESS.get()));
        response.flag = 1;
        match request.request_code() {
            RequestCode::GET_ROUTEINFO_BY_TOPIC => {
                let address = self.0.get().expect("bound").clone();
                let route = TopicRouteData {
                    broker_datas: vec![BrokerData {
                        broker_addrs: [(0, address)].into(),
                        broker_name: "sink".into(),
                        ..BrokerData::default()
                    }],
                    queue_datas: vec![QueueData {
                        broker_name: "sink".into(),
                        perm: 6,
                        read_queue_nums: 8,
                        topic_sys_flag: 0,
                        write_queue_nums: 8,
                    }],
                    ..TopicRouteData::default()
                };
                response = response.with_body(route.encode());
            }
            RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE => {
                let header = SendMessageResponse {
                    msg_id: "7F00000100002A9F0000000000000000".into(),
                    queue_id: 0,
                    queue_offset: 1,
                    transaction_id: None,
                    batch_uniq_id: None,
                    recall_handle: None,
                };
                header.encode(&mut response.ext);
            }
            _ => {}
        }
        replier.send(response);
    }
}

async fn sink() {
    let sink = Arc::new(Sink(std::sync::OnceLock::new()));
    let address = "127.0.0.1:0".parse().expect("an address");
    let listeners = Listeners::new().bind("main", address).expect("bound");
    let address = listeners.addresses()[0].address.to_string();
    sink.0.set(address.clone()).expect("once");
    let _server = Server::start(ServerConfig::default(), listeners, sink).expect("started");
    println!("{address}");
    let _ = tokio::signal::ctrl_c().await;
}
