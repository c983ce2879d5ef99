//! Peers that lie, babble or dawdle.

use std::sync::Arc;
use std::time::Duration;

use net::{ConnectionConfig, ServerConfig};

use crate::support::*;

/// Each is closed at once, costs nothing, and nobody else notices.
#[tokio::test]
async fn lies_and_other_protocols_are_closed_at_once() {
    let (server, address) = start(ServerConfig::default(), Arc::new(echo));
    let mut well = Raw::connect(address).await;
    let lies: [(&str, &[u8]); 9] = [
        ("length of 4 GiB", &[0xFF; 8]),
        ("length just above the maximum", &(16_777_216_u32 - 3).to_be_bytes()),
        ("length 0", &[0; 4]),
        ("length 3", &[0, 0, 0, 3]),
        ("header longer than the frame", &[0, 0, 0, 10, 0, 0, 0, 7, b'{', b'}']),
        ("unknown serialisation", &[0, 0, 0, 10, 9, 0, 0, 6]),
        ("header that is no JSON", b"\0\0\0\x08\0\0\0\x04nope"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("TLS hello", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3, 1, 2, 3, 4]),
    ];
    for (what, bytes) in lies {
        let mut liar = Raw::connect(address).await;
        liar.write(bytes).await;
        let end = tokio::time::timeout(Duration::from_secs(1), liar.end()).await;
        assert!(end.is_ok(), "{what} is still open");
        assert_eq!(well.call(1, what).await.body, what);
    }
    until("all ended", || server.stats().ended_total.contains(&("garbage", 9))).await;
}

/// Answers to what came before the garbage are still given.
#[tokio::test]
async fn requests_before_garbage_are_handled() {
    let (server, address) = start(ServerConfig::default(), Arc::new(echo));
    let mut peer = Raw::connect(address).await;
    let one_way = frame(&request("x").oneway());
    peer.write(&[&one_way[..], b"GET / HTTP/1.1\r\n"].concat()).await;
    assert_eq!(peer.end().await, Some(std::io::ErrorKind::ConnectionReset));
    assert_eq!(server.stats().requests_total, 1);
}

/// Not a test of its own: the process whose memory the next one looks at.
#[tokio::test]
async fn the_listener() {
    if !plays("listener") {
        return;
    }
    let (server, address) = start(ServerConfig::default(), Arc::new(echo));
    println!("listens on {address}");
    std::future::pending::<()>().await;
    drop(server);
}

/// A frame that is only announced allocates nothing, however many announce one.
#[tokio::test]
async fn announcements_cost_nothing() {
    let listener = Victim::start("listener", "hostile::the_listener");
    let mut well = Raw::connect(listener.address).await;
    well.call(1, "warm").await;
    let before = listener.resident_bytes();
    let mut peers = Vec::new();
    for _ in 0..500 {
        let mut peer = Raw::connect(listener.address).await;
        peer.call(1, "x").await;
        let mut start = (16_u32 * 1024 * 1024 - 4).to_be_bytes().to_vec();
        start.extend_from_slice(&[0, 0, 0, 100]);
        start.extend_from_slice(&[b'{'; 100]);
        peer.write(&start).await;
        peers.push(peer);
    }
    // Answered after all of them had arrived.
    well.call(1, "well").await;
    let grown = listener.resident_bytes().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "500 announcements cost {grown} bytes");
}

/// Random bytes, and real frames with a few bytes changed: the server lives, and so does a neighbour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_random_frames() {
    let (server, address) = start(ServerConfig::default(), Arc::new(echo));
    let mut well = Raw::connect(address).await;
    let mut random = Random(42);
    let mut peer = Raw::connect(address).await;
    let mut sent = 0;
    while sent < 10_000 {
        let bytes = if sent % 2 == 0 {
            let length = 1 + random.below(200);
            let mut bytes = (4 + length as u32).to_be_bytes().to_vec();
            let header = random.below(length + 2) as u32 | ((random.below(3) as u32) << 24);
            bytes.extend_from_slice(&header.to_be_bytes());
            bytes.extend_from_slice(&random.bytes(length));
            bytes
        } else {
            let mut command = request(vec![0; random.below(100)]).with_ext("topic", "T").with_remark("x");
            command.serialize =
                if random.below(2) == 0 { wire::SerializeType::Json } else { wire::SerializeType::RocketMq };
            let mut bytes = frame(&command).to_vec();
            for _ in 0..random.below(4) {
                let at = 8 + random.below(bytes.len() - 8);
                bytes[at] = random.next() as u8;
            }
            bytes
        };
        sent += 1;
        use tokio::io::AsyncWriteExt;
        // A connection that the last frame ended cannot take this one.
        let is_open = peer.stream.write_all(&bytes).await.is_ok();
        if !is_open || random.below(20) == 0 {
            peer = Raw::connect(address).await;
        }
        if sent % 500 == 0 {
            assert_eq!(well.call(sent, "well").await.body, "well");
        }
    }
    drop(peer);
    until("only the neighbour", || server.stats().connections == 1).await;
    assert_eq!(well.call(1, "well").await.body, "well");
    let ended = server.stats().ended_total;
    assert!(ended.contains(&("panicked", 0)), "{ended:?}");
    assert_eq!(server.stats().in_flight_bytes, 0);
}

