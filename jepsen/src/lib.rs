//! Jepsen-style tests of RaftMQ: real processes, real faults, and checkers of what clients saw.
//!
//! ```text
//!   run ─── cluster   nodes, clients and nameservers in network namespaces, a disk of its own for each node
//!    │      nemesis   faults: kill, pause, cut, power loss, full and failing disks, clocks …
//!    │      workload  clients that send, pull, consume, commit, look up
//!    ▼
//!   history (JSON lines; outcome.rs says what an answer means)
//!    │
//!    ├── check     the rules L, I, P of jepsen/README.md; pass, fail or invalid, nothing else
//!    └── export    the same history as EDN, for other checkers
//! ```
//! The checkers know nothing of how a history came to be: `jepsen check` reads files that a run has left, or any other
//! program wrote.

pub mod check;
pub mod cluster;
pub mod export;
pub mod history;
pub mod nemesis;
pub mod outcome;
pub mod run;
pub mod workload;
