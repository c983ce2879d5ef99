//! What this node says of itself: 26 its configuration, 28 its state, 907 its replication (protocol.md 8.2, 8.3). Each
//! node answers for itself; tools ask all of them.

use std::collections::BTreeMap;

use serde::Serialize;
use wire::{
    Body, DataVersion, GetBrokerConfigResponse, KvTable, LogPosition, QueueOffset, RemotingCommand, VERSION,
    java_properties, to_json,
};

use crate::config::{BrokerConfig, GroupConfig};
use crate::handlers::step::success;
use crate::settings::Settings;
use crate::stats::{NodeStats, Rates, Stats};

/// The name of [`VERSION`].
const VERSION_NAME: &str = "V5_3_3";

/// What 28 shows beside the counters.
#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    pub(crate) now_ms: u64,
    /// Whether the group runs on this node.
    pub(crate) active: bool,
    /// The directory of the log, and the bytes of its file system.
    pub(crate) log_path: String,
    /// Of the machine.
    pub(crate) memory_bytes: u64,
    pub(crate) disk_total_bytes: u64,
    pub(crate) disk_free_bytes: u64,
    pub(crate) log_begin: LogPosition,
    pub(crate) log_end: LogPosition,
    /// Bytes of the log that are not fsynced here, and not yet indexed.
    pub(crate) unsynced_bytes: u64,
    pub(crate) unindexed_bytes: u64,
    /// Store time of the oldest message; `None`: the log holds none.
    pub(crate) earliest_message_ms: Option<u64>,
    /// Of each level of delay, from 1: below which offset all is delivered, and the next offset.
    pub(crate) delays: Vec<(QueueOffset, QueueOffset)>,
    /// Sends that are under way, and how many there may be.
    pub(crate) sends: (usize, usize),
    /// Pulls that are held, and how many there may be.
    pub(crate) pulls: (usize, usize),
}

/// 28. Tools parse every key of protocol.md 8.3 and fail where one is missing; what has no counterpart here is 0.
pub(crate) fn runtime(stats: &Stats, facts: &NodeFacts, request: &RemotingCommand) -> RemotingCommand {
    success(request).with_body(KvTable { table: runtime_table(&stats.node(), facts) }.encode())
}

