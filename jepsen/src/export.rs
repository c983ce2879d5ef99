//! A history as EDN, in the shape of Jepsen's own: one operation map a line, which Jepsen's, Elle's and Knossos's
//! checkers read.
//!
//! ```text
//! {:index 0, :time 81, :type :invoke, :process 3, :f :send, :value [[:send "broker-a/t/0" "3-17"]]}
//! {:index 1, :time 95, :type :ok, :process 3, :f :send, :value [[:send "broker-a/t/0" [12 "3-17"]]]}
//! ```
//! Sends and pulls are as in Jepsen's workload for Kafka (jepsen.tests.kafka): a send is `[:send key value]`, completed
//! `[:send key [offset value]]`, a poll `[:poll]`, completed `[:poll {key [[offset value] …]}]`. Registers are those of
//! Knossos with independent keys: `:f :write`, `:f :read`, `:value [key value]`. Nemeses are `:process :nemesis`,
//! `:type :info`. What no such checker knows (samples, digests, look-ups, bounds) is left out. jepsen/README.md says
//! how to read it.

use std::io::{self, Write};

use crate::history::{Action, Event, HistoryError, Kind, Op, Queue, Read};

/// Which operations are written: other checkers take one kind of history each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Sends, batches, pulls, deliveries and the drain.
    Queues,
    /// Consumer offsets.
    Offsets,
    /// Topics.
    Topics,
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("writing: {0}")]
    Write(#[from] io::Error),
}

/// Writes one part of a history as EDN; returns how many operations.
pub fn export(
    events: impl IntoIterator<Item = Result<Event, HistoryError>>,
    part: Part,
    mut out: impl Write,
) -> Result<u64, ExportError> {
    let mut index = 0;
    for event in events {
        let event = event?;
        if let Some((function, value)) = operation(&event, part) {
            let process = match event.op {
                Op::Nemesis(_) => ":nemesis".to_owned(),
                _ => event.process.to_string(),
            };
            let kind = match (&event.op, event.kind) {
                // Jepsen knows neither a success nor a failure of a nemesis.
                (Op::Nemesis(_), _) | (_, Kind::Info) => "info",
                (_, Kind::Invoke) => "invoke",
                (_, Kind::Ok) => "ok",
                (_, Kind::Fail) => "fail",
            };
            let mut lines = String::new();
            // What has no invocation in our histories gets one: other checkers pair operations.
            let paired = event.op.is_request() || matches!(event.op, Op::Nemesis(_));
            if !paired {
                lines += &line(index, event.t_ns, "invoke", &process, function, "[[:poll]]");
                index += 1;
            }
            lines += &line(index, event.t_ns, kind, &process, function, &value);
            index += 1;
            out.write_all(lines.as_bytes())?;
        }
    }
    out.flush()?;
    Ok(index)
}

fn line(index: u64, time: u64, kind: &str, process: &str, function: &str, value: &str) -> String {
    format!(
        "{{:index {index}, :time {time}, :type :{kind}, :process {process}, :f :{function}, :value {value}}}\n"
    )
}

/// `:f` and `:value`, if the part has the operation.
fn operation(event: &Event, part: Part) -> Option<(&'static str, String)> {
    let done = event.kind == Kind::Ok;
    let named =
        |key: String, value: Option<String>| format!("[{key} {}]", value.unwrap_or_else(|| "nil".into()));
    match (part, &event.op) {
        (_, Op::Nemesis(nemesis)) => {
            let targets: Vec<_> = nemesis.targets.iter().map(u64::to_string).collect();
            let function = match nemesis.action {
                Action::Start => "start",
                Action::Stop => "stop",
            };
            Some((function, format!("[{} [{}]]", text(&nemesis.fault), targets.join(" "))))
        }
        (Part::Queues, Op::Send { queue, offset, .. } | Op::Batch { queue, offset, .. }) => {
            let sends = event.op.sends().iter().zip(0..).map(|(value, at)| {
                let value = text(&value.to_string());
                match offset {
                    Some(first) => format!("[:send {} [{} {value}]]", key(queue), first.saturating_add(at)),
                    None => format!("[:send {} {value}]", key(queue)),
                }
            });
            Some(("send", format!("[{}]", sends.collect::<Vec<_>>().join(" "))))
        }
        (Part::Queues, Op::Pull { queue, messages, .. }) => {
            Some(("poll", if done { polled(queue, messages) } else { "[[:poll]]".into() }))
        }
        (Part::Queues, Op::Deliver { queue, messages, .. } | Op::Drain { queue, messages, .. }) => {
            Some(("poll", polled(queue, messages)))
        }
        (Part::Offsets, Op::Commit { group, queue, offset, .. }) => {
            Some(("write", named(text(&format!("{group} {queue}")), Some(offset.to_string()))))
        }
        (Part::Offsets, Op::Query { group, queue, offset }) => {
            Some(("read", named(text(&format!("{group} {queue}")), offset.map(|offset| offset.to_string()))))
        }
        (Part::Topics, Op::TopicWrite { broker, topic, config }) => {
            Some(("write", named(text(&format!("{broker}/{topic}")), config.as_deref().map(text))))
        }
        (Part::Topics, Op::TopicRead { broker, topic, current: true, config }) => {
            Some(("read", named(text(&format!("{broker}/{topic}")), config.as_deref().map(text))))
        }
        _ => None,
    }
}

