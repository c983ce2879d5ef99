//! Pop consumption: the broker hands each message out to one consumer, and to another one when it is not acknowledged
//! in time (protocol.md 3.6).
//!
//! ```text
//! pop ─▶ leader: queues in turn ─▶ read ─▶ PopTake in the log ─▶ answer, with handles (pop time = log time)
//!          │ nothing there                                          │ acknowledged ─▶ PopAck, many in one entry
//!          ▼                                                        │ in time for more ─▶ PopChange
//!        waits (waiting.rs), woken by apply                         ▼ too late
//!                                            leader's duty: PopRevive and the message for the retry topic, one entry
//! ```
//! The tables (state/pop.rs) say where a group stands and what is in flight, on every node alike: an answer is given when
//! they have it, so that after a failover nothing acknowledged comes again and nothing in flight is lost. What is here is
//! a node's own: who waits, whose turn it is to take from a queue, and what waits to be acknowledged in one entry.
//!
//! A pop that arrives below the leader is passed on, without waiting there, and waits here.

mod acks;
mod answer;
mod poll;
mod revive;
mod take;
mod takes;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use wire::QueueId;

pub(crate) use acks::{Acks, Popped, Settled, keep_acks, refuse_change};
use answer::origin;
pub(crate) use poll::{Asked, Poll, begin, expire, over, wake};
pub(crate) use revive::revive;
pub(crate) use take::{Plan, peek};
use waiting::WaitList;

use crate::hosted::Arrivals;
use crate::limits::{POP_WAITING_MAX, POP_WAITING_PER_QUEUE};

/// What a node has to do with pop, of one group.
pub(crate) struct Popping {
    /// Pops that found nothing.
    pub(crate) waiting: WaitList<Box<Poll>>,
    /// Notifications that found nothing. Apart: they take nothing from who is to take something.
    pub(crate) noticing: WaitList<Box<Poll>>,
    pub(crate) arrivals: Arrivals,
    takes: takes::Takes,
    pub(crate) acks: Acks,
    revive_queue: AtomicU32,
}

impl Popping {
    pub(crate) fn new() -> Popping {
        Popping {
            waiting: WaitList::new(POP_WAITING_MAX, POP_WAITING_PER_QUEUE),
            noticing: WaitList::new(POP_WAITING_MAX, POP_WAITING_PER_QUEUE),
            arrivals: Arrivals::default(),
            takes: takes::Takes::default(),
            acks: Acks::default(),
            revive_queue: AtomicU32::new(0),
        }
    }

    /// Takes note of what `apply` has brought to a queue, or made free in it.
    pub(crate) fn note(&self, topic: &Arc<str>, queue: QueueId) {
        if self.awaits(topic) {
            self.arrivals.note(topic, queue);
        }
    }

    /// The topics for which somebody waits.
    pub(crate) fn topics(&self) -> Vec<Arc<str>> {
        let mut topics = self.waiting.topics();
        topics.extend(self.noticing.topics());
        topics
    }

    /// Whether anybody waits for messages of this topic.
    pub(crate) fn awaits(&self, topic: &str) -> bool {
        self.waiting.awaits(topic) || self.noticing.awaits(topic)
    }
}
