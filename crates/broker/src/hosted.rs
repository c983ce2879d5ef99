//! One group on this node: where a request goes, and what waits.
//!
//! ```text
//! take ─▶ table ─┬─ Node, Clients, Read ─────────────────▶ run the handler here
//!                └─ Log, Current ─▶ who leads? ─┬─ this node ─▶ run
//!                        ▲                      ├─ another ──▶ forward: what is brief of Log in batches, the rest alone
//!                        └── park ◀─────────────┴─ nobody, or it was definitely not done
//! ```
//!
//! The park keeps what belongs to Log in the order of its arrival, whether it waits for a leader or for its turn to be
//! passed on.
//!
//! A group takes requests from the moment its listener is open; `serving` is empty until its log is recovered, and
//! until then other nodes are asked who leads.

mod parked;
mod propose;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use net::PushBack;
use replica::{Group, NodeId};
use store::Log;
use store::index::QueueIndex;
use tokio::sync::{Notify, Semaphore, watch};
use wire::{QueueId, RemotingCommand, RequestCode, ResponseCode};

use crate::call::Call;
use crate::config::GroupConfig;
use crate::creation::Creations;
use crate::damage::Damage;
use crate::delay;
use crate::digests::Digests;
use crate::duties::{SourceArrivals, Sources};
use crate::errors::Error;
use crate::filters::Filters;
use crate::flow::Flow;
use crate::forward;
use crate::handlers::assignment::Routes;
use crate::handlers::lock::Leaving;
use crate::handlers::pull::{HeldPull, Served};
use crate::handlers::refused;
use crate::handlers::step::{self, Step};
use crate::handlers::transaction;
use crate::hold::HoldList;
use crate::limits::ADMIN_SCANS;
use crate::park::{Admission, Park};
use crate::pop::Popping;
use crate::requests::{self, Action, Class, Row};
use crate::service::{Node, wall_clock_ms};
use crate::settings::Settings;
use crate::state::{CommitMerger, Names, State};
use crate::stats::Stats;
use crate::told::Told;
use crate::transactions::ends::Ends;

/// One group on this node. See the module.
pub(crate) struct Hosted {
    pub(crate) config: GroupConfig,
    /// What of the configuration may change while the node runs, as it is now.
    pub(crate) settings: Settings,
    pub(crate) names: Names,
    pub(crate) node: Arc<Node>,
    pub(crate) state: Arc<State>,
    pub(crate) digests: Arc<Digests>,
    pub(crate) stats: Stats,
    /// What messages store as the host that took them: the leader's advertised address.
    pub(crate) store_host: SocketAddr,
    serving: OnceLock<Serving>,
    /// What a new log needs before it serves (the system topics) is there.
    prepared: AtomicBool,
    hint: Mutex<Option<(NodeId, Instant)>>,
    /// Changes whenever `toward` may answer otherwise.
    standing: watch::Sender<()>,
    park: Park<Call>,
    pub(crate) holds: HoldList<HeldPull>,
    pub(crate) arrivals: Arrivals,
    /// Source queues whose new messages a duty wants to hear of.
    pub(crate) sources: Arc<Sources>,
    /// Told when there is something to revive earlier than before.
    pub(crate) pops_sooner: Notify,
    pub(crate) damage: Damage,
    pub(crate) served: Served,
    pub(crate) told: Told,
    pub(crate) pop: Popping,
    pub(crate) routes: Routes,
    pub(crate) filters: Filters,
    pub(crate) commits: Mutex<CommitMerger>,
    pub(crate) commit_added: Notify,
    /// Told whenever a batch of commits is decided.
    pub(crate) commit_decided: Notify,
    pub(crate) creations: Creations,
    pub(crate) flow: Flow,
    /// Transactions that are to end.
    pub(crate) ends: Ends,
    /// Timer messages that are on their way out of their queue.
    pub(crate) timer_claims: delay::Claims,
    /// Clients that are giving queues away.
    pub(crate) leaving: Leaving,
    /// Consumer groups whose creation is under way.
    creating_groups: Mutex<HashSet<String>>,
    pub(crate) cold_reads: Arc<Semaphore>,
    /// Scans that administrators ask for, which may read much: they never take the turn of a consumer's read.
    pub(crate) admin_scans: Arc<Semaphore>,
    /// Rises when the nameservers are to hear of a change.
    pub(crate) registration: watch::Sender<u64>,
    /// The change that every reachable nameserver has heard of.
    pub(crate) registered: watch::Sender<u64>,
    /// Milliseconds since the node's start when a client last asked this node for what another one does.
    misdirected_ms: AtomicU64,
}

