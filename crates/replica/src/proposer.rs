//! The group's single proposer (log.md 4): it assigns queue offsets and log time in proposal order, packs what has
//! arrived into entries, and hands them to openraft. A command is an entry of its own, and so is a coupled proposal.
//!
//! A proposer works for one term. It starts when an entry of its term is applied (then everything of earlier terms is),
//! reads the next queue offsets from the tables and counts on from there. The first proposal that is rejected, void or of
//! unknown outcome stops it: it proposes nothing more, waits until every outstanding entry is decided, and derives
//! its counters anew. Safety does not rest on this: `apply` judges every entry.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use openraft::raft::ClientWriteResult;
use store::limits::{FRAME_ALIGN, HEADER_LEN};
use store::{Draft, FrameKind, Mutant, Reservation};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use wire::{LogPosition, QueueId, QueueOffset};

use crate::group::{Raft, Role};
use crate::level;
use crate::limits::{
    BYTES_IN_FLIGHT_MAX, CLOCK_WORD_VALID, COUPLED_LEVEL, ENTRIES_IN_FLIGHT_EAGER, ENTRY_BYTES,
    PENDING_BYTES_MAX, PROPOSAL_BYTES_MAX, PROPOSAL_TIMEOUT, REJECTED_PAUSE, SETTLE_GRACE,
};
use crate::log_clock::{ASTRAY_NOTICE, Astray, LogClock};
use crate::server::GroupSlot;
use crate::state_machine::AppliedUpTo;
use crate::types::{Applied, Completion, Data, TypeConfig, command_data};
use crate::{
    CommandProposal, CoupledProposal, CoupledReceipt, MessagesProposal, NodeId, Outcome, ProposeError,
    Receipt, StateMachine,
};

/// Called once with what became of a proposal.
pub type Done<T> = Box<dyn FnOnce(Result<T, ProposeError>) + Send>;

enum Proposal {
    Messages(MessagesProposal, Done<Receipt>, Held),
    Command(CommandProposal, Done<Bytes>, Held),
    Coupled(CoupledProposal, Done<CoupledReceipt>, Held),
}

impl Proposal {
    fn refuse(self, error: ProposeError) {
        match self {
            Proposal::Messages(_, done, _held) => done(Err(error)),
            Proposal::Command(_, done, _held) => done(Err(error)),
            Proposal::Coupled(_, done, _held) => done(Err(error)),
        }
    }
}

/// Where proposals come in: bounded by bytes.
#[derive(Clone)]
pub(crate) struct Intake {
    queue: mpsc::UnboundedSender<Proposal>,
    pending_bytes: Arc<AtomicUsize>,
}

impl Intake {
    pub(crate) fn messages(&self, proposal: MessagesProposal, done: Done<Receipt>) {
        match self.admit(proposal.records.len()) {
            Ok(held) => self.push(Proposal::Messages(proposal, done, held)),
            Err(error) => done(Err(error)),
        }
    }

    pub(crate) fn command(&self, proposal: CommandProposal, done: Done<Bytes>) {
        match self.admit(proposal.body.len()) {
            Ok(held) => self.push(Proposal::Command(proposal, done, held)),
            Err(error) => done(Err(error)),
        }
    }

    pub(crate) fn coupled(&self, proposal: CoupledProposal, done: Done<CoupledReceipt>) {
        let records: usize = proposal.messages.iter().map(|messages| messages.records.len()).sum();
        match self.admit(proposal.command.len() + records) {
            Ok(held) => self.push(Proposal::Coupled(proposal, done, held)),
            Err(error) => done(Err(error)),
        }
    }

