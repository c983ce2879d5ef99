//! Consuming (client/impl/consumer/).
//!
//! ```text
//! PushConsumer ── rebalance.rs ──▶ Assigned, one per queue ── its pull task ──▶ window of messages
//!                 (assignment.rs)  (assigned.rs)              (pulling.rs)      (process_queue.rs)
//!                                                                                   │
//!                 offsets.rs ◀── what may be committed ◀── verdicts ◀── listener ◀──┘
//!                                                  (concurrent.rs, orderly.rs, send_back.rs)
//! PullConsumer    the same requests, when the caller says so (pull.rs)
//! ```

mod assigned;
mod assignment;
mod concurrent;
mod fetch;
mod filter;
mod offsets;
mod orderly;
mod process_queue;
mod pull;
mod pulling;
mod push;
mod rebalance;
mod received;
mod send_back;

pub use assignment::Assignment;
pub use fetch::{PullStatus, Pulled};
pub use filter::Filter;
pub use process_queue::FlowLimits;
pub(crate) use pull::PullMember;
pub use pull::{Boundary, PullConsumer};
pub(crate) use push::PushMember;
pub use push::{PushBuilder, PushConsumer, Verdict};
pub use received::ReceivedMessage;
