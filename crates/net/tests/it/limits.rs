//! Push-back: requests in flight, for one connection and for all; connections, per host and in all.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net::{Budget, ConnectionConfig, Handler, Replier, ServerConfig};
use tokio::io::AsyncWriteExt;
use wire::RemotingCommand;

use crate::support::*;

/// Keeps every request until told to answer.
#[derive(Default)]
struct Hold {
    held: Mutex<Vec<(RemotingCommand, Replier)>>,
    seen: AtomicUsize,
}

impl Handler for Hold {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        self.seen.fetch_add(1, Ordering::SeqCst);
        self.held.lock().unwrap().push((request, replier));
    }
}

impl Hold {
    fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    fn answer_all(&self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        for (request, replier) in held {
            echo(request, replier);
        }
    }
}

/// Waits until the count has stood still for a while, and returns it.
async fn settled(hold: &Hold) -> usize {
    let mut last = usize::MAX;
    loop {
        let seen = hold.seen();
        if seen == last {
            return seen;
        }
        last = seen;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn send_and_count(address: std::net::SocketAddr, requests: usize, body: usize) -> usize {
    let (mut read, mut write) = Raw::connect(address).await.stream.into_split();
    let bytes = frame(&request(vec![0; body]));
    let writer = tokio::spawn(async move {
        for _ in 0..requests {
            write.write_all(&bytes).await.unwrap();
        }
        write
    });
    let mut buffer = bytes::BytesMut::new();
    let mut answers = 0;
    while answers < requests {
        tokio::io::AsyncReadExt::read_buf(&mut read, &mut buffer).await.unwrap();
        while wire::decode_frame(&mut buffer, wire::FRAME_BYTES_MAX).unwrap().is_some() {
            answers += 1;
        }
    }
    writer.await.unwrap();
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_stop_the_reading_of_their_connection() {
    let hold = Arc::new(Hold::default());
    let config = ServerConfig {
        connection: ConnectionConfig { in_flight_bytes_max: 100_000, ..ConnectionConfig::default() },
        ..ServerConfig::default()
    };
    let (server, address) = start(config, hold.clone());
    let client = tokio::spawn(send_and_count(address, 2000, 1000));
    let first = settled(&hold).await;
    assert!((50..=100).contains(&first), "{first} requests of 1,600 bytes in 100,000");
    // A connection may have read one buffer more than it handles.
    let most = 102_000 + net::limits::READ_BYTES_MAX;
    assert!(server.stats().in_flight_bytes < most);
    // Another connection has limits of its own.
    let other = tokio::spawn(send_and_count(address, 10, 1000));
    until("ten more", || hold.seen() == first + 10).await;
    while !client.is_finished() || !other.is_finished() {
        hold.answer_all();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(server.stats().in_flight_bytes < 2 * most);
    }
    assert_eq!(client.await.unwrap(), 2000);
    assert_eq!(other.await.unwrap(), 10);
    assert_eq!(server.stats().in_flight_bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_holds_for_all_connections_and_lets_them_all_finish() {
    let hold = Arc::new(Hold::default());
    let config =
        ServerConfig { budget: Arc::new(Budget::new(300_000, usize::MAX)), ..ServerConfig::default() };
    let (server, address) = start(config, hold.clone());
    let clients: Vec<_> = (0..20).map(|_| tokio::spawn(send_and_count(address, 200, 3000))).collect();
    let first = settled(&hold).await;
    // What a connection had read already when the budget filled up is handled: one read each.
    let read_ahead = 20 * net::limits::READ_BYTES_MAX;
    assert!(server.stats().in_flight_bytes < 300_000 + read_ahead);
    assert!(first < 20 * 200, "nothing was pushed back");
    while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
        hold.answer_all();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for client in clients {
        assert_eq!(client.await.unwrap(), 200);
    }
    until("nothing in flight", || server.stats().in_flight_bytes == 0).await;
}

/// Frames that have arrived in part are counted, and their deadline frees what they hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_frames_fill_the_budget_only_until_their_deadline() {
    let config = ServerConfig {
        connection: ConnectionConfig {
            frame_deadline: Duration::from_secs(2),
            frame_bytes_per_second_min: 1 << 30,
            ..ConnectionConfig::default()
        },
        sweep_interval: Duration::from_millis(20),
        budget: Arc::new(Budget::new(1024 * 1024, usize::MAX)),
        ..ServerConfig::default()
    };
    let (server, address) = start(config, Arc::new(echo));
    let half = {
        let bytes = frame(&request(vec![0; 400_000]));
        bytes[..300_000].to_vec()
    };
    let mut attackers = Vec::new();
    for _ in 0..8 {
        let mut peer = Raw::connect(address).await;
        let half = half.clone();
        attackers.push(tokio::spawn(async move {
            let _ = peer.stream.write_all(&half).await;
            peer.end().await
        }));
    }
    until("the budget is full", || server.stats().in_flight_bytes >= 1024 * 1024).await;
    assert!(server.stats().in_flight_bytes < 1024 * 1024 + 8 * 2 * net::limits::READ_BYTES_MAX);
    let mut well = Raw::connect(address).await;
    assert_eq!(well.call(1, "well").await.body, "well");
    for attacker in attackers {
        within(attacker).await.unwrap();
    }
    until("all given back", || server.stats().in_flight_bytes == 0).await;
}

#[tokio::test]
async fn connections_are_limited_and_a_place_is_free_again_when_one_ends() {
    for (connections_max, connections_per_ip_max) in [(3, 100), (100, 3)] {
        let config = ServerConfig { connections_max, connections_per_ip_max, ..ServerConfig::default() };
        let (server, address) = start(config, Arc::new(echo));
        let mut peers = Vec::new();
        for _ in 0..3 {
            let mut peer = Raw::connect(address).await;
            peer.call(1, "in").await;
            peers.push(peer);
        }
        let mut refused = Raw::connect(address).await;
        assert!(refused.end().await.is_some(), "a reset, not a silent end");
        assert_eq!(server.stats().refused_total, 1);
        peers.pop();
        until("one has gone", || server.stats().connections == 2).await;
        let mut again = Raw::connect(address).await;
        again.call(1, "in again").await;
    }
}
