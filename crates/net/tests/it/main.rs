//! Servers and clients over real sockets of this machine.

mod client;
mod death;
mod hostile;
mod limits;
mod pauses;
mod server;
mod shutdown;
mod support;
