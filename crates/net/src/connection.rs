//! A connection as everybody but its own task sees it: send, request, close.
//!
//! Locks: `state` is a leaf. It is held to encode one frame, to move a queue or to look up one entry,
//! and never while a handler, a waker or another lock is used.

use std::any::Any;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use wire::{RemotingCommand, RequestCode, ResponseCode, SerializeType};

use crate::budget::Budget;
use crate::error::{CallError, CloseReason, Failure};
use crate::limits;
use crate::lock;
use crate::outbound::{Outbound, Writing};
use crate::pause::PushBack;

/// In `Connection::push_back`: the whole connection is meant.
const PUSH_BACK_ALL: u32 = 1 << 31;

/// What one connection may hold and how long it may take; defaults are in [`crate::limits`].
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    pub frame_bytes_max: usize,
    /// Bytes of requests taken and not answered; above it nothing more is read.
    pub in_flight_bytes_max: usize,
    /// Bytes unread by the peer above which nothing more is read from it.
    pub outbound_pause_bytes: usize,
    /// Bytes unread by the peer above which it is reset.
    pub outbound_bytes_max: usize,
    pub frame_deadline: Duration,
    pub frame_bytes_per_second_min: usize,
    pub idle_timeout: Duration,
    pub write_stall_timeout: Duration,
    /// Requests of this side that may wait for their response.
    pub pending_max: usize,
}

impl Default for ConnectionConfig {
    fn default() -> ConnectionConfig {
        ConnectionConfig {
            frame_bytes_max: limits::FRAME_BYTES_MAX,
            in_flight_bytes_max: limits::IN_FLIGHT_BYTES_MAX,
            outbound_pause_bytes: limits::OUTBOUND_PAUSE_BYTES,
            outbound_bytes_max: limits::OUTBOUND_BYTES_MAX,
            frame_deadline: limits::FRAME_DEADLINE,
            frame_bytes_per_second_min: limits::FRAME_BYTES_PER_SECOND_MIN,
            idle_timeout: limits::IDLE_TIMEOUT,
            write_stall_timeout: limits::WRITE_STALL_TIMEOUT,
            pending_max: limits::PENDING_MAX,
        }
    }
}

/// A listening address and the name its owner gave it, such as "main" or "vip".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub tag: String,
    /// The address as bound, with the port that the kernel chose for port 0.
    pub address: SocketAddr,
}

/// One TCP connection to a client or to a server.
pub struct Connection {
    id: u64,
    peer: SocketAddr,
    listener: Option<Arc<Listener>>,
    pub(crate) config: Arc<ConnectionConfig>,
    pub(crate) budget: Arc<Budget>,
    state: Mutex<State>,
    in_flight_bytes: AtomicUsize,
    in_flight_requests: AtomicUsize,
    /// The driver wants to be woken when a request is answered: it has stopped reading because of
    /// them, or drains.
    wants_release: AtomicBool,
    /// Asked for and not seen by the driver yet: how many requests of a kind, and whether it is all (`PUSH_BACK_ALL`).
    push_back: AtomicU32,
    /// What the driver says of what it hands over.
    is_pressed: AtomicBool,
    is_late: AtomicBool,
    pub(crate) watch: Watch,
    attachment: OnceLock<Box<dyn Any + Send + Sync>>,
    over: Notify,
}

/// What the sweeper reads of a connection, in milliseconds of its clock; 0 is "not now".
pub(crate) struct Watch {
    origin: Instant,
    pub(crate) active_ms: AtomicU64,
    /// When the frame that has arrived in part began, and how much of it is here.
    pub(crate) frame_since_ms: AtomicU64,
    pub(crate) frame_bytes: AtomicUsize,
    /// Since when the peer has taken nothing.
    pub(crate) blocked_since_ms: AtomicU64,
}

impl Watch {
    pub(crate) fn now_ms(&self) -> u64 {
        // Never 0.
        self.origin.elapsed().as_millis() as u64 + 1
    }

    /// The peer is at work.
    pub(crate) fn note_active(&self) {
        self.active_ms.store(self.now_ms(), Ordering::Relaxed);
    }
}

/// How far a connection has gone towards its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Open,
    /// Ends at the first moment when nothing is in flight and nothing unread.
    Draining,
    /// Reads no more, and ends when nothing is in flight.
    Stopping,
    /// Ends when what was sent is written.
    Closing,
    /// Ends now.
    Ending(CloseReason),
    Over(CloseReason),
}

