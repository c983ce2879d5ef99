//! The network of a run: a bridge in a namespace of its own, and one namespace per host on it.
//!
//! ```text
//! rj<id>-hub   bridge `lan`, a port per host with the host's name, nft rules on what the bridge passes on
//! rj<id>-n1    eth0 10.77.0.1      nodes
//! rj<id>-s1    eth0 10.77.0.11     nameservers
//! rj<id>-c1    eth0 10.77.0.21     clients
//! rj<id>-admin eth0 10.77.0.31     questions of the harness: no rule ever names it
//! ```
//! The bridge has no address and the machine no link to it, so runs beside each other use the same addresses, and nothing
//! of the machine's own network is touched. All rules are in one place and are replaced in one step.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::lease::{Lease, namespace_path};
use super::shell::{run, run_with_input, text};

/// The host that no rule cuts off.
pub const ADMIN: &str = "admin";
const HUB: &str = "hub";

/// What happens to packets from one host to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub from: String,
    pub to: String,
    /// Of a hundred packets; 100 cuts the link, with address resolution and all.
    pub percent: u8,
}

impl Rule {
    /// The link in this direction is dead.
    pub fn cut(from: &str, to: &str) -> Rule {
        Rule { from: from.to_owned(), to: to.to_owned(), percent: 100 }
    }

    /// Both directions are.
    pub fn cut_both(one: &str, other: &str) -> [Rule; 2] {
        [Rule::cut(one, other), Rule::cut(other, one)]
    }

    pub fn loss(from: &str, to: &str, percent: u8) -> Rule {
        Rule { from: from.to_owned(), to: to.to_owned(), percent }
    }

    fn name(&self) -> String {
        format!("{}>{}", self.from, self.to)
    }
}

/// The namespaces and links; they go with the [`Lease`].
#[derive(Debug)]
pub struct Network {
    hub: PathBuf,
    hosts: BTreeMap<String, PathBuf>,
}

/// A host's address, by its name: a letter for the kind and a number, or `admin`.
pub fn address(host: &str) -> Ipv4Addr {
    let number = host.get(1..).and_then(|number| number.parse::<u8>().ok()).unwrap_or(0);
    let last = match host.as_bytes().first() {
        _ if host == ADMIN => 31,
        Some(b's') => 10 + number,
        Some(b'c') => 20 + number,
        _ => number,
    };
    Ipv4Addr::new(10, 77, 0, last)
}

impl Network {
    /// Makes the bridge and a namespace for each host.
    pub fn make(lease: &Lease, hosts: &[String]) -> Result<Network> {
        let hub = lease.namespace(HUB);
        run("ip", &["netns", "add", &hub])?;
        run("ip", &["-n", &hub, "link", "add", "name", "lan", "type", "bridge"])?;
        run("ip", &["-n", &hub, "link", "set", "lan", "up"])?;
        let mut network = Network { hub: namespace_path(&hub), hosts: BTreeMap::new() };
        for host in hosts {
            let name = lease.namespace(host);
            run("ip", &["netns", "add", &name])?;
            network.hosts.insert(host.clone(), namespace_path(&name));
            // Chatter of IPv6 would be counted as dropped packets, and nobody speaks it here.
            network.inside(host, "sysctl", &["-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"])?;
            run(
                "ip",
                &["-n", &name, "link", "add", "eth0", "type", "veth", "peer", "name", host, "netns", &hub],
            )?;
            run("ip", &["-n", &hub, "link", "set", host, "master", "lan", "up"])?;
            run("ip", &["-n", &name, "addr", "add", &format!("{}/24", address(host)), "dev", "eth0"])?;
            run("ip", &["-n", &name, "link", "set", "eth0", "up"])?;
            run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        }
        network.nft("add table bridge j\nadd chain bridge j f { type filter hook forward priority 0; }\n")?;
        Ok(network)
    }

    /// The path of a host's namespace.
    pub fn namespace(&self, host: &str) -> Result<&PathBuf> {
        self.hosts.get(host).with_context(|| format!("no host {host}"))
    }

    /// Runs a program in a host's namespace.
    fn inside(&self, host: &str, program: &str, arguments: &[&str]) -> Result<String> {
        let enter = format!("--net={}", text(self.namespace(host)?));
        run("nsenter", &[&[enter.as_str(), program], arguments].concat())
    }

    fn in_hub(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let enter = format!("--net={}", text(&self.hub));
        run_with_input("nsenter", &[&[enter.as_str(), program], arguments].concat(), input)
    }

    fn nft(&self, script: &str) -> Result<()> {
        self.in_hub("nft", &["-f", "-"], script).map(drop)
    }

