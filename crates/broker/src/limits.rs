//! Every limit of this crate, with the assertions that hold between them. What an operator may want to change is in
//! [`Limits`] and has its default here; the rest follows from what stock clients do (docs: clients.md, log.md).

use std::time::Duration;

use serde::Deserialize;

/// What one node takes on before it refuses, per process unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open client connections of one group, and of one address.
    pub connections: usize,
    pub connections_per_ip: usize,
    /// The largest frame a client may send, length word included.
    pub frame_bytes: usize,
    /// Bytes of requests of one connection that are read and not answered; reading stops beyond them.
    pub connection_bytes_in_flight: usize,
    /// The same for all connections together.
    pub bytes_in_flight: usize,
    /// Bytes of answers that all clients together leave unread; beyond them slow readers are reset.
    pub bytes_unread: usize,
    /// The largest message body (RocketMQ's `maxMessageSize`).
    pub message_bytes: usize,
    /// Messages of one pull that lie in memory, and of one that has to read the disk (RocketMQ's
    /// `maxTransferCountOnMessageInMemory` and `-InDisk`), and their bytes.
    pub pull_messages_in_memory: usize,
    pub pull_messages_on_disk: usize,
    pub pull_bytes_in_memory: usize,
    pub pull_bytes_on_disk: usize,
    /// Held pulls of one group.
    pub held_pulls: usize,
    /// Requests of one group that wait for a leader.
    pub parked_requests: usize,
    /// Bytes of those requests.
    pub parked_bytes: usize,
    /// Requests that wait for the creation of their topic, per group.
    pub waiting_for_topic: usize,
    /// Clients in the registry of this node.
    pub clients: usize,
    /// Reads of cold pages at the same time, per group.
    pub cold_reads: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 20_000,
            connections_per_ip: 10_000,
            frame_bytes: 8 << 20,
            connection_bytes_in_flight: 16 << 20,
            bytes_in_flight: 256 << 20,
            bytes_unread: 512 << 20,
            message_bytes: 4 << 20,
            pull_messages_in_memory: 32,
            pull_messages_on_disk: 8,
            pull_bytes_in_memory: 256 << 10,
            pull_bytes_on_disk: 64 << 10,
            held_pulls: 100_000,
            parked_requests: 20_000,
            parked_bytes: 32 << 20,
            waiting_for_topic: 4_096,
            clients: 50_000,
            cold_reads: 8,
        }
    }
}

impl Limits {
    /// The limit that contradicts another one, as a sentence; `None` when they fit each other.
    pub fn contradiction(&self) -> Option<String> {
        if self.message_bytes + RECORD_OVERHEAD_BYTES > self.frame_bytes {
            return Some(format!(
                "message_bytes ({}) plus {RECORD_OVERHEAD_BYTES} bytes of properties does not fit frame_bytes ({})",
                self.message_bytes, self.frame_bytes
            ));
        }
        if self.frame_bytes > FRAME_BYTES_MAX {
            return Some(format!("frame_bytes is above {FRAME_BYTES_MAX}, the largest entry of the log"));
        }
        if self.frame_bytes > self.connection_bytes_in_flight {
            return Some(
                "frame_bytes is above connection_bytes_in_flight: such a frame could never be read".into(),
            );
        }
        if self.connection_bytes_in_flight > self.bytes_in_flight {
            return Some("connection_bytes_in_flight is above bytes_in_flight".into());
        }
        if self.frame_bytes > self.parked_bytes {
            return Some(
                "frame_bytes is above parked_bytes: such a frame could never wait for a leader".into(),
            );
        }
        None
    }
}

/// A client frame becomes at most one entry, and an entry has at most 8 MiB (log.md 19).
const FRAME_BYTES_MAX: usize = 8 << 20;
/// What a record may have beyond its body: properties of 32 KiB, names, hosts (RocketMQ allows 64 KiB).
const RECORD_OVERHEAD_BYTES: usize = 64 << 10;

/// How long after its arrival a request may wait for a leader. A stock client gives a send 3 s for all attempts, so
/// what remains must be enough for one more (clients.md 2).
pub(crate) const PARK: Duration = Duration::from_millis(2200);
/// How often parked requests are tried again when the role says that there is a leader and the leader said no.
pub(crate) const PARK_RETRY: Duration = Duration::from_millis(20);
/// Requests that one forwarding call carries.
pub(crate) const FORWARD_BATCH: usize = 256;
/// Bytes that one forwarding call carries, unless one request alone has more.
pub(crate) const FORWARD_BATCH_BYTES: usize = 1 << 20;

/// Messages of one batch request: bounded so that the message ids fit one reply.
pub(crate) const BATCH_MESSAGES_MAX: usize = 32_768;

/// Queue units that one pull looks at: 16,000 bytes of 20 each, or 20 bytes per message asked for, if that is more.
pub(crate) const PULL_UNITS: usize = 800;
/// The longest time for which a pull is held, whatever the client asks for.
pub(crate) const HOLD_MAX: Duration = Duration::from_mins(1);
/// How late a held pull whose time is over may be answered.
pub(crate) const HOLD_TICK: Duration = Duration::from_millis(250);

/// Answers of one message query (protocol.md 3.3, code 12) and of a query by unique key.
pub(crate) const QUERY_MESSAGES_MAX: usize = 64;
pub(crate) const QUERY_UNIQUE_MESSAGES_MAX: usize = 32;
/// Bytes of the answer to a message query.
pub(crate) const QUERY_BYTES_MAX: usize = 4 << 20;

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

const _: () = assert!(PARK.as_millis() < 3000 && PARK_RETRY.as_millis() < PARK.as_millis());
const _: () = assert!(REGISTER_COLLECT.as_millis() < 50);
const _: () = assert!(REGISTRY_PULSE.as_millis() * 2 < REGISTRY_SILENT.as_millis());
const _: () =
    assert!(DRAIN_QUIET.as_secs() < DRAIN_MIN.as_secs() && DRAIN_MIN.as_secs() < DRAIN_MAX.as_secs());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fit_each_other() {
        assert_eq!(Limits::default().contradiction(), None);
        assert!(Limits { frame_bytes: 1 << 20, ..Limits::default() }.contradiction().is_some());
        assert!(Limits { parked_bytes: 1 << 20, ..Limits::default() }.contradiction().is_some());
        assert!(Limits { frame_bytes: 64 << 20, ..Limits::default() }.contradiction().is_some());
    }
}
