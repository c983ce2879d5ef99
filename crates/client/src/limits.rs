//! Every number that bounds or paces this crate. Where the Java client has the same setting, the
//! name of its field is given and the value is its default (protocol.md 10) unless a reason stands
//! beside it.

use std::time::Duration;

/// How often routes of known topics are asked again (`pollNameServerInterval`).
pub const ROUTE_POLL: Duration = Duration::from_secs(30);
/// How often every broker hears from us (`heartbeatBrokerInterval`).
pub const HEARTBEAT: Duration = Duration::from_secs(30);
/// How often consumer offsets are stored (`persistConsumerOffsetInterval`).
pub const OFFSET_COMMIT: Duration = Duration::from_secs(5);
/// An offset that did not change is sent again after this many rounds, so that a broker that lost
/// it (Apache copies offsets to its slaves every 10 s) hears of it again.
pub const OFFSET_REPEAT_ROUNDS: u32 = 6;
/// Time between two rebalances that nobody asked for (`rebalanceService.waitInterval`).
pub const REBALANCE: Duration = Duration::from_secs(20);
/// Time between two rebalances at least, also when notices pour in or the last one failed
/// (`rebalanceService.minInterval`).
pub const REBALANCE_MIN: Duration = Duration::from_secs(1);
/// How long a new consumer looks for its retry topic each second; later, with each rebalance.
pub const RETRY_TOPIC_AWAITED: Duration = Duration::from_mins(1);
/// Time for one request that is neither a send nor a pull (`mqClientApiTimeout`).
pub const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// A nameserver that has not answered for so long is not waited for alone: the next one is asked too. It answers from memory,
/// in well under a millisecond; Java waits for [`CALL_TIMEOUT`], which takes a client past an election of half a second.
pub const NAMESERVER_PATIENCE: Duration = Duration::from_millis(300);
/// Time for a TCP connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long `shutdown` waits for what is under way.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// A route that was asked less than this ago is not asked again on demand: many senders that find a
/// broker gone ask once.
pub const ROUTE_FRESH: Duration = Duration::from_millis(200);
/// Topics that one client follows; each costs a request per [`ROUTE_POLL`].
pub const TOPICS_MAX: usize = 10_000;
/// Producers and consumers of one client.
pub const GROUPS_MAX: usize = 1_000;
/// Requests from servers that wait for their turn; more are dropped (brokers repeat them).
pub const NOTICES_MAX: usize = 256;
/// Messages that administrators have consumed directly (309) at a time.
pub const DIRECT_CALLS_MAX: usize = 16;

/// Budget of one send, shared by all its attempts (`sendMsgTimeout`).
pub const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// Attempts after the first (`retryTimesWhenSendFailed`).
pub const SEND_RETRIES: u32 = 2;
/// Pause before a send goes to the broker that just failed it, as there is no other: doubles from the
/// first to the second. An election takes about a second.
pub const SEND_PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(200));
/// A failed send asks for the topic's route in the background, at most this often.
pub const ROUTE_AFTER_FAILURE: Duration = Duration::from_millis(250);
/// A send asks for the topic's route in the background whenever it has waited so long, so that what follows it finds a new
/// leader before this one has run out of time. An election takes about a second.
pub const ROUTE_WHILE_WAITING: Duration = Duration::from_millis(400);
/// So often it is asked for at that pace, and each second after that: an election is over by then, and a slow broker would have all
/// its clients ask for ever.
pub const ROUTE_ASKED_SOON: u32 = 12;
pub const ROUTE_AFTER_MANY: Duration = Duration::from_secs(1);
/// Submitted messages that wait for the producer's task; each holds a permit of `in_flight_max`.
pub const SUBMIT_QUEUE: usize = 1024;
/// Largest body of a message (`maxMessageSize`).
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest properties text; its length travels in 16 signed bits (protocol.md 4.1).
pub const PROPERTIES_BYTES_MAX: usize = 32_767;
/// Bodies from this size are compressed when compression is on (`compressMsgBodyOverHowmuch`).
pub const COMPRESS_FROM_BYTES: usize = 4096;
/// zlib level (`compressLevel`).
pub const COMPRESS_LEVEL: u32 = 5;
/// Sends under way per producer (`clientAsyncSemaphoreValue`).
pub const SENDS_IN_FLIGHT_MAX: usize = 65_535;
/// Bytes of bodies under way per client. Java has no such bound; without it 65,535 sends of
/// 4 MiB would be 256 GiB.
pub const SEND_BYTES_IN_FLIGHT_MAX: usize = 64 * 1024 * 1024;
/// Bytes that may wait on one connection before `net` takes its peer for a slow reader and resets it;
/// above what producers keep under way.
pub const OUTBOUND_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The most that a connection may take within a send while another broker could be tried. Java
/// spends the whole budget there; nothing has been sent yet, so giving up early is safe.
pub const SEND_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Queues of a topic that is made by its first send (`defaultTopicQueueNums`).
pub const DEFAULT_TOPIC_QUEUES: u32 = 4;
/// Bytes of one batch request, as [`MESSAGE_BYTES_MAX`] bounds its body as a whole.
pub const BATCH_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Messages of one batch request. A broker appends a batch in one piece; Java sets no number, this
/// one keeps a batch of empty messages below a few milliseconds.
pub const BATCH_MESSAGES_MAX: usize = 4096;

