//! Transactions of which nobody ever knows: after so many checks the broker puts them aside, where any consumer can read them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::complaints::Complaints;
use tests::history::Delivery;
use tests::{remoting, wait};

/// Where they are put.
pub(crate) const ASIDE: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
/// When nobody has known so often (`transactionCheckMax`).
const CHECKS_MAX: usize = 15;

/// Waits until something has been put aside in so many groups: the topic is made for the first one.
pub(crate) fn wait_topic(namesrv: &str, groups: usize, patience: Duration) -> Result<()> {
    let nameserver = namesrv.split(';').next().context("no nameserver")?;
    wait::until_true(ASIDE, patience, || Ok(remoting::route(nameserver, ASIDE)?.len() == groups))
}

/// What became of the transactions of one topic, whose values begin with `prefix`.
pub(crate) struct Doubted<'a> {
    pub(crate) topic: &'a str,
    pub(crate) prefix: &'a str,
    /// By consumers of that topic.
    pub(crate) delivered: Vec<Delivery>,
    /// Those that producers of the group were asked for.
    pub(crate) checks: Vec<Value>,
}

impl Doubted<'_> {
    /// Nobody got them, each says where it belongs, and each was asked of, none too often: the log has each question before it
    /// is asked. Those of all that is aside.
    pub(crate) fn judge(&self, aside: &[Delivery], c: &mut Complaints) -> Vec<Delivery> {
        let is_own = |value: &str| value.starts_with(self.prefix);
        c.none("transactions in doubt that were delivered", &self.delivered);
        let own: Vec<Delivery> = aside.iter().filter(|d| is_own(&d.value)).cloned().collect();
        let belongs = |d: &Delivery| d.properties.get("REAL_TOPIC").is_some_and(|topic| topic == self.topic);
        let strange = own.iter().filter(|d| d.topic != ASIDE || !belongs(d));
        c.none("put aside and do not say what they are", &strange.collect::<Vec<_>>());
        let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
        for value in self.checks.iter().filter_map(|check| check["value"].as_str()) {
            *asked.entry(value).or_default() += 1;
        }
        let never: Vec<&str> =
            own.iter().map(|d| d.value.as_str()).filter(|v| !asked.contains_key(v)).collect();
        c.none("never asked of", &never);
        asked.retain(|value, times| is_own(value) && *times > CHECKS_MAX);
        c.check(asked.is_empty(), || format!("asked of too often: {asked:?}"));
        own
    }
}