#[derive(Default)]
struct State {
    outbound: Outbound,
    /// Bytes of the outbound stream that the kernel has taken.
    written: u64,
    pending: HashMap<i32, Pending>,
    next_opaque: i32,
    stage: Stage,
    waker: Option<Waker>,
    /// The driver is running or has been woken; nobody needs to wake it for more to write.
    is_awake: bool,
}

struct Pending {
    /// Where the request ends in the outbound stream.
    end: u64,
    response: oneshot::Sender<Result<RemotingCommand, CallError>>,
}

impl Connection {
    pub(crate) fn new(
        id: u64,
        peer: SocketAddr,
        listener: Option<Arc<Listener>>,
        config: Arc<ConnectionConfig>,
        budget: Arc<Budget>,
    ) -> Connection {
        let watch = Watch {
            origin: Instant::now(),
            active_ms: AtomicU64::new(1),
            frame_since_ms: AtomicU64::new(0),
            frame_bytes: AtomicUsize::new(0),
            blocked_since_ms: AtomicU64::new(0),
        };
        Connection {
            id,
            peer,
            listener,
            config,
            budget,
            state: Mutex::new(State::default()),
            in_flight_bytes: AtomicUsize::new(0),
            in_flight_requests: AtomicUsize::new(0),
            wants_release: AtomicBool::new(false),
            push_back: AtomicU32::new(0),
            is_pressed: AtomicBool::new(false),
            is_late: AtomicBool::new(false),
            watch,
            attachment: OnceLock::new(),
            over: Notify::new(),
        }
    }

    /// Unique within the process.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Where it arrived; `None` when this side opened it.
    pub fn listener(&self) -> Option<&Listener> {
        self.listener.as_deref()
    }

    /// Requests taken from the peer and not answered yet.
    pub fn in_flight_requests(&self) -> usize {
        self.in_flight_requests.load(Ordering::Acquire)
    }

    /// What this connection's owner keeps with it: made by `init` on first use, the same afterwards.
    /// `None` when it holds a value of another type.
    pub fn attachment<T: Any + Send + Sync>(&self, init: impl FnOnce() -> T) -> Option<&T> {
        self.attachment.get_or_init(|| Box::new(init())).downcast_ref()
    }