fn runtime_table(stats: &NodeStats, facts: &NodeFacts) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    let mut put = |key: &str, value: String| {
        table.insert(key.to_owned(), value);
    };
    put("bootTimestamp", stats.boot_ms.to_string());
    put("runtime", lifetime(facts.now_ms.saturating_sub(stats.boot_ms)));
    put("totalMemKBytes", (facts.memory_bytes >> 10).to_string());
    put("brokerActive", facts.active.to_string());
    put("brokerVersion", VERSION.to_string());
    put("brokerVersionDesc", VERSION_NAME.to_owned());

    put("putMessageTimesTotal", stats.put_messages.to_string());
    put("putMessageFailedTimes", stats.put_failed.to_string());
    put("putMessageSizeTotal", stats.put_bytes.to_string());
    put("putMessageAverageSize", average(stats.put_bytes, stats.put_messages));
    put("putMessageDistributeTime", stats.put_distribution.clone());
    put("putMessageEntireTimeMax", stats.put_max_ms.to_string());
    put("getMessageEntireTimeMax", stats.get_max_ms.to_string());
    put("putLatency99", format!("{:.2}", stats.put_p99_ms));
    put("putLatency999", format!("{:.2}", stats.put_p999_ms));
    let rates = |f: fn(&Rates<f64>) -> f64| stats.rates.map(|rate| format!("{:.2}", f(&rate))).join(" ");
    put("putTps", rates(|r| r.put));
    put("getFoundTps", rates(|r| r.found));
    put("getMissTps", rates(|r| r.missed));
    put("getTotalTps", rates(|r| r.found + r.missed));
    put("getTransferredTps", rates(|r| r.got));
    // As RocketMQ 4 spells it; its tools and the exporter still do.
    put("getTransferedTps", rates(|r| r.got));
    let days = ["YesterdayMorning", "TodayMorning", "TodayNow"];
    for (i, day) in days.iter().enumerate() {
        put(&format!("msgPutTotal{day}"), stats.put_totals[i].to_string());
        put(&format!("msgGetTotal{day}"), stats.get_totals[i].to_string());
    }

    let used = facts.disk_total_bytes.saturating_sub(facts.disk_free_bytes);
    let ratio = format!("{:.4}", used as f64 / facts.disk_total_bytes.max(1) as f64);
    put("commitLogDiskRatio", ratio.clone());
    put(&format!("commitLogDiskRatio_{}", facts.log_path), ratio.clone());
    put("consumeQueueDiskRatio", ratio);
    put(
        "commitLogDirCapacity",
        format!("Total : {}, Free : {}.", bytes(facts.disk_total_bytes), bytes(facts.disk_free_bytes)),
    );
    put("commitLogMinOffset", facts.log_begin.to_string());
    put("commitLogMaxOffset", facts.log_end.to_string());
    put("dispatchBehindBytes", facts.unindexed_bytes.to_string());
    put("remainHowManyDataToFlush", bytes(facts.unsynced_bytes));
    put("remainHowManyDataToCommit", bytes(0));
    put("earliestMessageTimeStamp", facts.earliest_message_ms.unwrap_or(facts.now_ms).to_string());

    let pools = [
        ("send", facts.sends),
        ("pull", facts.pulls),
        ("query", (0, 0)),
        ("litePull", (0, 0)),
        ("ack", (0, 0)),
    ];
    for (pool, (size, capacity)) in pools {
        put(&format!("{pool}ThreadPoolQueueSize"), size.to_string());
        put(&format!("{pool}ThreadPoolQueueCapacity"), capacity.to_string());
        put(&format!("{pool}ThreadPoolQueueHeadWaitTimeMills"), "0".to_owned());
    }
    let nothing = [
        "EndTransactionQueueSize",
        "EndTransactionThreadPoolQueueCapacity",
        "dispatchMaxBuffer",
        "pageCacheLockTimeMills",
        "remainTransientStoreBufferNumbs",
        "startAcceptSendRequestTimeStamp",
        "timerReadBehind",
        "timerOffsetBehind",
        "timerCongestNum",
    ];
    for key in nothing {
        put(key, "0".to_owned());
    }
    for (level, (base, next)) in (1..).zip(&facts.delays) {
        put(&format!("scheduleMessageOffset_{level}"), format!("{base},{next}"));
    }
    put("timerEnqueueTps", "0.0".to_owned());
    put("timerDequeueTps", "0.0".to_owned());
    table
}

