//! `raftmq bench overload`: what a cluster does when it is asked for many times what it can.
//!
//! First a closed loop finds the capacity, then so many connections offer so many times that, open loop: a message is due
//! whether or not the ones before it were answered. What counts is the *goodput*: messages stored and answered within the
//! time that a client waits. Nothing is sent again. Requests are made by hand, so that the generator costs less than what it
//! loads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use broker::{GROUP_STATUS, GroupReport};
use clap::Args;
use client::{Client, ClientConfig, Message, ProducerConfig};
use serde_json::json;
use wire::{RemotingCommand, RequestCode, SendMessageRequest};

use super::{Common, Usage, usage};
use crate::admin;

#[derive(Args, Clone)]
pub(super) struct Overload {
    #[command(flatten)]
    common: Common,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Sends under way while the capacity is measured
    #[arg(long, default_value_t = 1024)]
    in_flight: usize,
    /// How long the capacity is measured, seconds
    #[arg(long, default_value_t = 10.0)]
    capacity_seconds: f64,
    /// What is offered, in times of the capacity
    #[arg(long, default_value_t = 10.0)]
    times: f64,
    /// Messages per second to take for the capacity, in place of measuring it
    #[arg(long)]
    capacity: Option<f64>,
    /// Connections that offer it
    #[arg(long, default_value_t = 200)]
    connections: usize,
    /// Sends of one connection that wait for their answer, at most
    #[arg(long, default_value_t = 2000)]
    waiting: usize,
}

/// How long a stock client waits for a send.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is due is sent so often.
const TICK: Duration = Duration::from_millis(5);

/// Where messages go: leaders, and a queue of each.
#[derive(Clone)]
struct Target {
    address: String,
    request: RemotingCommand,
}

#[derive(Default)]
struct Counts {
    offered: AtomicU64,
    /// Due while so many of the connection were waiting that it could not be sent.
    held_back: AtomicU64,
    stored: AtomicU64,
    refused: AtomicU64,
    /// No answer in time, or none at all.
    lost: AtomicU64,
    waited_us: AtomicU64,
    /// By code, and the first remark of each.
    reasons: std::sync::Mutex<BTreeMap<i32, (u64, String)>>,
}

/// Counts at one moment.
#[derive(Clone, Copy)]
struct Sums {
    offered: u64,
    held_back: u64,
    stored: u64,
    refused: u64,
    lost: u64,
    waited_us: u64,
}

impl Counts {
    fn sums(&self) -> Sums {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Sums {
            offered: get(&self.offered),
            held_back: get(&self.held_back),
            stored: get(&self.stored),
            refused: get(&self.refused),
            lost: get(&self.lost),
            waited_us: get(&self.waited_us),
        }
    }

    fn answered(&self, answer: Result<RemotingCommand, net::CallError>, took: Duration) {
        let one = |count: &AtomicU64| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        match answer {
            Ok(answer) if answer.code == 0 => {
                one(&self.stored);
                self.waited_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
            }
            Ok(answer) => {
                one(&self.refused);
                if let Ok(mut reasons) = self.reasons.lock() {
                    let reason =
                        reasons.entry(answer.code).or_insert_with(|| (0, answer.remark.unwrap_or_default()));
                    reason.0 += 1;
                }
            }
            Err(_) => one(&self.lost),
        }
    }
}

pub(super) async fn run(args: Overload) -> anyhow::Result<()> {
    let mut config = ClientConfig::from_list(&args.common.cluster.nameserver);
    config.instance = Some(format!("bench-{}-overload", std::process::id()));
    let client = Client::start(config).await?;
    let producer = client.producer("raftmq-bench", ProducerConfig::default()).await?;
    producer.send(&Message::new(args.common.topic.as_str(), "first")).await.context("the first send")?;
    let targets =
        targets(&args, &client, &producer.queues(&args.common.topic.as_str().into()).await?).await?;
    producer.shutdown().await;
    let capacity = match args.capacity {
        Some(capacity) => capacity,
        None => capacity(&args, &targets).await?,
    };
    let terms = terms(&client).await?;
    let peak = Peak::watch(args.common.pids.clone());
    let before = usage(&args.common.pids)?;
    let (sums, seconds, counts) = overload(&args, &targets, capacity).await?;
    let after = usage(&args.common.pids)?;
    let peak = peak.end();
    let elections: u64 = terms_since(&terms, &self::terms(&client).await?);
    client.shutdown().await;
    print(&args, capacity, sums, seconds, &counts, (&before, &after, &peak), elections);
    Ok(())
}

