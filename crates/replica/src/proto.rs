//! The peer protocol, generated from proto/raftmq/peer/v1/peer.proto.

#![allow(clippy::all, clippy::pedantic, unreachable_pub)]

tonic::include_proto!("raftmq.peer.v1");
