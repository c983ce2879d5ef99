//! Connections that are not read for a while, because what they sent was refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use net::limits::PAUSE_MIN;
use net::{ConnectionConfig, Handler, PushBack, Replier, ServerConfig};
use wire::{RemotingCommand, ResponseCode};

use crate::support::*;

/// When a request was handled, and how it stood.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    is_pressed: bool,
    is_late: bool,
}

/// Refuses what has the body "all" or "this" so, and answers everything.
#[derive(Default)]
struct Refuses {
    /// What is late is no reason for a pause.
    heeds_late: bool,
    seen: Mutex<Vec<Seen>>,
    batches: AtomicUsize,
}

/// Frames of "all" that take longer than `LONG` with a pause behind each, and that a socket takes at a time.
const MANY: usize = 300;

impl Handler for Refuses {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        let connection = replier.connection().clone();
        let (is_pressed, is_late) = (connection.is_pressed(), connection.is_late());
        let what = match &request.body[..] {
            b"all" => Some(PushBack::Connection),
            b"this" => Some(PushBack::Request),
            _ => None,
        };
        if let Some(what) = what {
            self.seen.lock().unwrap().push(Seen { at: Instant::now(), is_pressed, is_late });
            if !(is_late && self.heeds_late) {
                connection.push_back(what);
            }
        }
        echo(request, replier);
    }

    fn batch_end(&self, _connection: &Arc<net::Connection>) {
        self.batches.fetch_add(1, Ordering::SeqCst);
    }
}

