//! Bytes held for all peers together.
//!
//! ```text
//! in flight   requests taken and not answered, frames that have arrived in part   full: stop reading
//! outbound    replies and pushes not yet taken by the kernel                      full: reset who reads too slowly
//! late turns  connections that read what is late                                  none: wait (pause.rs)
//! ```
//!
//! Locks: `waiting` is a leaf, held for a push or a take.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::available_parallelism;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock;

/// A total over every connection that shares it; one per process is the usual number.
#[derive(Debug)]
pub struct Budget {
    in_flight: AtomicUsize,
    in_flight_max: usize,
    outbound: AtomicUsize,
    outbound_max: usize,
    /// Moves when waiters were woken, so that a waiter knows whether it is still listed. Odd while
    /// somebody waits.
    generation: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
    late_turns: Arc<Semaphore>,
}

/// A connection's turn to read what is late, in the order in which they asked. As many at once as can run: more of them would
/// share the processors, and none would read faster than its peer sends.
#[derive(Default)]
pub(crate) enum LateTurn {
    #[default]
    None,
    Waits(Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>),
    Has {
        _permit: Option<OwnedSemaphorePermit>,
    },
}

impl LateTurn {
    /// Asks for a turn where there is none, and says whether it has come.
    pub(crate) fn is_mine(&mut self, budget: &Budget) -> bool {
        if matches!(self, LateTurn::None) {
            let turns = budget.late_turns.clone();
            *self = match turns.clone().try_acquire_owned() {
                Ok(permit) => LateTurn::Has { _permit: Some(permit) },
                // Nobody closes it.
                Err(_) => LateTurn::Waits(Box::pin(async move { turns.acquire_owned().await.ok() })),
            };
        }
        matches!(self, LateTurn::Has { .. })
    }

    /// Whether one that was asked for has not come; if so, the task is woken when it does.
    pub(crate) fn is_awaited(&mut self, cx: &mut Context<'_>) -> bool {
        let LateTurn::Waits(turn) = self else { return false };
        match turn.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(permit) => {
                *self = LateTurn::Has { _permit: permit };
                false
            }
        }
    }

    /// Gives it to the next.
    pub(crate) fn end(&mut self) {
        if matches!(self, LateTurn::Has { .. }) {
            *self = LateTurn::None;
        }
    }
}

impl Budget {
    pub fn new(in_flight_bytes_max: usize, outbound_bytes_max: usize) -> Budget {
        Budget {
            in_flight: AtomicUsize::new(0),
            in_flight_max: in_flight_bytes_max,
            outbound: AtomicUsize::new(0),
            outbound_max: outbound_bytes_max,
            generation: AtomicU64::new(0),
            waiting: Mutex::new(Vec::new()),
            late_turns: Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from))),
        }
    }

    /// Bytes of requests in flight and of partial frames.
    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Bytes that wait to be written.
    pub fn outbound_bytes(&self) -> usize {
        self.outbound.load(Ordering::Relaxed)
    }

    pub(crate) fn take_in_flight(&self, bytes: usize) {
        self.in_flight.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(crate) fn give_in_flight(&self, bytes: usize) {
        let before = self.in_flight.fetch_sub(bytes, Ordering::SeqCst);
        debug_assert!(before >= bytes, "more returned than taken");
        // Readers come back when an eighth is free, not one for each byte.
        if self.generation.load(Ordering::SeqCst) & 1 == 1
            && before - bytes <= self.in_flight_max - self.in_flight_max / 8
        {
            self.wake_all();
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) >= self.in_flight_max
    }

    /// Lists `waker` for the moment when there is room, unless it is listed since `listed`. False
    /// when there is room by now.
    pub(crate) fn wait(&self, listed: &mut Option<u64>, waker: &Waker) -> bool {
        if *listed != Some(self.generation.load(Ordering::SeqCst)) {
            let mut waiting = lock(&self.waiting);
            let generation = self.generation.load(Ordering::SeqCst) | 1;
            self.generation.store(generation, Ordering::SeqCst);
            waiting.push(waker.clone());
            *listed = Some(generation);
        }
        self.is_full()
    }

    fn wake_all(&self) {
        let waiting = {
            let mut waiting = lock(&self.waiting);
            let generation = self.generation.load(Ordering::SeqCst);
            self.generation.store((generation | 1) + 1, Ordering::SeqCst);
            std::mem::take(&mut *waiting)
        };
        for waker in waiting {
            waker.wake();
        }
    }

    pub(crate) fn take_outbound(&self, bytes: usize) {
        self.outbound.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_outbound(&self, bytes: usize) {
        self.outbound.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn outbound_is_full(&self) -> bool {
        self.outbound_bytes() > self.outbound_max
    }
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new(crate::limits::IN_FLIGHT_BYTES_TOTAL_MAX, crate::limits::OUTBOUND_BYTES_TOTAL_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn waiters_are_listed_once_and_woken_when_an_eighth_is_free() {
        let budget = Budget::new(800, 1);
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut listed = None;
        budget.take_in_flight(800);
        assert!(budget.wait(&mut listed, &waker));
        assert!(budget.wait(&mut listed, &waker));
        assert_eq!(lock(&budget.waiting).len(), 1);
        budget.give_in_flight(99);
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        budget.give_in_flight(1);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        budget.give_in_flight(700);
        assert_eq!(count.0.load(Ordering::SeqCst), 1, "woken once");
        budget.take_in_flight(800);
        assert!(budget.wait(&mut listed, &waker), "listed anew");
        budget.give_in_flight(800);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_waiter_that_finds_room_does_not_wait() {
        let budget = Budget::new(800, 1);
        let mut listed = None;
        assert!(!budget.wait(&mut listed, Waker::noop()));
    }

    #[test]
    fn turns_to_read_what_is_late_come_in_order() {
        let budget = Budget::default();
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let mut at_once: Vec<LateTurn> = Vec::new();
        at_once.resize_with(available_parallelism().unwrap().get(), LateTurn::default);
        for turn in &mut at_once {
            assert!(!turn.is_awaited(&mut cx), "it was not asked for");
            assert!(turn.is_mine(&budget) && turn.is_mine(&budget) && !turn.is_awaited(&mut cx));
        }
        let mut later = [LateTurn::None, LateTurn::None];
        for turn in &mut later {
            assert!(!turn.is_mine(&budget) && turn.is_awaited(&mut cx));
            turn.end();
            assert!(!turn.is_mine(&budget), "one that waits keeps its place");
        }
        at_once[0].end();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(later[1].is_awaited(&mut cx) && !later[0].is_awaited(&mut cx));
        assert!(later[0].is_mine(&budget));
        // Dropped with its connection.
        drop(later);
        at_once.clear();
        assert_eq!(budget.late_turns.available_permits(), available_parallelism().unwrap().get());
    }
}
