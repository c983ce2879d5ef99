//! `raftmq bench overload`: what a cluster does when it is asked for many times what it can.
//!
//! First a closed loop finds the capacity, then so many connections offer so many times that, open loop: a message is due
//! whether or not the ones before it were answered. What counts is the *goodput*: messages stored and answered within the
//! time that a client waits. Nothing is sent again.
//!
//! The generator must cost less than what it loads, or most of the load waits in it: so a frame is encoded once and copied
//! with a number of its own, of an answer only code, number and remark are read, and a connection sends and reads what is there
//! once in a tick. What the nodes have really dealt with is counted by their answers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use broker::{GROUP_STATUS, GroupReport};
use bytes::{Buf as _, BytesMut};
use clap::Args;
use client::{Client, ClientConfig, Message, ProducerConfig};
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use wire::{RemotingCommand, RequestCode, SendMessageRequest, SerializeType};

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
    #[arg(long, default_value_t = 20_000)]
    waiting: usize,
    /// Bytes that the socket of a connection holds, about as much as over a network; over loopback it would be megabytes,
    /// and what waits there is read when its sender has given up. 0: what the system gives it
    #[arg(long, default_value_t = 64 << 10)]
    send_buffer: u32,
    /// Threads that share the connections
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// How long a stock client waits for a send.
const PATIENCE: Duration = Duration::from_secs(3);
/// What is due is sent so often, and answers are read.
const TICK: Duration = Duration::from_millis(5);
/// Connections of the closed loop that finds the capacity.
const CAPACITY_CONNECTIONS: usize = 4;
/// What a connection makes at a time, at most: no more than a socket could take.
const UNSENT_BYTES_MAX: usize = 256 << 10;
/// Kinds of refusals that are told apart.
const REASONS_MAX: usize = 64;

/// Where a connection sends: a leader, and a queue of it.
struct Target {
    address: String,
    /// The frame of a send, with the number 0.
    frame: Vec<u8>,
}

#[derive(Default)]
struct Counts {
    offered: AtomicU64,
    /// Due while the socket was full, or while so many of the connection were waiting that it could not be sent.
    held_back: AtomicU64,
    stored: AtomicU64,
    refused: AtomicU64,
    /// No answer in time, or none at all.
    lost: AtomicU64,
    /// Of those: an answer came after all.
    late: AtomicU64,
    waited_us: AtomicU64,
    /// By code and by remark without its numbers.
    reasons: std::sync::Mutex<BTreeMap<(i32, String), u64>>,
}

/// Counts at one moment.
#[derive(Clone, Copy)]
struct Sums {
    offered: u64,
    held_back: u64,
    stored: u64,
    refused: u64,
    lost: u64,
    late: u64,
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
            late: get(&self.late),
            waited_us: get(&self.waited_us),
        }
    }
}

impl Sums {
    fn since(self, before: Sums) -> Sums {
        Sums {
            offered: self.offered - before.offered,
            held_back: self.held_back - before.held_back,
            stored: self.stored - before.stored,
            refused: self.refused - before.refused,
            lost: self.lost - before.lost,
            late: self.late - before.late,
            waited_us: self.waited_us - before.waited_us,
        }
    }

    /// What the servers have read and dealt with.
    fn answered(self) -> u64 {
        self.stored + self.refused + self.late
    }
}

fn add(count: &AtomicU64, more: u64) {
    if more > 0 {
        count.fetch_add(more, Ordering::Relaxed);
    }
}

