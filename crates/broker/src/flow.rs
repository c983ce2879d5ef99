//! Flow control: what is refused so that the rest is done in time.
//!
//! ```text
//! rates   so much a second for one topic, one consumer group, one client address      ─▶ 2 or 14, named
//! pace    what is proposed and not committed, against what is committed in a second   ─▶ 2 or 14, named
//! late    what lay in its socket for too long behind others that were refused         ─▶ 2 or 14
//! bytes   in flight, per connection and per node: net stops reading (crates/net)
//!         proposed and not committed, per group: the proposer refuses (crates/replica)
//! ```
//!
//! **Rates** are for this broker alone, as RocketMQ's own limits are: a client that is refused goes to another group.
//! Where none is configured nothing is looked up.
//!
//! **Pace.** A stock client waits 3 s for a send in all its attempts. A broker whose queue is longer than that works only
//! for clients that have given up, however fast it works; so a send that would wait for longer than `queue_wait_ms` is
//! refused at once. Only where sends really wait: a burst that meets an idle broker is taken in. What waits is what was taken
//! in and not answered: where the CPU is what there is too little of, much is committed whose answer waits for its turn.
//!
//! **Pauses.** A refusal costs a good part of what a send costs, so at ten times the capacity refusals alone would take all the
//! time. So a connection whose send is refused for the pace is not read for a while (crates/net/src/pause.rs): what it sends
//! stays in its socket and then with its client. It is told of one refusal at a time, or of all that has become late. While it
//! has more than it is given it may use half of `queue_wait_ms`; the rest is for those who ask for little. For a rate, which
//! concerns one topic and not the others of the same client, a connection pauses only where refusals for rates have come to
//! cost something and are most of what it gets.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use net::PushBack;
use wire::{Language, RemotingCommand, RequestCode, ResponseCode};

use crate::config::{RateRule, Whom};
use crate::errors::Error;
use crate::limits::{
    Limits, PACE_FREE_BYTES, PACE_SAMPLE, PACED_SHARE, PRESSED_SHARE, RATE_BURST, RATE_REFUSALS_FREE,
    RATED_NAMES_MAX,
};

/// The limits of one group on this node.
pub(crate) struct Flow {
    topics: Rates,
    groups: Rates,
    clients: Rates,
    refusals: Refusals,
    pub(crate) pace: Pace,
}

impl Flow {
    pub(crate) fn new(limits: &Limits, rules: &[RateRule]) -> Flow {
        let start = Instant::now();
        let rates = |kind: Kind, messages: usize, bytes: usize| {
            let rule = Rate { messages: messages as u64, bytes: bytes as u64 };
            let own = rules.iter().filter(|rule| kind.of(&rule.whom));
            let own =
                own.map(|rule| (rule.whom.name().to_owned(), Rate::of(rule, rule_default(rule, limits))));
            Rates::new(kind, rule, own.collect(), start)
        };
        Flow {
            topics: rates(Kind::Topic, limits.topic_messages_per_second, limits.topic_bytes_per_second),
            groups: rates(Kind::Group, limits.group_messages_per_second, limits.group_bytes_per_second),
            clients: rates(Kind::Client, limits.client_messages_per_second, limits.client_bytes_per_second),
            refusals: Refusals::new(start),
            pace: Pace::new(Duration::from_millis(limits.queue_wait_ms as u64), start),
        }
    }

    /// Whether a send is to be looked into. What is refused here costs little more than its reading, so that many of them
    /// leave time for the rest. `pending`: bytes of this group that wait to be committed.
    pub(crate) fn admits(
        &self,
        request: &RemotingCommand,
        is_pressed: bool,
        client: IpAddr,
        topic: Option<&str>,
        pending: usize,
    ) -> Result<(), Error> {
        self.pace.admit(pending, is_pressed).map_err(|remark| Error::Busy {
            code: busy_code(request),
            remark,
            what: PushBack::Connection,
        })?;
        if self.topics.is_off() && self.clients.is_off() {
            return Ok(());
        }
        let now = Instant::now();
        let busy = |remark| self.over_rate(request, remark, now);
        if !self.clients.is_off() {
            self.clients.is_free(&client.to_string(), now).map_err(busy)?;
        }
        topic.map_or(Ok(()), |topic| self.topics.is_free(topic, now)).map_err(busy)
    }

