use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net::{CallError, CloseReason, Connection, Handler, Listeners, Replier, Server, ServerConfig};
use wire::{RemotingCommand, ResponseCode, SerializeType};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_get_their_own_answers() {
    let (server, address) = start(ServerConfig::default(), Arc::new(echo));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..1000_usize {
        tasks.spawn(async move {
            let mut peer = Raw::connect(address).await;
            for round in 0..5 {
                let body = format!("connection {number} round {round} ").repeat(1 + number % 40);
                let response = peer.call(round, body.clone()).await;
                assert_eq!(response.code, ResponseCode::SUCCESS.get());
                assert!(response.is_response());
                assert_eq!(response.body, body);
            }
            peer
        });
    }
    let peers = within(tasks.join_all()).await;
    assert_eq!(server.stats().connections, 1000);
    assert_eq!(server.stats().requests_total, 5000);
    assert_eq!(server.stats().in_flight_bytes, 0);
    drop(peers);
    until("all gone", || server.stats().connections == 0).await;
    assert_eq!(server.stats().outbound_bytes, 0);
}

#[tokio::test]
async fn frames_survive_any_split_and_keep_their_order() {
    let (_server, address) = start(ServerConfig::default(), Arc::new(echo));
    let mut random = Random(7);
    for _ in 0..20 {
        let mut peer = Raw::connect(address).await;
        let mut bytes = Vec::new();
        let mut bodies = Vec::new();
        for opaque in 0..50 {
            let length = if opaque % 10 == 9 { random.below(100_000) } else { random.below(300) };
            let body = random.bytes(length);
            let mut command = request(body.clone());
            command.opaque = opaque;
            if opaque % 2 == 1 {
                command.serialize = SerializeType::RocketMq;
            }
            bytes.extend_from_slice(&frame(&command));
            bodies.push(body);
        }
        let (mut read, mut write) = peer.stream.into_split();
        let cuts: Vec<usize> = (0..60).map(|_| 1 + random.below(bytes.len() / 30)).collect();
        let writer = tokio::spawn(async move {
            let mut rest = &bytes[..];
            for cut in cuts.into_iter().cycle() {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                tokio::io::AsyncWriteExt::write_all(&mut write, head).await.unwrap();
                tokio::task::yield_now().await;
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            write
        });
        let mut buffer = bytes::BytesMut::new();
        for (opaque, body) in bodies.iter().enumerate() {
            let response = loop {
                if let Some(response) = wire::decode_frame(&mut buffer, wire::FRAME_BYTES_MAX).unwrap() {
                    break response;
                }
                let count = within(tokio::io::AsyncReadExt::read_buf(&mut read, &mut buffer)).await.unwrap();
                assert_ne!(count, 0);
            };
            assert_eq!(response.opaque, opaque as i32);
            assert_eq!(response.body, body[..]);
            let expected = if opaque % 2 == 1 { SerializeType::RocketMq } else { SerializeType::Json };
            assert_eq!(response.serialize, expected, "an answer speaks as its request did");
        }
        peer = Raw::connect(address).await;
        assert_eq!(peer.call(1, "next").await.body, "next");
        writer.await.unwrap();
    }
}

/// S17: what one connection sends never shows on another, whatever happens to its neighbours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_stay_on_their_connection() {
    /// Answers late and from elsewhere, so that buffers of many connections are alive at once.
    struct Late;
    impl Handler for Late {
        fn handle(&self, request: RemotingCommand, replier: Replier) {
            let respond = move || {
                let tag = replier.connection().id().to_string();
                let response = RemotingCommand::response_to(&request, ResponseCode::SUCCESS)
                    .with_ext("id", &tag)
                    .with_body(request.body.clone());
                replier.send(response);
            };
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                respond();
            });
        }
    }
    let (server, address) = start(ServerConfig::default(), Arc::new(Late));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200_u64 {
        tasks.spawn(async move {
            let mut random = Random(number + 1);
            let mut id = None;
            let mut peer = Raw::connect(address).await;
            for round in 0..30 {
                let mark = (number as u8).wrapping_mul(31).wrapping_add(1);
                let size = random.below(if round % 7 == 0 { 60_000 } else { 2_000 });
                let body = vec![mark; size];
                let mut command = request(body.clone());
                command.opaque = round;
                let bytes = frame(&command);
                if number % 10 == 0 && round % 5 == 4 {
                    // Gives up in the middle of a frame, by reset, and comes back.
                    peer.write(&bytes[..bytes.len() / 2]).await;
                    socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
                    peer = Raw::connect(address).await;
                    id = None;
                    continue;
                }
                let cut = random.below(bytes.len());
                peer.write(&bytes[..cut]).await;
                tokio::task::yield_now().await;
                peer.write(&bytes[cut..]).await;
                let response = peer.read().await.unwrap();
                assert_eq!(response.opaque, round);
                assert!(response.body == body, "bytes of another connection");
                let tag = response.ext.get("id").unwrap().to_owned();
                assert_eq!(*id.get_or_insert(tag.clone()), tag);
            }
        });
    }
    within(tasks.join_all()).await;
    until("nothing in flight", || server.stats().in_flight_bytes == 0).await;
}

