//! Requests that wait for a leader, in the order of their arrival.
//!
//! Only what is definitely not proposed may be here (log.md 12). A request that comes back (its leader refused it)
//! takes its old place by its ticket, so the requests of one connection are proposed in the order in which they came.
//! While anything waits or is being dispatched, later requests of the group join the end: see `admit`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// The place of a request in the arrival order of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// What waits: how much it weighs and when it has waited enough.
pub(crate) trait Waits {
    fn ticket(&self) -> Ticket;
    fn bytes(&self) -> usize;
    fn deadline(&self) -> Instant;
}

pub(crate) struct Park<T> {
    inner: Mutex<Inner<T>>,
    /// Something waits or is being dispatched.
    busy: AtomicBool,
    tickets: AtomicU64,
    arrived: Notify,
    max_count: usize,
    max_bytes: usize,
}

struct Inner<T> {
    waiting: BTreeMap<Ticket, T>,
    bytes: usize,
    dispatching: bool,
}

impl<T: Waits> Park<T> {
    pub(crate) fn new(max_count: usize, max_bytes: usize) -> Park<T> {
        Park {
            inner: Mutex::new(Inner { waiting: BTreeMap::new(), bytes: 0, dispatching: false }),
            busy: AtomicBool::new(false),
            tickets: AtomicU64::new(0),
            arrived: Notify::new(),
            max_count,
            max_bytes,
        }
    }

    /// How much may wait, as an operator sets it.
    pub(crate) fn limits(&self) -> String {
        format!("as many as may (parked_requests: {}, parked_bytes: {})", self.max_count, self.max_bytes)
    }

    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.tickets.fetch_add(1, Ordering::Relaxed))
    }

    /// Gives `item` back at once when nothing waits; otherwise it joins the end, to keep the order.
    pub(crate) fn admit(&self, item: T) -> Admission<T> {
        if !self.busy.load(Ordering::Acquire) {
            return Admission::Free(item);
        }
        let mut inner = self.lock();
        if inner.waiting.is_empty() && !inner.dispatching {
            return Admission::Free(item);
        }
        match self.insert(&mut inner, item) {
            Ok(()) => Admission::Parked,
            Err(item) => Admission::Full(item),
        }
    }

    /// Parks `item` under its ticket; gives it back when there is no room.
    pub(crate) fn park(&self, item: T) -> Result<(), T> {
        let mut inner = self.lock();
        self.insert(&mut inner, item)
    }

    fn insert(&self, inner: &mut Inner<T>, item: T) -> Result<(), T> {
        let bytes = item.bytes();
        if inner.waiting.len() >= self.max_count || inner.bytes + bytes > self.max_bytes {
            return Err(item);
        }
        inner.bytes += bytes;
        inner.waiting.insert(item.ticket(), item);
        self.busy.store(true, Ordering::Release);
        self.arrived.notify_one();
        Ok(())
    }

    /// Returns when something was parked since the last call.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// What `look` says of the first that waits; `None`: nothing waits.
    pub(crate) fn first<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.lock().waiting.values().next().map(look)
    }

    /// Takes out the first, in order, at most so many and of so many bytes, but one in any case.
    pub(crate) fn take_front(&self, max_count: usize, max_bytes: usize) -> Vec<T> {
        let mut inner = self.lock();
        let mut bytes = 0;
        let mut out = Vec::new();
        while out.len() < max_count
            && let Some(first) = inner.waiting.first_entry()
        {
            bytes += first.get().bytes();
            if bytes > max_bytes && !out.is_empty() {
                break;
            }
            out.push(first.remove());
        }
        inner.bytes -= out.iter().map(Waits::bytes).sum::<usize>();
        self.settle(&inner);
        out
    }

    /// Takes out what has waited until its deadline. Those that wait longer behind others go when these have gone:
    /// deadlines rise with tickets, but for requests of other nodes.
    pub(crate) fn take_expired(&self, now: Instant) -> Vec<T> {
        let mut inner = self.lock();
        let mut out = Vec::new();
        while let Some(first) = inner.waiting.first_entry()
            && first.get().deadline() <= now
        {
            out.push(first.remove());
        }
        inner.bytes -= out.iter().map(Waits::bytes).sum::<usize>();
        self.settle(&inner);
        out
    }

    /// Hands everything that waits to `dispatch`, in order, also what joins meanwhile, unless it comes back. Only one
    /// task may call this.
    pub(crate) fn dispatch(&self, mut dispatch: impl FnMut(T)) {
        let mut last = None;
        loop {
            let next = {
                let mut inner = self.lock();
                inner.dispatching = true;
                // What comes back during this round has a ticket that was already handed out: it waits for the next.
                let ticket = match last {
                    None => inner.waiting.keys().next().copied(),
                    Some(last) => inner
                        .waiting
                        .range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded))
                        .next()
                        .map(|(t, _)| *t),
                };
                match ticket.and_then(|ticket| inner.waiting.remove(&ticket)) {
                    Some(item) => {
                        inner.bytes -= item.bytes();
                        item
                    }
                    None => {
                        inner.dispatching = false;
                        self.settle(&inner);
                        return;
                    }
                }
            };
            last = Some(next.ticket());
            dispatch(next);
        }
    }

    fn settle(&self, inner: &Inner<T>) {
        self.busy.store(inner.dispatching || !inner.waiting.is_empty(), Ordering::Release);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`Park::admit`] did with a request.