    /// Bytes proposed of which openraft has not said yet what became of them.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    fn admit(&self, len: usize) -> Result<Held, ProposeError> {
        if len > PROPOSAL_BYTES_MAX {
            return Err(ProposeError::TooLarge { len, limit: PROPOSAL_BYTES_MAX });
        }
        let before = self.pending_bytes.fetch_add(len, Ordering::Relaxed);
        // Dropped where it is refused, which gives the bytes back.
        let held = Held { pending_bytes: self.pending_bytes.clone(), len };
        if before + len > PENDING_BYTES_MAX {
            return Err(ProposeError::Full { pending_bytes: before, limit_bytes: PENDING_BYTES_MAX });
        }
        Ok(held)
    }

    fn push(&self, proposal: Proposal) {
        if let Err(mpsc::error::SendError(proposal)) = self.queue.send(proposal) {
            proposal.refuse(ProposeError::Stopped);
        }
    }
}

/// A share of [`PENDING_BYTES_MAX`], given back when it is dropped.
struct Held {
    pending_bytes: Arc<AtomicUsize>,
    len: usize,
}

impl Held {
    /// One share for both.
    fn join(&mut self, mut other: Held) {
        self.len += std::mem::take(&mut other.len);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pending_bytes.fetch_sub(self.len, Ordering::Relaxed);
    }
}

/// Where the messages of one proposal are in an entry and in their queue.
struct Place {
    body_offset: usize,
    first_offset: QueueOffset,
}

impl Place {
    /// `position`: of the entry.
    fn receipt(&self, position: LogPosition, store_timestamp_ms: u64) -> Receipt {
        Receipt {
            first_offset: self.first_offset,
            position: position.plus((HEADER_LEN + self.body_offset) as u64),
            store_timestamp_ms,
        }
    }
}

/// One message proposal inside an entry.
struct Part {
    place: Place,
    done: Done<Receipt>,
}

enum Parts {
    Messages { parts: Vec<Part>, log_time_ms: u64 },
    Command(Done<Bytes>),
    Coupled { places: Vec<Place>, log_time_ms: u64, done: Done<CoupledReceipt> },
}

impl Parts {
    fn refuse(self, error: &ProposeError) {
        match self {
            Parts::Messages { parts, .. } => {
                for part in parts {
                    (part.done)(Err(error.clone()));
                }
            }
            Parts::Command(done) => done(Err(error.clone())),
            Parts::Coupled { done, .. } => done(Err(error.clone())),
        }
    }
}

/// An entry that openraft has and of which it has not said yet what became of it. Its proposers may have been told
/// before, that nobody knows.
struct InFlight {
    /// Who waits for an answer.
    parts: Mutex<Option<Parts>>,
    /// What it takes of the limits while it may still be committed. Empty once it is decided.
    taken: Mutex<Option<Taken>>,
    window: Arc<Window>,
    since: Instant,
    serving: Handle,
}

struct Taken {
    /// Bytes of the entry.
    len: usize,
    _pending: Held,
    /// Room on this disk (log.md 10).
    _room: Reservation,
}

impl InFlight {
    /// openraft has spoken, or the term is over.
    fn decide(&self, result: Result<Applied, ProposeError>) {
        if let Some(taken) = lock(&self.taken).take() {
            let failed = match &result {
                Ok(applied) => applied.outcome == Outcome::Void,
                Err(_) => true,
            };
            self.window.decided(taken.len, failed);
        }
        self.answer(result);
    }

    fn is_decided(&self) -> bool {
        lock(&self.taken).is_none()
    }

    /// Tells those who wait. The entry stays in the window: openraft has it still. Answers are built where requests are
    /// served: consensus has better things to do.
    fn answer(&self, result: Result<Applied, ProposeError>) {
        let Some(parts) = lock(&self.parts).take() else { return };
        drop(self.serving.spawn(async move { parts.answer(result) }));
    }
}

