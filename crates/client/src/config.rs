//! What can be set, with RocketMQ's defaults except where a reason stands beside it.

use std::time::Duration;

use crate::error::ClientError;
use crate::limits;

/// Settings of a [`crate::Client`].
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` of each nameserver. One is used, picked at random, until it fails.
    pub nameservers: Vec<String>,
    /// Second half of the client id. Two clients of one machine must not share it. None: unique.
    pub instance: Option<String>,
    /// Appended to the client id.
    pub unit: Option<String>,
    pub route_poll: Duration,
    pub heartbeat: Duration,
    pub offset_commit: Duration,
    pub rebalance: Duration,
    pub call_timeout: Duration,
    pub connect_timeout: Duration,
    /// Bytes of bodies that all producers together may have under way; further sends wait.
    pub send_bytes_in_flight_max: usize,
    /// Headers in JSON instead of RocketMQ's binary form, which is cheaper for both sides; every
    /// broker since 3.5 reads it.
    pub json_headers: bool,
}

impl ClientConfig {
    pub fn new<S: Into<String>>(nameservers: impl IntoIterator<Item = S>) -> ClientConfig {
        ClientConfig {
            nameservers: nameservers.into_iter().map(Into::into).collect(),
            instance: None,
            unit: None,
            route_poll: limits::ROUTE_POLL,
            heartbeat: limits::HEARTBEAT,
            offset_commit: limits::OFFSET_COMMIT,
            rebalance: limits::REBALANCE,
            call_timeout: limits::CALL_TIMEOUT,
            connect_timeout: limits::CONNECT_TIMEOUT,
            send_bytes_in_flight_max: limits::SEND_BYTES_IN_FLIGHT_MAX,
            json_headers: false,
        }
    }

    /// From RocketMQ's form of the list, `host:port;host:port`.
    pub fn from_list(nameservers: &str) -> ClientConfig {
        ClientConfig::new(nameservers.split([';', ',']).map(str::trim).filter(|text| !text.is_empty()))
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if self.nameservers.is_empty() {
            return Err(ClientError::refused("no nameserver is given"));
        }
        let bytes = limits::BATCH_BYTES_MAX..=limits::SEND_BYTES_IN_FLIGHT_MAX;
        if !bytes.contains(&self.send_bytes_in_flight_max) {
            return Err(ClientError::Refused(format!(
                "send_bytes_in_flight_max must be {} to {}",
                bytes.start(),
                bytes.end()
            )));
        }
        let periods = [
            ("route_poll", self.route_poll),
            ("heartbeat", self.heartbeat),
            ("offset_commit", self.offset_commit),
            ("rebalance", self.rebalance),
            ("call_timeout", self.call_timeout),
            ("connect_timeout", self.connect_timeout),
        ];
        match periods.iter().find(|(_, period)| period.is_zero()) {
            Some((name, _)) => Err(ClientError::Refused(format!("{name} is zero"))),
            None => Ok(()),
        }
    }
}

/// Settings of a [`crate::Producer`].
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// Time for one send with all its attempts.
    pub send_timeout: Duration,
    /// The most that one attempt may take of it while others could follow. None: the whole budget,
    /// as in Java, so that a broker that never answers uses it up.
    pub attempt_timeout: Option<Duration>,
    /// Attempts after the first.
    pub retries: u32,
    /// Whether a send of unknown outcome is tried again, as in Java; it may store the message twice.
    pub retry_unknown: bool,
    /// A definite refusal for want of a leader (connection refused, codes 2, 14, 1500) is tried again
    /// until the time is up, when no other broker is left to try. Java gives up after its attempts,
    /// in milliseconds if the port is closed; a group of one cluster elects in about a second.
    pub wait_for_leader: bool,
    /// Stay away from slow and failing brokers (Java: `sendLatencyEnable`). On here, off in Java: it
    /// costs two loads per send, and without it one dead leader takes a share of all first attempts.
    pub fault_tolerance: bool,
    /// Compress bodies of at least this many bytes. None (Java: 4096): never, as it costs the
    /// producer more time than the rest of the send.
    pub compress_from_bytes: Option<usize>,
    /// Sends that may be under way; further ones wait.
    pub in_flight_max: usize,
    /// Queues of a topic that the first send makes.
    pub default_topic_queues: u32,
}

impl Default for ProducerConfig {
    fn default() -> ProducerConfig {
        ProducerConfig {
            send_timeout: limits::SEND_TIMEOUT,
            attempt_timeout: None,
            retries: limits::SEND_RETRIES,
            retry_unknown: true,
            wait_for_leader: true,
            fault_tolerance: true,
            compress_from_bytes: None,
            in_flight_max: limits::SENDS_IN_FLIGHT_MAX,
            default_topic_queues: limits::DEFAULT_TOPIC_QUEUES,
        }
    }
}

impl ProducerConfig {
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if self.send_timeout.is_zero() || !(1..=limits::SENDS_IN_FLIGHT_MAX).contains(&self.in_flight_max) {
            return Err(ClientError::refused(
                "send_timeout must not be zero, in_flight_max must be 1 to 65535",
            ));
        }
        Ok(())
    }
}

/// Where a group starts in a queue for which it has no offset yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeFrom {
    /// After the newest message.
    #[default]
    Last,
    /// At the oldest message.
    First,
    /// At the first message stored at or after this time, milliseconds since 1970.
    Timestamp(u64),
}

/// Who gets a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeModel {
    /// One member of the group.
    #[default]
    Clustering,
    /// Every member. Offsets are kept in a local file, and a failed message is not tried again.
    Broadcasting,
}

/// Settings of a [`crate::PushConsumer`].
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    pub model: ConsumeModel,
    pub from: ConsumeFrom,
    pub assignment: crate::Assignment,
    /// Messages and bytes that one pull asks for.
    pub pull_messages: u32,
    pub pull_bytes: u32,
    /// Limits per queue on what is fetched and not consumed yet.
    pub flow: crate::FlowLimits,
    /// Listener calls at a time.
    pub concurrency: usize,
    /// Messages per listener call.
    pub batch: usize,
    /// Retries before a message goes to the dead-letter queue. None: 16 (orderly: no end).
    pub reconsume_times: Option<u32>,
    /// A message that its listener holds longer goes back to the broker, and its queue goes on.
    pub consume_timeout: Duration,
    /// How long a broker may hold a pull.
    pub suspend: Duration,
    /// Broadcasting: directory of the offset files. None: `~/.rocketmq_offsets` as in Java.
    pub offset_dir: Option<std::path::PathBuf>,
}

impl Default for ConsumerConfig {
    fn default() -> ConsumerConfig {
        ConsumerConfig {
            model: ConsumeModel::default(),
            from: ConsumeFrom::default(),
            assignment: crate::Assignment::default(),
            pull_messages: limits::PULL_MESSAGES,
            pull_bytes: limits::PULL_BYTES,
            flow: crate::FlowLimits {
                messages_max: limits::QUEUE_MESSAGES_MAX,
                bytes_max: limits::QUEUE_BYTES_MAX,
                span_max: Some(limits::QUEUE_SPAN_MAX),
            },
            concurrency: limits::CONSUME_CONCURRENCY,
            batch: limits::CONSUME_BATCH,
            reconsume_times: None,
            consume_timeout: limits::CONSUME_TIMEOUT,
            suspend: limits::PULL_SUSPEND,
            offset_dir: None,
        }
    }
}

impl ConsumerConfig {
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let in_range = (1..=limits::PULL_MESSAGES_MAX).contains(&self.pull_messages)
            && self.pull_bytes > 0
            && (1..=10_000).contains(&self.concurrency)
            && (1..=limits::PULL_MESSAGES_MAX as usize).contains(&self.batch)
            && self.flow.messages_max > 0
            && self.flow.bytes_max > 0;
        if !in_range {
            return Err(ClientError::refused(
                "pull_messages and batch must be 1 to 1024, concurrency 1 to 10000, pull_bytes and the flow limits above 0",
            ));
        }
        if self.suspend >= limits::PULL_TIMEOUT {
            return Err(ClientError::refused(
                "suspend must be below the 30 s after which a pull counts as lost",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_nameservers() {
        assert_eq!(ClientConfig::from_list("a:1;b:2, c:3;").nameservers, ["a:1", "b:2", "c:3"]);
        assert!(ClientConfig::from_list("").check().is_err());
        let zero = ClientConfig { heartbeat: Duration::ZERO, ..ClientConfig::from_list("a:1") };
        assert!(zero.check().expect_err("refused").to_string().contains("heartbeat"));
    }

    #[test]
    fn consumer_settings() {
        assert!(ConsumerConfig::default().check().is_ok());
        assert!(ConsumerConfig { pull_messages: 0, ..ConsumerConfig::default() }.check().is_err());
        assert!(
            ConsumerConfig { suspend: Duration::from_secs(30), ..ConsumerConfig::default() }.check().is_err()
        );
    }
}
