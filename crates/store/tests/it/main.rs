//! The log over disks that fail: one binary, a module for each theme. The rules in the names of the tests are those of
//! log.md.

mod append;
mod crash;
mod damage;
mod disk_errors;
mod fixture;
mod harness;
mod identity;
mod origin;
mod reads;
mod replicas;
mod room;
mod snapshot;
mod stuck;