impl Parts {
    fn answer(self, result: Result<Applied, ProposeError>) {
        match self {
            Parts::Command(done) => done(match result {
                Ok(Applied { outcome: Outcome::Command(answer), .. }) => Ok(answer),
                Ok(_) => Err(ProposeError::Void),
                Err(e) => Err(e),
            }),
            Parts::Messages { parts, log_time_ms } => {
                for part in parts {
                    (part.done)(match &result {
                        Ok(Applied { outcome: Outcome::Void, .. }) => Err(ProposeError::Void),
                        Ok(applied) => Ok(part.place.receipt(applied.position, log_time_ms)),
                        Err(e) => Err(e.clone()),
                    });
                }
            }
            Parts::Coupled { places, log_time_ms, done } => done(match result {
                Ok(Applied { outcome: Outcome::Coupled(answer), position }) => {
                    let receipts = places.iter().map(|place| place.receipt(position, log_time_ms)).collect();
                    Ok(CoupledReceipt { answer, receipts })
                }
                Ok(_) => Err(ProposeError::Void),
                Err(e) => Err(e),
            }),
        }
    }
}

/// The completion that openraft holds; dropped unused, the outcome is unknown.
struct Decider(Arc<InFlight>);

impl Drop for Decider {
    fn drop(&mut self) {
        self.0.decide(Err(ProposeError::Unknown("the group stopped while the entry was under way")));
    }
}

/// What is in flight in one term of the proposer.
#[derive(Default)]
struct Window {
    state: Mutex<WindowState>,
    changed: Notify,
}

#[derive(Default)]
struct WindowState {
    entries: usize,
    bytes: usize,
    failed: bool,
}

impl Window {
    fn decided(&self, len: usize, failed: bool) {
        let mut state = lock(&self.state);
        state.entries -= 1;
        state.bytes -= len;
        state.failed |= failed && !Mutant::CountOnAfterRejection.is_on();
        drop(state);
        self.changed.notify_one();
    }

    fn sent(&self, len: usize) {
        let mut state = lock(&self.state);
        state.entries += 1;
        state.bytes += len;
    }

    fn fail(&self) {
        lock(&self.state).failed = true;
    }

