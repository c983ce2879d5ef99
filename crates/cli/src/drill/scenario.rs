//! A scenario: which group, which faults, how each is done to a node, and what is promised while it lasts.
//!
//! ```toml
//! group = "broker-a"
//! nameserver = "127.0.0.1:9876;127.0.0.1:9877"     # where `-n` is not given
//! [[step]]
//! fault = "kill-leader"
//! rounds = 5
//! [node.1]
//! config = "node-1.toml"                  # a node of this machine, found by its configuration file
//! [node.2]
//! kill = "ssh b systemctl kill -s KILL raftmq"    # or a command for what is asked of it
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is done to a group. Two names of each: to its leader, or to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    KillLeader,
    KillFollower,
    PauseLeader,
    PauseFollower,
    IsolateLeader,
    IsolateFollower,
    SlowDiskLeader,
    SlowDiskFollower,
    /// Leadership is handed to another voter, as before planned work.
    Transfer,
    /// Every node is stopped cleanly and started again, one after the other, the leader last.
    RestartRolling,
}

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Leader,
    Follower,
    Everyone,
}

/// What a node's hands are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Kill,
    Stop,
    Start,
    Pause,
    Resume,
    Isolate,
    Heal,
    Slow,
    Fast,
}

impl Deed {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Deed::Kill => "kill",
            Deed::Stop => "stop",
            Deed::Start => "start",
            Deed::Pause => "pause",
            Deed::Resume => "resume",
            Deed::Isolate => "isolate",
            Deed::Heal => "heal",
            Deed::Slow => "slow",
            Deed::Fast => "fast",
        }
    }
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::KillLeader => "kill-leader",
            Fault::KillFollower => "kill-follower",
            Fault::PauseLeader => "pause-leader",
            Fault::PauseFollower => "pause-follower",
            Fault::IsolateLeader => "isolate-leader",
            Fault::IsolateFollower => "isolate-follower",
            Fault::SlowDiskLeader => "slow-disk-leader",
            Fault::SlowDiskFollower => "slow-disk-follower",
            Fault::Transfer => "transfer",
            Fault::RestartRolling => "restart-rolling",
        }
    }

    pub(crate) fn target(self) -> Target {
        match self {
            Fault::KillLeader
            | Fault::PauseLeader
            | Fault::IsolateLeader
            | Fault::SlowDiskLeader
            | Fault::Transfer => Target::Leader,
            Fault::KillFollower | Fault::PauseFollower | Fault::IsolateFollower | Fault::SlowDiskFollower => {
                Target::Follower
            }
            Fault::RestartRolling => Target::Everyone,
        }
    }

    /// What is done to the node, and what undoes it; `None` for a transfer, which the group does itself.
    pub(crate) fn deeds(self) -> Option<(Deed, Deed)> {
        match self {
            Fault::KillLeader | Fault::KillFollower => Some((Deed::Kill, Deed::Start)),
            Fault::PauseLeader | Fault::PauseFollower => Some((Deed::Pause, Deed::Resume)),
            Fault::IsolateLeader | Fault::IsolateFollower => Some((Deed::Isolate, Deed::Heal)),
            Fault::SlowDiskLeader | Fault::SlowDiskFollower => Some((Deed::Slow, Deed::Fast)),
            Fault::RestartRolling => Some((Deed::Stop, Deed::Start)),
            Fault::Transfer => None,
        }
    }

    /// Whether a fault of which nothing is seen in the group did not happen: the leader must have changed.
    pub(crate) fn must_move_the_leader(self) -> bool {
        matches!(self, Fault::KillLeader | Fault::PauseLeader | Fault::IsolateLeader | Fault::Transfer)
    }

    /// The longest gaps that docs promise for a group under light load, by a client that retries.
    pub(crate) fn bounds(self) -> Bounds {
        let (p50, max, read) = match self {
            Fault::KillLeader | Fault::PauseLeader => (1.5, 3.0, 3.0),
            Fault::IsolateLeader => (2.0, 4.0, 4.0),
            Fault::SlowDiskLeader => (5.0, 8.0, 8.0),
            Fault::Transfer => (0.2, 1.0, 1.0),
            Fault::RestartRolling => (1.0, 1.0, 1.0),
            Fault::KillFollower | Fault::PauseFollower | Fault::IsolateFollower | Fault::SlowDiskFollower => {
                (0.3, 0.3, 0.3)
            }
        };
        Bounds { write_gap_p50_s: p50, write_gap_max_s: max, read_gap_max_s: read }
    }
}

