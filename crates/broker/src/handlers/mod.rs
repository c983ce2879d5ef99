//! One file per conversation. A handler reads the request, looks at the tables, and says what is to be done; who may
//! run it, and when, is the table's business (requests.rs).

pub(crate) mod assignment;
pub(crate) mod consumer_admin;
pub(crate) mod delayed;
pub(crate) mod digest;
pub(crate) mod group;
pub(crate) mod heartbeat;
pub(crate) mod info;
pub(crate) mod lists;
pub(crate) mod lock;
pub(crate) mod node;
pub(crate) mod offset;
mod page;
pub(crate) mod pop;
pub(crate) mod pull;
pub(crate) mod query;
pub(crate) mod raft;
pub(crate) mod recall;
pub(crate) mod refused;
pub(crate) mod reply;
pub(crate) mod reset;
pub(crate) mod resume;
pub(crate) mod send;
pub(crate) mod send_back;
pub(crate) mod stats;
pub(crate) mod step;
pub(crate) mod story;
pub(crate) mod topic;
pub(crate) mod transaction;
