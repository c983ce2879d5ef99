//! A producer and consumers for Rust programs over the RocketMQ remoting protocol: routes, queue
//! choice, retries, rebalance, long polling. Works against RaftMQ and against Apache RocketMQ 5.3.3.
//!
//! ```no_run
//! use client::{Client, ClientConfig, ConsumerConfig, Filter, Message, ProducerConfig, Verdict};
//!
//! # async fn example() -> Result<(), client::ClientError> {
//! let client = Client::start(ClientConfig::from_list("127.0.0.1:9876")).await?;
//! let consumer = client
//!     .push_consumer("readers", ConsumerConfig::default())?
//!     .subscribe("orders", Filter::tags("paid || sent")?)
//!     .listen(async |messages| {
//!         println!("{messages:?}");
//!         Verdict::Success
//!     })
//!     .await?;
//! let producer = client.producer("writers", ProducerConfig::default()).await?;
//! producer.send(&Message::new("orders", "body").tag("paid").key("order-17")).await?;
//! producer.shutdown().await;
//! consumer.shutdown().await;
//! client.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! Where this crate differs from the Java client, a comment at the place says how and why. In short:
//! faulty brokers are avoided by default; a send waits for a leader, within its budget, when no other
//! broker is left to try; failures ask for the route at once instead of at the next poll; a broker
//! that has lost us is told again at once; a list of members that lacks us is not believed.
//!
//! What is absent: transactions, request-reply, pop, TLS, namespaces, static topics, message trace.
#![forbid(unsafe_code)]

mod admin;
mod call;
mod client;
mod config;
mod consumer;
mod error;
mod identity;
pub mod limits;
mod nameservers;
mod notice;
mod producer;
mod route;

pub use admin::Admin;
pub use client::Client;
pub use config::{ClientConfig, ConsumeFrom, ConsumeModel, ConsumerConfig, ProducerConfig};
pub use consumer::{
    Assignment, Boundary, Filter, FlowLimits, PullConsumer, PullStatus, Pulled, PushBuilder, PushConsumer,
    ReceivedMessage, Verdict,
};
pub use error::ClientError;
pub use producer::{Message, MessageBatch, Pending, Producer, SendReceipt, SendStatus, SendWindow};
pub use wire::{MessageQueue, QueueId, QueueOffset};