async fn targets(
    args: &Overload,
    client: &Client,
    queues: &[client::MessageQueue],
) -> anyhow::Result<Vec<Target>> {
    let brokers = admin::brokers(client).await?;
    let body = vec![b'x'; args.size];
    let target = |queue: &client::MessageQueue| {
        let (_, addresses) = brokers.get(&queue.broker_name)?;
        let address = addresses.get(&wire::MASTER_ID)?.clone();
        let header = SendMessageRequest {
            producer_group: "raftmq-bench",
            topic: &args.common.topic,
            default_topic: "TBW102",
            default_topic_queue_nums: 4,
            queue_id: queue.queue_id,
            born_timestamp: 1,
            ..SendMessageRequest::default()
        };
        let mut request = RemotingCommand::request(RequestCode::SEND_MESSAGE_V2).with_body(body.clone());
        header.encode_for(RequestCode::SEND_MESSAGE_V2, &mut request.ext);
        Some(Target { address, request })
    };
    let targets: Vec<Target> = queues.iter().filter_map(target).collect();
    anyhow::ensure!(!targets.is_empty(), "no broker of topic {} has a leader", args.common.topic);
    Ok(targets)
}

/// Messages per second in a closed loop.
async fn capacity(args: &Overload, targets: &[Target]) -> anyhow::Result<f64> {
    const CONNECTIONS: usize = 4;
    let counts = Arc::new(Counts::default());
    let start = Instant::now();
    let measure_from = start + Duration::from_secs_f64(args.common.warm_up);
    let end = measure_from + Duration::from_secs_f64(args.capacity_seconds);
    let mut loops = tokio::task::JoinSet::new();
    for n in 0..CONNECTIONS {
        let connection = Arc::new(net::Client::new(net::ClientConfig::default()));
        for m in 0..(args.in_flight / CONNECTIONS).max(1) {
            let (connection, counts) = (connection.clone(), counts.clone());
            let target = targets[(n + m) % targets.len()].clone();
            loops.spawn(async move {
                while Instant::now() < end {
                    let since = Instant::now();
                    let answer = connection.call(&target.address, target.request.clone(), PATIENCE).await;
                    counts.answered(answer, since.elapsed());
                }
            });
        }
    }
    tokio::time::sleep_until(measure_from.into()).await;
    let (from, began) = (Instant::now(), counts.sums());
    tokio::time::sleep_until(end.into()).await;
    let (took, ended) = (from.elapsed(), counts.sums());
    loops.join_all().await;
    anyhow::ensure!(ended.stored > began.stored, "nothing was stored");
    Ok((ended.stored - began.stored) as f64 / took.as_secs_f64())
}

/// Offers `times` the capacity; what came of it while it was measured.
async fn overload(
    args: &Overload,
    targets: &[Target],
    capacity: f64,
) -> anyhow::Result<(Sums, f64, Arc<Counts>)> {
    let counts = Arc::new(Counts::default());
    let start = Instant::now();
    let measure_from = start + Duration::from_secs_f64(args.common.warm_up);
    let end = measure_from + Duration::from_secs_f64(args.common.seconds);
    let each = capacity * args.times / args.connections.max(1) as f64;
    let mut loops = tokio::task::JoinSet::new();
    for n in 0..args.connections.max(1) {
        let (counts, target, waiting) = (counts.clone(), targets[n % targets.len()].clone(), args.waiting);
        loops.spawn(async move { offer(target, counts, each, waiting, start, end).await });
    }
    tokio::time::sleep_until(measure_from.into()).await;
    let (from, began) = (Instant::now(), counts.sums());
    super::wait_until(end, &args.common).await;
    let (took, ended) = (from.elapsed(), counts.sums());
    loops.join_all().await;
    let sums = Sums {
        offered: ended.offered - began.offered,
        held_back: ended.held_back - began.held_back,
        stored: ended.stored - began.stored,
        refused: ended.refused - began.refused,
        lost: ended.lost - began.lost,
        waited_us: ended.waited_us - began.waited_us,
    };
    Ok((sums, took.as_secs_f64(), counts))
}

