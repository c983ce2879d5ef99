//! The one task of a connection: it alone reads and writes the socket.
//!
//! ```text
//!           ┌─> write what is queued ─> read once ─> decode every whole frame ─> handle each ─> batch_end ─┐
//!  woken ───┤                                                                                              ├─> asleep
//!           └──────────────────────────── until neither does anything ────────────────────────────────────┘
//! ```
//!
//! Replies given while frames are handled leave in one write; replies given by other tasks queue and
//! wake this one once. There is no timer here but that of a pause (pause.rs): for deadlines the sweeper reads `Watch`.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep};
use wire::RemotingCommand;

use crate::budget::LateTurn;
use crate::connection::{Connection, Replier, Stage};
use crate::error::CloseReason;
use crate::limits::{PARTIAL_FREE_BYTES, READ_BYTES_MAX, READ_BYTES_MIN, ROUNDS_PER_WAKE, WRITE_SLICES_MAX};
use crate::outbound::Writing;
use crate::pause::Pauses;
use crate::transport::Transport;

/// What a server, or a client, does with what its peers send. Calls for one connection come one at a
/// time, on the task that reads its socket: answer at once, or pass the [`Replier`] on and return.
/// Code that waits or takes more than a few microseconds belongs elsewhere.
pub trait Handler: Send + Sync + 'static {
    /// A request arrived.
    fn handle(&self, request: RemotingCommand, replier: Replier);

    /// Every request that had arrived whole has been handled; the next will come with the next read.
    /// Here a broker hands over what it has gathered.
    fn batch_end(&self, _connection: &Arc<Connection>) {}

    fn opened(&self, _connection: &Arc<Connection>) {}

    /// The last call for a connection; its requests in flight can no longer be answered.
    fn closed(&self, _connection: &Arc<Connection>, _reason: &CloseReason) {}
}

impl<F: Fn(RemotingCommand, Replier) + Send + Sync + 'static> Handler for F {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        self(request, replier);
    }
}

/// What all connections of a server have done.
#[derive(Default)]
pub(crate) struct Traffic {
    pub(crate) requests: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
    pub(crate) pauses: AtomicU64,
}

/// Runs a connection to its end.
pub(crate) async fn drive<H: Handler + ?Sized>(
    connection: Arc<Connection>,
    mut transport: Transport,
    handler: Arc<H>,
    traffic: Arc<Traffic>,
) -> CloseReason {
    let reason = {
        let mut driver = Driver {
            connection: &connection,
            transport: &mut transport,
            handler: &*handler,
            traffic: &traffic,
            buffer: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            has_leftovers: false,
            charged_bytes: 0,
            writing: Writing::default(),
            written: 0,
            wants_release: false,
            listed: None,
            pauses: Pauses::new(connection.id()),
            refused_later: 0,
            pause: None,
            late_turn: LateTurn::None,
            drains: false,
            reason: CloseReason::Stopped,
        };
        handler.opened(&connection);
        let reason = poll_fn(|cx| driver.poll(cx)).await;
        driver.reason = reason.clone();
        reason
    };
    tracing::debug!(peer = %connection.peer(), id = connection.id(), %reason, "connection over");
    match reason {
        CloseReason::Closed | CloseReason::Drained => transport.part().await,
        CloseReason::PeerClosed => transport.fin(),
        // Dropped: an accepted socket answers RST.
        _ => {}
    }
    reason
}