fn impatient() -> ServerConfig {
    ServerConfig {
        connection: ConnectionConfig {
            frame_deadline: Duration::from_millis(300),
            idle_timeout: Duration::from_secs(2),
            write_stall_timeout: Duration::from_millis(300),
            ..ConnectionConfig::default()
        },
        sweep_interval: Duration::from_millis(20),
        ..ServerConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_frames_and_idle_peers_are_closed() {
    let (server, address) = start(impatient(), Arc::new(echo));
    let mut idle = Raw::connect(address).await;
    let mut drips = tokio::task::JoinSet::new();
    for at in 0..50 {
        drips.spawn(async move {
            let mut peer = Raw::connect(address).await;
            if at % 2 == 0 {
                // A good start does not help.
                peer.call(1, "hello").await;
            }
            let bytes = frame(&request(vec![0; 10_000]));
            use tokio::io::AsyncWriteExt;
            for byte in bytes.chunks(1) {
                if peer.stream.write_all(byte).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("ten thousand drips were accepted");
        });
    }
    // A peer at its work is not disturbed, for longer than any of the deadlines.
    let mut well = Raw::connect(address).await;
    let start = tokio::time::Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        assert_eq!(well.call(1, "well").await.body, "well");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    within(drips.join_all()).await;
    assert_eq!(idle.end().await, Some(std::io::ErrorKind::ConnectionReset));
    let ended = server.stats().ended_total;
    assert!(ended.contains(&("slow_frame", 50)), "{ended:?}");
    assert!(ended.contains(&("idle", 1)), "{ended:?}");
}

/// A large frame over a slow link is not a drip: the deadline grows with what has arrived.
#[tokio::test]
async fn a_steady_large_frame_may_take_longer() {
    let mut config = impatient();
    config.connection.frame_deadline = Duration::from_millis(500);
    config.connection.frame_bytes_per_second_min = 50_000;
    let (_server, address) = start(config, Arc::new(echo));
    let mut peer = Raw::connect(address).await;
    let bytes = frame(&request(vec![7; 200_000]));
    let start = tokio::time::Instant::now();
    for chunk in bytes.chunks(10_000) {
        peer.write(chunk).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    assert!(start.elapsed() > Duration::from_millis(700), "the test is too quick to show anything");
    assert_eq!(peer.read().await.unwrap().body.len(), 200_000);
}

/// Somebody who asks for much and reads nothing is reset; the rest is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_are_reset() {
    let handler = |request: wire::RemotingCommand, replier: net::Replier| {
        let body = vec![1; 1024 * 1024];
        let response =
            wire::RemotingCommand::response_to(&request, wire::ResponseCode::SUCCESS).with_body(body);
        replier.send(response);
    };
    let (server, address) = start(impatient(), Arc::new(handler));
    let mut deaf = Raw::connect(address).await;
    let bytes = frame(&request("more"));
    for _ in 0..100 {
        deaf.write(&bytes).await;
    }
    let mut well = Raw::connect(address).await;
    until("the deaf one is gone", || server.stats().ended_total.contains(&("slow_reader", 1))).await;
    // It stopped reading requests long before it held a hundred answers.
    assert!(server.stats().requests_total < 50, "{:?}", server.stats());
    assert_eq!(well.call(1, "x").await.body.len(), 1024 * 1024);
    until("nothing waits", || server.stats().outbound_bytes == 0).await;
}

/// Pushes do not wait for reads, so they have a hard limit.
#[tokio::test]
async fn pushes_to_a_slow_reader_end_in_a_reset() {
    let (server, address) = start(ServerConfig::default(), Arc::new(echo));
    let mut deaf = Raw::connect(address).await;
    deaf.call(1, "x").await;
    let connection = server.connections().pop().unwrap();
    let push = || connection.send_oneway(request(vec![0; 1024 * 1024]));
    let mut pushed = 0;
    while push().is_ok() {
        pushed += 1;
        assert!(pushed < 200, "no limit");
        tokio::task::yield_now().await;
    }
    assert!(pushed > 60, "{pushed} MiB");
    assert_eq!(within(connection.ended()).await, net::CloseReason::SlowReader);
    assert_eq!(server.stats().outbound_bytes, 0);
}
