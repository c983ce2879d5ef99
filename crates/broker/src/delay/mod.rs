//! Messages that are delivered later: by level or at any time (protocol.md 6, "Delay").
//!
//! ```text
//! send ─▶ when.rs ─┬─ level ─▶ SCHEDULE_TOPIC_XXXX, queue level − 1 ─┐  at the leader (deliver.rs):
//!                  └─ timer ─▶ rmq_sys_wheel_timer, queue 0 ─────────┴─▶ source.rs, schedule.rs: what is due
//!                                                                        ─▶ release.rs: one entry, Release + messages
//! ```
//! The tables know which messages of such a queue are done, the log has the messages, and nothing else is kept: a leader
//! finds what is pending by a scan of the queue's index from where the tables say that all is done, and that says when
//! each message is due. A delivery marks them done and stores them in their real queues in one entry, so that whoever
//! leads, and however often it is tried, each is delivered once.

mod claims;
mod deliver;
mod later;
mod levels;
mod release;
mod schedule;
mod source;
mod when;

pub(crate) use claims::Claims;
pub(crate) use deliver::{levels, timers};
pub(crate) use later::{Later, source};
pub(crate) use levels::TIMER_MAX_DELAY_MS;
pub use levels::{DelayLevels, duration_ms};
pub(crate) use release::real_topic;
pub(crate) use source::{SourceQueue, units};
pub(crate) use when::{When, Wish};
