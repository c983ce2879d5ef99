//! The harness of the integration tests: real processes, real sockets, real Java and Go clients.
//!
//! ```text
//!   it/*.rs     the tests            ── runner   what a test needs, skips that show, one directory per test
//!      │
//!   cluster ── N nodes × G groups of `raftmq server`, kill -9, SIGSTOP, restart, who leads
//!   apache  ── Apache RocketMQ 5.3.3's nameserver and broker        mqadmin ── its admin tool
//!   java    ── tests/java/raftmq/Scenario with the jars of one client version
//!   go      ── tests/go, the same with RocketMQ's Go client        scenario ── such a program while it runs
//!   remoting── the protocol over a blocking socket, written apart from crates/wire on purpose
//!   relay   ── an address that moves between nodes
//!   history ── what clients did; lost, skipped, duplicated, gaps: plain functions over it      complaints ── all that is wrong
//! ```
//!
//! The harness shares no code with the broker, so that a mistake in one does not hide in the other.
//! Nothing sleeps in place of a condition: [`wait::until`] polls one and names it when it fails.
//!
//! Environment:
//! - `RAFTMQ_REQUIRE=java,go,root`: what must be there; a test that misses it fails instead of being skipped.
//! - `RAFTMQ_LONG=1`: also the tests that take minutes.
//! - `RAFTMQ_BIN=PATH`: the binary under test; otherwise `cargo build -p cli` builds it.
//! - `RAFTMQ_TEST_NAMESRV=HOST:PORT`: run the tests that need no faults against a cluster that runs already, for
//!   example Apache's, which shows that a test asks for what RocketMQ does.
//! - `RAFTMQ_JAVA_VERSIONS=4.9.8,5.3.3,newest`: which clients.
//! - `RAFTMQ_KEEP=1`: keep the directories (target/it/TEST) of tests that passed.

pub mod apache;
pub mod cluster;
pub mod complaints;
pub mod go;
pub mod history;
pub mod java;
pub mod mqadmin;
pub mod paths;
pub mod ports;
pub mod process;
pub mod relay;
pub mod remoting;
pub mod runner;
pub mod scenario;
mod stalls;
pub mod wait;
