//! The nameserver: 100 to 105, 205, 216, 219, 224, 322, 327, 901, 904. 106, 206,
//! 304, 318 and 319 have no header.

use crate::header::headers;

headers! {
    /// 100.
    pub PutKvConfigRequest {
        "namespace" => namespace: String,
        "key" => key: String,
        "value" => value: String,
    }

    /// 101, 102.
    pub KvConfigRequest {
        "namespace" => namespace: String,
        "key" => key: String,
    }

    pub GetKvConfigResponse {
        "value" => value: Option<String>,
    }

    /// 219.
    pub GetKvListByNamespaceRequest {
        "namespace" => namespace: String,
    }

    /// 103.
    pub RegisterBrokerRequest {
        "brokerName" => broker_name: String,
        /// "ip:port".
        "brokerAddr" => broker_addr: String,
        "clusterName" => cluster_name: String,
        "haServerAddr" => ha_server_addr: String = String::new(),
        /// 0: the one that takes writes.
        "brokerId" => broker_id: i64,
        /// Silence after which the registration ends.
        "heartbeatTimeoutMillis" => heartbeat_timeout_millis: Option<i64>,
        "enableActingMaster" => enable_acting_master: Option<bool>,
        /// The body is the compressed form.
        "compressed" => compressed: bool = false,
        /// [`crate::body_crc`] of the body; 0: not checked.
        "bodyCrc32" => body_crc32: i32 = 0,
    }

    pub RegisterBrokerResponse {
        "haServerAddr" => ha_server_addr: Option<String>,
        "masterAddr" => master_addr: Option<String>,
    }

    /// 104.
    pub UnregisterBrokerRequest {
        "brokerName" => broker_name: String,
        "brokerAddr" => broker_addr: String,
        "clusterName" => cluster_name: String,
        "brokerId" => broker_id: i64,
    }

    /// 105.
    pub GetRouteInfoRequest {
        "topic" => topic: String,
        "acceptStandardJsonOnly" => accept_standard_json_only: Option<bool>,
    }

    /// 205, 327.
    pub BrokerNameRequest {
        "brokerName" => broker_name: String,
    }

    /// 205.
    pub WipeWritePermOfBrokerResponse {
        "wipeTopicCount" => wipe_topic_count: i32,
    }

    /// 327.
    pub AddWritePermOfBrokerResponse {
        "addTopicCount" => add_topic_count: i32,
    }

    /// 216.
    pub DeleteTopicFromNamesrvRequest {
        "topic" => topic: String,
        "clusterName" => cluster_name: Option<String>,
    }

    /// 224.
    pub GetTopicsByClusterRequest {
        "cluster" => cluster: String,
    }

    /// 322; body a [`crate::DataVersion`].
    pub QueryDataVersionRequest {
        "brokerName" => broker_name: String,
        "brokerAddr" => broker_addr: String,
        "clusterName" => cluster_name: String,
        "brokerId" => broker_id: i64,
    }

    pub QueryDataVersionResponse {
        "changed" => changed: bool,
    }

    /// 901.
    pub GetBrokerMemberGroupRequest {
        "clusterName" => cluster_name: String,
        "brokerName" => broker_name: String,
    }

    /// 904.
    pub BrokerHeartbeatRequest {
        "clusterName" => cluster_name: String,
        "brokerAddr" => broker_addr: String,
        "brokerName" => broker_name: String,
        "brokerId" => broker_id: Option<i64>,
        "epoch" => epoch: Option<i32>,
        "maxOffset" => max_offset: Option<i64>,
        "confirmOffset" => confirm_offset: Option<i64>,
        // RocketMQ's spelling.
        "heartbeatTimeoutMills" => heartbeat_timeout_millis: Option<i64>,
        "electionPriority" => election_priority: Option<i32>,
    }
}