impl Refuses {
    fn heeding() -> Arc<Refuses> {
        Arc::new(Refuses { heeds_late: true, ..Refuses::default() })
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// Frames that arrive at a time.
fn frames(bodies: impl IntoIterator<Item = &'static str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (opaque, body) in bodies.into_iter().enumerate() {
        let mut request = request(body);
        request.opaque = opaque as i32;
        bytes.extend_from_slice(&frame(&request));
    }
    bytes
}

async fn answers(peer: &mut Raw, count: usize) {
    for opaque in 0..count {
        assert_eq!(peer.read().await.unwrap().opaque, opaque as i32, "in their order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_behind_a_refusal_waits_and_is_done_in_the_end() {
    let refuses = Arc::new(Refuses::default());
    let (server, address) = start(ServerConfig::default(), refuses.clone());
    let mut peer = Raw::connect(address).await;
    peer.write(&frames(["all"; 4])).await;
    answers(&mut peer, 4).await;
    let seen = refuses.seen();
    assert_eq!(seen.iter().map(|seen| seen.is_pressed).collect::<Vec<_>>(), [false, true, true, true]);
    for pair in seen.windows(2) {
        let pause = pair[1].at - pair[0].at;
        // A timer is never early, and the system may well be late.
        assert!(pause >= PAUSE_MIN.mul_f64(0.75), "handled after {pause:?}");
    }
    assert_eq!(server.stats().pauses_total, 4);
    // It has caught up, and is as good as any other.
    assert_eq!(peer.call(1, "well").await.body, "well");
    assert_eq!(peer.call(2, "all").await.body, "all");
    let last = *refuses.seen().last().unwrap();
    assert!(!last.is_pressed && !last.is_late, "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_too_long_is_late_and_waits_no_more() {
    let refuses = Refuses::heeding();
    let (server, address) = start(ServerConfig::default(), refuses.clone());
    let mut peer = Raw::connect(address).await;
    peer.write(&frames(["all"; MANY])).await;
    answers(&mut peer, MANY).await;
    let seen = refuses.seen();
    assert!(!seen[0].is_late, "it has not waited");
    assert!(server.stats().pauses_total < MANY as u64 / 10, "{:?}", server.stats());
    assert_eq!(peer.call(1, "well").await.body, "well");
    assert_eq!(peer.call(2, "all").await.body, "all");
    assert!(!refuses.seen().last().unwrap().is_late);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_that_of_one_connection() {
    let refuses = Arc::new(Refuses::default());
    let (server, address) = start(ServerConfig::default(), refuses.clone());
    let mut pressing = Raw::connect(address).await;
    pressing.write(&frames(["all"; MANY])).await;
    until("it pauses", || server.stats().pauses_total > 0).await;
    let mut other = Raw::connect(address).await;
    for n in 0..20 {
        assert_eq!(other.call(n, "well").await.body, "well");
    }
    assert!(refuses.seen().len() < MANY, "the first one was served before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_one_kind_pause_a_connection_only_where_they_are_most_of_it() {
    let refuses = Arc::new(Refuses::default());
    let (server, address) = start(ServerConfig::default(), refuses.clone());
    let mut peer = Raw::connect(address).await;
    for _ in 0..10 {
        peer.write(&frames(["well", "this", "well", "well", "this", "well"])).await;
        answers(&mut peer, 6).await;
    }
    assert_eq!(server.stats().pauses_total, 0);
    peer.write(&frames(["this", "well", "this", "this", "well", "this"])).await;
    answers(&mut peer, 6).await;
    assert_eq!(server.stats().pauses_total, 1);
    assert_eq!(refuses.batches.load(Ordering::SeqCst), 11, "what came with them did not wait");
}

/// Answers everything, and then says that what has the body "later" was refused.
#[derive(Default)]
struct RefusesLater(Mutex<Option<Arc<net::Connection>>>);

impl Handler for RefusesLater {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        *self.0.lock().unwrap() = Some(replier.connection().clone());
        echo(request, replier);
    }
}

/// Another node may say it, once it has looked at the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_later_counts_beside_the_next_read() {
    let refuses = Arc::new(RefusesLater::default());
    let (server, address) = start(ServerConfig::default(), refuses.clone());
    let mut peer = Raw::connect(address).await;
    for (later, next, pauses) in [(3, 3, 0), (3, 2, 1)] {
        peer.write(&frames(["later"; 5])).await;
        answers(&mut peer, 5).await;
        let connection = refuses.0.lock().unwrap().clone().unwrap();
        (0..later).for_each(|_| connection.push_back(PushBack::Request));
        peer.write(&frames(vec!["well"; next])).await;
        answers(&mut peer, next).await;
        assert_eq!(server.stats().pauses_total, pauses, "{later} were refused before {next} came");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_pauses() {
    let refuses = Arc::new(Refuses::default());
    let (server, address) = start(ServerConfig::default(), refuses.clone());
    let mut peer = Raw::connect(address).await;
    peer.write(&frames(["all"; MANY])).await;
    until("it pauses", || server.stats().pauses_total > 0).await;
    let stopping = tokio::spawn(server.shutdown(LONG));
    answers(&mut peer, MANY).await;
    assert_eq!(peer.end().await, None, "parted with FIN");
    drop(peer);
    within(stopping).await.unwrap();
}

/// As [`Refuses`], with answers of 64 KiB for "all".
struct AnswersMuch(Arc<Refuses>);

impl Handler for AnswersMuch {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        let is_late = replier.connection().is_late();
        if !is_late {
            replier.connection().push_back(PushBack::Connection);
        }
        self.0.seen.lock().unwrap().push(Seen { at: Instant::now(), is_pressed: true, is_late });
        let body = if request.body == "all" { vec![b'.'; 64 << 10].into() } else { request.body.clone() };
        replier.send(RemotingCommand::response_to(&request, ResponseCode::SUCCESS).with_body(body));
    }
}

/// What is late is read by few connections at once. Those whose peers take no answers must not keep the others from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_read_what_is_late_keeps_nobody_from_it() {
    let seen = Arc::new(Refuses::default());
    let connection = ConnectionConfig {
        outbound_pause_bytes: 1,
        outbound_bytes_max: 1 << 30,
        write_stall_timeout: LONG * 10,
        ..ConnectionConfig::default()
    };
    // The kernel would end them, too.
    let config = ServerConfig { connection, keepalive: false, ..ServerConfig::default() };
    let (server, address) = start(config, Arc::new(AnswersMuch(seen.clone())));
    let mut stuck = Vec::new();
    for _ in 0..std::thread::available_parallelism().unwrap().get() {
        let mut peer = Raw::connect(address).await;
        peer.write(&frames(["all"; MANY])).await;
        stuck.push(peer);
    }
    // The answers have filled the sockets, and more wait: none of them reads any more, though there is more that is late.
    let is_late = || seen.seen().iter().filter(|seen| seen.is_late).count() >= stuck.len();
    until("they read what is late", is_late).await;
    let mut pressing = Raw::connect(address).await;
    pressing.write(&frames(["a little"; MANY])).await;
    within(answers(&mut pressing, MANY)).await;
    assert!(seen.seen().len() < MANY * (stuck.len() + 1), "nothing was stuck");
    drop((stuck, server));
}

/// As [`Refuses`]; whoever reads "hold" when it is late keeps its turn until all are let go.
#[derive(Default)]
struct Holds {
    held: AtomicUsize,
    goes: Mutex<bool>,
    go: Condvar,
}

impl Handler for Holds {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        if !replier.connection().is_late() {
            replier.connection().push_back(PushBack::Connection);
        } else if request.body == "hold" {
            self.held.fetch_add(1, Ordering::SeqCst);
            // Others go on meanwhile.
            tokio::task::block_in_place(|| {
                let goes = self.goes.lock().unwrap();
                drop(self.go.wait_while(goes, |goes| !*goes).unwrap());
            });
        }
        echo(request, replier);
    }
}

/// Lets go also where the test fails, whose end waits for the threads.
struct LetGo(Arc<Holds>);

impl Drop for LetGo {
    fn drop(&mut self) {
        *self.0.goes.lock().unwrap() = true;
        self.0.go.notify_all();
    }
}

/// It is not the peer that is idle while it is somebody else's turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_its_turn_is_not_idle() {
    let connection = ConnectionConfig { idle_timeout: Duration::from_millis(800), ..Default::default() };
    let sweep_interval = Duration::from_millis(20);
    let config = ServerConfig { connection, sweep_interval, ..ServerConfig::default() };
    let holds = Arc::new(Holds::default());
    let (server, address) = start(config, holds.clone());
    let let_go = LetGo(holds.clone());
    let turns = std::thread::available_parallelism().unwrap().get();
    let mut holders = Vec::new();
    for _ in 0..turns {
        let mut peer = Raw::connect(address).await;
        peer.write(&frames(["hold"; MANY])).await;
        holders.push(peer);
    }
    until("all turns are taken", || holds.held.load(Ordering::SeqCst) >= turns).await;
    let mut waiting = Raw::connect(address).await;
    waiting.write(&frames(["wait"; MANY])).await;
    // Late after half a second, and then several times as long as a peer may be idle.
    tokio::time::sleep(Duration::from_secs(4)).await;
    drop(let_go);
    within(answers(&mut waiting, MANY)).await;
    assert_eq!(waiting.end().await, Some(std::io::ErrorKind::ConnectionReset), "now it is");
    drop((holders, server));
}
