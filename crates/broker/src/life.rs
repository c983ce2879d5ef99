//! A group's life on this node: its log is recovered, it joins, leads or follows, is kept in shape, and ends.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use replica::{CatchUpLimits, GroupConfig, Host, NodeId, OpenError, Outcome, StateMachine, TransferError};
use store::index::{Frames, IndexedLog, QueueIndex};
use store::{Frame, Log, LogItem, StoreError, TablesMeta};
use wire::{LogPosition, QueueId, QueueOffset};

use crate::digests::Digests;
use crate::handlers::{offset, pull};
use crate::hosted::{Hosted, Serving, Toward};
use crate::limits::{
    INDEX_PACE_BYTES, INDEX_TICK, PARK_RETRY, PREFERRED_LAG_ENTRIES, PREFERRED_STEADY, PREFERRED_TICK,
    STATS_TICK,
};
use crate::pop;
use crate::service::wall_clock_ms;
use crate::state::command::FEATURE_LEVEL;
use crate::state::{Advance, BootstrapOptions, Hooks, State};
use crate::{duties, forward};

/// What the log is applied to: the tables, and the index that is derived from the same entries.
struct Applied {
    state: Arc<State>,
    index: QueueIndex,
    checkpoint: Arc<AtomicU64>,
    digests: Arc<Digests>,
}

impl StateMachine for Applied {
    fn apply(&self, frame: &Frame) -> Outcome {
        let outcome = self.state.apply(frame);
        match outcome {
            // No index points to it (log.md 4).
            Outcome::Void => self.index.skip(frame),
            Outcome::Messages | Outcome::Command(_) | Outcome::Coupled(_) => self.index.add(frame),
        }
        self.digests.applied(frame.id().index.0, &self.state);
        outcome
    }

    fn pass(&self, frame: &Frame) {
        self.index.skip(frame);
        self.digests.applied(frame.id().index.0, &self.state);
    }

    fn next_offset(&self, topic: &str, queue: QueueId) -> Option<QueueOffset> {
        self.state.next_offset(topic, queue)
    }

    fn level(&self) -> u32 {
        self.state.level()
    }

    fn encode(&self) -> Vec<u8> {
        self.state.encode()
    }

    fn restore(&self, tables: &[u8], at: &TablesMeta) -> Result<(), String> {
        self.state.restore(tables, at)?;
        self.index.start_behind(at).map_err(|error| error.to_string())
    }

    fn after_apply(&self, end: LogPosition) {
        self.state.after_apply(end);
    }

    fn checkpointed(&self, end: LogPosition) {
        self.state.checkpointed(end);
        self.checkpoint.store(end.0, Ordering::Relaxed);
        if let Err(error) = self.index.spill(end) {
            // It stays in memory, and what is given up there is built again from the log.
            tracing::error!(%error, end = end.0, "the queue index was not written");
        }
    }
}

/// Recovers a group's log and tables, joins the group, and serves it. Takes as long as forming a new group takes.
pub(crate) async fn open(hosted: &Arc<Hosted>, host: &Host) -> Result<(), OpenError> {
    let directory = hosted.node.config.data.join(hosted.name());
    let config = GroupConfig {
        segment_size: hosted.config.segment_bytes,
        first_leader: hosted.config.preferred_leader.map(NodeId),
        heartbeat_ms: hosted.config.heartbeat_ms,
        level: FEATURE_LEVEL,
        level_max: hosted.config.feature_level,
        election_ms: hosted.config.election_ms,
        catch_up: CatchUpLimits {
            rate: hosted.node.config.limits.catch_up_bytes_per_second as u64,
            ..CatchUpLimits::default()
        },
        log: store::Options {
            recent_bytes_max: store::limits::RECENT_BYTES_MAX / hosted.node.config.groups.len().max(1),
            ..store::Options::default()
        },
        #[cfg(test)]
        wall_clock: hosted.node.config.wall_clock.clone(),
        ..GroupConfig::new(
            hosted.name(),
            directory,
            hosted.config.voters.iter().map(|voter| NodeId(*voter)).collect(),
        )
    };
    let (recovering, opener) = (hosted.clone(), host.clone());
    let recovered = tokio::task::spawn_blocking(move || {
        let opened = opener.open_group(config)?;
        let state = &recovering.state;
        let mut checkpoint = LogPosition(0);
        if let Some((at, tables)) = opened.checkpoint() {
            let unreadable = |reason| OpenError::Group { group: recovering.name().to_owned(), reason };
            state.restore(tables, at).map_err(unreadable)?;
            checkpoint = at.end;
        }
        let log = opened.log();
        let indexed = IndexedLog {
            start: log.state().first_position,
            checkpoint,
            segment_size: recovering.config.segment_bytes,
            indexes: recovering.node.config.groups.len(),
        };
        let index = QueueIndex::open(
            log.disk().clone(),
            log.dir(),
            &indexed,
            &|from| Ok(frames(log, from)),
            &|index| state.is_void(index),
        )?;
        Ok::<_, OpenError>((opened, index, checkpoint))
    });
    let (opened, index, checkpoint) = recovered.await.map_err(|error| OpenError::Group {
        group: hosted.name().to_owned(),
        reason: format!("recovery was interrupted: {error}"),
    })??;
    hosted.state.set_hooks(hooks(hosted));
    let checkpoint = Arc::new(AtomicU64::new(checkpoint.0));
    let tables = Applied {
        state: hosted.state.clone(),
        index: index.clone(),
        checkpoint: checkpoint.clone(),
        digests: hosted.digests.clone(),
    };
    let group = host.start_group(opened, Arc::new(tables)).await?;
    let log = group.log().clone();
    hosted.serve(Serving { group, log, index, checkpoint });
    let node = &hosted.node;
    node.spawn(follow_role(hosted.clone()));
    node.spawn(pull::wake(hosted.clone()));
    node.spawn(pull::expire(hosted.clone()));
    node.spawn(pop::wake(hosted.clone()));
    node.spawn(pop::expire(hosted.clone()));
    node.spawn(pop::keep_acks(hosted.clone()));
    node.spawn(offset::keep_commits(hosted.clone()));
    node.spawn(keep_index(hosted.clone()));
    node.spawn(keep_stats(hosted.clone()));
    node.spawn(duties::keep(hosted.clone(), duties::all()));
    if hosted.config.preferred_leader == Some(node.id.0) {
        node.spawn(prefer(hosted.clone()));
    }
    Ok(())
}