    fn over_rate(&self, request: &RemotingCommand, remark: String, now: Instant) -> Error {
        let code = busy_code(request);
        if self.refusals.are_costly(now) {
            Error::Busy { code, remark, what: PushBack::Request }
        } else {
            Error::refused(code, remark)
        }
    }

    /// Lets a send through, or says which rate it is over.
    pub(crate) fn send(
        &self,
        request: &RemotingCommand,
        client: IpAddr,
        topic: &str,
        messages: u32,
        bytes: usize,
    ) -> Result<(), Error> {
        if self.topics.is_off() && self.clients.is_off() {
            return Ok(());
        }
        let now = Instant::now();
        let busy = |remark| self.over_rate(request, remark, now);
        let (messages, bytes) = (u64::from(messages), bytes as u64);
        // First the one that harms fewer others.
        if !self.clients.is_off() {
            self.clients.take(&client.to_string(), messages, bytes, now).map_err(busy)?;
        }
        self.topics.take(topic, messages, bytes, now).map_err(busy)
    }

    /// Whether a consumer group may be given more now. A stock consumer asks again a second after this code.
    pub(crate) fn may_pull(&self, group: &str) -> Result<(), Error> {
        if self.groups.is_off() {
            return Ok(());
        }
        let free = self.groups.is_free(group, Instant::now());
        free.map_err(|remark| Error::refused(ResponseCode::SYSTEM_BUSY, remark))
    }

    /// A consumer group was given messages.
    pub(crate) fn pulled(&self, group: &str, messages: usize, bytes: usize) {
        if !self.groups.is_off() {
            self.groups.charge(group, messages as u64, bytes as u64, Instant::now());
        }
    }
}

/// The general rate for what a rule leaves open.
fn rule_default(rule: &RateRule, limits: &Limits) -> Rate {
    let (messages, bytes) = match rule.whom {
        Whom::Topic(_) => (limits.topic_messages_per_second, limits.topic_bytes_per_second),
        Whom::Group(_) => (limits.group_messages_per_second, limits.group_bytes_per_second),
        Whom::Client(_) => (limits.client_messages_per_second, limits.client_bytes_per_second),
    };
    Rate { messages: messages as u64, bytes: bytes as u64 }
}

/// The refusal of a request that lay in its socket for too long, if it is one that has no time left then. It costs little
/// more than its reading: there may be thousands.
pub(crate) fn late(request: &RemotingCommand) -> Option<(ResponseCode, &'static str)> {
    let is_send = matches!(
        request.request_code(),
        RequestCode::SEND_MESSAGE | RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE
    );
    is_send.then(|| (busy_code(request), LATE_REMARK))
}

/// Made once: see [`late`]. Its number is [`net::limits::LATE`].
const LATE_REMARK: &str = "broker busy, start flow control for a while: it has waited for 1500 ms or more behind others that were refused";
const _: () = assert!(net::limits::LATE.as_millis() == 1500);

/// What a client is told that comes too fast: sync producers of RocketMQ from 5.3 on try 2 at another broker, those of
/// all versions 14 (clients.md 2).
fn busy_code(request: &RemotingCommand) -> ResponseCode {
    if request.language == Language::Java && request.version >= VERSION_RETRIES_BUSY {
        ResponseCode::SYSTEM_BUSY
    } else {
        ResponseCode::SERVICE_NOT_AVAILABLE
    }
}

/// V5_3_0.
const VERSION_RETRIES_BUSY: i32 = 473;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Topic,
    Group,
    Client,
}

impl Kind {
    fn of(self, whom: &Whom) -> bool {
        self == match whom {
            Whom::Topic(_) => Kind::Topic,
            Whom::Group(_) => Kind::Group,
            Whom::Client(_) => Kind::Client,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Topic => "topic",
            Kind::Group => "group",
            Kind::Client => "client",
        }
    }
}

/// So much in a second; 0: any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Rate {
    messages: u64,
    bytes: u64,
}

impl Rate {
    fn of(rule: &RateRule, default: Rate) -> Rate {
        Rate {
            messages: rule.messages_per_second.unwrap_or(default.messages),
            bytes: rule.bytes_per_second.unwrap_or(default.bytes),
        }
    }

    fn is_none(self) -> bool {
        self.messages == 0 && self.bytes == 0
    }
}

/// The rates of everything of one kind.
struct Rates {
    kind: Kind,
    default: Rate,
    own: HashMap<String, Rate>,
    start: Instant,
    meters: RwLock<HashMap<String, Meter>>,
}

