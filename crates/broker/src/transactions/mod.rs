//! Transactions: half messages, how they end, and how the producer is asked (protocol.md 3.5).
//!
//! ```text
//! send with TRAN_MSG ─▶ RMQ_SYS_TRANS_HALF_TOPIC, queue 0          half.rs: what a half message says
//! 37 ─▶ by its token to the group's leader (token.rs) ─▶ ends.rs ─┬─ commit:   one coupled entry: done + real message
//!                                                                 └─ rollback: done
//! duty of the leader ─▶ check.rs: pending and old ─▶ Attempt, then 39 to a producer ─▶ 37 …
//!                                 tried too often  ─▶ one coupled entry: done + TRANS_CHECK_MAX_TIME_TOPIC
//! ```
//!
//! A half message is *pending* until an entry of the log says that it is done, and that entry holds what comes instead. So
//! it is committed once or rolled back once, whoever asks for it and however often; there is no op topic.

pub(crate) mod check;
pub(crate) mod ends;
pub(crate) mod half;
pub(crate) mod token;