/// The log's entries from a position on, as the index wants them.
fn frames(log: &Log, from: LogPosition) -> Frames<'static> {
    let mut reader = log.frames_from(from);
    Box::new(std::iter::from_fn(move || {
        loop {
            match reader.next_item() {
                Ok(Some(LogItem::Frame(frame))) => return Some(Ok(frame)),
                // Queues of imported segments are not built from frames.
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(Err::<Frame, StoreError>(error)),
            }
        }
    }))
}

/// What follows `apply`: it notes, and others do.
fn hooks(hosted: &Arc<Hosted>) -> Hooks {
    let applied: Weak<Hosted> = Arc::downgrade(hosted);
    Hooks {
        on_applied: Box::new(move |_, advance: &Advance| {
            let Some(hosted) = applied.upgrade() else { return };
            for queue in &advance.queues {
                if hosted.holds.awaits(&queue.topic, queue.queue) {
                    hosted.arrivals.note(&queue.topic, queue.queue);
                }
                hosted.pop.note(&queue.topic, queue.queue);
            }
            for (topic, queue) in &advance.pops_free {
                hosted.pop.note(topic, *queue);
            }
            hosted.sources.note(advance);
            if advance.pops_sooner || advance.restored {
                hosted.pops_sooner.notify_one();
            }
            if advance.restored {
                for (topic, queue) in hosted.holds.queues() {
                    hosted.arrivals.note(&topic, queue);
                }
                for topic in hosted.pop.topics() {
                    let count = hosted.state.topic(&topic).map_or(0, |topic| topic.queue_count());
                    (0..count).for_each(|queue| hosted.pop.note(&topic, QueueId(queue)));
                }
            }
            if advance.topics_changed || advance.restored {
                hosted.note_registration();
            }
        }),
    }
}

/// Acts on every change of the role: the system topics are made, nameservers hear of it, what waits goes on.
async fn follow_role(hosted: Arc<Hosted>) {
    let Some(serving) = hosted.serving() else { return };
    let mut role = serving.group.watch_role();
    loop {
        let now = role.borrow_and_update().clone();
        tracing::info!(
            group = hosted.name(),
            term = now.term,
            leader = now.leader.map(|leader| leader.0),
            ready = now.ready,
            "role"
        );
        if prepare(&hosted, now.ready).await {
            hosted.set_prepared();
        }
        hosted.note_standing();
        hosted.note_registration();
        if role.changed().await.is_err() {
            hosted.note_standing();
            return;
        }
    }
}

