//! What a RocketMQ broker does: a deterministic replicated state, and one handler file for each conversation.
//!
//! ```text
//! listeners ─▶ Hosted::take ─▶ requests.rs (class, handler) ─▶ handlers/ ─▶ replica::Group (the log)
//!                  │  ▲                                                          │ apply
//!          forward.rs │ park.rs                                                  ▼
//!                  ▼  │                                     state/ (tables), store::index (queues, keys)
//!             another node                                                       │
//!                                      hold.rs (pulls that wait) ◀── woken ──────┘
//! ```
//!
//! A [`Broker`] is the broker role of one process; it hosts one or more groups, each with its own listeners, log and
//! tables. Clients belong to the process (clients.rs, registry.rs), nameservers hear of each group (registration.rs).
//! Messages that are delivered later wait in queues of their own (delay/), and so do those of transactions (transactions/).
//! What a broker refuses so that the rest is done in time is in flow.rs.
//! Absent here: consensus (replica), bytes on disk (store), frames and sockets (net).

mod call;
mod clients;
mod config;
mod creation;
mod damage;
mod delay;
mod digests;
mod duties;
mod errors;
mod filter;
mod filters;
mod flow;
mod forward;
mod handlers;
mod hold;
mod hosted;
mod life;
mod limits;
mod park;
mod pop;
mod reading;
mod registration;
mod registry;
mod requests;
mod service;
mod settings;
pub mod state;
mod stats;
#[cfg(test)]
mod tests;
mod told;
mod transactions;

pub use config::{BrokerConfig, GroupConfig, RateRule, Whom};
pub use delay::{DelayLevels, duration_ms};
pub use handlers::delayed::{PENDING_MESSAGES, PendingMessage, PendingPage, PendingQuery, PendingQueue};
pub use handlers::digest::{QueueDigest, REPLICA_DIGEST, ReplicaDigest};
pub use handlers::raft::{
    FollowerReport, GROUP_STATUS, GroupReport, RAISE_LEVEL, TRANSFER_LEADER, VoteReport,
};
pub use handlers::story::{Copy, MESSAGE_STORY, MessageStory, Reader};
pub use limits::Limits;
pub use requests::{Class, documentation};
pub use service::{Broker, BrokerError, Drain};
pub use settings::Initial;
/// Whether this build can break a rule on purpose (jepsen/README.md, Mutants): nothing that serves users may.
pub use store::mutant::ARE_BUILT_IN as HAS_MUTANTS;
