//! What this node counts for those who watch it (28, 202, 208, 315): its own work since its start, in memory, no
//! part of the log. Counting is a few relaxed atomic additions and one lookup; rates come from samples that
//! [`Stats::tick`] takes, which some task calls once a second.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// Topics, and (topic, group) pairs, that are counted at the same time; what is beyond is not counted apart.
const ITEMS_MAX: usize = 100_000;
/// Samples of the whole node: one a second, for rates over up to ten minutes.
const NODE_SAMPLES: usize = 601;
/// RocketMQ's windows of an item (315): seven samples in ten seconds, seven in ten minutes, 25 in an hour.
const WINDOWS: [Window; 3] = [
    Window { every_ms: 10_000, samples: 7 },
    Window { every_ms: 600_000, samples: 7 },
    Window { every_ms: 3_600_000, samples: 25 },
];
const DAY_MS: u64 = 86_400_000;

struct Window {
    every_ms: u64,
    samples: usize,
}

/// Upper ends of the classes of `putMessageDistributeTime`, ms, and their labels; the last class has no end.
const PUT_TIMES: [(u64, &str); 13] = [
    (0, "[<=0ms]"),
    (10, "[0~10ms]"),
    (50, "[10~50ms]"),
    (100, "[50~100ms]"),
    (200, "[100~200ms]"),
    (500, "[200~500ms]"),
    (1_000, "[500ms~1s]"),
    (2_000, "[1~2s]"),
    (3_000, "[2~3s]"),
    (4_000, "[3~4s]"),
    (5_000, "[4~5s]"),
    (10_000, "[5~10s]"),
    (u64::MAX, "[10s~]"),
];

/// See the module.
pub(crate) struct Stats {
    boot_ms: u64,
    node: Node,
    put_times: [AtomicU64; PUT_TIMES.len()],
    /// Put latencies of this minute and of the one before.
    latencies: [Latencies; 2],
    put_max_ms: AtomicU64,
    get_max_ms: AtomicU64,
    topics: RwLock<Counters>,
    /// Topic, then group.
    groups: RwLock<HashMap<Arc<str>, Counters>>,
    samples: Mutex<Samples>,
}

/// By name.
type Counters = HashMap<Arc<str>, Arc<Counter>>;

/// Counters of the whole node.
#[derive(Default)]
struct Node {
    puts: Counter,
    put_failed: AtomicU64,
    gets: Counter,
    get_found: AtomicU64,
    get_miss: AtomicU64,
}

/// Counts calls, the messages that they carried, and their bytes.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    calls: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    windows: Mutex<[VecDeque<Sample>; WINDOWS.len()]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at_ms: u64,
    calls: u64,
    messages: u64,
    bytes: u64,
}

/// What was counted within one of RocketMQ's windows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) sum: u64,
    /// Per second.
    pub(crate) tps: f64,
    /// Per call.
    pub(crate) per_call: f64,
}

/// What of a counter is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    Messages,
    Bytes,
}

/// The windows of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    Minute = 0,
    Hour = 1,
    Day = 2,
}

struct Samples {
    node: VecDeque<(u64, Rates<u64>)>,
    items_ms: u64,
    minute: u64,
    day: u64,
    put_yesterday: u64,
    put_today: u64,
    get_yesterday: u64,
    get_today: u64,
}

/// Messages put and got, and pulls that found something or nothing: counts or rates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates<T> {
    pub(crate) put: T,
    pub(crate) got: T,
    pub(crate) found: T,
    pub(crate) missed: T,
}

/// Everything of the node that 28 shows, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeStats {
    pub(crate) boot_ms: u64,
    pub(crate) put_calls: u64,
    pub(crate) put_messages: u64,
    pub(crate) put_bytes: u64,
    pub(crate) put_failed: u64,
    pub(crate) put_max_ms: u64,
    pub(crate) get_max_ms: u64,
    /// "[label]:count", separated by spaces.
    pub(crate) put_distribution: String,
    /// Milliseconds below which 99 and 99.9 % of the puts of the last one to two minutes were.
    pub(crate) put_p99_ms: f64,
    pub(crate) put_p999_ms: f64,
    /// Over 10, 60 and 600 seconds, or since the start.
    pub(crate) rates: [Rates<f64>; 3],
    /// Messages put by (yesterday 0:00, today 0:00, now), UTC, since the start.
    pub(crate) put_totals: [u64; 3],
    pub(crate) get_totals: [u64; 3],
}

