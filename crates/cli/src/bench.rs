//! `raftmq bench`: a load generator for any RocketMQ endpoint, RaftMQ or Apache.
//!
//! With `--rate` the loop is open: a message is due at a time of its own, and its latency counts from then, so a slow
//! server cannot hide behind a waiting generator. Without, the loop is closed: as many as `--in-flight` are under way.

mod delay;
mod overload;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use client::{Client, ClientConfig, ConsumeFrom, ConsumerConfig, Filter, Message, ProducerConfig, Verdict};
use hdrhistogram::Histogram;
use serde_json::json;

use crate::ClusterArgs;

#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Send, and print throughput, latency, and what the servers used
    Produce(Load),
    /// Consume what is there and what comes, for a time
    Consume(Drain),
    /// Send at a rate and consume: time from the intended send to the listener
    EndToEnd(Load),
    /// Send timer messages that fall due at a rate: how late they are received, and what waiting costs
    Delay(delay::DelayArgs),
    /// Measure the capacity, then offer many times that: what is still done, refused and lost
    Overload(overload::Overload),
}

#[derive(Args, Clone)]
struct Load {
    #[command(flatten)]
    common: Common,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Sends under way at a time, over all clients
    #[arg(long, default_value_t = 1024)]
    in_flight: usize,
    /// Messages per second, open loop; closed loop when absent
    #[arg(long)]
    rate: Option<u64>,
    /// Messages per batch send
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Connections, each with a producer of its own
    #[arg(long, default_value_t = 2)]
    clients: usize,
    /// Tag of each message; of several each message has one, spread evenly
    #[arg(long, value_delimiter = ',')]
    tag: Vec<String>,
    /// Give each message a key
    #[arg(long)]
    keys: bool,
    /// Spread the messages over so many topics, in turn: TOPIC-0, TOPIC-1 and so on
    #[arg(long)]
    topics: Option<usize>,
}

impl Load {
    fn topics(&self) -> Vec<Arc<str>> {
        let name = &self.common.topic;
        match self.topics {
            None => vec![name.as_str().into()],
            Some(count) => (0..count.max(1)).map(|n| format!("{name}-{n}").into()).collect(),
        }
    }
}

#[derive(Args, Clone)]
struct Drain {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value = "raftmq-bench")]
    group: String,
    /// Consumers
    #[arg(long, default_value_t = 1)]
    consumers: usize,
    /// Stop after so many messages
    #[arg(long)]
    count: Option<u64>,
}

#[derive(Args, Clone)]
struct Common {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[arg(short, long, default_value = "bench")]
    topic: String,
    /// How long to measure, seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How long to run before measuring, seconds
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Process ids of the servers, to print their CPU time per message and memory
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// What the servers promise, printed beside the figures
    #[arg(long, default_value = "quorum-fsync")]
    durability: String,
    #[arg(long)]
    json: bool,
}

/// CPU seconds and memory of processes, from /proc.
#[derive(Clone, Copy, Default)]
struct Usage {
    cpu_s: f64,
    rss_kib: u64,
    anonymous_kib: u64,
}

fn usage(pids: &[u32]) -> anyhow::Result<Vec<Usage>> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    pids.iter()
        .map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .with_context(|| format!("process {pid}"))?;
            let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            let field =
                |n: usize| rest.split_whitespace().nth(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let kib = |name: &str| {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .and_then(|v| v.split_whitespace().next()?.parse().ok())
                    .unwrap_or(0)
            };
            Ok(Usage {
                cpu_s: (field(11) + field(12)) / ticks,
                rss_kib: kib("VmRSS:"),
                anonymous_kib: kib("RssAnon:"),
            })
        })
        .collect()
}

/// What a run measured.
struct Figures {
    messages: u64,
    failed: u64,
    elapsed: Duration,
    latency: Histogram<u64>,
    before: Vec<Usage>,
    after: Vec<Usage>,
}

