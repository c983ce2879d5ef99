//! What clients do while things break: each workload is a set of tasks in the clients' network namespaces, which write down
//! every operation before and after (history.rs).
//!
//! ```text
//!   Field ── pace, places of clients, who leads, when to stop
//!     ├─ produce   messages to queues: one at a time, sixteen at a time, batches          log
//!     ├─ read      each queue through the leader and through each node; bounds; small queues
//!     ├─ group     members of a consumer group that come and go                           group
//!     ├─ register  committed offsets, numbers of queues                                   registers, topics
//!     ├─ pop       messages taken, acknowledged, kept, forgotten; dead letters            pop
//!     ├─ later     messages that are due later                                            delay
//!     ├─ transaction  halves, ends, questions and answers                                 transaction
//!     └─ drain     at the end: everything from everybody
//!   Caller ── one request, one answer, one outcome
//! ```

mod call;
mod drain;
mod field;
mod group;
mod later;
mod pop;
mod produce;
mod read;
mod register;
mod transaction;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use wire::RequestCode;

pub(crate) use self::call::value_of;
pub use self::field::{Field, Options};
use crate::cluster::wait::Stop;
use crate::history::Queue;

/// How long readers and groups may take to get what is left, once nothing more is written: 30 s are allowed to them, and
/// what takes longer is to be seen in the history, not here.
const CONVERGE: Duration = Duration::from_mins(1);
const DRAIN: Duration = Duration::from_mins(10);
/// A call under way when writing ends.
const LAST_CALLS: Duration = Duration::from_secs(10);

/// The topic of the load, and the one of which every operation is searched.
const TOPIC: &str = "jepsen-log";
const SMALL_TOPIC: &str = "jepsen-small";
const SMALL_QUEUES: u32 = 2;

/// A set of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Queues as logs: producers, readers, bounds, and the small queues.
    Log,
    /// The same, consumed by a group with members that come and go.
    Group,
    /// Offsets of consumer groups as registers.
    Registers,
    /// Topics as registers.
    Topics,
    /// All of these at once.
    All,
    /// Pop consumers.
    Pop,
    /// Messages that are delivered later.
    Delay,
    /// Transactions.
    Transaction,
    /// The last three at once.
    Waiting,
    /// Everything at once.
    Everything,
}