    /// The attachment, if one of this type was made.
    pub fn attached<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.attachment.get()?.downcast_ref()
    }

    /// A request was refused because there is too much, so that no more is to be read of this connection for a while
    /// (20 to 160 ms, longer while more waits behind what is refused): its peer is to feel that it sends too much, and
    /// refusals are to cost little. Answers are written meanwhile. Told by a handler within `handle` it counts for that
    /// request; told later, as one more beside those of the next read. A drain ends the pause.
    pub fn push_back(&self, what: PushBack) {
        match what {
            // Far from the highest bit: so many are never under way.
            PushBack::Request => self.push_back.fetch_add(1, Ordering::Relaxed),
            PushBack::Connection => self.push_back.fetch_or(PUSH_BACK_ALL, Ordering::Relaxed),
        };
    }

    /// The peer sends more than is taken of it: behind a request that was refused there was more, and it has never been
    /// level since. For handlers, of the request that they are given: whoever does not press goes first.
    pub fn is_pressed(&self) -> bool {
        self.is_pressed.load(Ordering::Relaxed)
    }

    /// The request that a handler is being given, or one before it in the same heap, lay here unread for [`limits::LATE`]
    /// at least, because of pauses. Behind it there may be as much that is as late, so that whoever refuses it need not ask
    /// for another pause.
    pub fn is_late(&self) -> bool {
        self.is_late.load(Ordering::Relaxed)
    }

    /// Queues a command as it is, to be written with whatever else is queued. Use [`Replier`] to
    /// answer a request. `Err`: the connection is over or closing; the command was not sent.
    pub fn send(&self, command: RemotingCommand) -> Result<(), CallError> {
        self.push(command, false, None)
    }

    /// Sends a one-way request, under a number of this side.
    pub fn send_oneway(&self, request: RemotingCommand) -> Result<(), CallError> {
        self.push(request.oneway(), true, None)
    }

    /// Sends a request to the peer, under a number of this side, and waits for its response.
    pub async fn request(
        &self,
        request: RemotingCommand,
        timeout: Duration,
    ) -> Result<RemotingCommand, CallError> {
        let (sender, mut response) = oneshot::channel();
        let mut opaque = 0;
        self.push(request, true, Some((sender, &mut opaque)))?;
        // Forgets the request when it times out or its caller is cancelled.
        let mut entry = Entry { connection: self, opaque, is_taken: false };
        match tokio::time::timeout(timeout, &mut response).await {
            Ok(result) => {
                entry.is_taken = true;
                // The other end is dropped only together with the connection.
                result.unwrap_or_else(|_| Err(self.unknown(Failure::Closed(CloseReason::Stopped))))
            }
            Err(_) => Err(self.unknown(Failure::Timeout)),
        }
    }

    fn push(
        &self,
        mut command: RemotingCommand,
        is_numbered: bool,
        wait: Option<(oneshot::Sender<Result<RemotingCommand, CallError>>, &mut i32)>,
    ) -> Result<(), CallError> {
        if command.body.len() > self.config.frame_bytes_max.saturating_sub(limits::HEADER_ROOM_BYTES) {
            let failure = Failure::TooLarge { bytes: command.body.len(), max: self.config.frame_bytes_max };
            return Err(self.not_sent(failure));
        }
        let mut state = self.state();
        match &state.stage {
            Stage::Open | Stage::Draining | Stage::Stopping => {}
            Stage::Closing => return Err(self.not_sent(Failure::Closed(CloseReason::Closed))),
            Stage::Ending(reason) | Stage::Over(reason) => {
                return Err(self.not_sent(Failure::Closed(reason.clone())));
            }
        }
        if is_numbered {
            let busy = state.pending.len();
            if wait.is_some() && busy >= self.config.pending_max {
                return Err(self.not_sent(Failure::TooManyPending));
            }
            // A number that an old request still holds is skipped when the counter comes round.
            while busy > 0 && state.pending.contains_key(&state.next_opaque) {
                state.next_opaque = state.next_opaque.wrapping_add(1);
            }
            command.opaque = state.next_opaque;
            state.next_opaque = state.next_opaque.wrapping_add(1);
        }
        let opaque = command.opaque;
        let before = state.outbound.pushed();
        let end = state.outbound.push(command);
        self.budget.take_outbound((end - before) as usize);
        if let Some((response, place)) = wait {
            *place = opaque;
            state.pending.insert(opaque, Pending { end, response });
        }
        let unread = (end - state.written) as usize;
        let is_slow = unread > self.config.outbound_bytes_max
            || (unread > self.config.outbound_pause_bytes && self.budget.outbound_is_full());
        if is_slow {
            state.stage = Stage::Ending(CloseReason::SlowReader);
            state.is_awake = false;
        }
        wake(state);
        Ok(())
    }

    /// Answers nothing more and closes with FIN, once everything sent so far is written.
    pub fn close(&self) {
        self.advance(Stage::Closing);
    }

    /// Ends the connection at once; what is not written is lost. A peer of a server sees RST, which
    /// makes every stock client retry its requests at once (clients.md, rule 1).
    pub fn reset(&self) {
        self.advance(Stage::Ending(CloseReason::Reset));
    }

    pub fn is_over(&self) -> bool {
        !matches!(self.state().stage, Stage::Open | Stage::Draining | Stage::Stopping)
    }

    /// Waits until the connection has ended, however it did.
    pub async fn ended(&self) -> CloseReason {
        loop {
            let notified = self.over.notified();
            if let Stage::Over(reason) = &self.state().stage {
                return reason.clone();
            }
            notified.await;
        }
    }

    /// Goes on to a later stage, never back.
    pub(crate) fn advance(&self, next: Stage) {
        let rank = |stage: &Stage| match stage {
            Stage::Open => 0,
            Stage::Draining => 1,
            Stage::Stopping => 2,
            Stage::Closing => 3,
            Stage::Ending(_) => 4,
            Stage::Over(_) => 5,
        };
        let mut state = self.state();
        if rank(&state.stage) < rank(&next) {
            state.stage = next;
            state.is_awake = false;
            wake(state);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn not_sent(&self, failure: Failure) -> CallError {
        CallError::NotSent { peer: self.peer.to_string(), failure }
    }

    fn unknown(&self, failure: Failure) -> CallError {
        CallError::Unknown { peer: self.peer.to_string(), failure }
    }

    // What the driver needs.

    /// Begins a turn: takes what is to be written, says what was written before. Returns the stage
    /// and how many bytes the peer has not taken, those in `writing` included.
    pub(crate) fn turn(&self, writing: &mut Writing, written: &mut usize) -> (Stage, usize) {
        let mut state = self.state();
        state.is_awake = true;
        state.outbound.take(writing);
        state.written += *written as u64;
        self.budget.give_outbound(std::mem::take(written));
        let unread = (state.outbound.pushed() - state.written) as usize;
        (state.stage.clone(), unread)
    }

    /// Ends a turn. False: there is more to do. `is_blocked`: the socket takes no more, so that
    /// further frames are no reason to wake the driver.
    pub(crate) fn rest(&self, stage: &Stage, is_blocked: bool, waker: &Waker) -> bool {
        let mut state = self.state();
        if state.stage != *stage || !(is_blocked || state.outbound.is_empty()) {
            return false;
        }
        state.is_awake = is_blocked;
        match &mut state.waker {
            Some(old) if old.will_wake(waker) => {}
            old => *old = Some(waker.clone()),
        }
        true
    }

    /// Takes a request in: the handle by which it is answered.
    pub(crate) fn admit(self: &Arc<Self>, request: &RemotingCommand, frame_bytes: usize) -> Replier {
        let charge = frame_bytes + limits::REQUEST_OVERHEAD_BYTES;
        self.in_flight_bytes.fetch_add(charge, Ordering::SeqCst);
        self.in_flight_requests.fetch_add(1, Ordering::SeqCst);
        self.budget.take_in_flight(charge);
        Replier {
            connection: self.clone(),
            opaque: request.opaque,
            charge: charge as u32,
            serialize: request.serialize,
            is_oneway: request.is_oneway(),
            is_done: false,
        }
    }

    fn release(&self, charge: usize) {
        self.budget.give_in_flight(charge);
        let bytes = self.in_flight_bytes.fetch_sub(charge, Ordering::SeqCst) - charge;
        let requests = self.in_flight_requests.fetch_sub(1, Ordering::SeqCst) - 1;
        let max = self.config.in_flight_bytes_max;
        if self.wants_release.load(Ordering::SeqCst) && (requests == 0 || bytes <= max - max / 8) {
            let mut state = self.state();
            state.is_awake = false;
            wake(state);
        }
    }

    /// Whether the requests in flight forbid to read on.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.in_flight_bytes.load(Ordering::SeqCst) >= self.config.in_flight_bytes_max
    }

    /// Asks to be woken when requests in flight are answered. Look again after asking.
    pub(crate) fn want_release(&self, wants: bool) {
        self.wants_release.store(wants, Ordering::SeqCst);
    }

    /// What was asked for since the last call: for how many requests, and whether for all.
    pub(crate) fn take_push_back(&self) -> (u32, bool) {
        // Nothing, nearly always.
        if self.push_back.load(Ordering::Relaxed) == 0 {
            return (0, false);
        }
        let asked = self.push_back.swap(0, Ordering::Relaxed);
        (asked & !PUSH_BACK_ALL, asked & PUSH_BACK_ALL != 0)
    }

    pub(crate) fn set_pressed(&self, is_pressed: bool) {
        self.is_pressed.store(is_pressed, Ordering::Relaxed);
    }

    pub(crate) fn set_late(&self, is_late: bool) {
        self.is_late.store(is_late, Ordering::Relaxed);
    }

    /// Nothing is in flight, and the kernel has taken every answer.
    pub(crate) fn is_quiet(&self, written: usize) -> bool {
        self.in_flight_requests() == 0 && self.is_written(written)
    }

    /// The kernel has taken everything that was sent; `written` is what `turn` does not know yet.
    pub(crate) fn is_written(&self, written: usize) -> bool {
        let state = self.state();
        state.outbound.pushed() == state.written + written as u64
    }

    /// Why the connection has to end now for taking too long, if it does.
    pub(crate) fn overdue(&self) -> Option<CloseReason> {
        let now = self.watch.now_ms();
        let since = |at: &AtomicU64| match at.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            at => Duration::from_millis(now.saturating_sub(at)),
        };
        let rate = self.config.frame_bytes_per_second_min.max(1) as f64;
        let for_bytes = Duration::from_secs_f64(self.watch.frame_bytes.load(Ordering::Relaxed) as f64 / rate);
        if since(&self.watch.frame_since_ms) > self.config.frame_deadline + for_bytes {
            Some(CloseReason::SlowFrame)
        } else if since(&self.watch.blocked_since_ms) > self.config.write_stall_timeout {
            Some(CloseReason::SlowReader)
        } else if since(&self.watch.active_ms) > self.config.idle_timeout {
            Some(CloseReason::Idle)
        } else {
            None
        }
    }

    /// Hands a response to the request that waits for it. One that nobody waits for is dropped.
    pub(crate) fn complete(&self, response: RemotingCommand) {
        let pending = self.state().pending.remove(&response.opaque);
        match pending {
            // The caller may have gone.
            Some(pending) => drop(pending.response.send(Ok(response))),
            None => tracing::debug!(peer = %self.peer, opaque = response.opaque, "response to nothing"),
        }
    }

    /// The driver's last word. True the first time.
    pub(crate) fn finish(&self, reason: &CloseReason, written: usize) -> bool {
        let (pending, written) = {
            let mut state = self.state();
            if matches!(state.stage, Stage::Over(_)) {
                return false;
            }
            state.written += written as u64;
            let lost = (state.outbound.pushed() - state.written) as usize;
            self.budget.give_outbound(written + lost);
            state.outbound = Outbound::default();
            state.stage = Stage::Over(reason.clone());
            state.waker = None;
            (std::mem::take(&mut state.pending), state.written)
        };
        for (_, Pending { end, response }) in pending {
            let failure = Failure::Closed(reason.clone());
            // A peer cannot act on a frame that is not whole.
            let error = if end > written { self.not_sent(failure) } else { self.unknown(failure) };
            let _ = response.send(Err(error));
        }
        self.over.notify_waiters();
        true
    }
}