impl Stats {
    /// Nothing counted. `now_ms` is wall time, as for `tick`.
    pub(crate) fn new(now_ms: u64) -> Stats {
        let stats = Stats {
            boot_ms: now_ms,
            node: Node::default(),
            put_times: Default::default(),
            latencies: [Latencies::new(), Latencies::new()],
            put_max_ms: AtomicU64::new(0),
            get_max_ms: AtomicU64::new(0),
            topics: RwLock::default(),
            groups: RwLock::default(),
            samples: Mutex::new(Samples {
                node: VecDeque::new(),
                items_ms: now_ms,
                minute: now_ms / 60_000,
                day: now_ms / DAY_MS,
                put_yesterday: 0,
                put_today: 0,
                get_yesterday: 0,
                get_today: 0,
            }),
        };
        stats.sample(now_ms);
        stats
    }

    /// A send that succeeded: `messages` records of `bytes` in all, answered after `took`.
    pub(crate) fn put(&self, topic: &str, messages: u64, bytes: u64, took: Duration) {
        self.node.puts.add(messages, bytes);
        if let Some(counter) = self.topic(topic) {
            counter.add(messages, bytes);
        }
        let ms = took.as_millis() as u64;
        let class = PUT_TIMES.iter().position(|(end, _)| ms <= *end).unwrap_or(PUT_TIMES.len() - 1);
        self.put_times[class].fetch_add(1, Relaxed);
        self.put_max_ms.fetch_max(ms, Relaxed);
        self.latencies[0].add(took);
    }

    /// A send that failed here or whose outcome is unknown.
    pub(crate) fn put_failed(&self) {
        self.node.put_failed.fetch_add(1, Relaxed);
    }

    /// A pull that found `messages` records of `bytes` in all for a group.
    pub(crate) fn got(&self, topic: &str, group: &str, messages: u64, bytes: u64, took: Duration) {
        self.node.get_found.fetch_add(1, Relaxed);
        self.node.gets.add(messages, bytes);
        if let Some(counter) = self.group(topic, group) {
            counter.add(messages, bytes);
        }
        self.get_max_ms.fetch_max(took.as_millis() as u64, Relaxed);
    }

    /// A pull that found nothing.
    pub(crate) fn missed(&self) {
        self.node.get_miss.fetch_add(1, Relaxed);
    }

    /// Takes the samples that are due. Call it about once a second.
    pub(crate) fn tick(&self, now_ms: u64) {
        self.sample(now_ms);
    }

    /// Messages put into a topic, per second of the last minute.
    pub(crate) fn topic_put_tps(&self, topic: &str) -> f64 {
        let counter = read(&self.topics).get(topic).cloned();
        counter.map_or(0.0, |counter| counter.snapshot(Span::Minute, Measure::Messages).tps)
    }

    /// Messages of a topic got by a group, per second of the last minute.
    pub(crate) fn group_get_tps(&self, topic: &str, group: &str) -> f64 {
        let counter = read(&self.groups).get(topic).and_then(|groups| groups.get(group)).cloned();
        counter.map_or(0.0, |counter| counter.snapshot(Span::Minute, Measure::Messages).tps)
    }

