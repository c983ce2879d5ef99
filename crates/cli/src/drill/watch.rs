//! What the nodes of a cluster say of their groups, asked several times a second: who leads, who lags, and whether a node
//! may be taken away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use broker::{GROUP_STATUS, GroupReport, TRANSFER_LEADER};
use client::Client;
use serde::Serialize;
use tokio::task::JoinHandle;
use wire::{RemotingCommand, RequestCode, ResponseCode};

use super::lock;

const PERIOD: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_millis(800);
/// A report older than this says nothing.
const STALE: Duration = Duration::from_millis(1500);
/// Entries that a follower may lack and still count as caught up: the load goes on meanwhile.
const LAG_MAX: u64 = 1000;
const TRANSFER: Duration = Duration::from_secs(5);

/// A leader that was seen for the first time. Seconds since the drill's start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Leadership {
    pub(crate) at_s: f64,
    pub(crate) term: u64,
    pub(crate) node: u64,
}

#[derive(Default)]
struct Seen {
    /// (group, node) → its newest report.
    reports: BTreeMap<(String, u64), (Instant, GroupReport)>,
    leaders: BTreeMap<String, Vec<Leadership>>,
}

/// Watches until it is dropped.
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<JoinHandle<()>>,
    outside: Arc<net::Client>,
    /// (group, node) → where it answers.
    addresses: BTreeMap<(String, u64), String>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.outside.close();
    }
}