fn lifetime(ms: u64) -> String {
    let seconds = ms / 1000;
    format!(
        "[ {} days, {} hours, {} minutes, {} seconds ]",
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn average(sum: u64, count: u64) -> String {
    format!("{:.1}", sum as f64 / count.max(1) as f64)
}

/// "12 B", "1.5 KiB" (MixAll.humanReadableByteCount).
fn bytes(count: u64) -> String {
    if count < 1024 {
        return format!("{count} B");
    }
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = (count.ilog2() / 10) as usize;
    format!("{:.1} {}", count as f64 / (1u64 << (10 * power)) as f64, units[power - 1])
}

/// 26: the configuration as properties. `version`: another one after every change.
pub(crate) fn config(
    table: &[(&'static str, String)],
    version: u64,
    request: &RemotingCommand,
) -> RemotingCommand {
    let version = DataVersion { counter: 0, state_version: 0, timestamp: version as i64 };
    let version = String::from_utf8_lossy(&version.encode()).into_owned();
    let text = java_properties::write(table.iter().map(|(key, value)| (*key, value.as_str())));
    success(request).with_header(&GetBrokerConfigResponse { version }).with_body(text)
}

/// The configuration under RocketMQ's names, as it is now.
pub(crate) fn config_table(
    config: &BrokerConfig,
    group: &GroupConfig,
    settings: &Settings,
    broker_id: u64,
) -> Vec<(&'static str, String)> {
    let advertised = group.advertised();
    let (ip, port) = advertised.rsplit_once(':').unwrap_or((&advertised, ""));
    vec![
        ("accessMessageInMemoryMaxRatio", group.in_memory_percent.to_string()),
        ("aclEnable", "false".into()),
        ("autoCreateSubscriptionGroup", settings.auto_create_group().to_string()),
        ("autoCreateTopicEnable", settings.auto_create_topic().to_string()),
        ("brokerClusterName", config.cluster.clone()),
        ("brokerIP1", ip.into()),
        ("brokerIP2", ip.into()),
        ("brokerId", broker_id.to_string()),
        ("brokerName", group.name.clone()),
        ("brokerPermission", settings.permission().to_string()),
        ("brokerRole", if broker_id == 0 { "SYNC_MASTER" } else { "SLAVE" }.into()),
        // The number of processors under the name by which exportMetrics asks for it.
        ("clientCallbackExecutorThreads", processors().to_string()),
        ("defaultTopicQueueNums", group.default_topic_queues.to_string()),
        ("enablePropertyFilter", group.property_filter.to_string()),
        ("filterServerNums", "0".into()),
        ("flushDiskType", "SYNC_FLUSH".into()),
        ("listenPort", port.into()),
        ("longPollingEnable", "true".into()),
        ("mapedFileSizeCommitLog", group.segment_bytes.to_string()),
        ("maxMessageSize", config.limits.message_bytes.to_string()),
        ("messageDelayLevel", group.delay_levels.to_string()),
        ("msgTraceTopicName", wire::topic::TRACE.into()),
        ("namesrvAddr", config.nameservers.join(";")),
        ("recallMessageEnable", group.recall.to_string()),
        ("regionId", config.region.clone()),
        ("rejectTransactionMessage", "false".into()),
        ("slaveReadEnable", settings.follower_reads().to_string()),
        ("storePathCommitLog", config.data.join(&group.name).join("log").display().to_string()),
        ("storePathRootDir", config.data.join(&group.name).display().to_string()),
        ("timerMaxDelaySec", (group.timer_max_delay_ms / 1000).to_string()),
        ("traceOn", config.trace_on.to_string()),
        ("traceTopicEnable", "false".into()),
        ("transferMsgByHeap", "true".into()),
        ("useServerSideResetOffset", group.server_side_reset.to_string()),
        ("useTLS", "false".into()),
    ]
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// How far the replicas are, as 907 shows it.
#[derive(Clone, Debug)]
pub(crate) enum HaStatus {
    /// At the leader.
    Leader { log_end: LogPosition, followers: Vec<HaFollower> },
    /// At a follower; the leader's address, if there is one.
    Follower { leader: Option<String>, log_end: LogPosition, now_ms: u64 },
}

#[derive(Clone, Debug)]
pub(crate) struct HaFollower {
    pub(crate) addr: String,
    /// The end of what it has acknowledged; at most the leader's.
    pub(crate) acknowledged: LogPosition,
    /// Whether it lacks nothing that is committed.
    pub(crate) in_sync: bool,
}

/// 907.
pub(crate) fn ha_status(status: &HaStatus, request: &RemotingCommand) -> RemotingCommand {
    success(request).with_body(to_json(&HaRuntimeInfo::from(status)))
}

/// `HARuntimeInfo` of RocketMQ.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct HaRuntimeInfo {
    ha_client_runtime_info: HaClientRuntimeInfo,
    ha_connection_info: Vec<HaConnectionRuntimeInfo>,
    in_sync_slave_nums: i32,
    master: bool,
    master_commit_log_max_offset: i64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct HaClientRuntimeInfo {
    activated: bool,
    last_read_timestamp: i64,
    last_write_timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    master_addr: Option<String>,
    master_flush_offset: i64,
    max_offset: i64,
    transferred_byte_in_second: i64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct HaConnectionRuntimeInfo {
    addr: String,
    diff: i64,
    in_sync: bool,
    slave_ack_offset: i64,
    transfer_from_where: i64,
    transferred_byte_in_second: i64,
}

impl From<&HaStatus> for HaRuntimeInfo {
    fn from(status: &HaStatus) -> HaRuntimeInfo {
        match status {
            HaStatus::Leader { log_end, followers } => HaRuntimeInfo {
                master: true,
                master_commit_log_max_offset: log_end.to_wire(),
                in_sync_slave_nums: followers.iter().filter(|follower| follower.in_sync).count() as i32,
                ha_connection_info: followers
                    .iter()
                    .map(|follower| HaConnectionRuntimeInfo {
                        addr: follower.addr.clone(),
                        diff: log_end.to_wire() - follower.acknowledged.to_wire(),
                        in_sync: follower.in_sync,
                        slave_ack_offset: follower.acknowledged.to_wire(),
                        transfer_from_where: follower.acknowledged.to_wire(),
                        transferred_byte_in_second: 0,
                    })
                    .collect(),
                ..HaRuntimeInfo::default()
            },
            HaStatus::Follower { leader, log_end, now_ms } => HaRuntimeInfo {
                ha_client_runtime_info: HaClientRuntimeInfo {
                    activated: leader.is_some(),
                    last_read_timestamp: *now_ms as i64,
                    last_write_timestamp: *now_ms as i64,
                    master_addr: leader.clone(),
                    master_flush_offset: log_end.to_wire(),
                    max_offset: log_end.to_wire(),
                    transferred_byte_in_second: 0,
                },
                ..HaRuntimeInfo::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wire::RequestCode;

    use super::*;

    /// Every key that tools, dashboard and exporter read (protocol.md 8.3).
    const KEYS: &str = "bootTimestamp runtime putMessageEntireTimeMax putMessageTimesTotal putMessageFailedTimes \
        putMessageSizeTotal putMessageDistributeTime putMessageAverageSize dispatchMaxBuffer getMessageEntireTimeMax \
        putTps getFoundTps getMissTps getTotalTps getTransferredTps getTransferedTps putLatency99 putLatency999 \
        commitLogDiskRatio commitLogDiskRatio_/d/g/log consumeQueueDiskRatio commitLogMinOffset commitLogMaxOffset \
        brokerActive brokerVersionDesc brokerVersion msgPutTotalYesterdayMorning msgPutTotalTodayMorning \
        msgPutTotalTodayNow msgGetTotalYesterdayMorning msgGetTotalTodayMorning msgGetTotalTodayNow \
        dispatchBehindBytes pageCacheLockTimeMills earliestMessageTimeStamp startAcceptSendRequestTimeStamp \
        timerReadBehind timerOffsetBehind timerCongestNum timerEnqueueTps timerDequeueTps \
        remainTransientStoreBufferNumbs remainHowManyDataToCommit remainHowManyDataToFlush commitLogDirCapacity \
        sendThreadPoolQueueSize sendThreadPoolQueueCapacity sendThreadPoolQueueHeadWaitTimeMills \
        pullThreadPoolQueueSize pullThreadPoolQueueCapacity pullThreadPoolQueueHeadWaitTimeMills \
        queryThreadPoolQueueSize queryThreadPoolQueueCapacity queryThreadPoolQueueHeadWaitTimeMills \
        litePullThreadPoolQueueSize litePullThreadPoolQueueCapacity litePullThreadPoolQueueHeadWaitTimeMills \
        ackThreadPoolQueueSize ackThreadPoolQueueCapacity ackThreadPoolQueueHeadWaitTimeMills \
        EndTransactionQueueSize EndTransactionThreadPoolQueueCapacity";

    fn facts() -> NodeFacts {
        NodeFacts {
            now_ms: 1_700_000_000_000,
            active: true,
            log_path: "/d/g/log".into(),
            memory_bytes: 8 << 30,
            disk_total_bytes: 49 << 30,
            disk_free_bytes: 10 << 30,
            log_begin: LogPosition(4096),
            log_end: LogPosition(8192),
            unsynced_bytes: 1536,
            unindexed_bytes: 0,
            earliest_message_ms: None,
            delays: vec![(QueueOffset(3), QueueOffset(7)), (QueueOffset(0), QueueOffset(0))],
            sends: (1, 100),
            pulls: (2, 200),
        }
    }

    #[test]
    fn runtime_has_every_key_that_tools_read() {
        let stats = Stats::new(facts().now_ms - 90_061_000);
        stats.put("T", 1, 100, Duration::from_millis(3));
        let request = RemotingCommand::request(RequestCode::GET_BROKER_RUNTIME_INFO);
        let response = runtime(&stats, &facts(), &request);
        let table = KvTable::decode(&response.body).unwrap().table;
        for key in KEYS.split_whitespace() {
            let value = table.get(key).unwrap_or_else(|| panic!("{key} is missing"));
            if key.ends_with("Tps") && !key.starts_with("timer") {
                assert_eq!(value.split(' ').count(), 3, "{key}: {value}");
            }
            if ["Size", "Capacity", "Mills", "Offset", "Total"].iter().any(|end| key.ends_with(end))
                && !["putMessageAverageSize", "commitLogDirCapacity"].contains(&key)
            {
                value.parse::<i64>().unwrap_or_else(|_| panic!("{key}: {value}"));
            }
        }
        assert_eq!(table["runtime"], "[ 1 days, 1 hours, 1 minutes, 1 seconds ]");
        assert_eq!(table["commitLogDirCapacity"], "Total : 49.0 GiB, Free : 10.0 GiB.");
        assert_eq!(table["remainHowManyDataToFlush"], "1.5 KiB");
        assert_eq!(table["commitLogDiskRatio"], "0.7959");
        assert_eq!(
            (table["scheduleMessageOffset_1"].as_str(), table["scheduleMessageOffset_2"].as_str()),
            ("3,7", "0,0")
        );
        assert_eq!(table["brokerVersion"], "479");
        assert_eq!(table["earliestMessageTimeStamp"], "1700000000000");
    }

    #[test]
    fn byte_counts() {
        for (count, want) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(bytes(count), want);
        }
    }

    #[test]
    fn configuration_is_properties_under_rocketmq_names() {
        let request = RemotingCommand::request(RequestCode::GET_BROKER_CONFIG);
        let group = GroupConfig::default();
        let settings = Settings::new(&group);
        let response = config(&config_table(&BrokerConfig::default(), &group, &settings, 0), 7, &request);
        let text = String::from_utf8(response.body.to_vec()).unwrap();
        for line in [
            "brokerName=broker-a",
            "brokerClusterName=DefaultCluster",
            "brokerRole=SYNC_MASTER",
            "listenPort=10911",
            "maxMessageSize=4194304",
        ] {
            assert!(text.lines().any(|has| has == line), "{line}");
        }
        assert_eq!(response.ext.get("version"), Some(r#"{"counter":0,"stateVersion":0,"timestamp":7}"#));
        settings.update("brokerPermission=4", &[]).unwrap();
        let table = config_table(&BrokerConfig::default(), &group, &settings, 1);
        assert!(
            table.contains(&("brokerPermission", "4".into()))
                && table.contains(&("brokerRole", "SLAVE".into()))
        );
        // Tools send back what they were told.
        assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0), "sorted, each once");
    }

    #[test]
    fn ha_status_in_java_names() {
        let leader = HaStatus::Leader {
            log_end: LogPosition(100),
            followers: vec![HaFollower { addr: "b:1".into(), acknowledged: LogPosition(90), in_sync: true }],
        };
        let json = String::from_utf8(to_json(&HaRuntimeInfo::from(&leader)).to_vec()).unwrap();
        assert_eq!(
            json,
            r#"{"haClientRuntimeInfo":{"activated":false,"lastReadTimestamp":0,"lastWriteTimestamp":0,"#
                .to_owned()
                + r#""masterFlushOffset":0,"maxOffset":0,"transferredByteInSecond":0},"haConnectionInfo":[{"addr":"b:1","#
                + r#""diff":10,"inSync":true,"slaveAckOffset":90,"transferFromWhere":90,"transferredByteInSecond":0}],"#
                + r#""inSyncSlaveNums":1,"master":true,"masterCommitLogMaxOffset":100}"#
        );
        let follower = HaStatus::Follower { leader: Some("a:1".into()), log_end: LogPosition(5), now_ms: 9 };
        let info = HaRuntimeInfo::from(&follower);
        assert!(!info.master && info.ha_client_runtime_info.activated);
    }
}