    /// An item by RocketMQ's names (315): what it counts, and which of its measures is meant.
    pub(crate) fn item<'a>(&'a self, name: &str, key: &str, cluster: &str) -> Option<Item<'a>> {
        use Measure::{Bytes, Messages};
        let topic = || read(&self.topics).get(key).cloned().map(Held::Shared);
        let group = || {
            let (topic, group) = key.rsplit_once('@')?;
            read(&self.groups).get(topic)?.get(group).cloned().map(Held::Shared)
        };
        let node = |counter| (key == cluster).then_some(Held::Own(counter));
        let (counter, measure) = match name {
            "TOPIC_PUT_NUMS" => (topic(), Messages),
            "TOPIC_PUT_SIZE" => (topic(), Bytes),
            "GROUP_GET_NUMS" => (group(), Messages),
            "GROUP_GET_SIZE" => (group(), Bytes),
            "BROKER_PUT_NUMS" => (node(&self.node.puts), Messages),
            "BROKER_GET_NUMS" => (node(&self.node.gets), Messages),
            _ => return None,
        };
        Some(Item { counter: counter?, measure })
    }

    /// What 28 shows.
    pub(crate) fn node(&self) -> NodeStats {
        let samples = lock(&self.samples);
        let last = samples.node.back().copied().unwrap_or_default();
        let rates = [10, 60, 600].map(|seconds| {
            let back = samples.node.len().saturating_sub(1).min(seconds);
            samples.node.get(samples.node.len().saturating_sub(1 + back)).map_or_else(
                Rates::default,
                |first| {
                    let ms = last.0.saturating_sub(first.0).max(1) as f64;
                    let rate = |f: fn(&Rates<u64>) -> u64| (f(&last.1) - f(&first.1)) as f64 * 1000.0 / ms;
                    Rates {
                        put: rate(|r| r.put),
                        got: rate(|r| r.got),
                        found: rate(|r| r.found),
                        missed: rate(|r| r.missed),
                    }
                },
            )
        });
        let put = self.node.puts.now(0);
        let got = self.node.gets.now(0);
        let distribution = PUT_TIMES.iter().zip(&self.put_times);
        NodeStats {
            boot_ms: self.boot_ms,
            put_calls: put.calls,
            put_messages: put.messages,
            put_bytes: put.bytes,
            put_failed: self.node.put_failed.load(Relaxed),
            put_max_ms: self.put_max_ms.load(Relaxed),
            get_max_ms: self.get_max_ms.load(Relaxed),
            put_distribution: distribution
                .map(|((_, label), count)| format!("{label}:{}", count.load(Relaxed)))
                .collect::<Vec<_>>()
                .join(" "),
            put_p99_ms: Latencies::below(&self.latencies, 990),
            put_p999_ms: Latencies::below(&self.latencies, 999),
            rates,
            put_totals: [samples.put_yesterday, samples.put_today, put.messages],
            get_totals: [samples.get_yesterday, samples.get_today, got.messages],
        }
    }

    fn topic(&self, topic: &str) -> Option<Arc<Counter>> {
        if let Some(counter) = read(&self.topics).get(topic) {
            return Some(Arc::clone(counter));
        }
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if topics.len() >= ITEMS_MAX && !topics.contains_key(topic) {
            return None;
        }
        Some(Arc::clone(topics.entry(topic.into()).or_default()))
    }

    fn group(&self, topic: &str, group: &str) -> Option<Arc<Counter>> {
        if let Some(counter) = read(&self.groups).get(topic).and_then(|groups| groups.get(group)) {
            return Some(Arc::clone(counter));
        }
        let mut topics = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        if topics.values().map(HashMap::len).sum::<usize>() >= ITEMS_MAX {
            return None;
        }
        Some(Arc::clone(topics.entry(topic.into()).or_default().entry(group.into()).or_default()))
    }

    fn sample(&self, now_ms: u64) {
        let mut samples = lock(&self.samples);
        let (puts, gets) = (self.node.puts.now(now_ms), self.node.gets.now(now_ms));
        let counts = Rates {
            put: puts.messages,
            got: gets.messages,
            found: self.node.get_found.load(Relaxed),
            missed: self.node.get_miss.load(Relaxed),
        };
        if samples.node.len() >= NODE_SAMPLES {
            samples.node.pop_front();
        }
        samples.node.push_back((now_ms, counts));
        let (minute, day) = (now_ms / 60_000, now_ms / DAY_MS);
        if minute != samples.minute {
            samples.minute = minute;
            Latencies::roll(&self.latencies);
        }
        if day != samples.day {
            samples.day = day;
            samples.put_yesterday = std::mem::replace(&mut samples.put_today, counts.put);
            samples.get_yesterday = std::mem::replace(&mut samples.get_today, counts.got);
        }
        let items_due = now_ms.saturating_sub(samples.items_ms) >= WINDOWS[0].every_ms;
        if items_due {
            samples.items_ms = now_ms;
        }
        drop(samples);
        if items_due {
            self.node.puts.sample(now_ms);
            self.node.gets.sample(now_ms);
            let topics: Vec<_> = read(&self.topics).values().cloned().collect();
            let groups: Vec<_> = read(&self.groups).values().flat_map(HashMap::values).cloned().collect();
            let idle = topics.iter().chain(&groups).filter(|counter| counter.sample(now_ms)).count();
            if idle > 0 {
                self.forget_idle();
            }
        }
    }

    /// Drops items that counted nothing for a day.
    fn forget_idle(&self) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.retain(|_, counter| !counter.is_idle());
        drop(topics);
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|_, groups| {
            groups.retain(|_, counter| !counter.is_idle());
            !groups.is_empty()
        });
    }
}