/// Whether the system topics are there; a leader makes them.
pub(crate) async fn prepare(hosted: &Hosted, leads: bool) -> bool {
    let options = BootstrapOptions {
        cluster: hosted.names.cluster.clone(),
        broker: hosted.names.broker.clone(),
        default_topic_queues: hosted.config.default_topic_queues,
        auto_create_topic: hosted.settings.auto_create_topic(),
    };
    while let Some(command) = hosted.state.bootstrap(&options) {
        // A proposer may learn of its leadership a moment later than this task does.
        if !leads || !hosted.serving().is_some_and(|serving| serving.group.role().ready) {
            return false;
        }
        let result = hosted.propose_here(command).await;
        let refused = match result {
            Ok(reply) if reply.code == 0 => continue,
            Ok(reply) => reply.remark,
            Err(error) => error.to_string(),
        };
        tracing::warn!(group = hosted.name(), refused, "the system topics are not there yet");
        tokio::time::sleep(PARK_RETRY).await;
    }
    true
}

/// The preferred leader asks for leadership once it has been caught up for a while (clients.md 4).
async fn prefer(hosted: Arc<Hosted>) {
    let mut steady_since: Option<Instant> = None;
    let mut tick = tokio::time::interval(PREFERRED_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Toward::Node(leader) = hosted.toward() else {
            steady_since = None;
            continue;
        };
        if hosted.node.draining.is_cancelled() {
            return;
        }
        let lag = forward::my_lag(&hosted, leader).await;
        if lag.is_none_or(|lag| lag > PREFERRED_LAG_ENTRIES) {
            steady_since = None;
            continue;
        }
        if steady_since.get_or_insert_with(Instant::now).elapsed() < PREFERRED_STEADY {
            continue;
        }
        steady_since = None;
        match forward::take_over(&hosted, leader).await {
            Ok(()) => tracing::info!(group = hosted.name(), from = leader.0, "leadership is back"),
            Err(reason) => {
                tracing::warn!(group = hosted.name(), from = leader.0, reason, "leadership not handed over");
            }
        }
    }
}

impl Hosted {
    /// Hands leadership to another voter; what waits unproposed is proposed first.
    pub(crate) async fn hand_over(&self, serving: &Serving, to: NodeId) -> Result<(), TransferError> {
        offset::flush_commits(self).await;
        // A task of its own: it ends what it began, also when who asked for it does not wait any longer (log.md 17).
        let group = serving.group.clone();
        let transfer = tokio::spawn(async move { group.transfer_leadership(to).await });
        transfer.await.unwrap_or(Err(TransferError::Stopped))
    }
}

/// Hands leadership to the follower that lacks least, if this node leads.
pub(crate) async fn give_leadership_away(hosted: &Arc<Hosted>) {
    let Some(serving) = hosted.serving() else { return };
    if !serving.group.role().ready {
        return;
    }
    let mut followers = serving.group.status().followers;
    followers.sort_unstable_by_key(|follower| follower.lag);
    for follower in followers {
        match hosted.hand_over(serving, follower.node).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(group = hosted.name(), to = follower.node.0, %error, "leadership not handed over");
            }
        }
    }
}

/// Stops taking part, and closes the log.
pub(crate) async fn close(hosted: &Arc<Hosted>) {
    let Some(serving) = hosted.serving() else { return };
    serving.group.shutdown().await;
}

/// Writes, merges and builds again the files of the queue index.
async fn keep_index(hosted: Arc<Hosted>) {
    let mut more = false;
    loop {
        if !more {
            tokio::time::sleep(INDEX_TICK).await;
        }
        let worker = hosted.clone();
        let step = tokio::task::spawn_blocking(move || index_step(&worker));
        more = match step.await {
            Ok(Ok(more)) => more,
            Ok(Err(error)) => {
                tracing::error!(group = hosted.name(), %error, "upkeep of the queue index");
                false
            }
            Err(_) => return,
        };
    }
}

fn index_step(hosted: &Hosted) -> Result<bool, StoreError> {
    let Some(Serving { log, index, checkpoint, .. }) = hosted.serving() else { return Ok(false) };
    index.purge(log.state().first_position)?;
    let synced = log.state().synced_end;
    if index.spill_due(synced) {
        index.spill(synced)?;
    }
    // What others need of the disk comes first.
    let mut pace = |bytes: u64| {
        if hosted.node.stopping.is_cancelled() {
            return ControlFlow::Break(());
        }
        std::thread::sleep(Duration::from_millis(bytes * 1000 / INDEX_PACE_BYTES));
        ControlFlow::Continue(())
    };
    let state = &hosted.state;
    let from_log = |from| Ok(frames(log, from));
    let rebuilding = index.rebuild_step(synced, &from_log, &|entry| state.is_void(entry), &mut pace)?;
    let merging = index.merge_step(LogPosition(checkpoint.load(Ordering::Relaxed)), &mut pace)?;
    Ok((rebuilding || merging) && !hosted.node.stopping.is_cancelled())
}

async fn keep_stats(hosted: Arc<Hosted>) {
    let mut tick = tokio::time::interval(STATS_TICK);
    loop {
        tick.tick().await;
        hosted.stats.tick(wall_clock_ms());
    }
}