pub(super) async fn run(args: Overload) -> anyhow::Result<()> {
    let mut config = ClientConfig::from_list(&args.common.cluster.nameserver);
    config.instance = Some(format!("bench-{}-overload", std::process::id()));
    let client = Client::start(config).await?;
    let producer = client.producer("raftmq-bench", ProducerConfig::default()).await?;
    producer.send(&Message::new(args.common.topic.as_str(), "first")).await.context("the first send")?;
    let queues = producer.queues(&args.common.topic.as_str().into()).await?;
    let targets = targets(&args, &client, &queues).await?;
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
) -> anyhow::Result<Vec<Arc<Target>>> {
    let brokers = admin::brokers(client).await?;
    let target = |queue: &client::MessageQueue| {
        let (_, addresses) = brokers.get(&queue.broker_name)?;
        let address = addresses.get(&wire::MASTER_ID)?.clone();
        let frame = frame(&args.common.topic, queue.queue_id, args.size);
        Some(Arc::new(Target { address, frame }))
    };
    let targets: Vec<_> = queues.iter().filter_map(target).collect();
    anyhow::ensure!(!targets.is_empty(), "no broker of topic {} has a leader", args.common.topic);
    Ok(targets)
}

/// A send as it goes over the wire, in RocketMQ's binary serialisation: the number stands at a fixed place, also in answers.
fn frame(topic: &str, queue_id: i32, size: usize) -> Vec<u8> {
    let header = SendMessageRequest {
        producer_group: "raftmq-bench",
        topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id,
        born_timestamp: 1,
        ..SendMessageRequest::default()
    };
    let mut request = RemotingCommand::request(RequestCode::SEND_MESSAGE_V2).with_body(vec![b'x'; size]);
    request.serialize = SerializeType::RocketMq;
    header.encode_for(RequestCode::SEND_MESSAGE_V2, &mut request.ext);
    let mut frame = BytesMut::new();
    request.encode(&mut frame);
    frame.to_vec()
}

/// Where fields stand in a frame with a binary header (crates/wire, command.rs and `binary_header.rs`).
const CODE_AT: usize = 8;
const OPAQUE_AT: usize = 13;
const FLAG_AT: usize = 17;
const REMARK_AT: usize = 21;

/// Messages per second in a closed loop.
async fn capacity(args: &Overload, targets: &[Arc<Target>]) -> anyhow::Result<f64> {
    let plan = Plan {
        connections: CAPACITY_CONNECTIONS,
        rate: None,
        waiting: (args.in_flight / CAPACITY_CONNECTIONS).max(1),
        seconds: args.capacity_seconds,
    };
    let (sums, seconds, _) = load(args, targets, plan).await?;
    anyhow::ensure!(sums.stored > 0, "nothing was stored");
    Ok(sums.stored as f64 / seconds)
}

/// Offers `times` the capacity; what came of it while it was measured.
async fn overload(
    args: &Overload,
    targets: &[Arc<Target>],
    capacity: f64,
) -> anyhow::Result<(Sums, f64, Arc<Counts>)> {
    let connections = args.connections.max(1);
    let rate = Some(capacity * args.times / connections as f64);
    let plan = Plan { connections, rate, waiting: args.waiting, seconds: args.common.seconds };
    load(args, targets, plan).await
}

#[derive(Clone, Copy)]
struct Plan {
    connections: usize,
    /// Messages per second of one connection, open loop; closed loop without.
    rate: Option<f64>,
    /// Of one connection, at most.
    waiting: usize,
    /// How long it is measured.
    seconds: f64,
}

