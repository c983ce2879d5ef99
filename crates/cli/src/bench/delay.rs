//! `raftmq bench delay`: timer messages that fall due at a rate: how late they are received, whether any is early, missing or
//! there twice, and what waiting messages cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use client::{Client, ClientConfig, ConsumeFrom, ConsumerConfig, Filter, Message, ProducerConfig, Verdict};
use hdrhistogram::Histogram;
use serde_json::json;

use super::{Usage, usage, wall_clock};
use crate::ClusterArgs;

#[derive(Args, Clone)]
pub(super) struct DelayArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[arg(short, long, default_value = "bench-delay")]
    topic: String,
    /// Messages that fall due
    #[arg(long, default_value_t = 100_000)]
    count: u64,
    /// How many of them fall due in a second
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Seconds from the start until the first is due: all must be stored by then
    #[arg(long, default_value_t = 30.0)]
    lead: f64,
    /// Send so many more first that are due in a day, and print what they take of the servers' memory
    #[arg(long, default_value_t = 0)]
    pending: u64,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Sends under way at a time
    #[arg(long, default_value_t = 1024)]
    in_flight: usize,
    /// Process ids of the servers, to print their CPU time per message and memory
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    #[arg(long)]
    json: bool,
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    wall_clock().as_millis() as u64
}

/// What a listener saw.
struct Seen {
    /// By number: how often each was received.
    times: Vec<AtomicU64>,
    early: AtomicU64,
    /// By how much the earliest of them was, ms.
    early_ms_max: AtomicU64,
    received: AtomicU64,
    late: std::sync::Mutex<Histogram<u64>>,
}

impl Seen {
    fn note(&self, run: u64, body: &[u8], stored_ms: i64) {
        // Run, number and due time in 16 hex digits each: see `body`.
        let field = |at: usize| {
            let text = body.get(at * 16..at * 16 + 16).and_then(|text| std::str::from_utf8(text).ok())?;
            u64::from_str_radix(text, 16).ok()
        };
        let (Some(number), Some(due_ms)) = (field(1), field(2)) else { return };
        if field(0) != Some(run) {
            return;
        }
        let Some(times) = self.times.get(number as usize) else { return };
        times.fetch_add(1, Ordering::Relaxed);
        let early_ms = due_ms.saturating_sub(now_ms()).max(due_ms.saturating_sub(stored_ms.max(0) as u64));
        if early_ms > 0 {
            self.early.fetch_add(1, Ordering::Relaxed);
            self.early_ms_max.fetch_max(early_ms, Ordering::Relaxed);
        }
        let late = wall_clock().saturating_sub(Duration::from_millis(due_ms));
        if let Ok(mut histogram) = self.late.lock() {
            histogram.saturating_record(super::micros(late));
        }
        self.received.fetch_add(1, Ordering::Relaxed);
    }
}

fn body(run: u64, number: u64, due_ms: u64, size: usize) -> Vec<u8> {
    let mut body = format!("{run:016x}{number:016x}{due_ms:016x}").into_bytes();
    body.resize(size.max(body.len()), b'x');
    body
}

pub(super) async fn run(args: DelayArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.rate > 0, "--rate must be from 1 up");
    let run = wall_clock().as_nanos() as u64;
    let mut config = ClientConfig::from_list(&args.cluster.nameserver);
    config.instance = Some(format!("bench-delay-{}", std::process::id()));
    let client = Client::start(config).await?;
    let producer = client.producer("raftmq-bench", ProducerConfig::default()).await?;
    producer.send(&Message::new(args.topic.as_str(), "first")).await.context("the first send")?;
    let seen = Arc::new(Seen {
        times: (0..args.count).map(|_| AtomicU64::new(0)).collect(),
        early: AtomicU64::new(0),
        early_ms_max: AtomicU64::new(0),
        received: AtomicU64::new(0),
        late: std::sync::Mutex::new(super::histogram()?),
    });
    let noted = seen.clone();
    let consumer = client
        .push_consumer(
            "raftmq-bench-delay",
            ConsumerConfig { from: ConsumeFrom::Last, batch: 256, ..ConsumerConfig::default() },
        )?
        .subscribe(&args.topic, Filter::all())
        .listen(move |messages| {
            for message in &messages {
                noted.note(run, message.body(), message.store_timestamp_ms());
            }
            std::future::ready(Verdict::Success)
        })
        .await?;
    // Consumers must have their queues before the first message is due.
    let patience = Instant::now() + Duration::from_secs(30);
    while consumer.assigned().is_empty() {
        anyhow::ensure!(Instant::now() < patience, "no queue was assigned within 30 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut phases = vec![usage(&args.pids)?];
    if args.pending > 0 {
        let tomorrow = now_ms() + 24 * 3600 * 1000;
        let due = |n: u64| tomorrow + n % 3_600_000;
        // Not of this run: they may fall due in another one.
        send(&producer, &args, args.pending, |n| body(0, n, due(n), args.size), due, "waiting").await?;
        phases.push(usage(&args.pids)?);
    }
    let first_due = now_ms() + (args.lead * 1000.0) as u64;
    let due = |n: u64| first_due + n * 1000 / args.rate;
    let stored_by = Instant::now() + Duration::from_secs_f64(args.lead);
    send(&producer, &args, args.count, |n| body(run, n, due(n), args.size), due, "sent").await?;
    let spare = stored_by.saturating_duration_since(Instant::now());
    anyhow::ensure!(
        !spare.is_zero(),
        "{} messages were not stored within --lead {} s",
        args.count,
        args.lead
    );
    phases.push(usage(&args.pids)?);
    tokio::time::sleep(spare).await;
    phases.push(usage(&args.pids)?);
    let bar = crate::progress::bar(Some(args.count), "received");
    let last_due = stored_by + Duration::from_millis(due(args.count) - first_due);
    let patience = last_due + Duration::from_secs(10);
    while seen.received.load(Ordering::Relaxed) < args.count && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(5)).await;
        bar.set_position(seen.received.load(Ordering::Relaxed));
    }
    bar.finish_and_clear();
    phases.push(usage(&args.pids)?);
    // What comes twice comes soon after.
    tokio::time::sleep(Duration::from_secs(1)).await;
    consumer.shutdown().await;
    producer.shutdown().await;
    client.shutdown().await;
    print(&args, &seen, &phases)
}

