//! Every number of the nameserver, with its source.

use std::time::Duration;

/// A broker that says nothing for this long is gone, unless it asked for another time (protocol.md 2.5).
pub const BROKER_TIMEOUT_MS: u64 = 120_000;
/// What it may ask for. Apache's acting-master mode uses 10 s.
pub const BROKER_TIMEOUT_MS_MIN: u64 = 1_000;
pub const BROKER_TIMEOUT_MS_MAX: u64 = 3_600_000;

/// How often silent brokers are looked for (protocol.md 2.5).
pub const SCAN_INTERVAL_MS: u64 = 5_000;

/// How long the address of a leader that closed, fell silent or stepped down stays in the routes while
/// its group elects (design.md, Nameserver).
pub const HOLD_MS: u64 = 5_000;

/// How long a term is remembered after the last registration that knew it.
pub const TERM_MEMORY_MS: u64 = BROKER_TIMEOUT_MS;

/// (topic, broker) pairs in all. Some 250 bytes each.
pub const QUEUE_DATAS_MAX: usize = 500_000;
/// Broker groups, and members of one.
pub const BROKERS_MAX: usize = 10_000;
pub const MEMBERS_MAX: usize = 64;
pub const CLUSTERS_MAX: usize = 1_000;
pub const FILTER_SERVERS_MAX: usize = 64;

/// Names of clusters, brokers, topics; addresses; zones.
pub const NAME_BYTES_MAX: usize = 255;
/// How much of a name that was asked for is repeated in a remark.
pub const REMARK_NAME_CHARS_MAX: usize = 255;

pub const KV_NAMESPACES_MAX: usize = 1_000;
pub const KV_KEYS_MAX: usize = 100_000;
pub const KV_VALUE_BYTES_MAX: usize = 64 * 1024;
/// Keys and values of all namespaces together: the whole is written on every change.
pub const KV_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long a planned stop waits for requests in flight, unless told otherwise.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

const _: () = {
    assert!(HOLD_MS <= SCAN_INTERVAL_MS && HOLD_MS < BROKER_TIMEOUT_MS);
    assert!(BROKER_TIMEOUT_MS_MIN <= BROKER_TIMEOUT_MS && BROKER_TIMEOUT_MS <= BROKER_TIMEOUT_MS_MAX);
    assert!(KV_VALUE_BYTES_MAX <= KV_BYTES_MAX);
};