impl Figures {
    fn print(&self, what: &str, common: &Common) {
        let seconds = self.elapsed.as_secs_f64();
        let rate = self.messages as f64 / seconds;
        let ms = |q: f64| self.latency.value_at_quantile(q) as f64 / 1000.0;
        let cpu: f64 = self.after.iter().zip(&self.before).map(|(a, b)| a.cpu_s - b.cpu_s).sum();
        let cpu_us = if self.messages > 0 { cpu * 1e6 / self.messages as f64 } else { 0.0 };
        let rss: Vec<u64> = self.after.iter().map(|u| u.rss_kib / 1024).collect();
        let anonymous: Vec<u64> = self.after.iter().map(|u| u.anonymous_kib / 1024).collect();
        if common.json {
            println!(
                "{}",
                json!({
                    "bench": what, "durability": common.durability, "seconds": seconds, "messages": self.messages,
                    "failed": self.failed, "messages_per_second": rate.round(),
                    "latency_ms": {"mean": self.latency.mean() / 1000.0, "p50": ms(0.5), "p90": ms(0.9),
                                   "p99": ms(0.99), "p999": ms(0.999), "max": self.latency.max() as f64 / 1000.0},
                    "server_cpu_us_per_message": cpu_us, "server_cpu_s": cpu, "server_rss_mib": rss,
                    "server_anonymous_mib": anonymous,
                })
            );
            return;
        }
        println!("{what} ({})", common.durability);
        println!("  {:>12.0} messages/s   {} in {seconds:.1} s, {} failed", rate, self.messages, self.failed);
        if !self.latency.is_empty() {
            println!(
                "  {:>12.2} ms mean      p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}",
                self.latency.mean() / 1000.0,
                ms(0.5),
                ms(0.9),
                ms(0.99),
                ms(0.999),
                self.latency.max() as f64 / 1000.0
            );
        }
        if !self.after.is_empty() {
            println!("  {cpu_us:>12.1} µs server CPU per message ({cpu:.2} s in all)");
            println!("  {rss:?} MiB resident, {anonymous:?} MiB of it anonymous");
        }
    }
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    // Microseconds up to two minutes, three digits.
    Ok(Histogram::new_with_bounds(1, 120_000_000, 3)?)
}

fn micros(d: Duration) -> u64 {
    (d.as_micros() as u64).max(1)
}

pub(crate) fn run(args: BenchArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match args.command {
            BenchCommand::Produce(load) => produce(load).await,
            BenchCommand::Consume(drain) => consume(drain).await,
            BenchCommand::EndToEnd(load) => end_to_end(load).await,
            BenchCommand::Delay(args) => delay::run(args).await,
            BenchCommand::Overload(args) => overload::run(args).await,
        }
    })
}

/// When messages are due, and when to count them.
#[derive(Clone, Copy)]
struct Schedule {
    start: Instant,
    measure_from: Instant,
    end: Instant,
    /// Between two messages of one client; zero in a closed loop.
    interval: Duration,
}

impl Schedule {
    fn new(load: &Load) -> Schedule {
        let start = Instant::now();
        let measure_from = start + Duration::from_secs_f64(load.common.warm_up);
        Schedule {
            start,
            measure_from,
            end: measure_from + Duration::from_secs_f64(load.common.seconds),
            interval: load.rate.map_or(Duration::ZERO, |rate| {
                Duration::from_secs_f64(load.clients as f64 * load.batch as f64 / rate as f64)
            }),
        }
    }

    fn due(&self, number: u64) -> Instant {
        if self.interval.is_zero() {
            return Instant::now();
        }
        self.start + Duration::from_nanos(self.interval.as_nanos() as u64 * number)
    }

    /// Says when a message is due, one after the other, until the end. From a thread of its own: tokio's timers go by
    /// milliseconds and would add one or two to every latency.
    fn pace(self) -> tokio::sync::mpsc::UnboundedReceiver<()> {
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let mut number = 0;
            loop {
                let due = self.due(number);
                let wait = due.saturating_duration_since(Instant::now());
                if !wait.is_zero() {
                    std::thread::sleep(wait);
                }
                if tell.send(()).is_err() || due >= self.end {
                    return;
                }
                number += 1;
            }
        });
        told
    }
}