/// Sends timer messages as fast as they are stored.
async fn send(
    producer: &client::Producer,
    args: &DelayArgs,
    count: u64,
    body: impl Fn(u64) -> Vec<u8>,
    due: impl Fn(u64) -> u64,
    what: &'static str,
) -> anyhow::Result<()> {
    let bar = crate::progress::bar(Some(count), what);
    let mut window = producer.window::<()>(args.in_flight.max(1));
    for n in 0..count {
        let message = Message::new(args.topic.as_str(), body(n)).deliver_at_ms(due(n));
        if let Some(((), outcome)) = window.push(message, ()).await {
            outcome.context("a message was not stored")?;
        }
        if n % 1024 == 0 {
            bar.set_position(n);
        }
    }
    while let Some(((), outcome)) = window.next().await {
        outcome.context("a message was not stored")?;
    }
    bar.finish_and_clear();
    Ok(())
}

fn print(args: &DelayArgs, seen: &Seen, phases: &[Vec<Usage>]) -> anyhow::Result<()> {
    let late = seen.late.lock().map_err(|_| anyhow::anyhow!("a listener panicked"))?.clone();
    let ms = |q: f64| late.value_at_quantile(q) as f64 / 1000.0;
    let max_ms = late.max() as f64 / 1000.0;
    let times = || seen.times.iter().map(|times| times.load(Ordering::Relaxed));
    let missing = times().filter(|times| *times == 0).count();
    let twice = times().filter(|times| *times > 1).count();
    let early = seen.early.load(Ordering::Relaxed);
    let early_ms_max = seen.early_ms_max.load(Ordering::Relaxed);
    let cpu_us = |from: &[Usage], to: &[Usage], count: u64| {
        let cpu: f64 = to.iter().zip(from).map(|(to, from)| to.cpu_s - from.cpu_s).sum();
        cpu * 1e6 / count.max(1) as f64
    };
    let anonymous = |phase: &[Usage]| phase.iter().map(|usage| usage.anonymous_kib).collect::<Vec<u64>>();
    let from_end = |n: usize| &phases[phases.len() - 1 - n];
    let storing = cpu_us(from_end(3), from_end(2), args.count);
    let delivering = cpu_us(from_end(1), from_end(0), args.count);
    let (empty, full) = (anonymous(&phases[0]), anonymous(&phases[1]));
    // Of each server; the leader of a group has the most.
    let bytes_each: Vec<f64> = full
        .iter()
        .zip(&empty)
        .map(|(full, empty)| (*full as f64 - *empty as f64) * 1024.0 / args.pending.max(1) as f64)
        .collect();
    if args.json {
        println!(
            "{}",
            json!({
                "bench": "delay", "messages": args.count, "rate": args.rate, "size": args.size, "early": early,
                "early_ms_max": early_ms_max, "missing": missing, "twice": twice,
                "late_ms": {"p50": ms(0.5), "p99": ms(0.99), "p999": ms(0.999), "max": max_ms},
                "store_cpu_us_per_message": storing, "deliver_cpu_us_per_message": delivering,
                "pending": args.pending, "anonymous_kib_before": empty, "anonymous_kib_with_pending": full,
                "bytes_per_pending": bytes_each,
            })
        );
        return Ok(());
    }
    println!("delay, {} messages of {} B, {} due in a second", args.count, args.size, args.rate);
    println!("  {early} early (by {early_ms_max} ms at the most), {missing} missing, {twice} more than once");
    println!("  late by p50 {:.1} ms  p99 {:.1}  p99.9 {:.1}  max {max_ms:.1}", ms(0.5), ms(0.99), ms(0.999));
    if !args.pids.is_empty() {
        println!("  {storing:.1} µs server CPU per message to store, {delivering:.1} to deliver and receive");
    }
    if args.pending > 0 && !args.pids.is_empty() {
        let mib = |all: &[u64]| all.iter().map(|kib| kib / 1024).collect::<Vec<u64>>();
        println!("  {} more wait: anonymous memory {:?} → {:?} MiB", args.pending, mib(&empty), mib(&full));
    }
    Ok(())
}
