//! Sending (client/impl/producer/DefaultMQProducerImpl.java).
//!
//! ```text
//! Producer ─▶ Outlet (the topic's queues, whose turn) ─▶ attempt ─▶ answer, or another attempt elsewhere
//! front.rs    choice.rs, latency.rs                       deliver.rs   within one budget of 3 s
//! ```
//! `Producer::send` is driven by its caller; `submit` hands the message to the producer's one task
//! (submit.rs); `SendWindow` keeps many sends in flight on the caller's task (window.rs). None spawns
//! a task per message.

mod batch;
mod choice;
mod deliver;
mod front;
mod latency;
mod message;
mod submit;
mod window;

pub use batch::MessageBatch;
pub use front::{Producer, SendReceipt, SendStatus};
pub use message::Message;
pub use submit::Pending;
pub use window::SendWindow;