async fn load(
    args: &Overload,
    targets: &[Arc<Target>],
    plan: Plan,
) -> anyhow::Result<(Sums, f64, Arc<Counts>)> {
    let counts = Arc::new(Counts::default());
    let start = Instant::now();
    let measure_from = start + Duration::from_secs_f64(args.common.warm_up);
    let end = measure_from + Duration::from_secs_f64(plan.seconds);
    let (threads, send_buffer) = (args.threads.clamp(1, plan.connections), args.send_buffer);
    let mut running = Vec::new();
    for thread in 0..threads {
        let (targets, counts) = (targets.to_vec(), counts.clone());
        running.push(std::thread::spawn(move || -> std::io::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let lines = (thread..plan.connections).step_by(threads).map(|n| {
                    let line = Line::new(
                        targets[n % targets.len()].clone(),
                        plan.waiting,
                        send_buffer,
                        counts.clone(),
                    );
                    // Not all at the same moment of a tick.
                    let first = start + TICK * n as u32 / plan.connections as u32;
                    tokio::spawn(line.run(plan.rate, first, end))
                });
                for line in lines.collect::<Vec<_>>() {
                    line.await.map_err(std::io::Error::other)?;
                }
                Ok(())
            })
        }));
    }
    tokio::time::sleep_until(measure_from.into()).await;
    let (from, began) = (Instant::now(), counts.sums());
    super::wait_until(end, plan.seconds).await;
    let (took, ended) = (from.elapsed(), counts.sums());
    for thread in running {
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the generator panicked"))??;
    }
    Ok((ended.since(began), took.as_secs_f64(), counts))
}

/// One connection.
struct Line {
    target: Arc<Target>,
    counts: Arc<Counts>,
    waiting_max: usize,
    /// 0: what the system gives it.
    send_buffer_bytes: u32,
    stream: Option<TcpStream>,
    /// What the socket has not taken yet.
    unsent: BytesMut,
    unread: BytesMut,
    /// Of the sends since `first`, which has the number `first_number`: when, and whether it was answered.
    sent: VecDeque<(Instant, bool)>,
    first_number: u32,
    reasons: HashMap<(i32, String), u64>,
}

impl Line {
    fn new(target: Arc<Target>, waiting_max: usize, send_buffer_bytes: u32, counts: Arc<Counts>) -> Line {
        Line {
            target,
            counts,
            waiting_max,
            send_buffer_bytes,
            stream: None,
            unsent: BytesMut::new(),
            unread: BytesMut::new(),
            sent: VecDeque::new(),
            first_number: 0,
            reasons: HashMap::new(),
        }
    }

    /// Sends what is due, whatever becomes of it; without a rate, one more for each answer.
    async fn run(mut self, rate: Option<f64>, first: Instant, end: Instant) {
        let mut tick = tokio::time::interval_at(first.into(), TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut made = 0u64;
        while Instant::now() < end {
            match (&self.stream, rate) {
                (Some(stream), None) => {
                    tokio::select! {
                        _ = stream.readable() => {}
                        _ = tick.tick() => {}
                    }
                }
                _ => {
                    tick.tick().await;
                }
            }
            if self.stream.is_none() {
                self.connect().await;
            }
            if self.receive().is_err() {
                self.disconnect();
            }
            self.give_up(Instant::now());
            let room = if self.unsent.is_empty() {
                let at_a_time = (UNSENT_BYTES_MAX / self.target.frame.len()).max(1);
                self.waiting_max.saturating_sub(self.sent.len()).min(at_a_time)
            } else {
                0
            };
            let new = match rate {
                None => room as u64,
                Some(rate) => {
                    let due = (first.elapsed().as_secs_f64() * rate) as u64;
                    due - std::mem::replace(&mut made, due)
                }
            };
            let sent = if self.stream.is_some() { new.min(room as u64) } else { 0 };
            add(&self.counts.offered, new);
            add(&self.counts.held_back, new - sent);
            self.put(sent);
            if self.transmit().is_err() {
                self.disconnect();
            }
        }
        if let Ok(mut all) = self.counts.reasons.lock() {
            for (reason, count) in self.reasons {
                *all.entry(reason).or_insert(0) += count;
            }
        }
    }

    async fn connect(&mut self) {
        if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, self.connected()).await {
            self.stream = Some(stream);
        }
    }

