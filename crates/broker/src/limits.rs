//! Every limit of this crate, with the assertions that hold between them. What an operator may want to change is in
//! [`Limits`] and has its default here; the rest follows from what stock clients do (docs: clients.md, log.md).

use std::ops::RangeInclusive;
use std::time::Duration;

macro_rules! limits {
    ($( $(#[$doc:meta])* $key:ident = $default:expr, in $range:expr; )*) => {
        /// What one node takes on before it refuses, per process unless said otherwise. The names of the fields are the
        /// keys that an operator sets.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits {
            $( $(#[$doc])* pub $key: usize, )*
        }

        impl Default for Limits {
            fn default() -> Limits {
                Limits { $($key: $default,)* }
            }
        }

        impl Limits {
            /// Every limit by name, in the order of the table.
            pub fn table(&self) -> Vec<(&'static str, usize)> {
                vec![$((stringify!($key), self.$key),)*]
            }

            /// Sets a limit by its name. Whether the value will do is for [`Limits::check`] to say, once all are set.
            pub fn set(&mut self, key: &str, value: usize) -> Result<(), String> {
                match key {
                    $(stringify!($key) => self.$key = value,)*
                    _ => {
                        let names: Vec<&str> = self.table().into_iter().map(|(name, _)| name).collect();
                        return Err(format!("no such limit; there are {}", names.join(", ")));
                    }
                }
                Ok(())
            }

            fn in_range(&self) -> Result<(), (&'static str, String)> {
                $(
                    let range: RangeInclusive<usize> = $range;
                    if !range.contains(&self.$key) {
                        let rule = format!("must be {} to {}, not {}", range.start(), range.end(), self.$key);
                        return Err((stringify!($key), rule));
                    }
                )*
                Ok(())
            }
        }
    };
}

limits! {
    /// Open client connections of one group.
    connections = 20_000, in 1..=COUNT_MAX;
    /// Those of one client address.
    connections_per_ip = 10_000, in 1..=COUNT_MAX;
    /// The largest frame a client may send, length word included.
    frame_bytes = 8 << 20, in RECORD_OVERHEAD_BYTES..=FRAME_BYTES_MAX;
    /// The largest message body (RocketMQ's `maxMessageSize`).
    message_bytes = 4 << 20, in 1..=FRAME_BYTES_MAX;
    /// Bytes of requests of one connection that are read and not answered; reading stops beyond them.
    in_flight_bytes_per_connection = 16 << 20, in 1..=BYTES_MAX;
    /// The same for all connections together.
    in_flight_bytes = 256 << 20, in 1..=BYTES_MAX;
    /// Bytes that a connection may have sent and that were not read yet, in the kernel (Linux takes twice as much memory); 0: as
    /// the system tunes it (RocketMQ's `serverSocketRcvBufSize`). A window: over a way of 100 ms so much ten times a second. Linux
    /// gives no more than `net.core.rmem_max`, and says nothing.
    receive_buffer_bytes = 128 << 10, in 0..=1 << 30;
    /// Bytes of answers that all clients together leave unread; beyond them slow readers are reset.
    unread_bytes = 512 << 20, in FRAME_BYTES_MAX..=BYTES_MAX;
    /// Messages of one pull that lie in memory (RocketMQ's `maxTransferCountOnMessageInMemory`), and their bytes.
    pull_messages_in_memory = 32, in 1..=COUNT_MAX;
    pull_bytes_in_memory = 256 << 10, in 1..=FRAME_BYTES_MAX;
    /// Messages of one pull that has to read the disk (`maxTransferCountOnMessageInDisk`), and their bytes.
    pull_messages_on_disk = 8, in 1..=COUNT_MAX;
    pull_bytes_on_disk = 64 << 10, in 1..=FRAME_BYTES_MAX;
    /// Held pulls of one group.
    held_pulls = 100_000, in 1..=COUNT_MAX;
    /// Requests of one group that wait for a leader.
    parked_requests = 20_000, in 1..=COUNT_MAX;
    /// Bytes of those requests.
    parked_bytes = 32 << 20, in 1..=BYTES_MAX;
    /// Requests that wait for the creation of their topic, per group.
    waiting_for_topic = 4_096, in 1..=COUNT_MAX;
    /// Timer messages of one group that wait for their time; the leader has less than 20 bytes of each in memory.
    pending_timers = 2_000_000, in 1..=COUNT_MAX;
    /// Clients in the registry of this node.
    clients = 50_000, in 1..=COUNT_MAX;
    /// Reads of cold pages at the same time, per group.
    cold_reads = 8, in 1..=1024;
    /// How fast a node that is more than 64 MiB behind is sent what it lacks of a group that this one leads, in bytes a second; 0: as
    /// fast as it goes, as it also does where nothing is committed without that node. Never more slowly than one and a half times
    /// as fast as the log grows.
    catch_up_bytes_per_second = replica::CATCH_UP_RATE as usize, in 0..=BYTES_MAX;
    /// A send that would wait longer to be committed is refused, in ms; clients give one 3 s, in all its attempts.
    queue_wait_ms = 1_000, in 50..=2_500;
    /// What one topic takes in a second, on each group; 0: any number. `[[rate]]` gives single names rates of their own.
    topic_messages_per_second = 0, in 0..=BYTES_MAX;
    topic_bytes_per_second = 0, in 0..=BYTES_MAX;
    /// What one client address may send in a second, to each group.
    client_messages_per_second = 0, in 0..=BYTES_MAX;
    client_bytes_per_second = 0, in 0..=BYTES_MAX;
    /// What one consumer group is given in a second, by each group's node.
    group_messages_per_second = 0, in 0..=BYTES_MAX;
    group_bytes_per_second = 0, in 0..=BYTES_MAX;
}

/// The least rate of catching up: one read for replication in a quarter of a second.
const CATCH_UP_BYTES_MIN: usize = 4 << 20;

impl Limits {
    /// The first limit that is out of its range or contradicts another one, and the rule that it breaks.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        self.in_range()?;
        let default = Limits::default();
        // Of two that contradict each other, the one to name is the one that somebody wrote.
        let named = |key: &'static str, is_default: bool, other: &'static str| {
            if is_default { other } else { key }
        };
        if self.message_bytes + RECORD_OVERHEAD_BYTES > self.frame_bytes {
            let key = named("frame_bytes", self.frame_bytes == default.frame_bytes, "message_bytes");
            let rule = format!(
                "frame_bytes ({}) must hold message_bytes ({}) and {RECORD_OVERHEAD_BYTES} bytes of properties",
                self.frame_bytes, self.message_bytes
            );
            return Err((key, rule));
        }
        if (1..CATCH_UP_BYTES_MIN).contains(&self.catch_up_bytes_per_second) {
            let rule = format!("must be 0 or {CATCH_UP_BYTES_MIN} at least: a node would never catch up");
            return Err(("catch_up_bytes_per_second", rule));
        }
        if self.in_flight_bytes_per_connection < self.frame_bytes {
            let rule =
                format!("must be frame_bytes ({}) at least: a frame could never be read", self.frame_bytes);
            return Err(("in_flight_bytes_per_connection", rule));
        }
        if self.in_flight_bytes < self.in_flight_bytes_per_connection {
            let is_default = self.in_flight_bytes == default.in_flight_bytes;
            let rule = format!(
                "in_flight_bytes ({}) must be in_flight_bytes_per_connection ({}) at least",
                self.in_flight_bytes, self.in_flight_bytes_per_connection
            );
            return Err((named("in_flight_bytes", is_default, "in_flight_bytes_per_connection"), rule));
        }
        if self.parked_bytes < self.frame_bytes {
            let rule = format!(
                "must be frame_bytes ({}) at least: a frame could never wait for a leader",
                self.frame_bytes
            );
            return Err(("parked_bytes", rule));
        }
        Ok(())
    }
}

/// Beyond these a number in a configuration is a slip of the pen.
const COUNT_MAX: usize = 10_000_000;
const BYTES_MAX: usize = 1 << 40;
/// A client frame becomes at most one entry, and an entry has at most 8 MiB (log.md 19).
const FRAME_BYTES_MAX: usize = 8 << 20;
/// What a record may have beyond its body: properties of 32 KiB, names, hosts (RocketMQ allows 64 KiB).
const RECORD_OVERHEAD_BYTES: usize = 64 << 10;

/// Bytes of a group's segments: the largest frame fits the smallest, and RocketMQ's are the largest that anybody needs.
pub(crate) const SEGMENT_BYTES: RangeInclusive<u64> = store::limits::SEGMENT_SIZE_MIN..=1 << 30;
/// They are a multiple of this: files are allocated by pages.
pub(crate) const SEGMENT_BYTES_STEP: u64 = 4096;

/// How long after its arrival a request may wait for a leader. A stock client gives a send 3 s for all attempts, so
/// what remains must be enough for one more (clients.md 2).
pub(crate) const PARK: Duration = Duration::from_millis(2200);
/// How often parked requests are tried again when the role says that there is a leader and the leader said no.
pub(crate) const PARK_RETRY: Duration = Duration::from_millis(20);
/// How long a duty that ended with an error waits before it starts again. What refuses it (a full disk, too much under way)
/// does not say when that is over.
pub(crate) const DUTY_RETRY: Duration = Duration::from_secs(1);
/// Requests for digests of a group that wait for an entry.
pub(crate) const DIGESTS_WAITING_MAX: usize = 16;
/// Queues of whose index a digest says something, and units of each, the newest.
pub(crate) const DIGEST_QUEUES_MAX: usize = 1000;
pub(crate) const DIGEST_UNITS_MAX: u64 = 1000;
/// Scans for administrators of one group at a time.
pub(crate) const ADMIN_SCANS: usize = 2;
/// Requests that one forwarding call carries.
pub(crate) const FORWARD_BATCH: usize = 1024;
/// Bytes that one forwarding call carries, unless one request alone has more.
pub(crate) const FORWARD_BATCH_BYTES: usize = 1 << 20;

/// Transactions that end in one entry, and bytes of their half messages, unless one alone has more.
pub(crate) const ENDS_PER_ENTRY: usize = 2_048;
pub(crate) const ENDS_PER_ENTRY_BYTES: usize = 256 << 10;
/// Commits whose entry was void so often, because of entries before it, are parked like any other request.
pub(crate) const ENDS_VOID_MAX: u32 = 4;
/// Bytes of half messages whose ends wait for their entry.
pub(crate) const ENDS_BYTES_MAX: usize = 32 << 20;
/// Half messages of which one round of checks asks or gives up, and their bytes; and the pause before the next round where
/// more are due.
pub(crate) const CHECKS_PER_ROUND: usize = 256;
pub(crate) const CHECK_BYTES: usize = 2 << 20;
pub(crate) const CHECK_PACE: Duration = Duration::from_millis(50);
/// Producers that are asked at the same time.
pub(crate) const CHECKS_AT_A_TIME: usize = 32;
/// Pending messages that are looked up at a time.
pub(crate) const PENDING_PAGE: usize = 512;

/// Below so many bytes that wait to be committed nothing is refused for the time that it takes.
pub(crate) const PACE_FREE_BYTES: usize = 1 << 20;
/// How often the speed of commits is measured.
pub(crate) const PACE_SAMPLE: Duration = Duration::from_millis(100);
/// What of `queue_wait_ms` a connection may use that was refused and still has more behind it: so there is always something
/// left for one that sends no more than it is given, and what waits has time left for its way through the socket.
pub(crate) const PRESSED_SHARE: f64 = 0.5;
/// Where sends wait for this share of it (and for a window of [`PACE_SAMPLE`]), it is the log that sets the pace, and not its
/// clients: below the share of the pressed, or the pace would be forgotten as soon as it holds.
pub(crate) const PACED_SHARE: f64 = 0.25;
/// So many refusals for rates a second are given without a pause: about 2 % of a core. Beyond them it would pay to send
/// too much, and those whose topic is free are not held up for less.
pub(crate) const RATE_REFUSALS_FREE: u64 = 20_000;
/// What may come at once of what a rate allows.
pub(crate) const RATE_BURST: Duration = Duration::from_secs(1);
/// Topics, consumer groups or addresses whose rate is kept at a time, unless more are over their rates.
pub(crate) const RATED_NAMES_MAX: usize = 20_000;
/// Messages that wait for their time: so many, and so many bytes of them (or one), are delivered by one entry. A batch that
/// is not full is taken after so long only, so that at ten thousand a second there are a hundred entries and not thousands.
pub(crate) const DELIVERY_MESSAGES: usize = 1000;
pub(crate) const DELIVERY_BYTES: usize = 1 << 20;
pub(crate) const DELIVERY_TICK: Duration = Duration::from_millis(10);
/// Batches that are read or under way, of levels and of timers each.
pub(crate) const DELIVERIES_IN_FLIGHT: usize = 8;
/// After so long what could not be delivered is tried again: a full disk does not say when it has room.
pub(crate) const DELIVERY_RETRY: Duration = Duration::from_millis(250);
/// A retry topic that messages wait for is made again after so long where that was refused.
pub(crate) const DELIVERY_TOPIC_RETRY: Duration = Duration::from_secs(10);
/// The longest wait for a log time before it is looked at again: it leaps where clocks are set, and when others come to agree
/// with this node's. Of deliveries, and of what is less urgent.
pub(crate) const DELIVERY_LOOK: Duration = Duration::from_millis(500);
pub(crate) const LOG_TIME_LOOK: Duration = Duration::from_secs(1);
/// After so long a message is looked at again that is damaged on this disk; and places that are remembered as told of.
pub(crate) const DAMAGE_LOOK: Duration = Duration::from_secs(10);
pub(crate) const DAMAGE_TOLD_MAX: usize = 10_000;
/// Waiting messages that one look at them passes over, and reads, and gives; and the bytes of its answer.
pub(crate) const PENDING_SCAN: usize = 65_536;
pub(crate) const PENDING_READS: usize = 2_048;
pub(crate) const PENDING_MESSAGES_MAX: usize = 1_000;

/// Messages of one batch request: bounded so that the message ids fit one reply.
pub(crate) const BATCH_MESSAGES_MAX: usize = 32_768;

/// Queue units that one pull looks at: 16,000 bytes of 20 each, or 20 bytes per message asked for, if that is more.
pub(crate) const PULL_UNITS: usize = 800;
/// What one pull with an expression reads of messages, and for how long: beyond it the pull is answered with where it
/// stopped. One message is read whatever its size.
pub(crate) const SELECT_BYTES: usize = 4 << 20;
pub(crate) const SELECT_TIME: Duration = Duration::from_millis(50);
/// How long expressions are asked, when messages come, whether anybody who waits wants one of them: beyond it who has an
/// expression is woken and looks for itself.
pub(crate) const WAKE_TIME: Duration = Duration::from_millis(50);
/// Messages that a pull with an expression reads at a time.
pub(crate) const SELECT_UNITS: usize = 64;
/// Compiled expressions that are remembered, and bytes of their texts.
pub(crate) const FILTERS_MAX: usize = 1024;
pub(crate) const FILTER_CACHE_BYTES: usize = 1 << 20;
/// The longest time for which a pull is held, whatever the client asks for.
pub(crate) const HOLD_MAX: Duration = Duration::from_mins(1);
/// How often held pulls are looked through for those whose group was reset, while any reset is pending.
pub(crate) const RESET_TICK: Duration = Duration::from_secs(1);
/// Queues of which it is remembered who was told of a reset, and consumers of each.
pub(crate) const TOLD_QUEUES_MAX: usize = 100_000;
pub(crate) const TOLD_CONSUMERS_MAX: usize = 16;
/// How long a client has a queue for itself (41), ms: RocketMQ's `rocketmq.broker.rebalance.lockMaxLiveTime`. Clients
/// renew every 20 s.
pub(crate) const LOCK_LEASE_MS: u64 = 60_000;
/// Queues of one request to lock or unlock.
pub(crate) const LOCK_QUEUES_MAX: usize = 10_000;
/// How late a held pull whose time is over may be answered.
pub(crate) const HOLD_TICK: Duration = Duration::from_millis(250);

/// Pops that wait for messages, and questions whether there are any, each (RocketMQ's `maxPopPollingSize`), and those of
/// one group for one queue or any (`popPollingSize`).
pub(crate) const POP_WAITING_MAX: usize = 100_000;
pub(crate) const POP_WAITING_PER_QUEUE: usize = 1024;
/// A pop that comes so long after the time for which its client waits is not done.
pub(crate) const POP_LATE: Duration = Duration::from_millis(500);
/// When what the tables would not have is tried again: they had changed, or their clock is a little behind.
pub(crate) const POP_AGAIN: Duration = Duration::from_millis(50);
/// When a pop is tried again that met another one at a queue, if that has not had it called.
pub(crate) const POP_BUSY_AGAIN: Duration = Duration::from_secs(1);
/// When a pop is tried again that found as much in flight everywhere as may be.
pub(crate) const POP_CROWDED_AGAIN: Duration = Duration::from_secs(1);
/// The longest time for which a consumer may have a message: what is not acknowledged counts against what all may have.
pub(crate) const POP_INVISIBLE_MAX: Duration = Duration::from_hours(72);
/// Acknowledgements that wait for an entry, those of one entry (about 20 bytes each), and entries under way.
pub(crate) const POP_ACKS_WAITING_MAX: usize = 200_000;
pub(crate) const POP_ACKS_PER_ENTRY: usize = 10_000;
pub(crate) const POP_ACKS_UNDER_WAY: usize = 4;
/// Messages that come back in one entry, and their bytes, unless one alone has more.
pub(crate) const POP_REVIVE_MESSAGES: usize = 128;
pub(crate) const POP_REVIVE_BYTES: usize = 1 << 20;
/// When messages are tried again that could not come back, and of how many it is remembered that it was said.
pub(crate) const POP_REVIVE_AGAIN: Duration = Duration::from_secs(3);
pub(crate) const POP_REVIVE_TOLD: usize = 1_000;
/// How long what a nameserver said of a topic's queues is good, and of how many topics it is kept.
pub(crate) const ROUTE_VALID: Duration = Duration::from_secs(5);
pub(crate) const ROUTES_KEPT: usize = 10_000;

/// Answers of one message query (protocol.md 3.3, code 12) and of a query by unique key.
pub(crate) const QUERY_MESSAGES_MAX: usize = 64;
pub(crate) const QUERY_UNIQUE_MESSAGES_MAX: usize = 32;
/// Units of a queue's index in one answer (321).
pub(crate) const QUERY_UNITS_MAX: usize = 1024;
/// Copies of messages in one story (RaftMQ's own request).
pub(crate) const STORY_COPIES_MAX: usize = 64;
/// Topics or groups in one list (18, 225).
pub(crate) const ADMIN_LIST_MAX: usize = 1000;
/// A consumer that is handed one message (309), as in RocketMQ.
pub(crate) const DIRECT_CONSUMPTION: Duration = Duration::from_secs(10);
/// Bytes of the answer to a message query.
pub(crate) const QUERY_BYTES_MAX: usize = 4 << 20;

/// A connection over which a client has sent no heartbeat for so long (it sends one in 30 s) is not used by it.
pub(crate) const CLIENT_LINK_QUIET: Duration = Duration::from_secs(75);
/// A client that sent no heartbeat for so long is gone (protocol.md 3.4).
pub(crate) const CLIENT_SILENT: Duration = Duration::from_mins(2);
pub(crate) const CLIENT_SCAN: Duration = Duration::from_secs(10);
/// How often a node tells the others that its part of the registry is current, and when they stop believing it.
pub(crate) const REGISTRY_PULSE: Duration = Duration::from_secs(1);
pub(crate) const REGISTRY_SILENT: Duration = Duration::from_secs(3);
/// Changes of the registry are collected for so long before they are told.
pub(crate) const REGISTRY_COLLECT: Duration = Duration::from_millis(10);
/// How long a starting node waits for the other nodes' parts before it answers 38 without them.
pub(crate) const REGISTRY_FETCH: Duration = Duration::from_millis(1500);
/// Removals that are remembered, so that a node a little behind needs no full copy.
pub(crate) const REGISTRY_REMOVALS: usize = 4096;

/// Registration (protocol.md 2.5).
pub(crate) const REGISTER_INTERVAL: Duration = Duration::from_secs(30);
pub(crate) const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const REGISTER_RETRY: Duration = Duration::from_secs(1);
/// Changes are collected for so long before they are registered: well below the 50 ms that a new leader has.
pub(crate) const REGISTER_COLLECT: Duration = Duration::from_millis(5);
/// Above so many topics the body is compressed (clients.md 13).
pub(crate) const REGISTER_COMPRESS_TOPICS: usize = 1000;

/// A preferred leader that is not leading asks for leadership when it has been caught up for so long.
pub(crate) const PREFERRED_STEADY: Duration = Duration::from_secs(5);
pub(crate) const PREFERRED_TICK: Duration = Duration::from_millis(500);
/// It counts as caught up when it is so few entries behind the leader.
pub(crate) const PREFERRED_LAG_ENTRIES: u64 = 1000;

/// How often the queue index is looked after, and the bytes of log that this may read or write in a second.
pub(crate) const INDEX_TICK: Duration = Duration::from_secs(1);
pub(crate) const INDEX_PACE_BYTES: u64 = 64 << 20;
/// How often counters are sampled.
pub(crate) const STATS_TICK: Duration = Duration::from_secs(1);

/// A planned stop goes on forwarding until no client has sent anything for `DRAIN_QUIET`, and at least for
/// `DRAIN_MIN`: clients poll routes every 30 s (clients.md 8).
pub(crate) const DRAIN_MIN: Duration = Duration::from_secs(35);
pub(crate) const DRAIN_QUIET: Duration = Duration::from_secs(5);
/// It ends after so long whatever clients do: one that never polls must not keep a node from stopping.
pub(crate) const DRAIN_MAX: Duration = Duration::from_mins(2);
/// Requests in flight get so long to be answered when the listeners close.
pub(crate) const CLOSE_GRACE: Duration = Duration::from_secs(3);

/// A call to a client connection (39 to 309) or to another broker.
pub(crate) const CLIENT_CALL: Duration = Duration::from_secs(3);

const _: () = assert!(PACED_SHARE < PRESSED_SHARE && PRESSED_SHARE < 1.0);
const _: () = assert!(PARK.as_millis() < 3000 && PARK_RETRY.as_millis() < PARK.as_millis());
const _: () = assert!(ENDS_PER_ENTRY_BYTES <= ENDS_BYTES_MAX);
// Putting messages aside is one entry: a round's, and one of the largest, are below what an entry holds.
const _: () = assert!(CHECK_BYTES + (4 << 20) + RECORD_OVERHEAD_BYTES < FRAME_BYTES_MAX);
const _: () = assert!(REGISTER_COLLECT.as_millis() < 50);
const _: () = assert!(REGISTRY_PULSE.as_millis() * 2 < REGISTRY_SILENT.as_millis());
const _: () =
    assert!(DRAIN_QUIET.as_secs() < DRAIN_MIN.as_secs() && DRAIN_MIN.as_secs() < DRAIN_MAX.as_secs());

/// What one client may be in the registry: bytes of its id, its groups in both roles, bytes of a group's name (as
/// RocketMQ's clients allow), its subscriptions in all groups, and bytes of all that. Far above what stock clients say.
pub(crate) const CLIENT_ID_BYTES_MAX: usize = 1024;
pub(crate) const CLIENT_GROUPS_MAX: usize = 1024;
pub(crate) const CLIENT_GROUP_BYTES_MAX: usize = 255;
pub(crate) const CLIENT_SUBSCRIPTIONS_MAX: usize = 4096;
pub(crate) const CLIENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of all clients of this node, which every other node has in memory too: 5 KiB for each of 50,000.
pub(crate) const REGISTRY_BYTES_MAX: usize = 256 << 20;
/// Bytes of the registry that one message to another node tells, at most.
pub(crate) const REGISTRY_PAGE_BYTES: usize = 4 << 20;

// A removal is smaller than a client may be, even if each of its characters becomes six in JSON.
const _: () = assert!(6 * (CLIENT_ID_BYTES_MAX + CLIENT_GROUP_BYTES_MAX) < CLIENT_BYTES_MAX);
// So each change fits a page, and a page, with the names of its own fields, a message.
const _: () = assert!(
    CLIENT_BYTES_MAX <= REGISTRY_PAGE_BYTES && REGISTRY_PAGE_BYTES + 1024 < replica::PEER_MESSAGE_BYTES
);
const _: () = assert!(REGISTRY_PAGE_BYTES <= REGISTRY_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_do_not_fit_are_named() {
        let broken = |changes: &[(&str, usize)]| {
            let mut limits = Limits::default();
            for (key, value) in changes {
                limits.set(key, *value).unwrap();
            }
            limits.check().err().map(|(key, _)| key)
        };
        assert_eq!(broken(&[]), None);
        assert_eq!(broken(&[("connections", 0)]), Some("connections"));
        assert_eq!(broken(&[("frame_bytes", 64 << 20)]), Some("frame_bytes"));
        assert_eq!(broken(&[("frame_bytes", 1 << 20)]), Some("frame_bytes"));
        assert_eq!(broken(&[("message_bytes", 8 << 20)]), Some("message_bytes"));
        assert_eq!(broken(&[("message_bytes", usize::MAX)]), Some("message_bytes"));
        assert_eq!(
            broken(&[("in_flight_bytes_per_connection", 4 << 20)]),
            Some("in_flight_bytes_per_connection")
        );
        assert_eq!(
            broken(&[("in_flight_bytes_per_connection", 1 << 30)]),
            Some("in_flight_bytes_per_connection")
        );
        assert_eq!(broken(&[("in_flight_bytes", 15 << 20)]), Some("in_flight_bytes"));
        assert_eq!(broken(&[("catch_up_bytes_per_second", 1 << 20)]), Some("catch_up_bytes_per_second"));
        assert_eq!(broken(&[("catch_up_bytes_per_second", 4 << 20)]), None);
        assert_eq!(broken(&[("catch_up_bytes_per_second", 0)]), None);
        assert_eq!(broken(&[("parked_bytes", 1 << 20)]), Some("parked_bytes"));
        assert_eq!(
            broken(&[("frame_bytes", 1 << 20), ("message_bytes", 1 << 10), ("parked_bytes", 1 << 20)]),
            None
        );
    }

    #[test]
    fn limits_have_names() {
        let mut limits = Limits::default();
        for (n, (key, _)) in Limits::default().table().into_iter().enumerate() {
            limits.set(key, n).unwrap();
        }
        assert!(limits.table().into_iter().map(|(_, value)| value).eq(0..limits.table().len()));
        assert!(limits.set("bytes", 1).unwrap_err().contains("frame_bytes"));
    }
}
