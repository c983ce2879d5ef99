//! Stopping: kindly, in time, and all at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net::{Handler, Replier, ServerConfig};
use tokio::time::Instant;
use wire::RemotingCommand;

use crate::support::*;

/// Holds requests with the body "hold".
#[derive(Default)]
struct Holds(Mutex<Vec<(RemotingCommand, Replier)>>);

impl Handler for Holds {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        if request.body == "hold" {
            self.0.lock().unwrap().push((request, replier));
        } else {
            echo(request, replier);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_answers_what_is_held_and_parts_with_fin() {
    let holds = Arc::new(Holds::default());
    let (server, address) = start(ServerConfig::default(), holds.clone());
    let mut quiet = Raw::connect(address).await;
    quiet.call(1, "x").await;
    let mut waits = Raw::connect(address).await;
    waits.write(&frame(&request("hold"))).await;
    until("held", || holds.0.lock().unwrap().len() == 1).await;

    let draining = server.draining();
    let stopping = tokio::spawn(server.shutdown(LONG));
    within(draining.cancelled()).await;
    assert_eq!(quiet.end().await, None, "FIN for whom nothing is owed");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "accepts no more");
    // Still served until it is quiet.
    assert_eq!(waits.call(7, "meanwhile").await.body, "meanwhile");
    assert!(!stopping.is_finished());
    let (command, replier) = holds.0.lock().unwrap().pop().unwrap();
    echo(command, replier);
    assert_eq!(waits.read().await.unwrap().body, "hold");
    assert_eq!(waits.end().await, None);
    drop((quiet, waits));
    within(stopping).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_connection_is_stopped_after_half_the_grace_without_losing_a_reply() {
    let (server, address) = start(ServerConfig::default(), Arc::new(echo));
    let (mut read, mut write) = Raw::connect(address).await.stream.into_split();
    // As stock clients do, the peer closes when it sees the end.
    let has_ended = Arc::new(AtomicBool::new(false));
    let ended = has_ended.clone();
    let writer = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let mut sent = 0_u64;
        let mut command = request("busy");
        while !ended.load(Ordering::SeqCst) {
            command.opaque = sent as i32;
            if write.write_all(&frame(&command)).await.is_err() {
                return;
            }
            sent += 1;
        }
    });
    let reader = tokio::spawn(async move {
        use tokio::io::AsyncReadExt;
        let mut buffer = bytes::BytesMut::new();
        let mut next = 0;
        while let Ok(1..) = read.read_buf(&mut buffer).await {
            while let Some(response) = wire::decode_frame(&mut buffer, wire::FRAME_BYTES_MAX).unwrap() {
                assert_eq!(response.opaque, next);
                next += 1;
            }
        }
        has_ended.store(true, Ordering::SeqCst);
        assert!(buffer.is_empty(), "the last reply is whole");
        next
    });
    until("busy", || server.stats().requests_total > 1000).await;
    let start = Instant::now();
    within(server.shutdown(Duration::from_secs(4))).await;
    assert!(start.elapsed() < Duration::from_millis(3900), "{:?}", start.elapsed());
    assert!(within(reader).await.unwrap() > 1000);
    within(writer).await.unwrap();
}

#[tokio::test]
async fn what_is_not_answered_within_the_grace_is_reset() {
    let holds = Arc::new(Holds::default());
    let (server, address) = start(ServerConfig::default(), holds.clone());
    let mut waits = Raw::connect(address).await;
    waits.write(&frame(&request("hold"))).await;
    until("held", || holds.0.lock().unwrap().len() == 1).await;
    let start = Instant::now();
    within(server.shutdown(Duration::from_millis(200))).await;
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(waits.end().await, Some(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn dropping_a_server_resets_its_connections() {
    let (server, address) = start(ServerConfig::default(), Arc::new(echo));
    let mut peer = Raw::connect(address).await;
    peer.call(1, "x").await;
    drop(server);
    assert_eq!(peer.end().await, Some(std::io::ErrorKind::ConnectionReset));
    until("closed", || std::net::TcpStream::connect(address).is_err()).await;
}

#[tokio::test]
async fn a_connection_closed_by_its_handler_delivers_what_was_sent() {
    let handler = |request: RemotingCommand, replier: Replier| {
        let connection = replier.connection().clone();
        let body = vec![5; 3_000_000];
        replier.send(RemotingCommand::response_to(&request, wire::ResponseCode::SUCCESS).with_body(body));
        connection.close();
        assert!(connection.send(RemotingCommand::request(wire::RequestCode(1))).is_err());
    };
    let (_server, address) = start(ServerConfig::default(), Arc::new(handler));
    let mut peer = Raw::connect(address).await;
    assert_eq!(peer.call(1, "x").await.body.len(), 3_000_000);
    assert_eq!(peer.end().await, None);
}