/// A counter that was asked for by name.
pub(crate) struct Item<'a> {
    counter: Held<'a>,
    measure: Measure,
}

enum Held<'a> {
    Own(&'a Counter),
    Shared(Arc<Counter>),
}

impl Item<'_> {
    /// What was counted within a window.
    pub(crate) fn snapshot(&self, span: Span) -> Snapshot {
        let counter = match &self.counter {
            Held::Own(counter) => counter,
            Held::Shared(counter) => counter.as_ref(),
        };
        counter.snapshot(span, self.measure)
    }
}

impl Counter {
    fn add(&self, messages: u64, bytes: u64) {
        self.calls.fetch_add(1, Relaxed);
        self.messages.fetch_add(messages, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    fn now(&self, at_ms: u64) -> Sample {
        Sample {
            at_ms,
            calls: self.calls.load(Relaxed),
            messages: self.messages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }

    /// Adds a sample to each window whose time has come. True when nothing was counted for a day.
    fn sample(&self, now_ms: u64) -> bool {
        let now = self.now(now_ms);
        for (window, samples) in WINDOWS.iter().zip(lock(&self.windows).iter_mut()) {
            match samples.back() {
                // The first sample stands for the time before the counter was made, when it was zero.
                None => samples
                    .push_back(Sample { at_ms: now_ms.saturating_sub(window.every_ms), ..Sample::default() }),
                Some(last) if now_ms < last.at_ms + window.every_ms => continue,
                Some(_) => {}
            }
            if samples.len() >= window.samples {
                samples.pop_front();
            }
            samples.push_back(now);
        }
        self.is_idle()
    }

    fn is_idle(&self) -> bool {
        let windows = lock(&self.windows);
        let day = &windows[Span::Day as usize];
        day.len() >= WINDOWS[Span::Day as usize].samples
            && day.front().is_some_and(|first| first.calls == self.calls.load(Relaxed))
    }

    fn snapshot(&self, span: Span, measure: Measure) -> Snapshot {
        let windows = lock(&self.windows);
        let samples = &windows[span as usize];
        let (Some(first), Some(last)) = (samples.front(), samples.back()) else { return Snapshot::default() };
        let sum = match measure {
            Measure::Messages => last.messages - first.messages,
            Measure::Bytes => last.bytes - first.bytes,
        };
        let ms = last.at_ms.saturating_sub(first.at_ms).max(1);
        let calls = last.calls - first.calls;
        Snapshot {
            sum,
            tps: sum as f64 * 1000.0 / ms as f64,
            per_call: if calls > 0 { sum as f64 / calls as f64 } else { 0.0 },
        }
    }
}

/// A histogram of durations: classes grow by about a fifth, from 1 µs to a quarter of an hour.
struct Latencies {
    classes: [AtomicU64; Latencies::CLASSES],
}

impl Latencies {
    /// Four classes for each doubling.
    const CLASSES: usize = 4 * 30;

    fn new() -> Latencies {
        Latencies { classes: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    fn add(&self, took: Duration) {
        let us = (took.as_micros() as u64).max(1);
        let doubling = us.ilog2();
        // The two bits below the highest one.
        let quarter = if doubling >= 2 { us >> (doubling - 2) & 3 } else { us << (2 - doubling) & 3 };
        let class = (doubling as usize * 4 + quarter as usize).min(Self::CLASSES - 1);
        self.classes[class].fetch_add(1, Relaxed);
    }

    /// The time, ms, below which `per_mille` of the durations are.
    fn below(both: &[Latencies; 2], per_mille: u64) -> f64 {
        let counts: Vec<u64> = (0..Self::CLASSES)
            .map(|class| both.iter().map(|minute| minute.classes[class].load(Relaxed)).sum())
            .collect();
        let total: u64 = counts.iter().sum();
        let wanted = (total * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (class, count) in counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                let upper_us = 2f64.powi(class as i32 / 4) * (1.0 + (class % 4 + 1) as f64 / 4.0);
                return upper_us / 1000.0;
            }
        }
        0.0
    }

    /// A minute is over: the newer becomes the older.
    fn roll(both: &[Latencies; 2]) {
        for (newer, older) in both[0].classes.iter().zip(&both[1].classes) {
            older.store(newer.swap(0, Relaxed), Relaxed);
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn rates_of_the_node_and_of_items() {
        let start = 100 * DAY_MS;
        let stats = Stats::new(start);
        for second in 1..=20 {
            for _ in 0..5 {
                stats.put("T", 2, 200, MS);
            }
            stats.got("T", "g", 4, 400, MS);
            stats.missed();
            stats.tick(start + second * 1000);
        }
        let node = stats.node();
        assert_eq!((node.put_calls, node.put_messages, node.put_bytes), (100, 200, 20_000));
        assert_eq!(node.rates[0], Rates { put: 10.0, got: 4.0, found: 1.0, missed: 1.0 });
        assert_eq!(node.rates[2], node.rates[0], "since the start where ten minutes are not over");
        assert_eq!(node.put_totals, [0, 0, 200]);
        assert!(node.put_distribution.starts_with("[<=0ms]:0 [0~10ms]:100 [10~50ms]:0"));
        assert!((1.0..1.3).contains(&node.put_p99_ms), "{}", node.put_p99_ms);

        let minute = stats.item("TOPIC_PUT_NUMS", "T", "c").unwrap().snapshot(Span::Minute);
        assert_eq!(minute, Snapshot { sum: 200, tps: 10.0, per_call: 2.0 });
        assert_eq!(stats.item("GROUP_GET_SIZE", "T@g", "c").unwrap().snapshot(Span::Minute).sum, 8000);
        assert!((stats.topic_put_tps("T") - 10.0).abs() < 1e-9);
        assert_eq!(stats.item("BROKER_GET_NUMS", "c", "c").unwrap().snapshot(Span::Hour).sum, 40);
        assert!(stats.item("BROKER_GET_NUMS", "d", "c").is_none());
        assert!(stats.item("TOPIC_PUT_NUMS", "U", "c").is_none());
        assert!(stats.item("NONE", "T", "c").is_none());
    }

    #[test]
    fn days_and_idle_items() {
        let start = 100 * DAY_MS + 1;
        let stats = Stats::new(start);
        stats.put("T", 3, 1, MS);
        stats.tick(start + DAY_MS);
        stats.put("U", 1, 1, MS);
        stats.tick(start + 2 * DAY_MS);
        assert_eq!(stats.node().put_totals, [3, 4, 4]);
        for hour in 0..30 {
            stats.put("U", 1, 1, MS);
            stats.tick(start + 2 * DAY_MS + hour * 3_600_000);
        }
        assert!(stats.item("TOPIC_PUT_NUMS", "T", "c").is_none(), "idle for a day");
        assert!(stats.item("TOPIC_PUT_NUMS", "U", "c").is_some());
        stats.put("T", 1, 1, MS);
        assert!(stats.item("TOPIC_PUT_NUMS", "T", "c").is_some());
    }

    #[test]
    fn latency_classes_are_upper_bounds() {
        for us in [1, 2, 3, 7, 100, 999, 1_000, 65_537, 10_000_000] {
            let both = [Latencies::new(), Latencies::new()];
            both[0].add(Duration::from_micros(us));
            let ms = us as f64 / 1000.0;
            let below = Latencies::below(&both, 990);
            assert!(below >= ms && below <= ms * 2.0, "{us} µs: {below} ms");
            Latencies::roll(&both);
            assert!((Latencies::below(&both, 990) - below).abs() < 1e-9);
            Latencies::roll(&both);
            assert!(Latencies::below(&both, 990) < 1e-9);
        }
        let both = [Latencies::new(), Latencies::new()];
        both[0].add(Duration::from_secs(1 << 40));
    }
}