/// What is there once the log is recovered.
pub(crate) struct Serving {
    pub(crate) group: Group,
    pub(crate) log: Log,
    pub(crate) index: QueueIndex,
    /// End of the newest checkpoint, a position.
    pub(crate) checkpoint: Arc<AtomicU64>,
}

/// Who can do what only a leader does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Toward {
    Here,
    Node(NodeId),
    Nobody,
}

/// Queues that have new messages for which somebody waits: noted by `apply`, taken by the task that wakes pulls.
#[derive(Default)]
pub(crate) struct Arrivals {
    queues: Mutex<HashSet<(Arc<str>, QueueId)>>,
    noted: Notify,
}

impl Arrivals {
    pub(crate) fn note(&self, topic: &Arc<str>, queue: QueueId) {
        lock(&self.queues).insert((topic.clone(), queue));
        self.noted.notify_one();
    }

    pub(crate) async fn take(&self) -> HashSet<(Arc<str>, QueueId)> {
        loop {
            let queues = std::mem::take(&mut *lock(&self.queues));
            if !queues.is_empty() {
                return queues;
            }
            self.noted.notified().await;
        }
    }
}

impl Hosted {
    pub(crate) fn new(config: GroupConfig, node: Arc<Node>, store_host: SocketAddr) -> Arc<Hosted> {
        let limits = node.config.limits.clone();
        Arc::new(Hosted {
            names: Names { cluster: node.config.cluster.clone(), broker: config.name.clone() },
            settings: Settings::new(&config),
            state: Arc::new(State::new()),
            digests: Arc::new(Digests::new()),
            stats: Stats::new(wall_clock_ms()),
            store_host,
            serving: OnceLock::new(),
            prepared: AtomicBool::new(false),
            hint: Mutex::new(None),
            standing: watch::Sender::new(()),
            park: Park::new(limits.parked_requests, limits.parked_bytes),
            holds: HoldList::new(limits.held_pulls),
            arrivals: Arrivals::default(),
            sources: Arc::default(),
            pops_sooner: Notify::new(),
            damage: Damage::default(),
            served: Served::default(),
            told: Told::default(),
            pop: Popping::new(),
            routes: Routes::default(),
            filters: Filters::default(),
            commits: Mutex::new(CommitMerger::new()),
            commit_added: Notify::new(),
            commit_decided: Notify::new(),
            creations: Creations::new(limits.waiting_for_topic),
            flow: Flow::new(&limits, &node.config.rates),
            ends: Ends::default(),
            timer_claims: delay::Claims::default(),
            leaving: Leaving::default(),
            creating_groups: Mutex::default(),
            cold_reads: Arc::new(Semaphore::new(limits.cold_reads)),
            admin_scans: Arc::new(Semaphore::new(ADMIN_SCANS)),
            registration: watch::Sender::new(0),
            registered: watch::Sender::new(0),
            misdirected_ms: AtomicU64::new(0),
            config,
            node,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// `None` until the log is recovered.
    pub(crate) fn serving(&self) -> Option<&Serving> {
        self.serving.get()
    }

    /// The same, for a handler: until then another node may do it.
    pub(crate) fn served_here(&self) -> Result<&Serving, Error> {
        self.serving.get().ok_or(Error::NotLeader { leader: None })
    }

    /// Log time as it is between two entries, ms since 1970. What is to happen at a time, and what was asked for from now
    /// on, is measured by it and not by this node's clock, which may be wrong: the log would have it otherwise.
    pub(crate) fn log_now_ms(&self) -> u64 {
        self.serving().map_or_else(|| self.state.log_time_ms(), |serving| serving.group.log_now_ms())
    }

    pub(crate) fn serve(&self, serving: Serving) {
        assert!(self.serving.set(serving).is_ok(), "a group starts to serve once");
        self.note_standing();
    }

    pub(crate) fn set_prepared(&self) {
        self.prepared.store(true, Ordering::Release);
        self.note_standing();
    }

    /// Who leads may have changed: what waits for that looks again.
    pub(crate) fn note_standing(&self) {
        self.standing.send_replace(());
    }

    /// Waits until `wanted` says yes to where this group's requests go.
    pub(crate) async fn standing_is(&self, wanted: impl Fn(Toward) -> bool) {
        let mut standing = self.standing.subscribe();
        while !wanted(self.toward()) {
            // The sender lives as long as `self`.
            let _ = standing.changed().await;
        }
    }

    /// Hears of new messages in a topic's queues, from now on until it is dropped.
    pub(crate) fn source_arrivals(&self, topic: &str) -> SourceArrivals {
        self.sources.watch(topic)
    }

    pub(crate) fn term(&self) -> u64 {
        self.serving().map_or(0, |serving| serving.group.role().term)
    }

    pub(crate) fn ticket(&self) -> crate::park::Ticket {
        self.park.ticket()
    }

    pub(crate) fn toward(&self) -> Toward {
        if let Some(serving) = self.serving() {
            let role = serving.group.role();
            match role.leader {
                Some(leader) if leader != self.node.id => return Toward::Node(leader),
                // A leader that cannot propose yet, or lacks the system topics.
                Some(_) if !role.ready || !self.prepared.load(Ordering::Acquire) => return Toward::Nobody,
                Some(_) => return Toward::Here,
                None if !role_is_over(&serving.group) => return Toward::Nobody,
                None => {}
            }
        }
        match *lock(&self.hint) {
            Some((node, at)) if at.elapsed() < HINT_VALID => Toward::Node(node),
            _ => Toward::Nobody,
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.toward() == Toward::Here
    }

    /// A node said who leads. Heeded only while this node's own replica cannot know.
    pub(crate) fn take_hint(&self, leader: Option<NodeId>) {
        let Some(leader) = leader.filter(|leader| *leader != self.node.id) else { return };
        *lock(&self.hint) = Some((leader, Instant::now()));
        self.note_standing();
    }

    /// A request of a client, from one of this group's listeners or from another node.
    pub(crate) fn take(self: &Arc<Self>, call: Call) {
        let Some(row) = requests::row_of(call.code()) else {
            let remark = refused::remark(call.code());
            return call.refuse(ResponseCode::REQUEST_CODE_NOT_SUPPORTED, remark);
        };
        if row.code == RequestCode::END_TRANSACTION {
            return self.take_end(row, call);
        }
        self.admit(row, call);
    }

    /// 37 goes to the group that has the half message, whichever it met.
    fn take_end(self: &Arc<Self>, row: &'static Row, mut call: Call) {
        let Some((group, token)) = transaction::elsewhere(self.name(), &call) else {
            return self.admit(row, call);
        };
        if let Some(other) = self.node.group(group) {
            call.ticket = other.ticket();
            return other.admit(row, call);
        }
        match token {
            Some(token) => {
                let (group, at) = (group.to_owned(), token.node);
                forward::to_group(&self.node, group, at, call);
            }
            // A name that says nothing here: as before there were any.
            None => self.admit(row, call),
        }
    }

    fn admit(self: &Arc<Self>, row: &'static Row, call: Call) {
        if row.class != Class::Log {
            return self.route(row, call);
        }
        match self.park.admit(call) {
            Admission::Free(call) => self.route(row, call),
            Admission::Parked => {}
            Admission::Full(call) => self.refuse_parking(call),
        }
    }

    /// Runs the handler here if this node may, or finds the one that leads.
    fn route(self: &Arc<Self>, row: &'static Row, call: Call) {
        let here = match row.class {
            Class::Node | Class::Clients => true,
            Class::Read => self.serving().is_some(),
            Class::Log | Class::Current => false,
        };
        if here {
            return self.run(row, call);
        }
        match self.toward() {
            Toward::Here => self.run(row, call),
            Toward::Nobody => self.again(call, None),
            Toward::Node(leader) if call.is_forwarded() => call.not_here(Some(leader)),
            Toward::Node(leader) => {
                self.note_misdirected();
                let mut call = call;
                if let Some(connection) = call.connection() {
                    call.from.client_id = self.node.clients.client_on(connection.id()).unwrap_or_default();
                }
                if row.class != Class::Log {
                    forward::alone(self, leader, call);
                } else if let Err(call) = self.park.park(call) {
                    self.refuse_parking(call);
                }
            }
        }
    }

    /// Runs a handler here.
    fn run(self: &Arc<Self>, row: &'static Row, call: Call) {
        match row.action {
            Action::Take(take) => take(self, call),
            Action::Step(decide) => match decide(self, &call.request) {
                Ok(Step::Answer(answer)) if row.class != Class::Current => call.answer(answer),
                Err(error) if row.class != Class::Current => self.fail(call, error),
                // Its answer may wait, or must be worked out after the barrier.
                _ => self.spawn_step(row, call),
            },
            Action::Work(work) => {
                let hosted = self.clone();
                tokio::spawn(async move {
                    let result = hosted.in_time(row.class, &call, work(&hosted, &call)).await;
                    hosted.finish(call, result);
                });
            }
        }
    }

    fn spawn_step(self: &Arc<Self>, row: &'static Row, call: Call) {
        let Action::Step(decide) = row.action else { return };
        let hosted = self.clone();
        tokio::spawn(async move {
            let work = async {
                match decide(&hosted, &call.request)? {
                    Step::Answer(answer) => Ok(answer),
                    Step::Propose(command) => {
                        let reply = hosted.propose_here(command).await?;
                        if reply.changed {
                            hosted.register_by(call.deadline).await;
                        }
                        Ok(step::answer(&call.request, &reply))
                    }
                }
            };
            let result = hosted.in_time(row.class, &call, work).await;
            hosted.finish(call, result);
        });
    }

    /// Works an answer out. What has to be current is read after a barrier, which is not waited for longer than its
    /// client does: a leader without a majority cannot know.
    async fn in_time<T>(
        &self,
        class: Class,
        call: &Call,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if class == Class::Current {
            self.barrier(call).await?;
        }
        work.await
    }

    /// What the tables say after it is current: this node leads, and has applied what was answered before.
    pub(crate) async fn barrier(&self, call: &Call) -> Result<(), Error> {
        let barrier = async { Ok(self.served_here()?.group.read_barrier().await?) };
        let passed = tokio::time::timeout_at(call.deadline.into(), barrier).await;
        passed.unwrap_or(Err(Error::NotLeader { leader: None }))
    }

    fn finish(self: &Arc<Self>, call: Call, result: Result<RemotingCommand, Error>) {
        match result {
            Ok(answer) => call.answer(answer),
            Err(error) => self.fail(call, error),
        }
    }

    /// Answers a call that was not done, or has it tried again where that is safe.
    pub(crate) fn fail(self: &Arc<Self>, mut call: Call, error: Error) {
        match error {
            Error::NotLeader { leader } => self.again(call, leader),
            error if error.may_retry() => self.again(call, None),
            error => {
                if let Error::Unknown(_) | Error::Store(_) = &error {
                    tracing::warn!(group = self.name(), code = %call.code(), %error, "a request failed");
                }
                if let Error::Busy { what, .. } = &error {
                    call.push_back(*what);
                }
                let (code, remark) = error.answer();
                call.refuse(code, remark);
            }
        }
    }

    /// A call that is definitely not done: it waits for a leader, until its time is over.
    pub(crate) fn again(self: &Arc<Self>, mut call: Call, leader: Option<NodeId>) {
        if call.is_forwarded() {
            return call.not_here(leader);
        }
        call.tried = true;
        call.confirmed = false;
        if Instant::now() >= call.deadline || self.node.stopping.is_cancelled() {
            return call.give_up();
        }
        if let Err(call) = self.park.park(call) {
            self.refuse_parking(call);
        }
    }

    fn refuse_parking(&self, mut call: Call) {
        call.push_back(PushBack::Connection);
        let remark =
            format!("requests wait for a leader of {} on this node, {}", self.name(), self.park.limits());
        let (code, remark) = Error::Overloaded(remark).answer();
        call.refuse(code, remark);
    }

    pub(crate) fn note_misdirected(&self) {
        self.misdirected_ms.store(self.node.uptime_ms(), Ordering::Relaxed);
    }

    /// RocketMQ's id of this member: 0 for the leader, else its place among the voters, from 1.
    pub(crate) fn broker_id(&self) -> u64 {
        let leads = self.serving().is_some_and(|serving| serving.group.role().leader == Some(self.node.id));
        if leads { 0 } else { self.follower_id() }
    }

    /// Never 0, whatever the voters' numbers are.
    pub(crate) fn follower_id(&self) -> u64 {
        let mut voters = self.config.voters.clone();
        voters.sort_unstable();
        voters.iter().position(|voter| *voter == self.node.id.0).map_or(0, |place| place as u64) + 1
    }

    /// Since when no client has asked this node for what another one does.
    pub(crate) fn quiet_for(&self) -> Duration {
        let last = self.misdirected_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.node.uptime_ms().saturating_sub(last))
    }
}

/// How long another node's word on who leads is good.
const HINT_VALID: Duration = Duration::from_millis(500);

/// The replica has stopped and will know nothing new.
fn role_is_over(group: &Group) -> bool {
    group.watch_role().has_changed().is_err()
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