pub(crate) enum Admission<T> {
    /// Nothing waits: go on with it.
    Free(T),
    Parked,
    /// Something waits and there is no room: refuse it.
    Full(T),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Debug)]
    struct Item(Ticket, usize, Instant);

    impl Waits for Item {
        fn ticket(&self) -> Ticket {
            self.0
        }
        fn bytes(&self) -> usize {
            self.1
        }
        fn deadline(&self) -> Instant {
            self.2
        }
    }

    fn item(park: &Park<Item>, bytes: usize) -> Item {
        Item(park.ticket(), bytes, Instant::now() + Duration::from_secs(1))
    }

    #[test]
    fn order_is_kept_when_requests_come_back() {
        let park = Park::new(10, 100);
        let items: Vec<_> = (0..5).map(|_| item(&park, 1)).collect();
        let tickets: Vec<_> = items.iter().map(|i| i.0).collect();
        let Ok([first, second, third, late, last]) = <[Item; 5]>::try_from(items) else { unreachable!() };
        let Admission::Free(first) = park.admit(first) else { panic!("an empty park lets requests through") };
        // The second and then the first come back from a leader that refused them; the third must queue behind.
        park.park(second).unwrap();
        park.park(first).unwrap();
        assert!(matches!(park.admit(third), Admission::Parked));
        let mut order = Vec::new();
        let mut late = Some(late);
        park.dispatch(|i| {
            order.push(i.0);
            if let Some(late) = late.take() {
                assert!(
                    matches!(park.admit(late), Admission::Parked),
                    "arrivals during dispatch join the end"
                );
            }
        });
        assert_eq!(order, tickets[..4]);
        assert!(matches!(park.admit(last), Admission::Free(_)));
    }

    #[test]
    fn what_comes_back_during_dispatch_waits_for_the_next_round() {
        let park = Park::new(10, 100);
        park.park(item(&park, 1)).unwrap();
        let mut rounds = 0;
        park.dispatch(|i| {
            rounds += 1;
            park.park(i).unwrap();
        });
        assert_eq!((rounds, park.first(|_| ())), (1, Some(())));
        let late = item(&park, 1);
        assert!(matches!(park.admit(late), Admission::Parked));
    }

    #[test]
    fn bounded_by_count_and_bytes_and_time() {
        let park = Park::new(2, 10);
        park.park(item(&park, 8)).unwrap();
        assert!(park.park(item(&park, 3)).is_err());
        park.park(item(&park, 2)).unwrap();
        assert!(matches!(park.admit(item(&park, 0)), Admission::Full(_)));
        assert!(park.take_expired(Instant::now()).is_empty());
        assert_eq!(park.take_expired(Instant::now() + Duration::from_secs(2)).len(), 2);
        park.park(item(&park, 10)).unwrap();
    }

    #[test]
    fn batches_are_taken_from_the_front() {
        let park = Park::new(10, 100);
        let items: Vec<_> = [5, 5, 20, 1].into_iter().map(|bytes| item(&park, bytes)).collect();
        let tickets: Vec<_> = items.iter().map(|i| i.0).collect();
        for item in items.into_iter().rev() {
            park.park(item).unwrap();
        }
        let taken = |count, bytes| park.take_front(count, bytes).iter().map(|i| i.0).collect::<Vec<_>>();
        assert_eq!(taken(9, 12), tickets[..2]);
        assert_eq!(taken(9, 12), tickets[2..3], "one in any case");
        assert!(taken(0, 12).is_empty());
        assert_eq!(taken(9, 12), tickets[3..]);
        assert!(matches!(park.admit(item(&park, 1)), Admission::Free(_)));
    }
}