fn key(queue: &Queue) -> String {
    text(&queue.to_string())
}

fn polled(queue: &Queue, messages: &[Read]) -> String {
    if messages.is_empty() {
        return "[[:poll {}]]".into();
    }
    let pairs = messages.iter().map(|read| format!("[{} {}]", read.offset, text(&read.value.to_string())));
    format!("[[:poll {{{} [{}]}}]]", key(queue), pairs.collect::<Vec<_>>().join(" "))
}

/// A string of EDN.
fn text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::story::Story;

    fn exported(story: &Story, part: Part) -> Vec<String> {
        let mut out = Vec::new();
        let count = export(story.events().iter().cloned().map(Ok), part, &mut out).unwrap();
        let lines: Vec<String> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(lines.len() as u64, count);
        lines
    }

    #[test]
    fn queues_are_as_in_the_workload_for_kafka() {
        let mut story = Story::new();
        story.batch("1-0 1-1", Some(4)).unknown("2-0").pulled(3, 4, "1-0 1-1").delivered("g", 4, "1-0");
        story.nemesis(1, "kill-one", Action::Start, true, vec![]).max_offset(5, 9);
        assert_eq!(
            exported(&story, Part::Queues),
            [
                r#"{:index 0, :time 1000000, :type :invoke, :process 1, :f :send, :value [[:send "a/t/0" "1-0"] [:send "a/t/0" "1-1"]]}"#,
                r#"{:index 1, :time 2000000, :type :ok, :process 1, :f :send, :value [[:send "a/t/0" [4 "1-0"]] [:send "a/t/0" [5 "1-1"]]]}"#,
                r#"{:index 2, :time 3000000, :type :invoke, :process 2, :f :send, :value [[:send "a/t/0" "2-0"]]}"#,
                r#"{:index 3, :time 4000000, :type :info, :process 2, :f :send, :value [[:send "a/t/0" "2-0"]]}"#,
                r"{:index 4, :time 5000000, :type :invoke, :process 3, :f :poll, :value [[:poll]]}",
                r#"{:index 5, :time 6000000, :type :ok, :process 3, :f :poll, :value [[:poll {"a/t/0" [[4 "1-0"] [5 "1-1"]]}]]}"#,
                r"{:index 6, :time 7000000, :type :invoke, :process 0, :f :poll, :value [[:poll]]}",
                r#"{:index 7, :time 7000000, :type :ok, :process 0, :f :poll, :value [[:poll {"a/t/0" [[4 "1-0"]]}]]}"#,
                r#"{:index 8, :time 8000000, :type :info, :process :nemesis, :f :start, :value ["kill-one" []]}"#,
            ]
        );
    }

    #[test]
    fn registers_are_as_knossos_wants_them() {
        let mut story = Story::new();
        story.committed(1, "g", 5).queried(2, "g", None);
        let lines = exported(&story, Part::Offsets);
        assert_eq!(
            lines[1],
            r#"{:index 1, :time 2000000, :type :ok, :process 1, :f :write, :value ["g a/t/0" 5]}"#
        );
        assert_eq!(
            lines[3],
            r#"{:index 3, :time 4000000, :type :ok, :process 2, :f :read, :value ["g a/t/0" nil]}"#
        );
        let write = |config: &str| Op::TopicWrite {
            broker: "a".into(),
            topic: "t".into(),
            config: Some(config.into()),
        };
        let mut story = Story::new();
        story.op(1, write("say \"8\""), Kind::Ok, write("say \"8\""));
        assert!(exported(&story, Part::Topics)[1].contains(r#":f :write, :value ["a/t" "say \"8\""]}"#));
    }
}