/// The calls a handler gets, in order.
#[derive(Default)]
struct Recorder {
    calls: Mutex<Vec<String>>,
}

impl Recorder {
    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }
}

impl Handler for Recorder {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        self.note(format!("handle {}", request.opaque));
        let count = replier.connection().attachment(|| AtomicUsize::new(0)).unwrap();
        count.fetch_add(1, Ordering::SeqCst);
        assert!(replier.connection().attached::<String>().is_none());
        echo(request, replier);
    }

    fn batch_end(&self, connection: &Arc<Connection>) {
        let count: &AtomicUsize = connection.attached().unwrap();
        self.note(format!("batch end after {}", count.load(Ordering::SeqCst)));
    }

    fn opened(&self, connection: &Arc<Connection>) {
        self.note(format!("opened on {}", connection.listener().unwrap().tag));
    }

    fn closed(&self, _connection: &Arc<Connection>, reason: &CloseReason) {
        self.note(format!("closed: {reason}"));
    }
}

#[tokio::test]
async fn a_handler_hears_of_batches_and_of_the_end() {
    let recorder = Arc::new(Recorder::default());
    let listeners = Listeners::new().bind("main", ANY).unwrap().bind("vip", ANY).unwrap();
    let server = Server::start(ServerConfig::default(), listeners, recorder.clone()).unwrap();
    let mut peer = Raw::connect(server.listeners()[1].address).await;
    let mut bytes = Vec::new();
    for opaque in 0..3 {
        let mut command = request("x");
        command.opaque = opaque;
        bytes.extend_from_slice(&frame(&command));
    }
    peer.write(&bytes).await;
    for opaque in 0..3 {
        assert_eq!(peer.read().await.unwrap().opaque, opaque);
    }
    drop(peer);
    until("closed", || server.stats().connections == 0).await;
    assert_eq!(
        *recorder.calls.lock().unwrap(),
        [
            "opened on vip",
            "handle 0",
            "handle 1",
            "handle 2",
            "batch end after 3",
            "closed: the peer closed it",
        ]
    );
}