impl Workload {
    pub const ALL: [Workload; 10] = [
        Workload::Log,
        Workload::Group,
        Workload::Registers,
        Workload::Topics,
        Workload::All,
        Workload::Pop,
        Workload::Delay,
        Workload::Transaction,
        Workload::Waiting,
        Workload::Everything,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Workload::Log => "log",
            Workload::Group => "group",
            Workload::Registers => "registers",
            Workload::Topics => "topics",
            Workload::All => "all",
            Workload::Pop => "pop",
            Workload::Delay => "delay",
            Workload::Transaction => "transaction",
            Workload::Waiting => "waiting",
            Workload::Everything => "everything",
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Workload::Log => {
                "producers (one, many, batches), readers at every node, bounds, small queues for the search"
            }
            Workload::Group => "the same with a consumer group whose members come and go",
            Workload::Registers => "offsets of consumer groups, committed and asked for",
            Workload::Topics => "topics, changed and asked for",
            Workload::All => "all of these at once",
            Workload::Pop => "pop consumers that acknowledge, keep, give back and forget; dead letters",
            Workload::Delay => "messages that are due later, by level and by a time of their own",
            Workload::Transaction => "transactions: committed, rolled back, left open and asked about",
            Workload::Waiting => "pop, delay and transaction at once",
            Workload::Everything => "all and waiting at once",
        }
    }

    /// Sends to be acknowledged during a fault that leaves a majority, where it is not the usual number: without the
    /// producers of a log there are a few that wait for each answer, up to 3 s where the node is paused or cut off.
    pub fn progress_min(self) -> Option<u64> {
        (!self.has_log()).then_some(10)
    }

    fn has_log(self) -> bool {
        matches!(self, Workload::Log | Workload::Group | Workload::All | Workload::Everything)
    }

    fn has_group(self) -> bool {
        matches!(self, Workload::Group | Workload::All | Workload::Everything)
    }

    fn has_registers(self) -> bool {
        matches!(self, Workload::Registers | Workload::All | Workload::Everything)
    }

    fn has_topics(self) -> bool {
        matches!(self, Workload::Topics | Workload::All | Workload::Everything)
    }

    fn has_pop(self) -> bool {
        matches!(self, Workload::Pop | Workload::Waiting | Workload::Everything)
    }

    fn has_delay(self) -> bool {
        matches!(self, Workload::Delay | Workload::Waiting | Workload::Everything)
    }

    fn has_transaction(self) -> bool {
        matches!(self, Workload::Transaction | Workload::Waiting | Workload::Everything)
    }

    /// Whether messages leave a waiting place, each with a command in one entry.
    pub fn has_coupled_entries(self) -> bool {
        self.has_pop() || self.has_delay() || self.has_transaction()
    }

    /// Messages that are sent in a second, about.
    pub fn sends_per_second(self, options: &Options) -> u32 {
        let own = [
            (self.has_log(), options.rate),
            (self.has_pop(), pop::RATE),
            (self.has_delay(), later::RATE),
            (self.has_transaction(), transaction::RATE),
        ];
        own.iter().filter(|(has, _)| *has).map(|(_, rate)| rate).sum()
    }

    /// Rules of the checkers that must have had something to check. `searched`: those of the search too, which needs a
    /// program that may not be there.
    pub fn rules(self, searched: bool) -> Vec<String> {
        let mut rules = vec!["I"];
        if self.has_log() {
            rules.extend(["L1", "L2", "L3", "L4", "L8", "L9", "L10", "L11", "L12", "L13", "L14", "L15"]);
        }
        if self.has_pop() {
            rules.extend(["Q", "L1", "L4", "L8", "L10", "L12", "L15"]);
        }
        if self.has_delay() || self.has_transaction() {
            rules.extend(["L1", "L2", "L3", "L4", "L7", "L9", "L10", "L12"]);
        }
        let own = [(self.has_delay(), "T"), (self.has_transaction(), "X")];
        rules.extend(own.into_iter().filter(|(has, _)| *has).map(|(_, rule)| rule));
        let small = [(self.has_log(), "P1"), (self.has_registers(), "P2"), (self.has_topics(), "P3")];
        rules.extend(small.into_iter().filter(|(has, _)| searched && *has).map(|(_, rule)| rule));
        rules.sort_unstable();
        rules.dedup();
        rules.into_iter().map(str::to_owned).collect()
    }
}

/// A workload that runs. Dropped, it stops wherever it is.
#[derive(Debug)]
pub struct Load {
    workload: Workload,
    field: Field,
    pops: Option<pop::Pops>,
    delays: Option<later::Delays>,
    transactions: Option<transaction::Transactions>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.field.writing.cancel();
        self.field.all.cancel();
    }
}

impl Load {
    /// Topics and their queues, to be made before the load starts.
    pub fn topics(workload: Workload, options: &Options) -> Vec<(String, u32)> {
        // Registers commit offsets in queues of a topic, which need not hold a message.
        let mut topics = vec![(TOPIC.to_owned(), options.queues)];
        if workload.has_log() {
            topics.push((SMALL_TOPIC.to_owned(), SMALL_QUEUES));
        }
        let own = [
            (workload.has_pop(), pop::TOPIC, pop::QUEUES),
            (workload.has_delay(), later::TOPIC, later::QUEUES),
            (workload.has_transaction(), transaction::TOPIC, transaction::QUEUES),
        ];
        topics
            .extend(own.into_iter().filter(|own| own.0).map(|(_, topic, queues)| (topic.to_owned(), queues)));
        topics
    }

