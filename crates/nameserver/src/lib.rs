//! Who owns which topic right now: an expiring, unreplicated map.
//!
//! ```text
//!  brokers ── 103 register, 904 heartbeat, closed connections ──┐
//!                                                               ├──> Routes (routes.rs, no clock, no I/O)
//!  scan, holds ── tick ─────────────────────────────────────────┘        │
//!  clients ── 105 route, 106 cluster, 206 topics ────────────────────────┘
//!  operators ── 100..102, 219 key-value table (kv.rs) ── 318, 319 settings (settings.rs)
//! ```
//!
//! - RocketMQ's protocol and timers (protocol.md 2), for RaftMQ and Apache brokers alike, plus two
//!   rules of ours for groups that register with their Raft term: hold and fence (routes.rs).
//! - Nameservers do not talk to each other, and nothing survives a restart but the key-value table,
//!   where a file is configured for it. Brokers fill the rest in again within their 30 s.
//! - Nothing here knows Raft: a term is a number that brokers send.
#![forbid(unsafe_code)]

mod dialect;
mod handler;
mod kv;
pub mod limits;
mod names;
mod routes;
mod server;
mod settings;

pub use routes::{
    BrokerSnapshot, Counts, MemberSnapshot, RegisterError, Registered, Registration, RouteOptions, Routes,
    Snapshot, UnitTopics,
};
pub use server::{NameServer, NameServerConfig, NameServerError};
pub use settings::Settings;