async fn produce(load: Load) -> anyhow::Result<()> {
    let schedule = Schedule::new(&load);
    let mut tasks = Vec::new();
    for n in 0..load.clients {
        tasks.push(tokio::spawn(send_loop(load.clone(), schedule, n, |_| Vec::new())));
    }
    tokio::time::sleep_until(schedule.measure_from.into()).await;
    let before = usage(&load.common.pids)?;
    let measured_from = Instant::now();
    wait_until(schedule.end, load.common.seconds).await;
    let after = usage(&load.common.pids)?;
    let elapsed = measured_from.elapsed();
    let mut figures = Figures { messages: 0, failed: 0, elapsed, latency: histogram()?, before, after };
    for task in tasks {
        let sent = task.await??;
        figures.messages += sent.stored;
        figures.failed += sent.failed;
        figures.latency.add(&sent.latency)?;
    }
    let what = format!(
        "produce {} B × {}, {}",
        load.size,
        load.batch,
        load.rate.map_or(format!("{} in flight", load.in_flight), |r| format!("{r} messages/s"))
    );
    figures.print(&what, &load.common);
    Ok(())
}

/// Waits for the end of the measurement and shows how far it is, on a terminal.
async fn wait_until(end: Instant, seconds: f64) {
    let total = seconds.ceil() as u64;
    let bar = crate::progress::bar(Some(total), "measuring, seconds");
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        bar.set_position(total.saturating_sub(left.as_secs_f64().ceil() as u64));
        tokio::time::sleep(left.min(Duration::from_millis(100))).await;
    }
    bar.finish_and_clear();
}

/// One of so many for a number, as evenly as by turns; but queues are chosen by turns, and every queue is to have all.
fn spread(number: u64, of: usize) -> Option<usize> {
    // Fibonacci hashing: 2^64 by the golden ratio.
    let hashed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (hashed as usize).checked_rem(of)
}

struct Sent {
    stored: u64,
    failed: u64,
    latency: Histogram<u64>,
}

/// One client's sends until the end of the schedule. `prefix` gives the first bytes of a body, from the due time.
async fn send_loop(
    load: Load,
    schedule: Schedule,
    number: usize,
    prefix: impl Fn(Instant) -> Vec<u8>,
) -> anyhow::Result<Sent> {
    let mut config = ClientConfig::from_list(&load.common.cluster.nameserver);
    config.instance = Some(format!("bench-{}-{number}", std::process::id()));
    let client = Client::start(config).await?;
    let producer = client.producer("raftmq-bench", ProducerConfig::default()).await?;
    // The route, and the topic itself where brokers create it; of many topics the rest comes while it warms up.
    let topics = load.topics();
    producer.send(&Message::new(topics[0].clone(), "first")).await.context("the first send")?;
    let in_flight = (load.in_flight / load.clients).max(1);
    let mut window = producer.window::<Instant>(if load.rate.is_some() { 60_000 } else { in_flight });
    let mut sent = Sent { stored: 0, failed: 0, latency: histogram()? };
    let count = |sent: &mut Sent, due: Instant, ok: bool| {
        let now = Instant::now();
        if now < schedule.measure_from || now > schedule.end {
            return;
        }
        if ok {
            sent.stored += load.batch as u64;
            sent.latency.saturating_record(micros(now.saturating_duration_since(due)));
        } else {
            sent.failed += load.batch as u64;
        }
    };
    let filler = vec![b'x'; load.size];
    let mut pace = load.rate.map(|_| schedule.pace());
    let mut made = 0u64;
    while Instant::now() < schedule.end {
        // In a closed loop a message is due when its turn has come, not while it waits for one.
        while load.rate.is_none() && window.len() >= in_flight {
            let Some((since, outcome)) = window.next().await else { break };
            count(&mut sent, since, outcome.is_ok());
        }
        let due = schedule.due(made);
        // While the next one is not due, outcomes are taken in.
        while let Some(pace) = &mut pace {
            tokio::select! {
                biased;
                _ = pace.recv() => break,
                Some((since, outcome)) = window.next(), if !window.is_empty() => count(&mut sent, since, outcome.is_ok()),
            }
        }
        let mut body = prefix(due);
        body.extend_from_slice(&filler[body.len().min(filler.len())..]);
        let topic = &topics[made as usize % topics.len()];
        let make = |body: Vec<u8>| {
            let mut message = Message::new(topic.clone(), body);
            if let Some(tag) = spread(made, load.tag.len()).and_then(|place| load.tag.get(place)) {
                message = message.tag(tag);
            }
            if load.keys {
                message = message.key(&format!("{number}-{made}"));
            }
            message
        };
        let outcome = if load.batch == 1 {
            window.push(make(body), due).await
        } else {
            let messages: Vec<Message> = (0..load.batch).map(|_| make(body.clone())).collect();
            let mut last = None;
            for batch in producer.batches(&messages)? {
                last = window.push_batch(batch, due).await;
            }
            last
        };
        made += 1;
        if let Some((since, outcome)) = outcome {
            count(&mut sent, since, outcome.is_ok());
        }
    }
    while let Some((since, outcome)) = window.next().await {
        count(&mut sent, since, outcome.is_ok());
    }
    producer.shutdown().await;
    client.shutdown().await;
    Ok(sent)
}