    /// The queues that every replica must give in the end.
    pub fn queues(workload: Workload, options: &Options) -> Vec<Queue> {
        let mut topics = Load::topics(workload, options);
        topics.retain(|(topic, _)| topic != TOPIC || workload.has_log());
        let of = |(topic, count): (String, u32)| {
            (0..count).map(move |id| Queue::new(crate::cluster::GROUP, topic.clone(), id))
        };
        topics.into_iter().flat_map(of).collect()
    }

    /// Starts all clients.
    pub fn start(workload: Workload, field: Field) -> Result<Load> {
        let mut load = Load { workload, field, pops: None, delays: None, transactions: None };
        let field = &load.field;
        let mut groups: Vec<(String, Option<i32>)> = Vec::new();
        if workload.has_registers() {
            groups.extend(register::groups().into_iter().map(|group| (group, None)));
        }
        if workload.has_pop() {
            groups.push((pop::GROUP.to_owned(), Some(pop::RETRIES)));
        }
        let caller = field.caller(0);
        field.spaces[0].run(async move { register::make_groups(&caller, groups).await })?;
        if workload.has_registers() {
            register::start_offsets(field, TOPIC, field.options.queues);
        }
        if workload.has_log() {
            produce::start(field, TOPIC);
            read::start(field, TOPIC);
            read::start_small(field, SMALL_TOPIC, SMALL_QUEUES);
        }
        if workload.has_group() {
            group::start(field, TOPIC);
        }
        if workload.has_topics() {
            register::start_topics(field);
        }
        load.pops = workload.has_pop().then(|| pop::start(field));
        load.delays = workload.has_delay().then(|| later::start(field));
        load.transactions = workload.has_transaction().then(|| transaction::start(field));
        Ok(load)
    }

    /// Nothing more is written; what is under way is waited for.
    pub fn stop_writing(&self, stop: &Stop) -> Result<()> {
        self.field.writing.cancel();
        self.field.writers.close();
        let writers = self.field.writers.clone();
        let waiting = async move { tokio::time::timeout(LAST_CALLS, writers.wait()).await };
        self.wait(stop, waiting)?.context("some writers did not end")
    }

    /// Waits until readers and groups have got everything. An error says that they have not: the run goes on, and the
    /// checkers see what is missing.
    pub fn converge(&self, stop: &Stop) -> Result<()> {
        let queues = Load::queues(self.workload, &self.field.options);
        if queues.is_empty() {
            return self.end_all(stop);
        }
        let (pops, delays, transactions) =
            (self.pops.clone(), self.delays.clone(), self.transactions.clone());
        let (field, caller) = (self.field.clone(), self.field.caller(0));
        let has_group = self.workload.has_group();
        let converging = async move {
            // All at once: each has its time.
            let pop = async {
                match &pops {
                    Some(pops) => pops.settle().await,
                    None => true,
                }
            };
            let delay = async {
                match &delays {
                    Some(delays) => delays.settle().await,
                    None => true,
                }
            };
            let transaction = async {
                match &transactions {
                    Some(transactions) => transactions.settle(&field, &caller).await,
                    None => true,
                }
            };
            let settled = tokio::join!(pop, delay, transaction);
            let mut ends = Vec::new();
            for queue in queues {
                let end = read::end_of(&field, &caller, &queue).await;
                ends.push((queue, end));
            }
            field.set_ends(ends.iter().cloned().collect::<HashMap<_, _>>());
            let is_level = if has_group {
                ends.retain(|(queue, _)| queue.topic == TOPIC);
                group::settle(&field, &caller, &ends).await
            } else {
                true
            };
            field.readers.close();
            let in_time = tokio::time::timeout(CONVERGE, field.readers.wait()).await.is_ok();
            (is_level, in_time, settled)
        };
        // A group that answers nobody does not say where its queues end either.
        let limited = async move { tokio::time::timeout(3 * CONVERGE, converging).await };
        let converged = self.wait(stop, limited)?;
        self.end_all(stop)?;
        let (is_level, in_time, settled) = converged.context("nobody says where the queues end")?;
        let (pops, delays, transactions) = settled;
        ensure!(pops, "messages are left that no pop consumer has acknowledged in {CONVERGE:?}");
        ensure!(delays, "messages that are due have not come in {CONVERGE:?}");
        ensure!(transactions, "transactions have not ended in {CONVERGE:?}");
        ensure!(is_level, "the group has not consumed everything in {CONVERGE:?}");
        ensure!(in_time, "some readers have not come to the end in {CONVERGE:?}");
        Ok(())
    }