    fn get(&self) -> (usize, usize, bool) {
        let state = lock(&self.state);
        (state.entries, state.bytes, state.failed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next offset of each queue, as far as asked for in this term.
type Counters = HashMap<Arc<str>, HashMap<QueueId, u64>>;

/// The entry being filled.
struct OpenEntry {
    buffer: BytesMut,
    parts: Vec<Part>,
    held: Held,
}

pub(crate) struct Proposer {
    queue: mpsc::UnboundedReceiver<Proposal>,
    /// Taken from the queue, but it did not fit the entry being filled.
    carried: Option<Proposal>,
    raft: Raft,
    slot: Arc<GroupSlot>,
    tables: Arc<dyn StateMachine>,
    role: watch::Receiver<Role>,
    applied: watch::Receiver<Option<AppliedUpTo>>,
    /// While true nothing is proposed: a leadership transfer is being prepared.
    paused: watch::Receiver<bool>,
    /// Entries in flight, for the one who prepares a transfer.
    outstanding: watch::Sender<usize>,
    undecided: Vec<Arc<InFlight>>,
    /// Where answers are given.
    serving: Handle,
    /// This node's clock is not the log's since then, and when that was said last.
    astray_since: Option<Instant>,
    astray_told: Option<Instant>,
}

impl Proposer {
    pub(crate) fn new(
        raft: Raft,
        slot: Arc<GroupSlot>,
        tables: Arc<dyn StateMachine>,
        role: watch::Receiver<Role>,
        applied: watch::Receiver<Option<AppliedUpTo>>,
        paused: watch::Receiver<bool>,
        outstanding: watch::Sender<usize>,
        serving: Handle,
    ) -> (Intake, Proposer) {
        let (tx, queue) = mpsc::unbounded_channel();
        let intake = Intake { queue: tx, pending_bytes: Arc::default() };
        let proposer = Proposer {
            queue,
            carried: None,
            raft,
            slot,
            tables,
            role,
            applied,
            paused,
            outstanding,
            undecided: Vec::new(),
            serving,
            astray_since: None,
            astray_told: None,
        };
        (intake, proposer)
    }

    /// Runs until every [`Intake`] is gone or the group has stopped.
    pub(crate) async fn run(mut self) {
        loop {
            let role = self.role.borrow_and_update().clone();
            if role.ready {
                tracing::debug!(term = role.term, "proposing");
                if self.lead(role.term).await.is_break() {
                    return;
                }
                tracing::debug!(term = role.term, "stopped proposing");
                if self.leads(role.term) {
                    // openraft refuses while no majority has confirmed this leader of late, and does not say when it
                    // will take entries again.
                    tokio::time::sleep(REJECTED_PAUSE).await;
                }
                continue;
            }
            if let Some(proposal) = self.carried.take() {
                proposal.refuse(ProposeError::NotLeader { leader: role.leader });
            }
            tokio::select! {
                changed = self.role.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                proposal = self.queue.recv() => match proposal {
                    // It may have come together with the news that this node leads.
                    Some(proposal) if self.role.borrow().ready => self.carried = Some(proposal),
                    Some(proposal) => proposal.refuse(ProposeError::NotLeader { leader: role.leader }),
                    None => return,
                },
            }
        }
        while let Some(proposal) = self.queue.recv().await {
            proposal.refuse(ProposeError::Stopped);
        }
    }

    fn leads(&self, term: u64) -> bool {
        let role = self.role.borrow();
        role.ready && role.term == term
    }

    fn leader(&self) -> Option<NodeId> {
        self.role.borrow().leader
    }

    /// Proposes in one term until it ends or a proposal fails; `Break` when nobody can propose any more.
    async fn lead(&mut self, term: u64) -> ControlFlow<()> {
        let mut end = ControlFlow::Continue(());
        let window = Arc::new(Window::default());
        let mut counters = Counters::new();
        let mut clock = match *self.applied.borrow() {
            Some(applied) => LogClock::new(applied.log_time_ms, applied.at),
            None => LogClock::new(0, Instant::now()),
        };
        let mut open: Option<OpenEntry> = None;
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (entries, bytes, failed) = window.get();
            self.outstanding.send_if_modified(|o| std::mem::replace(o, entries) != entries);
            if failed || !self.leads(term) {
                break;
            }
            let paused = *self.paused.borrow_and_update();
            self.fill(&mut open, &mut counters);
            let full = self.carried.is_some() || open.as_ref().is_some_and(|o| o.buffer.len() >= ENTRY_BYTES);
            let may_send =
                !paused && (entries < ENTRIES_IN_FLIGHT_EAGER || (full && bytes < BYTES_IN_FLIGHT_MAX));
            if may_send {
                if let Some(entry) = open.take() {
                    // Not when it was opened: no message is stored before it came.
                    let log_time_ms = self.log_time_ms(&mut clock);
                    self.propose_messages(term, &window, entry, log_time_ms).await;
                    continue;
                }
                match self.carried.take() {
                    Some(Proposal::Command(proposal, done, held)) => {
                        let CommandProposal { barrier, level, .. } = proposal;
                        if let Err(error) = level::check(&self.slot, &self.raft, level) {
                            done(Err(error));
                            continue;
                        }
                        if barrier && window.get().0 > 0 {
                            // It stays carried meanwhile: it goes back with the others if the term comes to a halt.
                            self.carried = Some(Proposal::Command(proposal, done, held));
                            self.wait_decided(&window, term).await;
                            if window.get().2 || !self.leads(term) {
                                break;
                            }
                            continue;
                        }
                        let log_time_ms = self.log_time_ms(&mut clock);
                        tracing::debug!(term, barrier, "a command is next");
                        let data = command_data(&proposal.body, log_time_ms);
                        self.propose(term, &window, data, Parts::Command(done), held).await;
                        if barrier {
                            self.wait_decided(&window, term).await;
                            counters.clear();
                        }
                        continue;
                    }
                    Some(Proposal::Coupled(proposal, done, held)) => {
                        let needed = proposal.level.max(COUPLED_LEVEL);
                        if let Err(error) = level::check(&self.slot, &self.raft, needed) {
                            done(Err(error));
                            continue;
                        }
                        match self.finish_coupled(proposal, &mut counters, &mut clock) {
                            Ok((data, places)) => {
                                let parts = Parts::Coupled { places, log_time_ms: data.log_time_ms, done };
                                self.propose(term, &window, data, parts, held).await;
                            }
                            Err(error) => done(Err(error)),
                        }
                        continue;
                    }
                    Some(messages @ Proposal::Messages(..)) => {
                        self.carried = Some(messages);
                        continue;
                    }
                    None => {}
                }
            }
            tokio::select! {
                biased;
                changed = self.role.changed() => if changed.is_err() { break },
                () = window.changed.notified() => {}
                proposal = self.queue.recv(), if self.carried.is_none() && !full => match proposal {
                    Some(proposal) => self.carried = Some(proposal),
                    None => {
                        end = ControlFlow::Break(());
                        break;
                    }
                },
                changed = self.paused.changed() => if changed.is_err() { break },
                _ = tick.tick(), if entries > 0 => self.give_up_old(),
            }
        }
        // Not proposed: definitely not in the log. The order of the rest of the queue is kept.
        if let Some(entry) = open {
            let leader = self.leader();
            for part in entry.parts {
                (part.done)(Err(ProposeError::NotLeader { leader }));
            }
        }
        self.wait_decided(&window, term).await;
        self.outstanding.send_replace(0);
        end
    }

    /// The log time of the next entry. Only an entry that is proposed takes one.
    fn log_time_ms(&mut self, clock: &mut LogClock) -> u64 {
        let now = Instant::now();
        let wall_ms = self.slot.wall_clock.now_ms();
        let (time, astray) = clock.next(wall_ms, now, &self.slot.clocks, self.slot.voters.len());
        let Some(Astray { by_ms }) = astray else {
            self.astray_since = None;
            return time;
        };
        let since = *self.astray_since.get_or_insert(now);
        // Not one that was asleep and has not heard anybody yet.
        if now.duration_since(since) >= CLOCK_WORD_VALID
            && self.astray_told.is_none_or(|told| now.duration_since(told) >= ASTRAY_NOTICE)
        {
            self.astray_told = Some(now);
            tracing::error!(
                group = self.slot.group,
                by_ms,
                "this node's wall clock is not that of the log, which goes by the clocks of a majority: one of them is wrong"
            );
        }
        time
    }

    /// Moves what has arrived into the open entry, as far as it fits.
    fn fill(&mut self, open: &mut Option<OpenEntry>, counters: &mut Counters) {
        loop {
            let proposal = match self.carried.take() {
                Some(proposal) => proposal,
                None => match self.queue.try_recv() {
                    Ok(proposal) => proposal,
                    Err(_) => return,
                },
            };
            let (proposal, done, held) = match proposal {
                Proposal::Messages(proposal, done, held) => (proposal, done, held),
                alone @ (Proposal::Command(..) | Proposal::Coupled(..)) => {
                    self.carried = Some(alone);
                    return;
                }
            };
            let filled = open.as_ref().map_or(0, |o| o.buffer.len());
            if filled > 0 && filled + proposal.records.len() > ENTRY_BYTES {
                self.carried = Some(Proposal::Messages(proposal, done, held));
                return;
            }
            let MessagesProposal { topic, queue, mut records, count } = proposal;
            let next = match counters.get_mut(&topic).and_then(|queues| queues.get_mut(&queue)) {
                Some(next) => next,
                None => match self.tables.next_offset(&topic, queue) {
                    Some(next) => counters.entry(topic.clone()).or_default().entry(queue).or_insert(next.0),
                    None => {
                        done(Err(ProposeError::NoQueue { topic: topic.to_string(), queue }));
                        continue;
                    }
                },
            };
            let entry = match open {
                Some(entry) => {
                    entry.held.join(held);
                    entry
                }
                None => {
                    // Room for what waits: growing by doubling copies every message about once more.
                    let waiting = (self.queue.len() + 1).saturating_mul(records.len());
                    let room = waiting.min(ENTRY_BYTES).max(records.len());
                    let mut buffer = BytesMut::with_capacity(HEADER_LEN + room + 8);
                    buffer.resize(HEADER_LEN, 0);
                    open.insert(OpenEntry { buffer, parts: Vec::new(), held })
                }
            };
            let first_offset = QueueOffset(*next);
            *next += u64::from(count);
            number_records(&mut records, first_offset);
            let place = Place { body_offset: entry.buffer.len() - HEADER_LEN, first_offset };
            entry.parts.push(Part { place, done });
            entry.buffer.extend_from_slice(&records);
        }
    }

    /// The entry of a coupled proposal. The counters stay as they are unless all of its queues exist.
    fn finish_coupled(
        &mut self,
        proposal: CoupledProposal,
        counters: &mut Counters,
        clock: &mut LogClock,
    ) -> Result<(Data, Vec<Place>), ProposeError> {
        let CoupledProposal { command, messages, .. } = proposal;
        for MessagesProposal { topic, queue, .. } in &messages {
            if counters.get(topic).is_some_and(|queues| queues.contains_key(queue)) {
                continue;
            }
            let Some(next) = self.tables.next_offset(topic, *queue) else {
                return Err(ProposeError::NoQueue { topic: topic.to_string(), queue: *queue });
            };
            counters.entry(topic.clone()).or_default().insert(*queue, next.0);
        }
        let log_time_ms = self.log_time_ms(clock);
        let records_len = messages.iter().map(|messages| messages.records.len()).sum();
        let mut buffer = Draft::coupled_room(&command, records_len);
        let mut places = Vec::with_capacity(messages.len());
        for MessagesProposal { topic, queue, mut records, count } in messages {
            let next = counters.get_mut(&topic).and_then(|queues| queues.get_mut(&queue));
            let next = next.expect("every queue was looked up");
            let first_offset = QueueOffset(*next);
            *next += u64::from(count);
            number_records(&mut records, first_offset);
            places.push(Place { body_offset: buffer.len() - HEADER_LEN, first_offset });
            buffer.extend_from_slice(&records);
        }
        Ok((Data { kind: FrameKind::Coupled, log_time_ms, buffer }, places))
    }

    async fn propose_messages(
        &mut self,
        term: u64,
        window: &Arc<Window>,
        entry: OpenEntry,
        log_time_ms: u64,
    ) {
        let OpenEntry { buffer, parts, held } = entry;
        let data = Data { kind: FrameKind::Messages, log_time_ms, buffer };
        self.propose(term, window, data, Parts::Messages { parts, log_time_ms }, held).await;
    }

    async fn propose(&mut self, term: u64, window: &Arc<Window>, data: Data, parts: Parts, held: Held) {
        let len = data.buffer.len();
        let has_messages = matches!(data.kind, FrameKind::Messages | FrameKind::Coupled);
        if has_messages && !self.slot.majority_has_room() {
            parts.refuse(&ProposeError::NoRoom { reason: "the disks of a majority are full".into() });
            window.fail();
            return;
        }
        let room = match self.slot.log.reserve(len as u64 + FRAME_ALIGN) {
            Ok(room) => room,
            Err(error) => {
                parts.refuse(&ProposeError::NoRoom { reason: error.to_string() });
                window.fail();
                return;
            }
        };
        window.sent(len);
        let in_flight = Arc::new(InFlight {
            parts: Mutex::new(Some(parts)),
            taken: Mutex::new(Some(Taken { len, _pending: held, _room: room })),
            window: window.clone(),
            since: Instant::now(),
            serving: self.serving.clone(),
        });
        self.undecided.retain(|i| !i.is_decided());
        self.undecided.push(in_flight.clone());
        let decider = Decider(in_flight);
        let completion = Completion(Box::new(move |result: ClientWriteResult<TypeConfig>| {
            decider.0.decide(match result {
                Ok(response) => Ok(response.data),
                Err(error) => Err(match error {
                    openraft::errors::ClientWriteError::ForwardToLeader(forward) => {
                        ProposeError::NotLeader { leader: forward.leader_id.map(NodeId) }
                    }
                    openraft::errors::ClientWriteError::ChangeMembershipError(_) => {
                        ProposeError::Unknown("openraft took the entry for a membership change")
                    }
                    _ => ProposeError::Unknown("the leader of a later term discarded or kept the entry"),
                }),
            });
        }));
        // `with_leader`: a node that lost and regained leadership must not take entries counted in an older term.
        // An error means that openraft has stopped; the dropped completion says "unknown".
        let write = self.raft.write(data).responder(completion);
        let write = if Mutant::NoWithLeader.is_on() { write } else { write.with_leader(term) };
        if let Err(fatal) = write.await {
            tracing::error!(%fatal, "the group has stopped");
        }
    }

    /// Reports entries as unknown that have waited for too long: a leader without a quorum cannot decide them. They
    /// still count: openraft may have them committed at any time, and what follows them is counted from there.
    fn give_up_old(&mut self) {
        self.undecided.retain(|i| !i.is_decided());
        for entry in self.undecided.iter().filter(|e| e.since.elapsed() >= PROPOSAL_TIMEOUT) {
            entry.answer(Err(ProposeError::Unknown("no majority has confirmed it in time")));
            entry.window.fail();
        }
    }

    /// Waits until nothing is in flight. Entries of a term that is over are given up after a second: they may still
    /// be committed by the next leader, so their outcome is unknown. What comes in meanwhile is sent back after a
    /// moment: it is definitely not proposed, and whoever asks knows how long its client waits.
    async fn wait_decided(&mut self, window: &Arc<Window>, term: u64) {
        let started = Instant::now();
        let mut over_since: Option<Instant> = None;
        while window.get().0 > 0 {
            let is_halted = window.get().2 || !self.leads(term);
            if is_halted && started.elapsed() >= SETTLE_GRACE {
                let carried = self.carried.take();
                for proposal in carried.into_iter().chain(std::iter::from_fn(|| self.queue.try_recv().ok())) {
                    proposal.refuse(ProposeError::NotLeader { leader: None });
                }
            }
            // A leader that fell silent (its disk hangs) has its entries in openraft still.
            if self.role.borrow().term != term || self.role.has_changed().is_err() {
                over_since.get_or_insert_with(Instant::now);
            }
            if over_since.is_some_and(|t| t.elapsed() >= Duration::from_secs(1)) {
                for entry in std::mem::take(&mut self.undecided) {
                    entry.decide(Err(ProposeError::Unknown("the leader changed while it was under way")));
                }
                continue;
            }
            self.give_up_old();
            let _ = tokio::time::timeout(Duration::from_millis(50), window.changed.notified()).await;
        }
    }
}

/// Fills in queue offsets of records that lie back to back. Physical offset and store timestamp are the append's.
fn number_records(records: &mut [u8], first: QueueOffset) {
    let mut offset = first.0;
    let mut rest = records;
    while rest.len() >= 4 {
        let len = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        assert!(len >= 4 && len <= rest.len(), "proposed records must be whole");
        let (record, tail) = rest.split_at_mut(len);
        wire::patch_queue_offset(record, QueueOffset(offset)).expect("proposed records must be whole");
        offset += 1;
        rest = tail;
    }
    assert!(rest.is_empty(), "proposed records must be whole");
}