/// What is promised while a fault lasts, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[expect(clippy::struct_field_names, reason = "a unit")]
pub(crate) struct Bounds {
    pub(crate) write_gap_p50_s: f64,
    pub(crate) write_gap_max_s: f64,
    pub(crate) read_gap_max_s: f64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Broker name of the group.
    pub(crate) group: String,
    /// Nameservers, `host:port`, separated by `;`.
    pub(crate) nameserver: Option<String>,
    #[serde(default)]
    pub(crate) canary: Canary,
    #[serde(rename = "step", default)]
    pub(crate) steps: Vec<Step>,
    #[serde(rename = "node", default)]
    nodes: BTreeMap<String, NodeHands>,
}

/// The load that shows what clients see.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Canary {
    pub(crate) topic: String,
    pub(crate) queues: u32,
    /// In all queues together.
    pub(crate) messages_per_s: u32,
    pub(crate) body_bytes: usize,
}

impl Default for Canary {
    fn default() -> Canary {
        Canary { topic: "RAFTMQ_DRILL".into(), queues: 4, messages_per_s: 200, body_bytes: 256 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) fault: Fault,
    #[serde(default = "one")]
    pub(crate) rounds: u32,
    /// How long the fault lasts.
    #[serde(default = "five")]
    hold_s: f64,
    /// How long the load goes on undisturbed before the next round, once the group is whole again.
    #[serde(default = "two")]
    rest_s: f64,
    /// In place of [`Fault::bounds`].
    write_gap_p50_s: Option<f64>,
    write_gap_max_s: Option<f64>,
    read_gap_max_s: Option<f64>,
}

fn one() -> u32 {
    1
}

fn two() -> f64 {
    2.0
}

fn five() -> f64 {
    5.0
}

impl Step {
    pub(crate) fn hold(&self) -> Duration {
        Duration::from_secs_f64(self.hold_s)
    }

    pub(crate) fn rest(&self) -> Duration {
        Duration::from_secs_f64(self.rest_s)
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let default = self.fault.bounds();
        Bounds {
            write_gap_p50_s: self.write_gap_p50_s.unwrap_or(default.write_gap_p50_s),
            write_gap_max_s: self.write_gap_max_s.unwrap_or(default.write_gap_max_s),
            read_gap_max_s: self.read_gap_max_s.unwrap_or(default.read_gap_max_s),
        }
    }
}

/// How things are done to one node: its configuration file where it runs on this machine, or a shell command for each deed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeHands {
    /// Relative to the scenario's file.
    pub(crate) config: Option<PathBuf>,
    kill: Option<String>,
    stop: Option<String>,
    start: Option<String>,
    pause: Option<String>,
    resume: Option<String>,
    isolate: Option<String>,
    heal: Option<String>,
    slow: Option<String>,
    fast: Option<String>,
}

impl NodeHands {
    pub(crate) fn command(&self, deed: Deed) -> Option<&str> {
        let command = match deed {
            Deed::Kill => &self.kill,
            Deed::Stop => &self.stop,
            Deed::Start => &self.start,
            Deed::Pause => &self.pause,
            Deed::Resume => &self.resume,
            Deed::Isolate => &self.isolate,
            Deed::Heal => &self.heal,
            Deed::Slow => &self.slow,
            Deed::Fast => &self.fast,
        };
        command.as_deref()
    }