    /// Ends whatever still runs, so that no event comes after the end of the history.
    fn end_all(&self, stop: &Stop) -> Result<()> {
        self.field.all.cancel();
        for tracker in [&self.field.writers, &self.field.readers, &self.field.members] {
            tracker.close();
            let tracker = tracker.clone();
            let waiting = async move { tokio::time::timeout(LAST_CALLS, tracker.wait()).await };
            self.wait(stop, waiting)?.context("some clients did not end")?;
        }
        Ok(())
    }

    /// Reads every queue through every node, and looks messages up.
    pub fn drain(&self, stop: &Stop) -> Result<()> {
        let queues = Load::queues(self.workload, &self.field.options);
        if queues.is_empty() {
            return Ok(());
        }
        let has_pop = self.workload.has_pop();
        let (field, caller) = (self.field.clone(), self.field.caller(0));
        let draining = async move {
            let mut ends = Vec::new();
            for queue in &queues {
                ends.push(read::end_of(&field, &caller, queue).await);
            }
            let each_node = (1..=caller.nodes()).map(|node| {
                let (field, caller, queues, ends) = (&field, &caller, &queues, &ends);
                async move {
                    for (queue, &end) in queues.iter().zip(ends) {
                        drain::queue(field, caller, node, queue, end).await;
                    }
                    if has_pop {
                        pop::drain(field, caller, node).await;
                    }
                }
            });
            futures::future::join_all(each_node.collect::<Vec<_>>()).await;
            drain::look_ups(&field, &caller).await;
        };
        let limited = async move { tokio::time::timeout(DRAIN, draining).await };
        self.wait(stop, limited)?.context("the drain does not end")
    }

    /// What a node tells of its replicated tables: topics and consumer groups.
    pub fn tables(&self, node: u64) -> Vec<(&'static str, Option<Vec<u8>>)> {
        let codes = [
            ("topics", RequestCode::GET_ALL_TOPIC_CONFIG),
            ("groups", RequestCode::GET_ALL_SUBSCRIPTIONGROUP_CONFIG),
        ];
        let caller = self.field.caller(0);
        let asking = async move {
            let mut tables = Vec::new();
            for (name, code) in codes {
                tables.push((name, caller.table(node, code).await));
            }
            tables
        };
        self.field.spaces[0].run(asking)
    }

    /// Waits for something in the clients' namespace, or for the sign that the run is to end.
    fn wait<T: Send + 'static>(
        &self,
        stop: &Stop,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let token = stop.token().clone();
        let until = async move { token.run_until_cancelled(future).await };
        self.field.spaces[0].run(until).context("stopped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_logs_are_drained() {
        let options = Options { queues: 3, ..Options::default() };
        assert_eq!(Load::queues(Workload::Log, &options).len(), 5);
        assert_eq!(Load::queues(Workload::Registers, &options).len(), 0);
        assert_eq!(Load::queues(Workload::All, &options)[0].to_string(), "broker-a/jepsen-log/0");
        assert_eq!(
            Load::queues(Workload::Transaction, &options)[0].to_string(),
            "broker-a/jepsen-transaction/0"
        );
        assert_eq!(Load::queues(Workload::Everything, &options).len(), 5 + 4 + 2 + 2);
        assert_eq!(Workload::Everything.sends_per_second(&options), options.rate + 360);
    }

    #[test]
    fn workloads_have_names() {
        let names = Workload::ALL.map(Workload::name);
        assert_eq!(names[..5], ["log", "group", "registers", "topics", "all"]);
        assert_eq!(names[5..], ["pop", "delay", "transaction", "waiting", "everything"]);
    }
}