    async fn connected(&self) -> std::io::Result<TcpStream> {
        let address = tokio::net::lookup_host(&self.target.address).await?.next();
        let address = address.ok_or(std::io::ErrorKind::NotFound)?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if self.send_buffer_bytes > 0 {
            socket.set_send_buffer_size(self.send_buffer_bytes)?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// What waits on it is lost.
    fn disconnect(&mut self) {
        self.stream = None;
        self.unsent.clear();
        self.unread.clear();
        let lost = self.sent.iter().filter(|(_, is_answered)| !is_answered).count();
        add(&self.counts.lost, lost as u64);
        self.first_number = self.first_number.wrapping_add(self.sent.len() as u32);
        self.sent.clear();
    }

    fn put(&mut self, count: u64) {
        let now = Instant::now();
        for _ in 0..count {
            let number = self.first_number.wrapping_add(self.sent.len() as u32);
            let begin = self.unsent.len();
            self.unsent.extend_from_slice(&self.target.frame);
            self.unsent[begin + OPAQUE_AT..][..4].copy_from_slice(&number.to_be_bytes());
            self.sent.push_back((now, false));
        }
    }

    fn transmit(&mut self) -> std::io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        while !self.unsent.is_empty() {
            match stream.try_write(&self.unsent) {
                Ok(written) => self.unsent.advance(written),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> std::io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let mut is_over = false;
        loop {
            self.unread.reserve(64 << 10);
            match stream.try_read_buf(&mut self.unread) {
                Ok(0) => {
                    is_over = true;
                    break;
                }
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let (mut stored, mut refused, mut late, mut waited_us) = (0, 0, 0, 0);
        let now = Instant::now();
        while let Some(answer) = Answer::of(&self.unread) {
            let place = answer.number.wrapping_sub(self.first_number) as usize;
            match self.sent.get_mut(place).filter(|_| answer.is_response) {
                Some((at, is_answered)) if !*is_answered => {
                    *is_answered = true;
                    if answer.code == 0 {
                        stored += 1;
                        waited_us += now.saturating_duration_since(*at).as_micros() as u64;
                    } else {
                        refused += 1;
                        let reason = (answer.code, without_numbers(answer.remark));
                        if self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&reason) {
                            *self.reasons.entry(reason).or_insert(0) += 1;
                        }
                    }
                }
                _ => late += u64::from(answer.is_response),
            }
            let bytes = answer.frame_bytes;
            self.unread.advance(bytes);
        }
        add(&self.counts.stored, stored);
        add(&self.counts.refused, refused);
        add(&self.counts.late, late);
        add(&self.counts.waited_us, waited_us);
        if is_over { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Who sent them has stopped waiting.
    fn give_up(&mut self, now: Instant) {
        let mut lost = 0;
        while let Some((at, is_answered)) = self.sent.front() {
            if !is_answered {
                if now.saturating_duration_since(*at) < PATIENCE {
                    break;
                }
                lost += 1;
            }
            self.sent.pop_front();
            self.first_number = self.first_number.wrapping_add(1);
        }
        add(&self.counts.lost, lost);
    }
}

/// What is read of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer<'a> {
    code: i32,
    number: u32,
    is_response: bool,
    remark: &'a [u8],
    frame_bytes: usize,
}

impl Answer<'_> {
    /// The first of these bytes; `None` until they have a whole frame.
    fn of(bytes: &[u8]) -> Option<Answer<'_>> {
        let word = |at: usize| {
            bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_be_bytes)
        };
        let frame_bytes = 4 + word(0) as usize;
        if bytes.len() < frame_bytes.max(REMARK_AT + 4) {
            return None;
        }
        let code = i16::from_be_bytes([bytes[CODE_AT], bytes[CODE_AT + 1]]);
        let remark = REMARK_AT + 4..REMARK_AT + 4 + word(REMARK_AT) as usize;
        Some(Answer {
            code: code.into(),
            number: word(OPAQUE_AT),
            is_response: word(FLAG_AT) & 1 != 0,
            remark: bytes.get(remark).unwrap_or_default(),
            frame_bytes,
        })
    }
}

/// A remark, so that those that differ only in their numbers are one.
fn without_numbers(remark: &[u8]) -> String {
    let mut text = String::with_capacity(remark.len());
    for byte in remark {
        match byte {
            b'0'..=b'9' if text.ends_with('#') => {}
            b'0'..=b'9' => text.push('#'),
            _ => text.push(char::from(*byte)),
        }
    }
    text
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
                "answered_per_second": rate(sums.answered()).round(),
                "refused_per_second": rate(sums.refused).round(), "lost_per_second": rate(sums.lost).round(),
                "late_per_second": rate(sums.late).round(),
                "latency_ms_mean": mean_ms, "elections": elections, "server_cpu_s": cpu,
                "server_rss_mib_max": rss, "server_anonymous_mib_max": anonymous,
                "refusals": reasons.iter().map(|((code, remark), count)| json!({"code": code, "count": count, "remark": remark})).collect::<Vec<_>>(),
            })
        );
        return;
    }
    println!("overload, {} B over {} connections ({})", args.size, args.connections, args.common.durability);
    println!("  {capacity:>12.0} messages/s capacity");
    println!(
        "  {:>12.0} messages/s offered, {:.0} of them held back by full connections, {:.0} dealt with by the servers",
        rate(sums.offered),
        rate(sums.held_back),
        rate(sums.answered())
    );
    println!(
        "  {goodput:>12.0} messages/s stored and answered in time: {share:.0} % of the capacity, {mean_ms:.1} ms mean"
    );
    println!(
        "  {:>12.0} messages/s refused, {:.0} without an answer in time ({:.0} had it later)",
        rate(sums.refused),
        rate(sums.lost),
        rate(sums.late)
    );
    for ((code, remark), count) in &reasons {
        println!("               {count} × {code}: {remark}");
    }
    println!("  {elections:>12} elections");
    if !peak.is_empty() {
        println!(
            "  {rss:?} MiB resident at most, {anonymous:?} MiB of it anonymous; {cpu:.1} s of server CPU"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(command: &RemotingCommand) -> Vec<u8> {
        let mut out = BytesMut::new();
        command.encode(&mut out);
        out.to_vec()
    }

    #[test]
    fn a_frame_with_a_number_is_what_the_codec_reads() {
        let mut bytes = BytesMut::from(&frame("T", 3, 100)[..]);
        bytes[OPAQUE_AT..][..4].copy_from_slice(&0x0102_0304_u32.to_be_bytes());
        let request = wire::decode_frame(&mut bytes, 1 << 20).unwrap().unwrap();
        assert_eq!((request.code, request.opaque), (RequestCode::SEND_MESSAGE_V2.get(), 0x0102_0304));
        let header = SendMessageRequest::decode_for(RequestCode::SEND_MESSAGE_V2, &request.ext).unwrap();
        assert_eq!((header.topic, header.queue_id, request.body.len()), ("T", 3, 100));
    }

    #[test]
    fn an_answer_is_read_as_the_codec_writes_it() {
        let mut request = RemotingCommand::request(RequestCode::SEND_MESSAGE_V2);
        (request.serialize, request.opaque) = (SerializeType::RocketMq, 70_000);
        let answer = RemotingCommand::response_to(&request, wire::ResponseCode(14)).with_remark("limit 5");
        let bytes = encoded(&answer.with_body(vec![0; 9]));
        let read = Answer::of(&bytes).unwrap();
        let want = Answer {
            code: 14,
            number: 70_000,
            is_response: true,
            remark: b"limit 5",
            frame_bytes: bytes.len(),
        };
        assert_eq!(read, want);
        assert_eq!(Answer::of(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Answer::of(&[]), None);
        assert!(!Answer::of(&encoded(&request)).unwrap().is_response);
    }

    #[test]
    fn remarks_that_differ_in_numbers_are_one() {
        assert_eq!(without_numbers(b"12 bytes wait, 3.5 ms"), "# bytes wait, #.# ms");
    }
}
