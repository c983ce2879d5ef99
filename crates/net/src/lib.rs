//! Frames over sockets: accept, correlate, time out, push back, shut down.
//!
//! ```text
//!  Server ── accept ──┐                                ┌── Handler::handle(request, replier)
//!                     ├──> one task per connection ────┤   Handler::batch_end(connection)
//!  Client ── connect ─┘    (driver.rs) reads, writes   └── responses to whoever waits for them
//!                                 ▲
//!                                 └── Connection: send, request, close, reset; from any task
//! ```
//!
//! - A connection is one socket, one task, one outbound queue. Buffers are never shared between
//!   connections, and what is wrong with one ends that one only.
//! - What a peer can make us hold is bounded (`limits`): requests in flight and frames in part stop
//!   the reading, replies unread reset the reader, deadlines end the rest.
//! - Accepted sockets linger for no time: the death of this process is an RST to its clients.
//! - This crate knows frames and nothing of what they ask. Request codes are for its users.

#![forbid(unsafe_code)]

mod budget;
mod client;
mod connection;
mod driver;
mod error;
pub mod limits;
mod outbound;
mod pause;
mod registry;
mod server;
mod transport;

pub use budget::Budget;
pub use client::{Client, ClientConfig};
pub use connection::{Connection, ConnectionConfig, Listener, Replier};
pub use driver::Handler;
pub use error::{CallError, CloseReason, Failure};
pub use pause::PushBack;
pub use server::{Listeners, Server, ServerConfig, ServerStats};

/// Locks a mutex whose holders never leave its data half changed, so that a panic elsewhere is no
/// reason to fail here.
fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