async fn consume(drain: Drain) -> anyhow::Result<()> {
    let seen = Arc::new(AtomicU64::new(0));
    let bytes = Arc::new(AtomicU64::new(0));
    let mut running = Vec::new();
    for n in 0..drain.consumers {
        let mut config = ClientConfig::from_list(&drain.common.cluster.nameserver);
        config.instance = Some(format!("bench-{}-{n}", std::process::id()));
        let client = Client::start(config).await?;
        let (seen, bytes) = (seen.clone(), bytes.clone());
        let config = ConsumerConfig { from: ConsumeFrom::First, batch: 256, ..ConsumerConfig::default() };
        let consumer = client
            .push_consumer(&drain.group, config)?
            .subscribe(&drain.common.topic, Filter::all())
            .listen(move |messages| {
                seen.fetch_add(messages.len() as u64, Ordering::Relaxed);
                bytes.fetch_add(messages.iter().map(|m| m.body().len() as u64).sum(), Ordering::Relaxed);
                std::future::ready(Verdict::Success)
            })
            .await?;
        running.push((consumer, client));
    }
    // The clock starts with the first message: assigning queues is not what is measured.
    let patience = Instant::now() + Duration::from_secs(30);
    while seen.load(Ordering::Relaxed) == 0 {
        anyhow::ensure!(Instant::now() < patience, "nothing to consume within 30 s");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = usage(&drain.common.pids)?;
    let (start, first) = (Instant::now(), seen.load(Ordering::Relaxed));
    let end = start + Duration::from_secs_f64(drain.common.seconds);
    let bar = crate::progress::bar(drain.count, "consumed");
    while Instant::now() < end && drain.count.is_none_or(|count| seen.load(Ordering::Relaxed) < count) {
        tokio::time::sleep(Duration::from_millis(5)).await;
        bar.set_position(seen.load(Ordering::Relaxed));
    }
    bar.finish_and_clear();
    let elapsed = start.elapsed();
    let messages = seen.load(Ordering::Relaxed) - first;
    let figures = Figures {
        messages,
        failed: 0,
        elapsed,
        latency: histogram()?,
        before,
        after: usage(&drain.common.pids)?,
    };
    figures.print(
        &format!("consume, {} consumer(s), {} MiB", drain.consumers, bytes.load(Ordering::Relaxed) >> 20),
        &drain.common,
    );
    for (consumer, client) in running {
        consumer.shutdown().await;
        client.shutdown().await;
    }
    Ok(())
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

async fn end_to_end(load: Load) -> anyhow::Result<()> {
    anyhow::ensure!(load.rate.is_some(), "end-to-end needs --rate");
    anyhow::ensure!(load.size >= 16, "end-to-end needs bodies of at least 16 bytes");
    anyhow::ensure!(load.topics.is_none(), "end-to-end takes one topic");
    let mut config = ClientConfig::from_list(&load.common.cluster.nameserver);
    config.instance = Some(format!("bench-{}-consumer", std::process::id()));
    let client = Client::start(config).await?;
    let starter = client.producer("raftmq-bench", ProducerConfig::default()).await?;
    starter.send(&Message::new(load.common.topic.as_str(), "first")).await.context("the first send")?;
    let latency = Arc::new(std::sync::Mutex::new(histogram()?));
    let recorder = latency.clone();
    // Set once the schedule is: until then nothing counts.
    let counted = Arc::new(std::sync::OnceLock::<(Duration, Duration)>::new());
    let window = counted.clone();
    let consumer = client
        .push_consumer(
            "raftmq-bench-e2e",
            ConsumerConfig { from: ConsumeFrom::Last, ..ConsumerConfig::default() },
        )?
        .subscribe(&load.common.topic, Filter::all())
        .listen(move |messages| {
            let now = wall_clock();
            if let Some((from, until)) = window.get()
                && let Ok(mut histogram) = recorder.lock()
            {
                for message in &messages {
                    // The due time, nanoseconds since 1970, in 16 hex digits: see below.
                    let due = message.body().get(..16).and_then(|b| std::str::from_utf8(b).ok());
                    let due = due.and_then(|d| u64::from_str_radix(d, 16).ok()).map(Duration::from_nanos);
                    if let Some(due) = due.filter(|due| (*from..*until).contains(due)) {
                        histogram.saturating_record(micros(now.saturating_sub(due)));
                    }
                }
            }
            std::future::ready(Verdict::Success)
        })
        .await?;
    // Consumers must have their queues before the first message counts.
    let patience = Instant::now() + Duration::from_secs(30);
    while consumer.assigned().is_empty() {
        anyhow::ensure!(Instant::now() < patience, "no queue was assigned within 30 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut load = load;
    load.common.warm_up += 2.0;
    let schedule = Schedule::new(&load);
    let wall_start = wall_clock();
    let at = |moment: Instant| wall_start + moment.saturating_duration_since(schedule.start);
    let _ = counted.set((at(schedule.measure_from), at(schedule.end)));
    let mut tasks = Vec::new();
    for n in 0..load.clients {
        tasks.push(tokio::spawn(send_loop(load.clone(), schedule, n, move |due| {
            let at = wall_start + due.saturating_duration_since(schedule.start);
            format!("{:016x}", at.as_nanos() as u64).into_bytes()
        })));
    }
    tokio::time::sleep_until(schedule.measure_from.into()).await;
    let before = usage(&load.common.pids)?;
    wait_until(schedule.end, load.common.seconds).await;
    let after = usage(&load.common.pids)?;
    let (mut failed, mut stored) = (0, 0);
    for task in tasks {
        let sent = task.await??;
        failed += sent.failed;
        stored += sent.stored;
    }
    // The last ones are the slowest: they count too.
    let patience = Instant::now() + Duration::from_secs(5);
    while latency.lock().is_ok_and(|l| l.len() < stored) && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    consumer.shutdown().await;
    client.shutdown().await;
    let latency = latency.lock().map_err(|_| anyhow::anyhow!("a listener panicked"))?.clone();
    let elapsed = Duration::from_secs_f64(load.common.seconds);
    let figures = Figures { messages: latency.len(), failed, elapsed, latency, before, after };
    figures.print(
        &format!("end to end, {} B at {} messages/s", load.size, load.rate.unwrap_or(0)),
        &load.common,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn every_queue_has_each_tag_as_often() {
        let (queues, tags) = (8, 10);
        let mut counts = vec![vec![0; tags]; queues];
        for n in 0..80_000 {
            counts[n % queues][spread(n as u64, tags).unwrap()] += 1;
        }
        assert!(counts.iter().flatten().all(|count| (900..1100).contains(count)), "{counts:?}");
        assert_eq!(spread(7, 0), None);
    }
}