#[tokio::test]
async fn oneway_requests_get_no_answer_and_dropped_ones_get_an_error() {
    let handler = |request: RemotingCommand, replier: Replier| match &request.body[..] {
        b"drop" => drop(replier),
        b"forget" => replier.forget(),
        b"reset" => replier.reset_connection(),
        b"refuse" => replier.refuse(ResponseCode::SERVICE_NOT_AVAILABLE, "no leader"),
        b"large" => {
            let body = vec![0; wire::FRAME_BYTES_MAX];
            replier.send(RemotingCommand::response_to(&request, ResponseCode::SUCCESS).with_body(body));
        }
        _ => echo(request, replier),
    };
    let (server, address) = start(ServerConfig::default(), Arc::new(handler));
    let mut peer = Raw::connect(address).await;
    for body in ["one", "drop", "refuse"] {
        let mut command = request(body).oneway();
        command.opaque = 99;
        peer.write(&frame(&command)).await;
    }
    peer.write(&frame(&request("forget"))).await;
    let dropped = peer.call(1, "drop").await;
    assert_eq!(dropped.response_code(), ResponseCode::SYSTEM_ERROR);
    assert!(dropped.remark.unwrap().contains("unknown"));
    let refused = peer.call(2, "refuse").await;
    assert_eq!(refused.response_code(), ResponseCode::SERVICE_NOT_AVAILABLE);
    assert_eq!(refused.remark.as_deref(), Some("no leader"));
    let large = peer.call(3, "large").await;
    assert_eq!(large.response_code(), ResponseCode::SYSTEM_ERROR);
    assert!(large.remark.unwrap().contains("exceeds"));
    assert_eq!(peer.call(4, "echo").await.body, "echo");
    assert_eq!(server.stats().in_flight_bytes, 0);
    peer.write(&frame(&request("reset"))).await;
    assert_eq!(peer.end().await, Some(std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_panic_ends_one_connection() {
    let handler = |request: RemotingCommand, replier: Replier| {
        assert_ne!(request.body, "panic", "as asked");
        echo(request, replier);
    };
    let (server, address) = start(ServerConfig::default(), Arc::new(handler));
    let mut well = Raw::connect(address).await;
    let mut ill = Raw::connect(address).await;
    ill.write(&frame(&request("panic"))).await;
    assert_eq!(ill.end().await, Some(std::io::ErrorKind::ConnectionReset));
    assert_eq!(well.call(1, "still here").await.body, "still here");
    until("off the books", || server.stats().connections == 1).await;
    let stats = server.stats();
    assert!(stats.ended_total.contains(&("panicked", 1)), "{stats:?}");
    assert_eq!(stats.in_flight_bytes, 0);
}

/// A reply from another task, given while nothing else happens on the connection, is written at once.
#[tokio::test]
async fn a_late_reply_wakes_the_connection() {
    let (held, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |request: RemotingCommand, replier: Replier| held.send((request, replier)).unwrap();
    let (_server, address) = start(ServerConfig::default(), Arc::new(handler));
    let mut peer = Raw::connect(address).await;
    for round in 0..100 {
        let mut command = request("x");
        command.opaque = round;
        peer.write(&frame(&command)).await;
        let (command, replier) = within(taken.recv()).await.unwrap();
        let thread = std::thread::spawn(move || echo(command, replier));
        assert_eq!(peer.read().await.unwrap().opaque, round);
        thread.join().unwrap();
    }
}

#[tokio::test]
async fn the_server_asks_and_the_client_answers() {
    let (server, address) = start(ServerConfig::default(), Arc::new(echo));
    let mut peer = Raw::connect(address).await;
    peer.call(0, "hello").await;
    let connection = server.connections().pop().unwrap();
    assert!(server.connection(connection.id()).is_some());
    let asks: Vec<_> = (0..3)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.request(request("?"), LONG).await })
        })
        .collect();
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(peer.read().await.unwrap());
    }
    // A request of the client under the same number is another matter.
    assert_eq!(peer.call(asked[0].opaque, "mine").await.body, "mine");
    for ask in asked.iter().rev() {
        let answer = RemotingCommand::response_to(ask, ResponseCode::SUCCESS)
            .with_body(format!("answer {}", ask.opaque));
        peer.write(&frame(&answer)).await;
    }
    let mut bodies = Vec::new();
    for ask in asks {
        bodies.push(within(ask).await.unwrap().unwrap().body);
    }
    bodies.sort();
    assert_eq!(bodies, ["answer 0", "answer 1", "answer 2"]);

    let slow = connection.request(request("?"), Duration::from_millis(20)).await;
    assert!(matches!(slow, Err(CallError::Unknown { .. })), "{slow:?}");
    let waits = tokio::spawn({
        let connection = connection.clone();
        async move { connection.request(request("?"), LONG).await }
    });
    peer.read().await.unwrap();
    peer.read().await.unwrap();
    drop(peer);
    let lost = within(waits).await.unwrap();
    assert!(matches!(lost, Err(CallError::Unknown { .. })), "{lost:?}");
    assert_eq!(within(connection.ended()).await, CloseReason::PeerClosed);
    let late = connection.request(request("?"), LONG).await;
    assert!(late.unwrap_err().is_not_sent());
}