    /// Whether the deed can be done: by a command, or by the process of this machine.
    pub(crate) fn can(&self, deed: Deed) -> bool {
        let by_process = matches!(deed, Deed::Kill | Deed::Stop | Deed::Start | Deed::Pause | Deed::Resume);
        self.command(deed).is_some() || (by_process && self.config.is_some())
    }
}

impl Scenario {
    /// Reads a scenario, and says what is wrong with it by key and rule.
    ///
    /// # Errors
    /// The file cannot be read, is no scenario, or breaks a rule.
    pub(crate) fn load(file: &Path) -> anyhow::Result<Scenario> {
        use anyhow::Context as _;
        let text =
            std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let mut scenario = Scenario::parse(&text).with_context(|| file.display().to_string())?;
        let beside = file.parent().unwrap_or(Path::new("."));
        for hands in scenario.nodes.values_mut() {
            if let Some(config) = &mut hands.config {
                *config = beside.join(&*config);
            }
        }
        Ok(scenario)
    }

    pub(crate) fn parse(text: &str) -> anyhow::Result<Scenario> {
        let scenario: Scenario = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> anyhow::Result<()> {
        let Canary { topic, queues, messages_per_s, body_bytes } = &self.canary;
        wire::validate_topic(topic).map_err(|error| anyhow::anyhow!("canary.topic: {error}"))?;
        anyhow::ensure!((1..=64).contains(queues), "canary.queues is {queues}; it must be 1 to 64");
        anyhow::ensure!(
            (1..=20_000).contains(messages_per_s),
            "canary.messages_per_s is {messages_per_s}; it must be 1 to 20000"
        );
        anyhow::ensure!(
            (64..=65_536).contains(body_bytes),
            "canary.body_bytes is {body_bytes}; it must be 64 to 65536"
        );
        anyhow::ensure!(!self.steps.is_empty(), "there is no [[step]]: nothing to do");
        for (number, step) in self.steps.iter().enumerate() {
            let times = [
                ("hold_s", Some(step.hold_s)),
                ("rest_s", Some(step.rest_s)),
                ("write_gap_p50_s", step.write_gap_p50_s),
                ("write_gap_max_s", step.write_gap_max_s),
                ("read_gap_max_s", step.read_gap_max_s),
            ];
            for (key, seconds) in times {
                anyhow::ensure!(
                    seconds.is_none_or(|s| (0.0..=3600.0).contains(&s)),
                    "step {}: {key} must be 0 to 3600 seconds",
                    number + 1
                );
            }
            anyhow::ensure!(
                (1..=1000).contains(&step.rounds),
                "step {}: rounds is {}; it must be 1 to 1000",
                number + 1,
                step.rounds
            );
            if let Some((deed, undo)) = step.fault.deeds() {
                anyhow::ensure!(
                    !self.nodes.is_empty(),
                    "step {} ({}): no [node.N] says how it is done",
                    number + 1,
                    step.fault.name()
                );
                for (node, hands) in &self.nodes {
                    for deed in [deed, undo] {
                        anyhow::ensure!(
                            hands.can(deed),
                            "step {} ({}): node.{node} says nothing about {}: give a command{}",
                            number + 1,
                            step.fault.name(),
                            deed.name(),
                            if matches!(deed, Deed::Isolate | Deed::Heal | Deed::Slow | Deed::Fast) {
                                ""
                            } else {
                                ", or `config` where the node runs on this machine"
                            }
                        );
                    }
                }
            }
        }
        for node in self.nodes.keys() {
            anyhow::ensure!(
                node.parse::<u64>().is_ok_and(|n| n > 0),
                "node.{node}: a node's id is a number above 0"
            );
        }
        Ok(())
    }

    /// How things are done to a node.
    pub(crate) fn hands(&self, node: u64) -> Option<&NodeHands> {
        self.nodes.get(&node.to_string())
    }

    /// A scenario of one fault, for what a command line says.
    pub(crate) fn single(mut self, fault: Fault, rounds: u32) -> Scenario {
        let template = self.steps.iter().find(|step| step.fault == fault).cloned();
        let step = template.unwrap_or(Step {
            fault,
            rounds,
            hold_s: five(),
            rest_s: two(),
            write_gap_p50_s: None,
            write_gap_max_s: None,
            read_gap_max_s: None,
        });
        self.steps = vec![Step { rounds, ..step }];
        self
    }

    /// # Errors
    /// As for [`Scenario::load`].
    pub(crate) fn recheck(self) -> anyhow::Result<Scenario> {
        self.check()?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, expect: &str) {
        let said = format!("{:#}", Scenario::parse(text).unwrap_err());
        assert!(said.contains(expect), "{said} / {expect}");
    }

    #[test]
    fn what_is_wrong_is_said_by_key_and_rule() {
        refused("", "missing field `group`");
        refused("group = 'a'", "there is no [[step]]");
        refused("group = 'a'\n[[step]]\nfault = 'explode'", "unknown variant `explode`");
        refused("group = 'a'\n[[step]]\nfault = 'transfer'\nrounds = 0", "rounds is 0; it must be 1 to 1000");
        refused(
            "group = 'a'\n[[step]]\nfault = 'transfer'\nhold_s = -1.0",
            "hold_s must be 0 to 3600 seconds",
        );
        refused("group = 'a'\n[[step]]\nfault = 'kill-leader'", "no [node.N] says how it is done");
        refused("group = 'a'\n[[step]]\nfault = 'transfer'\n[node.x]\nkill = 'k'", "node.x: a node's id");
        refused("group = 'a'\nspeed = 1\n[[step]]\nfault = 'transfer'", "unknown field `speed`");
        refused(
            "group = 'a'\n[[step]]\nfault = 'isolate-leader'\n[node.1]\nconfig = 'n.toml'",
            "node.1 says nothing about isolate: give a command",
        );
        refused("group = 'a'\n[canary]\nqueues = 0\n[[step]]\nfault = 'transfer'", "canary.queues is 0");
        refused("group = 'a'\n[canary]\ntopic = 'a b'\n[[step]]\nfault = 'transfer'", "canary.topic");
    }

    #[test]
    fn a_step_may_have_bounds_of_its_own() {
        let text = "group = 'a'\nnameserver = 'a:1;b:2'\n[[step]]\nfault = 'kill-leader'\nwrite_gap_max_s = 1.5\n[node.1]\nconfig = 'n.toml'";
        let scenario = Scenario::parse(text).unwrap();
        assert_eq!(scenario.nameserver.as_deref(), Some("a:1;b:2"));
        let bounds = scenario.steps[0].bounds();
        assert_eq!((bounds.write_gap_p50_s, bounds.write_gap_max_s, bounds.read_gap_max_s), (1.5, 1.5, 3.0));
        assert!(scenario.hands(1).unwrap().can(Deed::Pause));
        assert!(!scenario.hands(1).unwrap().can(Deed::Slow));
        assert!(scenario.hands(2).is_none());
        let single = scenario.single(Fault::KillLeader, 7);
        assert_eq!((single.steps.len(), single.steps[0].rounds), (1, 7));
        assert!((single.steps[0].bounds().write_gap_max_s - 1.5).abs() < 1e-9);
    }

    #[test]
    fn the_ready_scenarios_can_be_done() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/drills");
        let mut count = 0;
        for file in std::fs::read_dir(directory).unwrap() {
            let file = file.unwrap().path();
            let scenario = Scenario::load(&file).unwrap();
            count += 1;
            // Each node has hands, and they can do every step: to be loaded takes that.
            for node in 1..=3 {
                assert!(scenario.hands(node).is_some(), "{}: node {node}", file.display());
            }
        }
        assert!(count >= 2, "{count} scenarios");
    }
}
