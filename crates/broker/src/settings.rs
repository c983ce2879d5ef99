//! What an operator may change while a node runs (25): one table, under RocketMQ's names.
//!
//! Only what stands here can be changed from outside, and none of it is a path, an address or a command (CVE-2023-33246
//! came of a list of what may *not* be changed). A setting belongs to one node of one group, as in RocketMQ: other nodes
//! keep theirs, also the one that leads next. It lasts until the process ends; the configuration file is for what shall
//! last longer.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use wire::ResponseCode;

use crate::config::GroupConfig;
use crate::errors::Error;

/// A property text longer than this is refused, bytes: all there is to change fits many times.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// What a setting is when the node starts. What it is later is known to [`Settings`] alone, which therefore is the only
/// one that can read this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initial<T>(T);

impl<T> From<T> for Initial<T> {
    fn from(value: T) -> Initial<T> {
        Initial(value)
    }
}

impl Initial<u32> {
    /// The rule that a permission of the configuration breaks.
    pub(crate) fn check_permission(self) -> Result<(), String> {
        match self.0 {
            0 | 2 | 4 | 6 => Ok(()),
            other => Err(format!("must be a sum of 4 (read) and 2 (write), not {other}")),
        }
    }
}

/// What a group may do on this node, now.
#[derive(Debug)]
pub(crate) struct Settings {
    permission: AtomicU32,
    auto_create_topic: AtomicBool,
    auto_create_group: AtomicBool,
    follower_reads: AtomicBool,
    changes: AtomicU64,
}

/// A key of the table, with the value that it shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Permission(u32),
    AutoCreateTopic(bool),
    AutoCreateGroup(bool),
    FollowerReads(bool),
}

/// What an update did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// `key=value`, of what has another value now.
    pub(crate) changed: Vec<String>,
    /// `key`, of what had the value already.
    pub(crate) kept: Vec<String>,
    /// The nameservers have to hear of it.
    pub(crate) is_registered: bool,
    /// First sends may create topics now, which they could not before.
    pub(crate) creates_topics: bool,
}

impl Taken {
    /// For the remark of the answer.
    pub(crate) fn remark(&self) -> String {
        let mut text = String::new();
        if !self.changed.is_empty() {
            // Writing into a String cannot fail.
            let _ = write!(
                text,
                "changed on this node until it restarts (its configuration file stays as it is): {}",
                self.changed.join(", ")
            );
        }
        if !self.kept.is_empty() {
            let between = if text.is_empty() { "" } else { "; " };
            let _ = write!(text, "{between}had that value already: {}", self.kept.join(", "));
        }
        text
    }
}

impl Settings {
    pub(crate) fn new(config: &GroupConfig) -> Settings {
        Settings {
            permission: AtomicU32::new(config.permission.0),
            auto_create_topic: AtomicBool::new(config.auto_create_topic.0),
            auto_create_group: AtomicBool::new(config.auto_create_group.0),
            follower_reads: AtomicBool::new(config.follower_reads.0),
            changes: AtomicU64::new(0),
        }
    }

    /// RocketMQ's brokerPermission: 4 read, 2 write.
    pub(crate) fn permission(&self) -> u32 {
        self.permission.load(Relaxed)
    }

    /// Whether a first send creates its topic.
    pub(crate) fn auto_create_topic(&self) -> bool {
        self.auto_create_topic.load(Relaxed)
    }

    /// Whether a first heartbeat creates its consumer group.
    pub(crate) fn auto_create_group(&self) -> bool {
        self.auto_create_group.load(Relaxed)
    }

    /// Whether pulls may be served by this node while it does not lead.
    pub(crate) fn follower_reads(&self) -> bool {
        self.follower_reads.load(Relaxed)
    }