    /// Replaces all rules in one step; what the ones before had dropped, by `from>to`.
    pub fn set(&self, rules: &[Rule]) -> Result<BTreeMap<String, u64>> {
        let dropped = self.dropped()?;
        self.nft(&script(rules))?;
        Ok(dropped)
    }

    /// IP packets that the present rules have dropped, by `from>to`.
    pub fn dropped(&self) -> Result<BTreeMap<String, u64>> {
        parse_counters(&self.in_hub("nft", &["-j", "list", "chain", "bridge", "j", "f"], "")?)
    }

    /// Packets to a host go through a thin and short pipe from now on: they are delayed, and lost where it is full.
    pub fn throttle(&self, host: &str, kilobits: u32, latency_ms: u32) -> Result<()> {
        let (rate, latency) = (format!("{kilobits}kbit"), format!("{latency_ms}ms"));
        let tbf = ["root", "tbf", "rate", &rate, "burst", "16kb", "latency", &latency];
        self.in_hub("tc", &[&["qdisc", "replace", "dev", host], &tbf[..]].concat(), "").map(drop)
    }

    /// Takes the pipe away; how many packets it had made wait or had dropped.
    pub fn unthrottle(&self, host: &str) -> Result<u64> {
        let shown = self.in_hub("tc", &["-s", "-j", "qdisc", "show", "dev", host], "")?;
        self.in_hub("tc", &["qdisc", "del", "dev", host, "root"], "")?;
        let shown: Value = serde_json::from_str(&shown).context("tc's answer")?;
        let of = |qdisc: &Value, key: &str| qdisc[key].as_u64().unwrap_or(0);
        let all = shown.as_array().map_or(&[][..], Vec::as_slice);
        Ok(all.iter().map(|qdisc| of(qdisc, "overlimits") + of(qdisc, "drops")).sum())
    }
}

/// All rules as one transaction. The counter of a rule counts IP packets only: that address resolution was cut off is no
/// proof that anybody spoke.
fn script(rules: &[Rule]) -> String {
    let mut script = "flush chain bridge j f\n".to_owned();
    for rule in rules {
        let name = rule.name();
        let link = format!("add rule bridge j f iifname \"{}\" oifname \"{}\"", rule.from, rule.to);
        let of_loss = match rule.percent {
            100.. => String::new(),
            percent => format!(" numgen random mod 100 < {percent}"),
        };
        let _ = writeln!(script, "{link} ether type ip{of_loss} counter drop comment \"{name}\"");
        if rule.percent >= 100 {
            let _ = writeln!(script, "{link} drop");
        }
    }
    script
}

fn parse_counters(listed: &str) -> Result<BTreeMap<String, u64>> {
    let listed: Value = serde_json::from_str(listed).context("nft's answer")?;
    let Some(items) = listed["nftables"].as_array() else { bail!("nft's answer has no list: {listed}") };
    let mut counters = BTreeMap::new();
    for rule in items.iter().filter_map(|item| item.get("rule")) {
        let Some(name) = rule["comment"].as_str() else { continue };
        let parts = rule["expr"].as_array().map_or(&[][..], Vec::as_slice);
        let packets = parts.iter().find_map(|part| part["counter"]["packets"].as_u64());
        *counters.entry(name.to_owned()).or_insert(0) += packets.unwrap_or(0);
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_their_addresses() {
        let all = ["n1", "n3", "s2", "c1", "admin"].map(|host| address(host).to_string());
        assert_eq!(all, ["10.77.0.1", "10.77.0.3", "10.77.0.12", "10.77.0.21", "10.77.0.31"]);
    }

    #[test]
    fn rules_are_one_transaction() {
        let rules = [Rule::cut("n1", "n2"), Rule::loss("n2", "c1", 20)];
        let lines: Vec<String> = script(&rules).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "flush chain bridge j f");
        assert_eq!(
            lines[1],
            r#"add rule bridge j f iifname "n1" oifname "n2" ether type ip counter drop comment "n1>n2""#
        );
        assert_eq!(lines[2], r#"add rule bridge j f iifname "n1" oifname "n2" drop"#);
        assert!(lines[3].contains("numgen random mod 100 < 20 counter drop"));
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn counters_are_read() {
        let listed = r#"{"nftables": [{"metainfo": {}}, {"chain": {"name": "f"}},
            {"rule": {"comment": "n1>n2", "expr": [{"match": {}}, {"counter": {"packets": 6, "bytes": 336}}, {"drop": null}]}},
            {"rule": {"expr": [{"match": {}}, {"drop": null}]}}]}"#;
        assert_eq!(parse_counters(listed).unwrap(), BTreeMap::from([("n1>n2".to_owned(), 6)]));
    }
}