/// Wakes the driver unless it is awake.
fn wake(mut state: MutexGuard<'_, State>) {
    if state.is_awake {
        return;
    }
    state.is_awake = true;
    let waker = state.waker.clone();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("id", &self.id).field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// The entry of a request that waits; removes it when the wait is given up.
struct Entry<'a> {
    connection: &'a Connection,
    opaque: i32,
    is_taken: bool,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.is_taken {
            self.connection.state().pending.remove(&self.opaque);
        }
    }
}

/// The right, and the duty, to answer one request. Holds the request's bytes against the limits
/// until it is used. Dropped unused it answers `SYSTEM_ERROR` with an outcome unknown, so that no
/// client waits in vain.
#[must_use = "a request that is not answered costs its client a timeout"]
pub struct Replier {
    connection: Arc<Connection>,
    opaque: i32,
    charge: u32,
    serialize: SerializeType,
    is_oneway: bool,
    is_done: bool,
}

impl Replier {
    /// Answers. The response takes the request's number and header serialisation; that of a one-way
    /// request is dropped, and so is one to a connection that has ended.
    pub fn send(mut self, response: RemotingCommand) {
        self.answer(response);
    }

    /// Answers with a code and a remark, for refusals.
    pub fn refuse(mut self, code: ResponseCode, remark: impl Into<String>) {
        if self.is_oneway {
            self.is_done = true;
            return;
        }
        self.answer(plain_response(code, remark.into()));
    }

