//! Whole groups in one process, over real files and real sockets, and openraft's own suite over our log storage.

mod clocks;
mod cluster;
mod coupled;
mod disk;
mod faults;
mod formation;
mod groups;
mod handshake;
mod levels;
mod proposals;
mod reads;
mod suite;