    /// How often something was changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Takes a text of Java properties, all of it or nothing. `told` is what 26 tells of this broker: a key with the value
    /// that it has is no change, so that a tool may send everything back. A refusal names every key that is in the way.
    pub(crate) fn update(&self, text: &str, told: &[(&'static str, String)]) -> Result<Taken, Error> {
        if text.len() > TEXT_BYTES_MAX {
            let remark =
                format!("the properties have {} bytes; at most {TEXT_BYTES_MAX} are read", text.len());
            return Err(Error::refused(ResponseCode::INVALID_PARAMETER, remark));
        }
        let mut taken = Taken::default();
        let mut changes = Vec::new();
        let mut bad = Vec::new();
        let mut fixed = Vec::new();
        let mut unknown = Vec::new();
        for (key, value) in wire::java_properties::read(text) {
            let value = value.trim();
            let known = told.iter().find(|(name, _)| *name == key);
            match parse(&key, value) {
                _ if known.is_some_and(|(_, has)| has == value) => taken.kept.push(key),
                Some(Ok(change)) => {
                    taken.changed.push(format!("{key}={value}"));
                    changes.push(change);
                }
                Some(Err(rule)) => bad.push(format!("{key} {rule}, not {}", shortened(value))),
                None if known.is_some() => fixed.push(key),
                None => unknown.push(shortened(&key)),
            }
        }
        let mut why = Vec::new();
        if !fixed.is_empty() {
            why.push(format!("cannot be changed while the node runs: {}", fixed.join(", ")));
        }
        if !unknown.is_empty() {
            why.push(format!("unknown: {}", unknown.join(", ")));
        }
        if !bad.is_empty() {
            why.push(format!("wrong: {}", bad.join(", ")));
        }
        if !why.is_empty() {
            let code = if fixed.is_empty() && unknown.is_empty() {
                ResponseCode::INVALID_PARAMETER
            } else {
                ResponseCode::NO_PERMISSION
            };
            let remark = format!("nothing is changed; {}; what can be changed: {KEYS}", why.join("; "));
            return Err(Error::refused(code, remark));
        }
        for change in changes {
            match change {
                Change::Permission(value) => {
                    self.permission.store(value, Relaxed);
                    taken.is_registered = true;
                }
                Change::AutoCreateTopic(value) => {
                    self.auto_create_topic.store(value, Relaxed);
                    taken.creates_topics = value;
                }
                Change::AutoCreateGroup(value) => self.auto_create_group.store(value, Relaxed),
                Change::FollowerReads(value) => self.follower_reads.store(value, Relaxed),
            }
            self.changes.fetch_add(1, Relaxed);
        }
        Ok(taken)
    }
}

/// The keys of the table, for people.
const KEYS: &str = "brokerPermission, autoCreateTopicEnable, autoCreateSubscriptionGroup, slaveReadEnable";

/// The row of a key; `None`: it is not in the table. An error is the rule that the value breaks.
fn parse(key: &str, value: &str) -> Option<Result<Change, &'static str>> {
    let switch = |change: fn(bool) -> Change| match value {
        "true" => Ok(change(true)),
        "false" => Ok(change(false)),
        _ => Err("is true or false"),
    };
    Some(match key {
        "brokerPermission" => match value.parse() {
            Ok(value @ (0 | 2 | 4 | 6)) => Ok(Change::Permission(value)),
            _ => Err("is 0, 2 (write), 4 (read) or 6 (both)"),
        },
        "autoCreateTopicEnable" => switch(Change::AutoCreateTopic),
        "autoCreateSubscriptionGroup" => switch(Change::AutoCreateGroup),
        "slaveReadEnable" => switch(Change::FollowerReads),
        _ => return None,
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(settings: &Settings) -> Vec<(&'static str, String)> {
        vec![
            ("brokerPermission", settings.permission().to_string()),
            ("autoCreateTopicEnable", settings.auto_create_topic().to_string()),
            ("brokerName", "b1".into()),
            ("storePathRootDir", "/data/b1".into()),
        ]
    }

    fn update(settings: &Settings, text: &str) -> Result<Taken, (i32, String)> {
        settings.update(text, &told(settings)).map_err(|error| {
            let (code, remark) = error.answer();
            (code.get(), remark)
        })
    }

    #[test]
    fn what_it_took_is_named() {
        let settings = Settings::new(&GroupConfig::default());
        let text = "brokerPermission=4\nslaveReadEnable = true\nautoCreateTopicEnable=true\nbrokerName=b1\n";
        let taken = update(&settings, text).unwrap();
        assert_eq!(taken.changed, ["brokerPermission=4", "slaveReadEnable=true"]);
        assert_eq!(taken.kept, ["autoCreateTopicEnable", "brokerName"]);
        assert!(taken.is_registered && !taken.creates_topics);
        assert!(
            taken.remark().contains("until it restarts") && taken.remark().contains("brokerPermission=4")
        );
        assert_eq!((settings.permission(), settings.follower_reads(), settings.changes()), (4, true, 2));
        assert!(!update(&settings, "autoCreateTopicEnable=false").unwrap().creates_topics);
        assert!(!settings.auto_create_topic());
        assert!(update(&settings, "autoCreateTopicEnable=true").unwrap().creates_topics);
        assert_eq!(update(&settings, "").unwrap(), Taken::default());
        assert!(update(&settings, "autoCreateSubscriptionGroup=false").is_ok());
        assert!(!settings.auto_create_group());
    }

    #[test]
    fn all_or_nothing() {
        let settings = Settings::new(&GroupConfig::default());
        for (text, code, names) in [
            (
                "brokerPermission=4\nstorePathRootDir=/tmp",
                16,
                &["storePathRootDir", "what can be changed"][..],
            ),
            ("brokerPermission=4\nrocketmqHome=x\nconfigBlackList=y", 16, &["rocketmqHome, configBlackList"]),
            // An escape does not hide a key.
            ("store\\u0050athRootDir=/tmp", 16, &["storePathRootDir"]),
            (
                "brokerPermission=4\nslaveReadEnable=maybe",
                29,
                &["slaveReadEnable is true or false, not maybe"],
            ),
            ("brokerPermission=5", 29, &["brokerPermission is 0, 2"]),
            ("brokerPermission=", 29, &["brokerPermission"]),
            ("=x", 16, &["unknown: "]),
        ] {
            let (got, remark) = update(&settings, text).unwrap_err();
            assert_eq!(got, code, "{text}: {remark}");
            assert!(names.iter().all(|name| remark.contains(name)), "{text}: {remark}");
        }
        assert_eq!((settings.permission(), settings.changes()), (6, 0));
        let long = "a".repeat(TEXT_BYTES_MAX + 1);
        assert_eq!(update(&settings, &long).unwrap_err().0, 29);
    }
}