struct Driver<'a, H: Handler + ?Sized> {
    connection: &'a Arc<Connection>,
    transport: &'a mut Transport,
    handler: &'a H,
    traffic: &'a Traffic,
    /// What has arrived and is not a whole frame yet. Its memory is let go while nothing arrives.
    buffer: BytesMut,
    /// How much to ask of the next read.
    read_bytes: usize,
    /// Whole frames may be left in `buffer`, because too much was in flight, or behind one that was refused.
    has_leftovers: bool,
    /// What of `buffer` is charged to the budget.
    charged_bytes: usize,
    writing: Writing,
    /// Written since `Connection::turn` was told.
    written: usize,
    wants_release: bool,
    /// Place in the budget's list of waiters.
    listed: Option<u64>,
    pauses: Pauses,
    /// Requests of earlier reads that were refused since the last one.
    refused_later: u32,
    /// Nothing is read until this is over.
    pause: Option<Pin<Box<Sleep>>>,
    /// What is late is read in turn.
    late_turn: LateTurn,
    /// Whatever there is is to be read, for the connection is to end.
    drains: bool,
    reason: CloseReason,
}

impl<H: Handler + ?Sized> Driver<'_, H> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        match self.turns(cx) {
            Ok(()) => Poll::Pending,
            Err(reason) => Poll::Ready(reason),
        }
    }

    /// Turns of writing and reading until there is nothing to do; `Err` ends the connection.
    fn turns(&mut self, cx: &mut Context<'_>) -> Result<(), CloseReason> {
        for _ in 0..ROUNDS_PER_WAKE {
            let (stage, unread) = self.connection.turn(&mut self.writing, &mut self.written);
            if let Stage::Ending(reason) = stage {
                return Err(reason);
            }
            let is_blocked = self.write(cx)?;
            let is_overloaded = self.is_overloaded(&stage);
            let is_paused = self.is_paused(&stage, cx);
            let reads = matches!(stage, Stage::Open | Stage::Draining)
                && unread - self.written <= self.connection.config.outbound_pause_bytes
                && !is_overloaded
                && !is_paused;
            if !reads {
                // Our own pause is not the peer's delay.
                self.connection.watch.frame_since_ms.store(0, Ordering::Relaxed);
            }
            // A budget that is full pauses too, but its pause counts: it may be full of partial frames,
            // which only their deadline removes. What was left in the buffer fills it as well until it is handled.
            if reads && (self.has_leftovers || !self.budget_is_full(cx)) && self.read(cx)? {
                continue;
            }
            match stage {
                Stage::Closing if self.connection.is_written(self.written) => {
                    return Err(CloseReason::Closed);
                }
                Stage::Draining
                    if reads && self.buffer.is_empty() && self.connection.is_quiet(self.written) =>
                {
                    return Err(CloseReason::Drained);
                }
                Stage::Stopping if self.connection.is_quiet(self.written) => {
                    return Err(CloseReason::Drained);
                }
                _ => {}
            }
            if self.connection.rest(&stage, is_blocked, cx.waker()) {
                // Whoever waits for something else does not keep others from it.
                self.late_turn.end();
                return Ok(());
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Writes until nothing is left or the socket is full, which it says.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let watch = &self.connection.watch;
        let before = self.written;
        let mut is_blocked = false;
        while !self.writing.is_empty() {
            let result = {
                let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
                let count = self.writing.fill(&mut slices);
                Pin::new(&mut *self.transport).poll_write_vectored(cx, &slices[..count])
            };
            match result {
                Poll::Ready(Ok(0)) => return Err(CloseReason::Io(io::ErrorKind::WriteZero)),
                Poll::Ready(Ok(written)) => {
                    self.writing.advance(written);
                    self.written += written;
                }
                Poll::Ready(Err(error)) => return Err(CloseReason::Io(error.kind())),
                Poll::Pending => {
                    is_blocked = true;
                    break;
                }
            }
        }
        let progress = self.written - before;
        if progress > 0 {
            if !matches!(self.late_turn, LateTurn::Waits(_)) {
                watch.note_active();
            }
            self.traffic.written_bytes.fetch_add(progress as u64, Ordering::Relaxed);
        }
        if !is_blocked {
            watch.blocked_since_ms.store(0, Ordering::Relaxed);
        } else if progress > 0 || watch.blocked_since_ms.load(Ordering::Relaxed) == 0 {
            watch.blocked_since_ms.store(watch.now_ms(), Ordering::Relaxed);
        }
        Ok(is_blocked)
    }

    /// Too much of this peer is in flight; this task is woken when less is. A drain waits for the
    /// same news.
    fn is_overloaded(&mut self, stage: &Stage) -> bool {
        let wants = *stage != Stage::Open || self.connection.is_overloaded();
        if wants != self.wants_release {
            self.wants_release = wants;
            self.connection.want_release(wants);
        }
        wants && self.connection.is_overloaded()
    }

    /// The peer sends too much, and is left alone for a while. A drain waits for nobody.
    fn is_paused(&mut self, stage: &Stage, cx: &mut Context<'_>) -> bool {
        let (refused, all) = self.connection.take_push_back();
        self.refused_later = self.refused_later.saturating_add(refused);
        if all {
            self.pause();
        }
        self.drains = *stage != Stage::Open;
        if self.drains {
            self.pause = None;
            self.late_turn = LateTurn::None;
        }
        let is_paused = self.pause.as_mut().is_some_and(|pause| pause.as_mut().poll(cx).is_pending());
        if !is_paused {
            self.pause = None;
        }
        // A turn that comes meanwhile is taken, and given to the next at rest.
        let is_awaited = self.late_turn.is_awaited(cx);
        is_paused || is_awaited
    }

    /// Begins a pause, unless there is one.
    fn pause(&mut self) {
        if self.pause.is_some() {
            return;
        }
        let waiting = self.buffer.len() as u64 + self.transport.unread_bytes();
        let pause = self.pauses.begin(waiting, Instant::now());
        self.connection.set_pressed(self.pauses.is_pressed());
        self.pause = Some(Box::pin(tokio::time::sleep(pause)));
        self.traffic.pauses.fetch_add(1, Ordering::Relaxed);
        // What is read next is mostly refused as well: little of it is to wait in memory.
        self.read_bytes = READ_BYTES_MIN;
    }

    fn budget_is_full(&mut self, cx: &mut Context<'_>) -> bool {
        let budget = &self.connection.budget;
        budget.is_full() && budget.wait(&mut self.listed, cx.waker())
    }

    /// Reads once and handles what is whole. False: there was nothing to read.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if std::mem::take(&mut self.has_leftovers) {
            self.connection.watch.note_active();
            self.dispatch()?;
            return Ok(true);
        }
        self.make_room();
        let room = self.buffer.capacity() - self.buffer.len();
        let watch = &self.connection.watch;
        match pin!(self.transport.read_buf(&mut self.buffer)).poll(cx) {
            Poll::Ready(Ok(0)) => Err(CloseReason::PeerClosed),
            Poll::Ready(Ok(count)) => {
                if count >= room {
                    self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
                } else if count < room / 4 {
                    self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
                }
                watch.note_active();
                self.traffic.read_bytes.fetch_add(count as u64, Ordering::Relaxed);
                self.dispatch()?;
                if count < room {
                    self.note_level();
                }
                Ok(true)
            }
            Poll::Ready(Err(error)) => Err(CloseReason::Io(error.kind())),
            Poll::Pending => {
                self.note_level();
                if self.buffer.is_empty() {
                    self.buffer = BytesMut::new();
                } else if watch.frame_since_ms.load(Ordering::Relaxed) == 0 {
                    watch.frame_since_ms.store(watch.now_ms(), Ordering::Relaxed);
                }
                Ok(false)
            }
        }
    }

    /// The socket was empty at the last read: unless something of that was left, the peer is level with us.
    fn note_level(&mut self) {
        if self.pauses.is_pressed() && self.pause.is_none() && !self.has_leftovers {
            self.pauses.end();
            self.late_turn.end();
            self.connection.set_pressed(false);
        }
    }

    /// Room for the next read: more for a large frame, but never more than has arrived already, so
    /// that a length which is only announced costs nothing.
    fn make_room(&mut self) {
        let have = self.buffer.len();
        let mut want = self.read_bytes;
        if let Some(length) = self.buffer.first_chunk::<4>() {
            let missing = (u32::from_be_bytes(*length) as usize + 4).saturating_sub(have);
            want = want.max(missing.min(have));
        }
        if self.buffer.capacity() - have < want.min(self.read_bytes) {
            self.buffer.reserve(want);
        }
    }

    /// Handles every whole frame in the buffer, unless too much is in flight first or what comes is to wait.
    fn dispatch(&mut self) -> Result<(), CloseReason> {
        let mut frames = 0;
        let mut requests = 0;
        let mut refused = 0;
        let mut is_late = self.pauses.is_late(Instant::now);
        if is_late && !self.drains && !self.late_turn.is_mine(&self.connection.budget) {
            self.has_leftovers = true;
            self.note_partial(false);
            // Until it is this one's turn it is not the peer that is idle.
            self.connection.watch.active_ms.store(0, Ordering::Relaxed);
            return Ok(());
        }
        self.connection.set_late(is_late);
        let result = loop {
            if self.connection.is_overloaded() || self.pause.is_some() {
                self.has_leftovers = true;
                break Ok(());
            }
            let before = self.buffer.len();
            match wire::decode_frame(&mut self.buffer, self.connection.config.frame_bytes_max) {
                Ok(None) => break Ok(()),
                Ok(Some(command)) => {
                    frames += 1;
                    let frame_bytes = before - self.buffer.len();
                    self.pauses.take(frame_bytes);
                    if command.is_response() {
                        self.connection.complete(command);
                    } else {
                        requests += 1;
                        let replier = self.connection.admit(&command, frame_bytes);
                        self.handler.handle(command, replier);
                        let (more, all) = self.connection.take_push_back();
                        refused += u64::from(more);
                        if all {
                            self.pause();
                        }
                    }
                    if is_late && !self.pauses.is_late(Instant::now) {
                        is_late = false;
                        self.late_turn.end();
                        self.connection.set_late(false);
                    }
                }
                Err(error) => break Err(CloseReason::Garbage(error)),
            }
        };
        let later = u64::from(std::mem::take(&mut self.refused_later));
        if (refused + later) * 2 > requests + later {
            self.pause();
        }
        if requests > 0 {
            self.traffic.requests.fetch_add(requests, Ordering::Relaxed);
            self.handler.batch_end(self.connection);
        }
        self.note_partial(frames > 0);
        result
    }

    /// Keeps the books on the frame that has arrived in part. `is_new`: it is another than before.
    fn note_partial(&mut self, is_new: bool) {
        let have = self.buffer.len();
        let watch = &self.connection.watch;
        watch.frame_bytes.store(have, Ordering::Relaxed);
        if have == 0 || self.has_leftovers {
            watch.frame_since_ms.store(0, Ordering::Relaxed);
        } else if is_new || watch.frame_since_ms.load(Ordering::Relaxed) == 0 {
            watch.frame_since_ms.store(watch.now_ms(), Ordering::Relaxed);
        }
        self.charge(if have > PARTIAL_FREE_BYTES { have } else { 0 });
    }

    fn charge(&mut self, bytes: usize) {
        let budget = &self.connection.budget;
        if bytes > self.charged_bytes {
            budget.take_in_flight(bytes - self.charged_bytes);
        } else if bytes < self.charged_bytes {
            budget.give_in_flight(self.charged_bytes - bytes);
        }
        self.charged_bytes = bytes;
    }
}

impl<H: Handler + ?Sized> Drop for Driver<'_, H> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.reason = CloseReason::Panicked;
        }
        self.charge(0);
        if self.connection.finish(&self.reason, self.written) {
            self.handler.closed(self.connection, &self.reason);
        }
    }
}
