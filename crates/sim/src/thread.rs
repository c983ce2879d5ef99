//! A thread that runs only while it is told to: what a node's disk does takes virtual time, and nothing else runs meanwhile.
//!
//! ```text
//! scheduler ── Do(work) ──▶ thread: … sync_data ── Waits(until) ──▶ scheduler runs the rest of the world
//!           ── Go ────────▶         … returns     ── Done ────────▶
//! ```
//! One work at a time; so work never waits for a lock that other work of this node holds during I/O. That nobody else
//! waits for such a lock is a rule of the store; a simulation that breaks it hangs, and the watchdog says so.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use store::Work;

use crate::clock;

enum Order {
    Do(Work),
    Go,
}

enum Report {
    Waits(u64),
    Done,
}

/// The ends that the thread itself has.
struct Ends {
    orders: mpsc::Receiver<Order>,
    reports: mpsc::Sender<Report>,
}

thread_local! {
    static ENDS: RefCell<Option<Ends>> = const { RefCell::new(None) };
}

/// Whether this is such a thread.
pub(crate) fn is_disk_thread() -> bool {
    ENDS.with_borrow(Option::is_some)
}

/// Returns when virtual time has come to `ms`. At once on any other thread: there time does not pass while it runs.
pub(crate) fn wait_until(ms: u64) {
    if ms <= clock::now_ms() {
        return;
    }
    ENDS.with_borrow(|ends| {
        let Some(ends) = ends else { return };
        let is_heard = ends.reports.send(Report::Waits(ms)).is_ok();
        // Without a scheduler the simulation is over.
        let _ = is_heard.then(|| ends.orders.recv());
    });
}

/// What the thread does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// In the middle of a work, until then.
    Waits(u64),
}

pub(crate) struct DiskThread {
    orders: mpsc::Sender<Order>,
    reports: mpsc::Receiver<Report>,
    state: State,
}

impl DiskThread {
    pub(crate) fn start(name: String) -> Self {
        let (orders, for_thread) = mpsc::channel();
        let (for_scheduler, reports) = mpsc::channel();
        let run = move || {
            ENDS.set(Some(Ends { orders: for_thread, reports: for_scheduler }));
            while let Some(order) = ENDS.with_borrow(|ends| ends.as_ref()?.orders.recv().ok()) {
                if let Order::Do(work) = order {
                    // A panic was noted by the hook.
                    let _ = catch_unwind(AssertUnwindSafe(work));
                }
                ENDS.with_borrow(|ends| ends.as_ref().map(|ends| ends.reports.send(Report::Done)));
            }
        };
        std::thread::Builder::new().name(name).spawn(run).expect("a thread");
        DiskThread { orders, reports, state: State::Idle }
    }

    /// Goes on as far as virtual time allows, with what `next` gives when there is nothing to go on with.
    pub(crate) fn step(&mut self, mut next: impl FnMut() -> Option<Work>) {
        loop {
            match self.state {
                State::Waits(until) if until > clock::now_ms() => return,
                State::Waits(_) => self.tell(Order::Go),
                State::Idle => match next() {
                    Some(work) => self.tell(Order::Do(work)),
                    None => return,
                },
            }
        }
    }

    /// Goes on to the end of the work at hand, whatever the time.
    pub(crate) fn finish(&mut self) {
        while self.state != State::Idle {
            self.tell(Order::Go);
        }
    }

    fn tell(&mut self, order: Order) {
        self.orders.send(order).expect("the disk thread lives as long as its node");
        self.state = match self.reports.recv().expect("the disk thread answers") {
            Report::Waits(until) => State::Waits(until),
            Report::Done => State::Idle,
        };
    }
}