/// A send that took at least `LATENCY_STEPS[i].0` ms makes its broker unavailable for
/// `LATENCY_STEPS[i].1` ms (MQFaultStrategy: latencyMax, notAvailableDuration).
pub const LATENCY_STEPS: [(u64, u64); 7] =
    [(50, 0), (100, 0), (550, 2000), (1800, 5000), (3000, 6000), (5000, 10_000), (15_000, 30_000)];
/// What a failed send counts as in that table, however quickly it failed (MQFaultStrategy
/// `updateFaultItem` with isolation).
pub const LATENCY_OF_FAILURE_MS: u64 = 10_000;

/// Messages per pull (`pullBatchSize`).
pub const PULL_MESSAGES: u32 = 32;
/// Bytes per pull (`pullBatchSizeInBytes`).
pub const PULL_BYTES: u32 = 256 * 1024;
/// Messages that one pull may ask for.
pub const PULL_MESSAGES_MAX: u32 = 1024;
/// How long a broker may hold a pull (`brokerSuspendMaxTimeMillis`).
pub const PULL_SUSPEND: Duration = Duration::from_secs(15);
/// How long a pull may take in all (`consumerTimeoutMillisWhenSuspend`).
pub const PULL_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after the first of several failed pulls; doubles up to the next. Java always waits for that
/// one; a leader that moved is found in the route long before.
pub const PULL_RETRY_FIRST: Duration = Duration::from_millis(100);
/// Pause after a failed pull (`pullTimeDelayMillsWhenException`).
pub const PULL_RETRY: Duration = Duration::from_secs(1);
/// Pause after code 215 (`PULL_TIME_DELAY_MILLS_WHEN_BROKER_FLOW_CONTROL`).
pub const PULL_RETRY_FLOW_CONTROL: Duration = Duration::from_millis(20);
/// Messages of one queue fetched and not yet consumed (`pullThresholdForQueue`).
pub const QUEUE_MESSAGES_MAX: usize = 1000;
/// Bytes of them (`pullThresholdSizeForQueue`).
pub const QUEUE_BYTES_MAX: usize = 100 * 1024 * 1024;
/// Span between their lowest and highest offset (`consumeConcurrentlyMaxSpan`).
pub const QUEUE_SPAN_MAX: u64 = 2000;
/// Listener calls under way per consumer (`consumeThreadMax`).
pub const CONSUME_CONCURRENCY: usize = 20;
/// Messages per listener call (`consumeMessageBatchMaxSize`).
pub const CONSUME_BATCH: usize = 1;
/// Listener calls that wait for a free worker.
pub const CONSUME_QUEUE: usize = 1024;
/// A message whose listener call takes longer goes back to the broker (`consumeTimeout`).
pub const CONSUME_TIMEOUT: Duration = Duration::from_mins(15);
/// Delay level at which it does (ProcessQueue.cleanExpiredMsg).
pub const CONSUME_TIMEOUT_DELAY_LEVEL: i32 = 3;
/// Retries before the dead-letter queue when the consumer sets none (`maxReconsumeTimes` = -1).
pub const RECONSUME_TIMES: i32 = 16;
/// Delay level of the first retry; later ones add one each (protocol.md 6).
pub const RETRY_DELAY_LEVEL: i32 = 3;
/// Pause before a message is consumed again that could not be sent back
/// (ConsumeMessageConcurrentlyService.submitConsumeRequestLater).
pub const SEND_BACK_RETRY: Duration = Duration::from_secs(5);
/// Time for code 36.
pub const SEND_BACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Orderly: how often locks are renewed (`rebalance.lockInterval`).
pub const LOCK_RENEW: Duration = Duration::from_secs(20);
/// Orderly: how long a lock counts without a renewal (`rebalance.lockMaxLiveTime`).
pub const LOCK_LIFE: Duration = Duration::from_secs(30);
/// Orderly: pause before a failed message is tried again (`suspendCurrentQueueTimeMillis`).
pub const ORDERLY_RETRY: Duration = Duration::from_secs(1);
/// Largest body after decompression; what is larger is delivered as it came, with its flag.
pub const INFLATED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Queues that one pull consumer keeps positions for.
pub const POSITIONS_MAX: usize = 100_000;

/// Messages that one key query returns at most (protocol.md 3.3).
pub const QUERY_MAX: u32 = 64;

const _: () = {
    assert!(REBALANCE_MIN.as_millis() < REBALANCE.as_millis());
    assert!(PULL_SUSPEND.as_millis() < PULL_TIMEOUT.as_millis());
    assert!(LOCK_RENEW.as_millis() < LOCK_LIFE.as_millis());
    assert!(PULL_MESSAGES <= PULL_MESSAGES_MAX);
    assert!(SEND_BYTES_IN_FLIGHT_MAX >= 2 * BATCH_BYTES_MAX);
    assert!(SEND_BYTES_IN_FLIGHT_MAX <= u32::MAX as usize);
    assert!(OUTBOUND_BYTES_MAX >= 2 * SEND_BYTES_IN_FLIGHT_MAX);
    assert!(NAMESERVER_PATIENCE.as_millis() < CALL_TIMEOUT.as_millis());
    assert!(SEND_CONNECT_TIMEOUT.as_millis() < SEND_TIMEOUT.as_millis());
    assert!(INFLATED_BYTES_MAX >= MESSAGE_BYTES_MAX);
    let mut i = 1;
    while i < LATENCY_STEPS.len() {
        assert!(LATENCY_STEPS[i - 1].0 < LATENCY_STEPS[i].0 && LATENCY_STEPS[i - 1].1 <= LATENCY_STEPS[i].1);
        i += 1;
    }
};