/// When what was let through so far is over, at the rate allowed, in ns since the start.
#[derive(Default)]
struct Meter {
    rate: Rate,
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Rates {
    fn new(kind: Kind, default: Rate, own: HashMap<String, Rate>, start: Instant) -> Rates {
        Rates { kind, default, own, start, meters: RwLock::default() }
    }

    fn is_off(&self) -> bool {
        self.default.is_none() && self.own.is_empty()
    }

    fn rate(&self, name: &str) -> Rate {
        self.own.get(name).copied().unwrap_or(self.default)
    }

    /// Lets so much through, or says which number is reached.
    fn take(&self, name: &str, messages: u64, bytes: u64, now: Instant) -> Result<(), String> {
        self.with(name, now, |meter, at| {
            self.free(name, meter, at)?;
            meter.charge(messages, bytes, at);
            Ok(())
        })
    }

    /// A name that was charged nothing is free, and gets no meter: it may be one that nobody has looked at yet.
    fn is_free(&self, name: &str, now: Instant) -> Result<(), String> {
        read(&self.meters).get(name).map_or(Ok(()), |meter| self.free(name, meter, self.at(now)))
    }

    /// Nanoseconds since the start.
    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_nanos() as u64
    }

    fn charge(&self, name: &str, messages: u64, bytes: u64, now: Instant) {
        let charged = self.with(name, now, |meter, at| {
            meter.charge(messages, bytes, at);
            Ok(())
        });
        debug_assert!(charged.is_ok());
    }

    /// What was let through beyond a burst must be over first: one message larger than a second's worth goes out, and
    /// is paid for by the wait behind it.
    fn free(&self, name: &str, meter: &Meter, at: u64) -> Result<(), String> {
        let horizon = at + RATE_BURST.as_nanos() as u64;
        for (until, limit, what) in
            [(&meter.messages, meter.rate.messages, "messages"), (&meter.bytes, meter.rate.bytes, "bytes")]
        {
            if limit > 0 && until.load(Ordering::Relaxed) >= horizon {
                let kind = self.kind.name();
                return Err(format!(
                    "broker busy, start flow control for a while: {kind} {name} is over its rate of {limit} {what} a \
                     second ({kind}_{what}_per_second)"
                ));
            }
        }
        Ok(())
    }

    fn with(
        &self,
        name: &str,
        now: Instant,
        act: impl Fn(&Meter, u64) -> Result<(), String>,
    ) -> Result<(), String> {
        let at = self.at(now);
        if let Some(meter) = read(&self.meters).get(name) {
            return act(meter, at);
        }
        let rate = self.rate(name);
        if rate.is_none() {
            return Ok(());
        }
        let mut meters = self.meters.write().unwrap_or_else(PoisonError::into_inner);
        if meters.len() >= RATED_NAMES_MAX {
            // Whoever owes nothing is as good as new.
            meters.retain(|_, meter| meter.owes(at));
        }
        act(meters.entry(name.to_owned()).or_insert_with(|| Meter { rate, ..Meter::default() }), at)
    }
}

