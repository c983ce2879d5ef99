//! A client program that prints one JSON object per line: tests/java's and tests/go's have the same lines.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::history::{Delivery, Send};
use crate::process::Process;
use crate::wait;

/// A line of a scenario's output.
#[derive(Debug, Clone)]
pub enum Event {
    Send(Send),
    Delivery(Delivery),
    Assigned(Assigned),
    /// Where the producer of a mode sends to now: group → address.
    Routes(String, BTreeMap<String, String>),
    /// `started`, `done`, and all that only some scenarios print.
    Other(Value),
}

/// The queues of its topic that a consumer holds now.
#[derive(Debug, Clone)]
pub struct Assigned {
    pub topic: String,
    pub group: String,
    /// As `broker/queue`.
    pub queues: Vec<String>,
}

impl Event {
    fn parse(line: &str) -> Result<Event> {
        let value: Value = serde_json::from_str(line)?;
        let text = |name: &str| value[name].as_str().unwrap_or("").to_owned();
        Ok(match value["event"].as_str() {
            Some("send") => Event::Send(serde_json::from_value(value)?),
            Some("deliver") => Event::Delivery(serde_json::from_value(value)?),
            Some("assigned") => Event::Assigned(Assigned {
                topic: text("topic"),
                group: text("group"),
                queues: serde_json::from_value(value["queues"].clone())?,
            }),
            Some("routes") => {
                let mut routes: BTreeMap<String, String> = serde_json::from_value(value)?;
                routes.remove("event");
                let mode = routes.remove("mode").context("routes without a mode")?;
                Event::Routes(mode, routes)
            }
            Some(_) => Event::Other(value),
            None => bail!("no event"),
        })
    }
}

/// A running client program. Its lines are also kept in NAME.jsonl beside its log.
pub struct Scenario {
    process: Process,
    stdin: Option<ChildStdin>,
    events: Arc<Mutex<Vec<Event>>>,
    reader: Option<thread::JoinHandle<Result<()>>>,
}

impl Scenario {
    /// Starts `command`, with its files in `dir` under `name`; `title` is what errors call it.
    pub fn start(command: &mut Command, title: &str, dir: &Path, name: &str) -> Result<Scenario> {
        let (process, stdin, stdout) =
            Process::start_piped(title, command, &dir.join(format!("{name}.log")))?;
        let events = Arc::new(Mutex::new(Vec::new()));
        let mut copy = File::create(dir.join(format!("{name}.jsonl")))?;
        let sink = events.clone();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let line = line?;
                writeln!(copy, "{line}")?;
                // Client libraries print lines of their own.
                if line.starts_with("{\"event\"") {
                    let event = Event::parse(&line).with_context(|| format!("not an event: {line}"))?;
                    sink.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                }
            }
            Ok(())
        });
        Ok(Scenario { process, stdin: Some(stdin), events, reader: Some(reader) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has printed so far.
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    pub fn sends(&self) -> Vec<Send> {
        let send = |e: &Event| if let Event::Send(send) = e { Some(send.clone()) } else { None };
        self.lock().iter().filter_map(send).collect()
    }

    /// The sends to one topic, of a program that sends to several.
    pub fn sends_to(&self, topic: &str) -> Vec<Send> {
        let mut sends = self.sends();
        sends.retain(|send| send.topic == topic);
        sends
    }

    pub fn deliveries(&self) -> Vec<Delivery> {
        let delivery = |e: &Event| if let Event::Delivery(d) = e { Some(d.clone()) } else { None };
        self.lock().iter().filter_map(delivery).collect()
    }

    /// The deliveries to one consumer group, of a program that consumes for several.
    pub fn deliveries_to(&self, group: &str) -> Vec<Delivery> {
        let mut deliveries = self.deliveries();
        deliveries.retain(|delivery| delivery.group == group);
        deliveries
    }

    /// The lines that have no type of their own, by what they call themselves.
    pub fn others(&self, event: &str) -> Vec<Value> {
        let other = |e: &Event| match e {
            Event::Other(value) if value["event"] == event => Some(value.clone()),
            _ => None,
        };
        self.lock().iter().filter_map(other).collect()
    }

    /// The queues that a consumer holds now.
    pub fn assigned(&self) -> Vec<String> {
        self.newest_assigned(|_| true)
    }

    /// The queues that the consumer of one group holds now, of a program that consumes for several.
    pub fn assigned_to(&self, group: &str) -> Vec<String> {
        self.newest_assigned(|assigned| assigned.group == group)
    }

    fn newest_assigned(&self, wanted: impl Fn(&Assigned) -> bool) -> Vec<String> {
        let assigned = |e: &Event| match e {
            Event::Assigned(assigned) if wanted(assigned) => Some(assigned.queues.clone()),
            _ => None,
        };
        self.lock().iter().rev().find_map(assigned).unwrap_or_default()
    }

    /// Where the producers of a `failover-producer` send to now, by mode.
    pub fn routes(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let routes = |e: &Event| match e {
            Event::Routes(mode, routes) => Some((mode.clone(), routes.clone())),
            _ => None,
        };
        self.lock().iter().filter_map(routes).collect()
    }

    /// Polls `probe` until it holds; fails at once when the program has ended with an error.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut(&Scenario) -> bool,
    ) -> Result<()> {
        let title = format!("{what} ({})", self.process.name());
        wait::until_true(&title, limit, || match self.process.exited()? {
            Some(status) if !status.success() => Err(wait::final_error(status.to_string())),
            _ => Ok(probe(self)),
        })
    }

    /// Waits until the program says that its clients have started.
    pub fn wait_started(&mut self) -> Result<()> {
        self.wait_until("its start", Duration::from_secs(30), |s| !s.others("started").is_empty())
    }

    /// Waits until a consumer holds `count` queues.
    pub fn wait_assigned(&mut self, count: usize) -> Result<()> {
        let what = format!("{count} assigned queues");
        // Clients rebalance every 20 s when nothing tells them to.
        self.wait_until(&what, Duration::from_secs(45), |scenario| scenario.assigned().len() == count)
    }

    /// Ends scenarios that go on until their standard input closes.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for the end of the program, which must be a success; returns its last line that is no send, delivery,
    /// assignment or route: `done`, `latency`, `throughput`.
    pub fn join(&mut self, limit: Duration) -> Result<Value> {
        let status = self.process.wait(limit)?;
        let reader = self.reader.take().context("joined twice")?;
        reader.join().map_err(|_| anyhow!("the reader of {} panicked", self.process.name()))??;
        ensure!(status.success(), "{}: {status}", self.process.name());
        let last = self
            .events()
            .into_iter()
            .rev()
            .find_map(|e| if let Event::Other(v) = e { Some(v) } else { None });
        last.with_context(|| format!("{} printed no result", self.process.name()))
    }

    /// [`Scenario::close_stdin`], then [`Scenario::join`].
    pub fn finish(&mut self) -> Result<Value> {
        self.close_stdin();
        self.join(Duration::from_secs(40))
    }

    /// kill -9 of the client.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }
}