impl Watch {
    /// Asks every broker that the nameserver knows which node of which group it is; all must answer.
    ///
    /// # Errors
    /// A node does not answer, or is no RaftMQ.
    pub(crate) async fn start(client: &Client, since: Instant) -> anyhow::Result<Watch> {
        let outside = Arc::new(net::Client::new(net::ClientConfig::default()));
        let info = client.admin().cluster_info().await?;
        let mut watch =
            Watch { seen: Arc::default(), tasks: Vec::new(), outside, addresses: BTreeMap::new() };
        for (broker, data) in &info.broker_addr_table {
            for address in data.broker_addrs.values() {
                let report = ask(&watch.outside, address)
                    .await
                    .with_context(|| format!("{broker} at {address}: its state cannot be had"))?;
                watch.addresses.insert((report.group, report.node), address.clone());
            }
        }
        for (place, address) in watch.addresses.clone() {
            let (seen, outside) = (watch.seen.clone(), watch.outside.clone());
            watch.tasks.push(tokio::spawn(async move {
                let mut ticks = tokio::time::interval(PERIOD);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    if let Ok(report) = ask(&outside, &address).await {
                        lock(&seen).take(place.clone(), report, since);
                    }
                }
            }));
        }
        Ok(watch)
    }

    /// The nodes of a group, by id.
    pub(crate) fn nodes(&self, group: &str) -> Vec<u64> {
        self.addresses.keys().filter(|(name, _)| name == group).map(|(_, node)| *node).collect()
    }

    /// Where a node answers for a group.
    pub(crate) fn address(&self, group: &str, node: u64) -> Option<&str> {
        self.addresses.get(&(group.to_owned(), node)).map(String::as_str)
    }

    pub(crate) fn leader(&self, group: &str) -> Option<u64> {
        leader(&self.reports(group, fresh()))
    }

    /// Every leadership of a group that was seen.
    pub(crate) fn leaderships(&self, group: &str) -> Vec<Leadership> {
        lock(&self.seen).leaders.get(group).cloned().unwrap_or_default()
    }

    /// Waits until all voters of every group follow one leader and lack nothing.
    ///
    /// # Errors
    /// It takes longer than `limit`: says what is missing.
    pub(crate) async fn whole(&self, limit: Duration) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            let Some(lacks) = self.lacks(since) else { return Ok(()) };
            anyhow::ensure!(since.elapsed() < limit, "after {} s: {lacks}", limit.as_secs());
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// What keeps the cluster from being whole, by what nodes have said since then.
    fn lacks(&self, since: Instant) -> Option<String> {
        let groups: std::collections::BTreeSet<&String> =
            self.addresses.keys().map(|(group, _)| group).collect();
        groups.into_iter().find_map(|group| lacks(group, &self.reports(group, since)))
    }

    /// Whether a node may be taken away: each group in which it votes keeps a majority that is caught up.
    ///
    /// # Errors
    /// Says which group would be left without, and why.
    pub(crate) fn margin(&self, node: u64) -> anyhow::Result<()> {
        for (group, _) in self.addresses.keys().filter(|(_, other)| *other == node) {
            margin(group, node, &self.reports(group, fresh())).map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    fn reports(&self, group: &str, since: Instant) -> BTreeMap<u64, GroupReport> {
        let seen = lock(&self.seen);
        let of_group = seen.reports.iter().filter(|((name, _), _)| name == group);
        of_group
            .filter(|(_, (at, _))| *at >= since)
            .map(|((_, node), (_, report))| (*node, report.clone()))
            .collect()
    }

    /// Hands leadership of a group over.
    ///
    /// # Errors
    /// The leader refuses or does not answer.
    pub(crate) async fn transfer(&self, group: &str, from: u64, to: u64) -> anyhow::Result<()> {
        let address = self.addresses.get(&(group.to_owned(), from)).context("no such node")?;
        let request =
            RemotingCommand::request(RequestCode(TRANSFER_LEADER)).with_ext("node", &to.to_string());
        let answer = self.outside.call(address, request, TRANSFER).await?;
        let remark = answer.remark.clone().unwrap_or_default();
        anyhow::ensure!(
            answer.response_code() == ResponseCode::SUCCESS,
            "node {from} answered {}: {remark}",
            answer.response_code()
        );
        Ok(())
    }
}

async fn ask(outside: &net::Client, address: &str) -> anyhow::Result<GroupReport> {
    let request = RemotingCommand::request(RequestCode(GROUP_STATUS));
    let answer = outside.call(address, request, TIMEOUT).await?;
    anyhow::ensure!(
        answer.response_code() == ResponseCode::SUCCESS,
        "it answered {}",
        answer.response_code()
    );
    Ok(serde_json::from_slice(&answer.body)?)
}

impl Seen {
    fn take(&mut self, (group, node): (String, u64), report: GroupReport, since: Instant) {
        let leaders = self.leaders.entry(group.clone()).or_default();
        if report.state == "leader" && leaders.last().is_none_or(|last| last.term < report.term) {
            leaders.push(Leadership { at_s: since.elapsed().as_secs_f64(), term: report.term, node });
        }
        self.reports.insert((group, node), (Instant::now(), report));
    }
}

/// From when on a report says something.
fn fresh() -> Instant {
    let now = Instant::now();
    now.checked_sub(STALE).unwrap_or(now)
}

/// Of the highest term that anybody tells.
fn leader(reports: &BTreeMap<u64, GroupReport>) -> Option<u64> {
    let leading = reports.values().filter(|report| report.state == "leader");
    leading.max_by_key(|report| report.term).map(|report| report.node)
}

/// Voters that follow the leader, or lead, and lack nothing of note.
fn healthy(reports: &BTreeMap<u64, GroupReport>) -> Vec<u64> {
    let Some(leading) = leader(reports).and_then(|node| reports.get(&node)) else { return Vec::new() };
    let is_healthy = |node: &u64| {
        let Some(report) = reports.get(node) else { return false };
        let lag = leading.followers.iter().find(|follower| follower.node == *node).map(|f| f.lag);
        report.stopped.is_none()
            && report.leader == leading.node
            && (*node == leading.node || lag.is_some_and(|lag| lag <= LAG_MAX))
    };
    leading.voters.iter().copied().filter(is_healthy).collect()
}

fn lacks(group: &str, reports: &BTreeMap<u64, GroupReport>) -> Option<String> {
    let Some(leading) = leader(reports).and_then(|node| reports.get(&node)) else {
        return Some(format!("group {group} has no leader"));
    };
    let healthy = healthy(reports);
    let missing: Vec<u64> = leading.voters.iter().copied().filter(|voter| !healthy.contains(voter)).collect();
    (!missing.is_empty()).then(|| format!("group {group}: nodes {missing:?} do not follow or lag behind"))
}

fn margin(group: &str, node: u64, reports: &BTreeMap<u64, GroupReport>) -> Result<(), String> {
    let Some(leading) = leader(reports).and_then(|node| reports.get(&node)) else {
        return Err(format!("group {group} has no leader"));
    };
    if !leading.voters.contains(&node) {
        return Ok(());
    }
    let majority = leading.voters.len() / 2 + 1;
    let left: Vec<u64> = healthy(reports).into_iter().filter(|other| *other != node).collect();
    if left.len() < majority {
        return Err(format!(
            "without node {node} group {group} would have {} of {} voters that are caught up ({left:?}); it needs {majority}",
            left.len(),
            leading.voters.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use broker::FollowerReport;

    use super::*;

    fn report(node: u64, leader: u64, term: u64, lags: &[(u64, u64)]) -> (u64, GroupReport) {
        let followers =
            lags.iter().map(|&(node, lag)| FollowerReport { node, matched_index: None, lag }).collect();
        let state = if node == leader { "leader" } else { "follower" };
        let report = GroupReport {
            node,
            leader,
            term,
            followers,
            state: state.into(),
            voters: vec![1, 2, 3],
            ..GroupReport::default()
        };
        (node, report)
    }

    #[test]
    fn a_node_may_go_where_a_majority_is_caught_up_without_it() {
        let all =
            BTreeMap::from([report(1, 1, 4, &[(2, 0), (3, 5)]), report(2, 1, 4, &[]), report(3, 1, 4, &[])]);
        assert_eq!(leader(&all), Some(1));
        assert_eq!(lacks("g", &all), None);
        assert_eq!(margin("g", 1, &all), Ok(()));
        assert_eq!(margin("g", 3, &all), Ok(()));

        let mut lagging = all.clone();
        lagging.extend([report(1, 1, 4, &[(2, 0), (3, LAG_MAX + 1)])]);
        assert!(lacks("g", &lagging).unwrap().contains("[3]"));
        assert!(margin("g", 2, &lagging).unwrap_err().contains("would have 1 of 3 voters"));
        assert_eq!(margin("g", 3, &lagging), Ok(()));

        let mut silent = all.clone();
        silent.remove(&2);
        assert!(margin("g", 1, &silent).is_err());

        let mut stopped = all;
        stopped.get_mut(&2).unwrap().stopped = Some("disk".into());
        assert!(lacks("g", &stopped).unwrap().contains("[2]"));
    }

    #[test]
    fn of_two_that_say_they_lead_the_higher_term_counts() {
        let both = BTreeMap::from([report(1, 1, 4, &[]), report(2, 2, 5, &[(1, 0), (3, 0)])]);
        assert_eq!(leader(&both), Some(2));
        assert!(lacks("g", &both).is_some());
        assert_eq!(lacks("g", &BTreeMap::new()), Some("group g has no leader".into()));
    }
}