    /// Gives no answer, on purpose.
    pub fn forget(mut self) {
        self.is_done = true;
    }

    /// Resets the connection instead of answering: for a request that an election kept waiting too
    /// long for its client.
    pub fn reset_connection(mut self) {
        self.is_done = true;
        self.connection.reset();
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The client wants no response.
    pub fn is_oneway(&self) -> bool {
        self.is_oneway
    }

    fn answer(&mut self, mut response: RemotingCommand) {
        self.is_done = true;
        if self.is_oneway {
            return;
        }
        response.opaque = self.opaque;
        response.flag |= 1;
        response.serialize = self.serialize;
        let sent = self.connection.push(response, false, None);
        if let Err(CallError::NotSent { failure: failure @ Failure::TooLarge { .. }, .. }) = sent {
            let mut response = plain_response(ResponseCode::SYSTEM_ERROR, failure.to_string());
            response.opaque = self.opaque;
            response.serialize = self.serialize;
            // Fails only where the connection is over.
            let _ = self.connection.push(response, false, None);
        }
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        if !self.is_done && !self.is_oneway {
            tracing::warn!(peer = %self.connection.peer, opaque = self.opaque, "a request was dropped unanswered");
            let remark = "the request was dropped; its outcome is unknown";
            self.answer(plain_response(ResponseCode::SYSTEM_ERROR, remark.into()));
        }
        // After the answer is queued, so that a drain that sees nothing in flight sees the answer.
        self.connection.release(self.charge as usize);
    }
}

impl std::fmt::Debug for Replier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replier")
            .field("peer", &self.connection.peer)
            .field("opaque", &self.opaque)
            .finish_non_exhaustive()
    }
}

fn plain_response(code: ResponseCode, remark: String) -> RemotingCommand {
    let mut response = RemotingCommand::request(RequestCode(code.get())).with_remark(remark);
    response.flag = 1;
    response
}