impl Meter {
    fn charge(&self, messages: u64, bytes: u64, at: u64) {
        let add = |until: &AtomicU64, amount: u64, limit: u64| {
            if let Some(ns) = (amount.saturating_mul(1_000_000_000)).checked_div(limit) {
                // The closure always gives a value.
                let _ = until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                    Some(until.max(at).saturating_add(ns))
                });
            }
        };
        add(&self.messages, messages, self.rate.messages);
        add(&self.bytes, bytes, self.rate.bytes);
    }

    fn owes(&self, at: u64) -> bool {
        self.messages.load(Ordering::Relaxed).max(self.bytes.load(Ordering::Relaxed)) > at
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// A while of [`PACE_SAMPLE`] or longer in which something is counted.
struct Window {
    start: Instant,
    /// When it began, ns since the start.
    began: AtomicU64,
}

impl Window {
    fn new(start: Instant) -> Window {
        Window { start, began: AtomicU64::new(0) }
    }

    /// Begins another where this one is over: how long it was. One caller is told.
    fn end(&self, now: Instant) -> Option<Duration> {
        let at = now.saturating_duration_since(self.start).as_nanos() as u64;
        let began = self.began.load(Ordering::Relaxed);
        let took = Duration::from_nanos(at.saturating_sub(began));
        let ends = took >= PACE_SAMPLE
            && self.began.compare_exchange(began, at, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        ends.then_some(took)
    }
}

/// How many sends are refused for rates.
struct Refusals {
    window: Window,
    /// In it.
    count: AtomicU64,
    /// There were too many in the last one.
    were_costly: AtomicBool,
}

impl Refusals {
    fn new(start: Instant) -> Refusals {
        Refusals { window: Window::new(start), count: AtomicU64::new(0), were_costly: AtomicBool::new(false) }
    }

    /// Counts one more. Whether they are more than may be had for nothing.
    fn are_costly(&self, now: Instant) -> bool {
        let free = |of: Duration| RATE_REFUSALS_FREE as f64 * of.as_secs_f64();
        if let Some(took) = self.window.end(now) {
            let count = self.count.swap(0, Ordering::Relaxed);
            self.were_costly.store(count as f64 > free(took), Ordering::Relaxed);
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        count as f64 > free(PACE_SAMPLE) || self.were_costly.load(Ordering::Relaxed)
    }
}

/// How fast a group commits, and how long a send waits.
pub(crate) struct Pace {
    wait_max: Duration,
    /// Bytes of sends that were taken in and not answered.
    owed: Arc<AtomicUsize>,
    /// Of the window that is being counted.
    bytes: AtomicU64,
    /// The longest wait in it, µs.
    wait_us: AtomicU64,
    /// The last one, as far as `admit` wants to know it: bytes a second, 0 while sends do not wait long.
    bytes_per_second: AtomicU64,
    window: Window,
}

impl Pace {
    fn new(wait_max: Duration, start: Instant) -> Pace {
        Pace {
            wait_max,
            owed: Arc::default(),
            bytes: AtomicU64::new(0),
            wait_us: AtomicU64::new(0),
            bytes_per_second: AtomicU64::new(0),
            window: Window::new(start),
        }
    }

    /// Bytes that are taken in and count as waiting until this is dropped.
    pub(crate) fn owe(&self, bytes: usize) -> Owed {
        self.owed.fetch_add(bytes, Ordering::Relaxed);
        Owed { owed: self.owed.clone(), bytes }
    }

    /// Whether what is proposed now will be committed in time, with so much pending; else the remark of the refusal.
    /// `is_pressed`: it is one of many that its client has sent, and some were refused.
    fn admit(&self, pending: usize, is_pressed: bool) -> Result<(), String> {
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        // Not all that is pending is sends.
        let pending = pending.max(self.owed.load(Ordering::Relaxed));
        if rate == 0 || pending <= PACE_FREE_BYTES {
            return Ok(());
        }
        let expected_ms = pending as u64 * 1000 / rate;
        let limit_ms = self.wait_max.as_millis() as u64;
        let share = if is_pressed { PRESSED_SHARE } else { 1.0 };
        if expected_ms as f64 <= limit_ms as f64 * share {
            return Ok(());
        }
        Err(format!(
            "broker busy, start flow control for a while: {pending} bytes wait to be committed at {rate} bytes a second, \
             which takes {expected_ms} ms (queue_wait_ms: {limit_ms})"
        ))
    }

    /// Bytes were committed for which somebody has waited so long.
    pub(crate) fn committed(&self, bytes: u64, waited: Duration) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let waited = waited.as_micros() as u64;
        // Mostly it is no longer than the longest.
        if self.wait_us.load(Ordering::Relaxed) < waited {
            self.wait_us.fetch_max(waited, Ordering::Relaxed);
        }
    }

    /// Ends the window where it is over. Called often, by whoever has looked at a clock.
    pub(crate) fn sample(&self, now: Instant) {
        let Some(took) = self.window.end(now) else { return };
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        let waited = Duration::from_micros(self.wait_us.swap(0, Ordering::Relaxed));
        // What is over within a window looks slower than it was, and is to count for little.
        let share = PACED_SHARE.midpoint(PRESSED_SHARE);
        let paced = self.wait_max.mul_f64(PACED_SHARE).max(PACE_SAMPLE.min(self.wait_max.mul_f64(share)));
        let is_log_bound = waited >= paced;
        if bytes == 0 {
            // No proof of anything: the last figure stands until something is committed.
            return;
        }
        // What nobody waited in was idle, and says nothing of the log.
        let busy = took.min(waited.max(PACE_SAMPLE));
        let rate = if is_log_bound { (bytes as f64 / busy.as_secs_f64()).max(1.0) as u64 } else { 0 };
        self.bytes_per_second.store(rate, Ordering::Relaxed);
    }
}

/// See [`Pace::owe`].
pub(crate) struct Owed {
    owed: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.owed.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(messages: u64, bytes: u64) -> Rate {
        Rate { messages, bytes }
    }

    fn let_through(rates: &Rates, name: &str, times: usize, bytes: u64, at: Instant) -> usize {
        (0..times).filter(|_| rates.take(name, 1, bytes, at).is_ok()).count()
    }

    #[test]
    fn a_rate_lets_a_second_through_at_once_and_then_what_it_says() {
        let start = Instant::now();
        let rates = Rates::new(Kind::Topic, rate(100, 0), HashMap::new(), start);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let burst = let_through(&rates, "T", 1000, 1, at(5000));
        assert!((100..=101).contains(&burst), "{burst}");
        assert_eq!(let_through(&rates, "T", 1000, 1, at(5500)), 50);
        assert_eq!(let_through(&rates, "T", 1000, 1, at(5500)), 0);
        assert_eq!(let_through(&rates, "T", 1000, 1, at(7500)), 100, "what was not used is not saved up");
        assert!(let_through(&rates, "U", 1000, 1, at(7500)) >= 100, "topics are apart");
        let refusal = rates.take("T", 1, 1, at(7500)).unwrap_err();
        assert!(refusal.contains("topic T is over its rate of 100 messages a second"), "{refusal}");
    }

    #[test]
    fn bytes_count_as_well_and_one_large_message_goes_out() {
        let start = Instant::now();
        let rates = Rates::new(Kind::Client, rate(0, 1000), HashMap::new(), start);
        assert_eq!(rates.take("c", 1, 5000, start), Ok(()));
        let refusal = rates.take("c", 1, 1, start + Duration::from_secs(3)).unwrap_err();
        assert!(refusal.contains("rate of 1000 bytes a second (client_bytes_per_second)"), "{refusal}");
        assert_eq!(rates.take("c", 1, 1, start + Duration::from_millis(4001)), Ok(()));
    }

    #[test]
    fn a_name_may_have_a_rate_of_its_own() {
        let start = Instant::now();
        let own = HashMap::from([("free".to_owned(), rate(0, 0)), ("slow".to_owned(), rate(1, 0))]);
        let rates = Rates::new(Kind::Group, rate(10, 0), own, start);
        assert_eq!(let_through(&rates, "free", 1000, 1, start), 1000);
        assert!((1..=2).contains(&let_through(&rates, "slow", 1000, 1, start)));
        assert!((10..=11).contains(&let_through(&rates, "other", 1000, 1, start)));
    }

    #[test]
    fn names_that_owe_nothing_make_room() {
        let start = Instant::now();
        let rates = Rates::new(Kind::Client, rate(1, 0), HashMap::new(), start);
        for n in 0..RATED_NAMES_MAX {
            rates.take(&n.to_string(), 1, 1, start).unwrap();
        }
        rates.take("new", 1, 1, start + Duration::from_mins(1)).unwrap();
        assert_eq!(read(&rates.meters).len(), 1);
    }

    #[test]
    fn nothing_is_refused_where_nothing_is_configured() {
        let flow = Flow::new(&Limits::default(), &[]);
        assert!(flow.topics.is_off() && flow.groups.is_off() && flow.clients.is_off());
        let request = RemotingCommand::request(wire::RequestCode::SEND_MESSAGE);
        for _ in 0..1000 {
            flow.admits(&request, false, [127, 0, 0, 1].into(), Some("T"), 64 << 20).unwrap();
            flow.send(&request, [127, 0, 0, 1].into(), "T", 1, 1 << 20).unwrap();
            flow.may_pull("g").unwrap();
        }
    }

    #[test]
    fn sends_may_be_late_and_nothing_else() {
        let of = |code| late(&RemotingCommand::request(code)).map(|(code, _)| code);
        for code in [10, 310, 320] {
            assert_eq!(of(RequestCode(code)), Some(ResponseCode::SYSTEM_BUSY), "{code}");
        }
        for code in [RequestCode::HEART_BEAT, RequestCode::PULL_MESSAGE, RequestCode::END_TRANSACTION] {
            assert_eq!(of(code), None);
        }
    }

    #[test]
    fn who_is_pressed_leaves_room_for_others() {
        let start = Instant::now();
        let pace = Pace::new(Duration::from_secs(1), start);
        pace.committed(1 << 20, Duration::from_millis(600));
        pace.sample(start + Duration::from_millis(100));
        for (pending, pressed, other) in
            [(5, true, true), (6, false, true), (10, false, true), (11, false, false)]
        {
            assert_eq!(pace.admit(pending << 20, true).is_ok(), pressed, "{pending} MiB of 10 a second");
            assert_eq!(pace.admit(pending << 20, false).is_ok(), other, "{pending} MiB of 10 a second");
        }
    }

    #[test]
    fn refusals_for_rates_cost_something_when_there_are_many() {
        let start = Instant::now();
        let refusals = Refusals::new(start);
        let many = (RATE_REFUSALS_FREE / 10) as u32;
        let window = |at_ms: u64, count: u32| {
            let costly = |n: u32| {
                let at = Duration::from_millis(at_ms) + PACE_SAMPLE * n / count;
                refusals.are_costly(start + at)
            };
            (0..count).filter(|&n| costly(n)).count() as u32
        };
        assert_eq!(window(100, many), 0, "as many as may be");
        assert_eq!(window(200, many * 2), many, "those beyond");
        assert_eq!(window(300, many / 2), many / 2, "until there was a window with few");
        assert_eq!(window(400, many / 2), 0);
        // One that follows silence is no sign of many.
        assert_eq!(window(60_000, many), 0);
    }

    #[test]
    fn the_code_is_one_that_the_version_retries() {
        let mut request = RemotingCommand::request(wire::RequestCode::SEND_MESSAGE);
        for (language, version, code) in [
            (Language::Java, 479, 2),
            (Language::Java, 473, 2),
            (Language::Java, 407, 14),
            (Language::Go, 479, 14),
        ] {
            (request.language, request.version) = (language, version);
            assert_eq!(busy_code(&request).get(), code, "{language:?} {version}");
        }
    }

    #[test]
    fn a_send_that_would_wait_too_long_is_refused() {
        let start = Instant::now();
        let pace = Pace::new(Duration::from_secs(1), start);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let pending = 20 << 20;
        assert_eq!(pace.admit(pending, false), Ok(()), "nothing is known");
        // Quick commits of a little: a burst is welcome, whatever the pace was.
        pace.committed(1 << 10, Duration::from_millis(2));
        pace.sample(at(200));
        assert_eq!(pace.admit(pending, false), Ok(()));
        // 1 MiB in 100 ms, and somebody has waited for it.
        pace.committed(1 << 20, Duration::from_millis(600));
        pace.sample(at(300));
        let refusal = pace.admit(pending, false).unwrap_err();
        assert!(
            refusal.contains("20971520 bytes wait to be committed at 10485760 bytes a second"),
            "{refusal}"
        );
        assert!(refusal.contains("2000 ms (queue_wait_ms: 1000)"), "{refusal}");
        assert_eq!(pace.admit(10 << 20, false), Ok(()));
        assert_eq!(pace.admit(PACE_FREE_BYTES, false), Ok(()), "so that it is noticed when it goes on");
        // Nothing at all is no proof of speed.
        pace.sample(at(500));
        assert!(pace.admit(pending, false).is_err());
        pace.committed(1 << 20, Duration::from_millis(20));
        pace.sample(at(700));
        assert_eq!(pace.admit(pending, false), Ok(()));
    }

    #[test]
    fn what_is_committed_waits_until_it_is_answered() {
        let start = Instant::now();
        let pace = Pace::new(Duration::from_secs(1), start);
        pace.committed(1 << 20, Duration::from_millis(600));
        pace.sample(start + Duration::from_millis(100));
        let owed = [pace.owe(10 << 20), pace.owe(20 << 20)];
        let refusal = pace.admit(0, false).unwrap_err();
        assert!(
            refusal.contains("31457280 bytes wait to be committed at 10485760 bytes a second"),
            "{refusal}"
        );
        drop(owed);
        assert_eq!(pace.admit(0, false), Ok(()));
    }

    #[test]
    fn idle_time_is_no_proof_of_a_slow_log() {
        let start = Instant::now();
        let pace = Pace::new(Duration::from_secs(1), start);
        // The first commit of a burst that met a broker that had been idle for a minute: 8 MiB in 500 ms.
        pace.committed(8 << 20, Duration::from_millis(500));
        pace.sample(start + Duration::from_mins(1));
        assert_eq!(pace.admit(16 << 20, false), Ok(()));
        let refusal = pace.admit(17 << 20, false).unwrap_err();
        assert!(refusal.contains("at 16777216 bytes a second"), "{refusal}");
    }
}