/// One connection that sends what is due, whatever becomes of it.
async fn offer(
    target: Target,
    counts: Arc<Counts>,
    rate: f64,
    waiting_max: usize,
    start: Instant,
    end: Instant,
) {
    let connection = Arc::new(net::Client::new(net::ClientConfig::default()));
    let waiting = Arc::new(AtomicUsize::new(0));
    let mut tick = tokio::time::interval(TICK);
    let mut made = 0u64;
    while Instant::now() < end {
        tick.tick().await;
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        let new = due.saturating_sub(made);
        made = due;
        let room = waiting_max.saturating_sub(waiting.load(Ordering::Relaxed)) as u64;
        counts.offered.fetch_add(new, Ordering::Relaxed);
        counts.held_back.fetch_add(new.saturating_sub(room), Ordering::Relaxed);
        for _ in 0..new.min(room) {
            waiting.fetch_add(1, Ordering::Relaxed);
            let (connection, counts, waiting) = (connection.clone(), counts.clone(), waiting.clone());
            let (address, request) = (target.address.clone(), target.request.clone());
            tokio::spawn(async move {
                let since = Instant::now();
                let answer = connection.call(&address, request, PATIENCE).await;
                counts.answered(answer, since.elapsed());
                waiting.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

/// The term of each group, as its nodes say.
async fn terms(client: &Client) -> anyhow::Result<BTreeMap<String, u64>> {
    let outside = net::Client::new(net::ClientConfig::default());
    let mut terms = BTreeMap::new();
    for (group, (_, addresses)) in admin::brokers(client).await? {
        for address in addresses.into_values() {
            let request = RemotingCommand::request(RequestCode(GROUP_STATUS));
            // Apache's brokers have no terms; a node that is too busy to say is not the only one.
            let Ok(answer) = outside.call(&address, request, PATIENCE).await else { continue };
            let Ok(report) = serde_json::from_slice::<GroupReport>(&answer.body) else { continue };
            let term = terms.entry(group.clone()).or_insert(0);
            *term = report.term.max(*term);
        }
    }
    Ok(terms)
}

fn terms_since(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> u64 {
    after.iter().map(|(group, term)| term - before.get(group).unwrap_or(term).min(term)).sum()
}

/// The most memory that each process had.
struct Peak {
    watching: tokio::task::JoinHandle<()>,
    most: Arc<std::sync::Mutex<Vec<Usage>>>,
}

impl Peak {
    fn watch(pids: Vec<u32>) -> Peak {
        let most = Arc::new(std::sync::Mutex::new(vec![Usage::default(); pids.len()]));
        let seen = most.clone();
        let watching = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(250));
            loop {
                tick.tick().await;
                let (Ok(now), Ok(mut most)) = (usage(&pids), seen.lock()) else { return };
                for (most, now) in most.iter_mut().zip(now) {
                    most.rss_kib = most.rss_kib.max(now.rss_kib);
                    most.anonymous_kib = most.anonymous_kib.max(now.anonymous_kib);
                }
            }
        });
        Peak { watching, most }
    }

    fn end(self) -> Vec<Usage> {
        self.watching.abort();
        self.most.lock().map(|most| most.clone()).unwrap_or_default()
    }
}

fn print(
    args: &Overload,
    capacity: f64,
    sums: Sums,
    seconds: f64,
    counts: &Counts,
    (before, after, peak): (&[Usage], &[Usage], &[Usage]),
    elections: u64,
) {
    let rate = |count: u64| count as f64 / seconds;
    let goodput = rate(sums.stored);
    let share = goodput / capacity * 100.0;
    let mean_ms = sums.waited_us as f64 / 1000.0 / sums.stored.max(1) as f64;
    let mib = |of: fn(&Usage) -> u64| peak.iter().map(|usage| of(usage) / 1024).collect::<Vec<u64>>();
    let (rss, anonymous) = (mib(|usage| usage.rss_kib), mib(|usage| usage.anonymous_kib));
    let cpu: f64 = after.iter().zip(before).map(|(a, b)| a.cpu_s - b.cpu_s).sum();
    let reasons = counts.reasons.lock().map(|reasons| reasons.clone()).unwrap_or_default();
    if args.common.json {
        println!(
            "{}",
            json!({
                "bench": "overload", "durability": args.common.durability, "seconds": seconds,
                "connections": args.connections, "capacity_per_second": capacity.round(),
                "offered_per_second": rate(sums.offered).round(), "held_back_per_second": rate(sums.held_back).round(),
                "goodput_per_second": goodput.round(), "goodput_percent": share,
                "refused_per_second": rate(sums.refused).round(), "lost_per_second": rate(sums.lost).round(),
                "latency_ms_mean": mean_ms, "elections": elections, "server_cpu_s": cpu,
                "server_rss_mib_max": rss, "server_anonymous_mib_max": anonymous,
                "refusals": reasons.iter().map(|(code, (count, remark))| json!({"code": code, "count": count, "remark": remark})).collect::<Vec<_>>(),
            })
        );
        return;
    }
    println!("overload, {} B over {} connections ({})", args.size, args.connections, args.common.durability);
    println!("  {capacity:>12.0} messages/s capacity");
    println!(
        "  {:>12.0} messages/s offered, {:.0} of them held back by full connections",
        rate(sums.offered),
        rate(sums.held_back)
    );
    println!(
        "  {goodput:>12.0} messages/s stored and answered in time: {share:.0} % of the capacity, {mean_ms:.1} ms mean"
    );
    println!(
        "  {:>12.0} messages/s refused, {:.0} without an answer in time",
        rate(sums.refused),
        rate(sums.lost)
    );
    for (code, (count, remark)) in &reasons {
        println!("               {count} × {code}, the first: {remark}");
    }
    println!("  {elections:>12} elections");
    if !peak.is_empty() {
        println!(
            "  {rss:?} MiB resident at most, {anonymous:?} MiB of it anonymous; {cpu:.1} s of server CPU"
        );
    }
}
