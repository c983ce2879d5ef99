//! A nameserver over real sockets: every request code, as clients and brokers send them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use nameserver::{NameServer, NameServerConfig, Settings};
use net::{Client, ClientConfig, Listeners};
use wire::{
    Body, BrokerMemberGroup, ClusterInfo, DataVersion, GetBrokerMemberGroupResponseBody, KvTable, QueueData,
    RegisterBrokerBody, RegisterBrokerRequest, RemotingCommand, RequestCode, ResponseCode, TopicConfig,
    TopicList, TopicRouteData, version,
};

const LONG: Duration = Duration::from_secs(30);

struct Peer {
    server: NameServer,
    client: Client,
    address: String,
}

fn start(config: NameServerConfig) -> Peer {
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let server = NameServer::start(config, Listeners::new().bind("main", any).unwrap()).unwrap();
    let address = server.listeners()[0].address.to_string();
    Peer { server, client: Client::new(ClientConfig::default()), address }
}

impl Peer {
    async fn send(&self, request: RemotingCommand) -> RemotingCommand {
        self.client.call(&self.address, request, LONG).await.unwrap()
    }

    /// Sends a request with these fields; a response code other than 0 is the error.
    async fn ask(&self, code: i32, fields: &[(&str, &str)]) -> Result<RemotingCommand, (i32, String)> {
        self.ask_with(code, fields, "").await
    }

    async fn ask_with(
        &self,
        code: i32,
        fields: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<RemotingCommand, (i32, String)> {
        let mut request = RemotingCommand::request(RequestCode(code)).with_body(body);
        for (key, value) in fields {
            request.ext.set(key, value);
        }
        let response = self.send(request).await;
        match response.response_code() {
            ResponseCode::SUCCESS => Ok(response),
            code => Err((code.get(), response.remark.unwrap_or_default())),
        }
    }

    async fn register(&self, registration: RemotingCommand) -> RemotingCommand {
        let response = self.send(registration).await;
        assert_eq!(response.code, 0, "{:?}", response.remark);
        response
    }
}

fn topics(names: &[&str]) -> RegisterBrokerBody {
    let mut body = RegisterBrokerBody::default();
    for name in names {
        let config = TopicConfig::new(name, 8, 6);
        body.topic_config_serialize_wrapper.topic_config_table.insert((*name).into(), config);
    }
    body
}

fn header(id: i64, addr: &str) -> RegisterBrokerRequest {
    RegisterBrokerRequest {
        broker_name: "broker-a".into(),
        broker_addr: addr.into(),
        cluster_name: "cluster".into(),
        ha_server_addr: format!("ha:{id}"),
        broker_id: id,
        ..RegisterBrokerRequest::default()
    }
}

fn registration(id: i64, addr: &str, body: &RegisterBrokerBody) -> RemotingCommand {
    RemotingCommand::request(RequestCode::REGISTER_BROKER)
        .with_header(&header(id, addr))
        .with_body(body.encode())
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_broker_registers_and_clients_see_its_topics() {
    let peer = start(NameServerConfig::default());
    assert_eq!(
        peer.ask(105, &[("topic", "T")]).await.unwrap_err(),
        (17, "No topic route info in name server for the topic: T".into())
    );
    let full = topics(&["T", "U", "%RETRY%g"]);
    let master = peer.register(registration(0, "127.0.0.1:10911", &full)).await;
    assert_eq!(master.ext.get("masterAddr"), None);
    let slave = peer.register(registration(1, "127.0.0.1:10921", &full)).await;
    assert_eq!(slave.ext.get("masterAddr"), Some("127.0.0.1:10911"));
    assert_eq!(slave.ext.get("haServerAddr"), Some("ha:0"));
    assert!(slave.body.is_empty(), "no order topics are configured");

    let response = peer.ask(105, &[("topic", "T")]).await.unwrap();
    assert_eq!(
        std::str::from_utf8(&response.body).unwrap(),
        r#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.1:10911","1":"127.0.0.1:10921"},"brokerName":"broker-a","cluster":"cluster","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,"readQueueNums":8,"topicSysFlag":0,"writeQueueNums":8}]}"#
    );
    let info = peer.ask(106, &[]).await.unwrap();
    assert_eq!(
        std::str::from_utf8(&info.body).unwrap(),
        r#"{"brokerAddrTable":{"broker-a":{"brokerAddrs":{0:"127.0.0.1:10911",1:"127.0.0.1:10921"},"brokerName":"broker-a","cluster":"cluster","enableActingMaster":false}},"clusterAddrTable":{"cluster":["broker-a"]}}"#
    );
    let info = ClusterInfo::decode(&info.body).unwrap();
    assert_eq!(info.cluster_addr_table["cluster"], ["broker-a"]);

    let list = async |code, fields: &[(&str, &str)]| {
        let response = peer.ask(code, fields).await.unwrap();
        TopicList::decode(&response.body).unwrap()
    };
    assert_eq!(list(206, &[]).await.topic_list, ["%RETRY%g", "T", "U"]);
    assert_eq!(list(224, &[("cluster", "cluster")]).await.topic_list.len(), 3);
    assert!(list(224, &[("cluster", "other")]).await.topic_list.is_empty());
    let system = list(304, &[]).await;
    assert_eq!(system.topic_list, ["broker-a", "cluster"]);
    assert_eq!(system.broker_addr.as_deref(), Some("127.0.0.1:10911"));
    for code in [311, 312, 313] {
        assert!(list(code, &[]).await.topic_list.is_empty());
    }
    let group = peer.ask(901, &[("clusterName", "cluster"), ("brokerName", "broker-a")]).await.unwrap();
    assert!(group.body.windows(5).any(|window| window == b"{0:\"1"), "{group:?}");
    let group = GetBrokerMemberGroupResponseBody::decode(&group.body).unwrap().broker_member_group;
    assert_eq!(
        group,
        BrokerMemberGroup {
            broker_addrs: [(0, "127.0.0.1:10911".into()), (1, "127.0.0.1:10921".into())].into(),
            broker_name: "broker-a".into(),
            cluster: "cluster".into(),
        }
    );

    // 205, 327, 216, 217, 104.
    let wiped = peer.ask(205, &[("brokerName", "broker-a")]).await.unwrap();
    assert_eq!(wiped.ext.get("wipeTopicCount"), Some("3"));
    let perm = async || {
        let response = peer.ask(105, &[("topic", "T")]).await.unwrap();
        TopicRouteData::decode(&response.body).unwrap().queue_datas[0].perm
    };
    assert_eq!(perm().await, 4);
    let added = peer.ask(327, &[("brokerName", "broker-a")]).await.unwrap();
    assert_eq!(added.ext.get("addTopicCount"), Some("3"));
    assert_eq!(perm().await, 6);
    peer.ask(216, &[("topic", "T"), ("clusterName", "other")]).await.unwrap();
    assert_eq!(perm().await, 6);
    peer.ask(216, &[("topic", "T"), ("clusterName", "cluster")]).await.unwrap();
    peer.ask(216, &[("topic", "U")]).await.unwrap();
    assert_eq!(list(206, &[]).await.topic_list, ["%RETRY%g"]);
    let by_hand = TopicRouteData {
        queue_datas: vec![QueueData { broker_name: "broker-a".into(), perm: 6, ..QueueData::default() }],
        ..TopicRouteData::default()
    };
    peer.ask_with(217, &[("topic", "new")], by_hand.encode()).await.unwrap();
    assert_eq!(list(206, &[]).await.topic_list, ["%RETRY%g", "new"]);
    let goes = [
        ("brokerName", "broker-a"),
        ("brokerAddr", "127.0.0.1:10911"),
        ("clusterName", "cluster"),
        ("brokerId", "0"),
    ];
    peer.ask(104, &goes).await.unwrap();
    assert_eq!(peer.server.snapshot().brokers[0].members.len(), 1);

    let unknown = peer.ask(9999, &[]).await.unwrap_err();
    assert_eq!(unknown, (3, " request type 9999 not supported".into()));
    let missing = peer.ask(105, &[]).await.unwrap_err();
    assert_eq!(missing, (1, "the custom field <topic> is null".into()));
}

/// 105 in the form that the asker can read.
#[tokio::test]
async fn old_clients_get_raw_broker_ids() {
    let peer = start(NameServerConfig::default());
    peer.register(registration(0, "127.0.0.1:10911", &topics(&["T", "U"]))).await;
    let raw_ids = async |version: i32, field: Option<&str>| {
        let mut request = RemotingCommand::request(RequestCode(105)).with_ext("topic", "T");
        request.version = version;
        if let Some(field) = field {
            request.ext.set("acceptStandardJsonOnly", field);
        }
        let response = peer.send(request).await;
        let text = String::from_utf8(response.body.to_vec()).unwrap();
        assert!(
            TopicRouteData::decode(text.as_bytes()).unwrap().broker_datas[0].broker_addrs.contains_key(&0)
        );
        text.contains("{0:")
    };
    assert!(raw_ids(version::V4_9_4 - 1, None).await);
    assert!(raw_ids(317, Some("false")).await);
    assert!(!raw_ids(317, Some("true")).await);
    assert!(!raw_ids(version::V4_9_4, None).await);
    assert!(!raw_ids(version::V5_3_3, None).await);
}

#[tokio::test]
async fn registrations_of_every_form_are_read_and_damage_is_refused() {
    let peer = start(NameServerConfig::default());
    let body = topics(&["T", "U"]);
    let compressed = body.encode_compressed();
    let crc = wire::body_crc(&compressed) as i32;
    let with = |header: RegisterBrokerRequest, bytes: Bytes| {
        RemotingCommand::request(RequestCode::REGISTER_BROKER).with_header(&header).with_body(bytes)
    };
    let packed = RegisterBrokerRequest { compressed: true, body_crc32: crc, ..header(0, "127.0.0.1:1") };
    peer.register(with(packed.clone(), compressed.clone())).await;
    assert_eq!(peer.server.snapshot().topics, 2);

    let refused = async |header: RegisterBrokerRequest, bytes: Bytes| {
        let response = peer.send(with(header, bytes)).await;
        assert_eq!(response.response_code(), ResponseCode::SYSTEM_ERROR);
        response.remark.unwrap_or_default()
    };
    let wrong = RegisterBrokerRequest { body_crc32: crc ^ 1, ..packed.clone() };
    assert_eq!(refused(wrong, compressed.clone()).await, "crc32 not match");
    let cut = compressed.slice(..compressed.len() / 2);
    assert!(!refused(RegisterBrokerRequest { body_crc32: 0, ..packed.clone() }, cut).await.is_empty());
    // Apache 5.3.3 sends the compressed form without saying so.
    peer.register(with(RegisterBrokerRequest { compressed: false, ..packed.clone() }, compressed.clone()))
        .await;
    let unsaid = RegisterBrokerRequest { body_crc32: 0, ..packed.clone() };
    assert!(!refused(unsaid, topics(&["T", "U"]).encode()).await.is_empty());
    assert!(!refused(header(0, "127.0.0.1:1"), Bytes::from_static(b"{\"topic")).await.is_empty());
    let single = topics(&["only"]).encode();
    assert_eq!(refused(header(3, "127.0.0.1:9"), single).await, "register broker failed");
    let nowhere = refused(header(0, "no address"), topics(&["T", "U"]).encode()).await;
    assert_eq!(nowhere, "brokerAddr is not valid: no address");

    // Before 3.0.11 the body is the topics alone; fastjson's raw keys; no body at all.
    let mut old = with(header(0, "127.0.0.1:2"), body.topic_config_serialize_wrapper.encode());
    old.version = version::V3_0_11 - 1;
    peer.register(old).await;
    let fastjson = br#"{"filterServerList":["1.2.3.4:5"],"topicConfigSerializeWrapper":{"dataVersion":{"counter":3,"stateVersion":0,"timestamp":9},"topicConfigTable":{"V":{"attributes":{},"order":false,"perm":6,"readQueueNums":4,"topicFilterType":"SINGLE_TAG","topicName":"V","topicSysFlag":0,"writeQueueNums":4},"W":{"perm":6,"readQueueNums":4,"topicName":"W","writeQueueNums":4}},"topicQueueMappingDetailMap":{"V":{"hostedQueues":{0:[{"bname":"x"}]}}}}}"#;
    peer.register(with(header(0, "127.0.0.1:3"), Bytes::from_static(fastjson))).await;
    let response = peer.ask(105, &[("topic", "V")]).await.unwrap();
    let route = TopicRouteData::decode(&response.body).unwrap();
    assert_eq!(route.queue_datas[0].read_queue_nums, 4);
    assert_eq!(route.filter_server_table["127.0.0.1:3"], ["1.2.3.4:5"]);
    peer.register(with(header(0, "127.0.0.1:3"), Bytes::new())).await;

    // 322.
    let fields = [
        ("brokerName", "broker-a"),
        ("brokerAddr", "127.0.0.1:3"),
        ("clusterName", "cluster"),
        ("brokerId", "0"),
    ];
    let same = peer.ask_with(322, &fields, DataVersion::default().encode()).await.unwrap();
    assert_eq!(same.ext.get("changed"), Some("false"));
    assert_eq!(DataVersion::decode(&same.body).unwrap(), DataVersion::default());
    let other = DataVersion { counter: 5, ..DataVersion::default() };
    let changed = peer.ask_with(322, &fields, other.encode()).await.unwrap();
    assert_eq!(changed.ext.get("changed"), Some("true"));
    let mut unknown = fields;
    unknown[1].1 = "127.0.0.1:99";
    let changed = peer.ask_with(322, &unknown, other.encode()).await.unwrap();
    assert_eq!(changed.ext.get("changed"), Some("true"));
    assert!(changed.body.is_empty());
}

#[tokio::test]
async fn the_key_value_table_is_kept_and_order_topics_reach_brokers_and_clients() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kvConfig.json");
    let config = || NameServerConfig { kv_path: Some(path.clone()), ..NameServerConfig::default() };
    let order = [("namespace", "ORDER_TOPIC_CONFIG"), ("key", "T")];
    {
        let peer = start(config());
        peer.ask(100, &[order[0], order[1], ("value", "broker-a:4")]).await.unwrap();
        peer.ask(100, &[("namespace", "ns"), ("key", "k"), ("value", "v")]).await.unwrap();
        peer.ask(102, &[("namespace", "ns"), ("key", "k")]).await.unwrap();
        peer.ask(102, &[("namespace", "none"), ("key", "k")]).await.unwrap();
        let refused = peer.ask(100, &[("namespace", "ns"), ("value", "v")]).await.unwrap_err();
        assert_eq!(refused, (1, "namespace or key is null".into()));
        peer.server.shutdown(LONG).await;
    }
    let peer = start(config());
    let got = peer.ask(101, &order).await.unwrap();
    assert_eq!(got.ext.get("value"), Some("broker-a:4"));
    let missing = peer.ask(101, &[("namespace", "ns"), ("key", "k")]).await.unwrap_err();
    assert_eq!(missing, (22, "No config item, Namespace: ns Key: k".into()));
    let table = peer.ask(219, &[order[0]]).await.unwrap();
    assert_eq!(KvTable::decode(&table.body).unwrap().table["T"], "broker-a:4");
    assert_eq!(peer.ask(219, &[("namespace", "none")]).await.unwrap_err().0, 22);

    let registered = peer.register(registration(0, "127.0.0.1:1", &topics(&["T", "U"]))).await;
    assert_eq!(&registered.body[..], br#"{"table":{"T":"broker-a:4"}}"#);
    let order_conf = async || {
        let response = peer.ask(105, &[("topic", "T")]).await.unwrap();
        TopicRouteData::decode(&response.body).unwrap().order_topic_conf
    };
    assert_eq!(order_conf().await, None);
    peer.ask_with(318, &[], "orderMessageEnable=true\nreturnOrderTopicConfigToBroker=false\n").await.unwrap();
    assert_eq!(order_conf().await.as_deref(), Some("broker-a:4"));
    let registered = peer.register(registration(0, "127.0.0.1:1", &topics(&["T", "U"]))).await;
    assert!(registered.body.is_empty());
}

/// S1: the published attacks on 318 change nothing, in memory or on disk.
#[tokio::test]
async fn settings_change_by_an_allow_list_only() {
    let folder = tempfile::tempdir().unwrap();
    let config = NameServerConfig {
        kv_path: Some(folder.path().join("kv.json")),
        settings: Settings { enable_topic_list: false, ..Settings::default() },
        ..NameServerConfig::default()
    };
    let peer = start(config);
    let text = async || String::from_utf8(peer.ask(319, &[]).await.unwrap().body.to_vec()).unwrap();
    let before = text().await;
    assert!(before.contains("enableTopicList=false\n"), "{before}");
    for attack in [
        "configStorePath=/tmp/x",
        "kvConfigPath=/etc/cron.d/x\nproductEnvName=* * * * * root id\\n",
        "rocketmqHome=/tmp",
        "configBlackList=",
        "enableTopicList=true\nconfigStorePath=/tmp/x",
        "config\\u0053torePath=/tmp/x",
        "clusterTest=true",
    ] {
        assert_eq!(peer.ask_with(318, &[], attack).await.unwrap_err().0, 16, "{attack}");
    }
    assert_eq!(peer.ask_with(318, &[], "enableTopicList=1").await.unwrap_err().0, 29);
    assert_eq!(peer.ask_with(318, &[], vec![0xFF, 0xFE]).await.unwrap_err().0, 1);
    assert_eq!(text().await, before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    assert_eq!(peer.ask(224, &[("cluster", "c")]).await.unwrap_err(), (1, "disable".into()));
    assert_eq!(peer.ask(311, &[]).await.unwrap_err(), (1, "disable".into()));
    peer.ask_with(318, &[], "enableTopicList=true\nenableAllTopicList=false").await.unwrap();
    peer.ask(224, &[("cluster", "c")]).await.unwrap();
    assert_eq!(peer.ask(206, &[]).await.unwrap_err(), (1, "disable".into()));
    peer.ask_with(318, &[], "needWaitForService=true").await.unwrap();
    assert_eq!(peer.ask(105, &[("topic", "T")]).await.unwrap_err(), (1, "name server not ready".into()));

    let closed = start(NameServerConfig { allows_updates: false, ..NameServerConfig::default() });
    assert_eq!(closed.ask_with(318, &[], "enableTopicList=true").await.unwrap_err().0, 16);
}

/// S3: whatever is sent as a name, it is refused or not found, and nothing breaks.
#[tokio::test]
async fn odd_names_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let config = NameServerConfig { kv_path: Some(folder.path().join("kv")), ..NameServerConfig::default() };
    let peer = start(config);
    let long = "x".repeat(10_000_000);
    let odd = ["../../../../etc/passwd", "a\0b", "ünïcode", "\"},{", "\r\n", "", " ", "%s%n", &long];
    let keys = [
        "topic",
        "clusterName",
        "cluster",
        "brokerName",
        "brokerAddr",
        "namespace",
        "key",
        "value",
        "haServerAddr",
        "__ZONE_NAME",
    ];
    let known = [
        100, 101, 102, 103, 104, 105, 106, 205, 206, 216, 217, 219, 224, 304, 311, 312, 313, 318, 319, 322,
        327, 901, 904,
    ];
    peer.register(registration(0, "127.0.0.1:1", &topics(&["T", "U"]))).await;
    let before = peer.server.snapshot();
    for name in odd {
        for code in known {
            let mut request = RemotingCommand::request(RequestCode(code)).with_ext("brokerId", "0");
            if name.len() < 1000 {
                request.body = Bytes::copy_from_slice(name.as_bytes());
            }
            // One that takes 16 MiB together is no frame any more.
            for key in keys.iter().take(if name.len() > 1000 { 1 } else { keys.len() }) {
                request.ext.set(key, name);
            }
            let response = peer.send(request).await;
            assert!(response.remark.as_deref().unwrap_or_default().len() < 2000, "{code}");
        }
    }
    let after = peer.server.snapshot();
    assert_eq!(after.topics, before.topics);
    assert_eq!(after.brokers.len(), 1);
    let files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(files.iter().all(|name| Path::new(name) == Path::new("kv")), "{files:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_ends_with_its_connection() {
    let peer = start(NameServerConfig::default());
    let brokers: Vec<Client> = (0..3).map(|_| Client::new(ClientConfig::default())).collect();
    for (id, broker) in brokers.iter().enumerate() {
        let mut body = topics(&["T", "U"]);
        body.topic_config_serialize_wrapper.data_version.state_version = 5;
        let request = registration(id as i64, &format!("127.0.0.1:{}", id + 1), &body);
        assert_eq!(broker.call(&peer.address, request, LONG).await.unwrap().code, 0);
    }
    let ids = || -> Vec<i64> {
        let snapshot = peer.server.snapshot();
        snapshot.brokers.first().map(|b| b.members.iter().map(|m| m.id).collect()).unwrap_or_default()
    };
    assert_eq!(ids(), [0, 1, 2]);
    // A leader is taken off over its own connection only, and a member under its own id.
    for (broker, id, port) in [(2, "0", 1), (2, "0", 3), (1, "0", 2)] {
        let addr = format!("127.0.0.1:{port}");
        let mut goodbye = RemotingCommand::request(RequestCode::UNREGISTER_BROKER);
        for (key, value) in
            [("brokerName", "broker-a"), ("brokerAddr", &addr), ("clusterName", "cluster"), ("brokerId", id)]
        {
            goodbye.ext.set(key, value);
        }
        let client: &Client = &brokers[broker];
        assert_eq!(client.call(&peer.address, goodbye, LONG).await.unwrap().code, 0);
        assert_eq!(ids(), [0, 1, 2]);
    }
    brokers[2].close();
    until("a follower is gone at once", async || ids() == [0, 1]).await;
    // The leader keeps its place for five seconds, then loses it.
    brokers[0].close();
    until("held", async || peer.server.snapshot().brokers[0].hold_ms_left.is_some()).await;
    assert_eq!(ids(), [0, 1]);
    assert_eq!(peer.server.snapshot().brokers[0].members[0].silent_ms, None);
    let held = tokio::time::Instant::now();
    until("the hold is over", async || ids() == [1]).await;
    let held = held.elapsed();
    assert!((Duration::from_millis(4500)..Duration::from_secs(8)).contains(&held), "{held:?}");
    brokers[1].close();
    until("nobody is left", async || ids().is_empty()).await;
    assert_eq!(peer.server.snapshot().topics, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_broker_is_dropped_and_disconnected() {
    let settings = Settings { scan_interval_ms: 100, ..Settings::default() };
    let peer = start(NameServerConfig { settings, ..NameServerConfig::default() });
    let broker = Client::new(ClientConfig::default());
    let header = RegisterBrokerRequest { heartbeat_timeout_millis: Some(2000), ..header(0, "127.0.0.1:1") };
    let request = RemotingCommand::request(RequestCode::REGISTER_BROKER)
        .with_header(&header)
        .with_body(topics(&["T", "U"]).encode());
    assert_eq!(broker.call(&peer.address, request, LONG).await.unwrap().code, 0);
    // 904 keeps it for longer than its timeout.
    let beat = [("clusterName", "cluster"), ("brokerName", "broker-a"), ("brokerAddr", "127.0.0.1:1")];
    let start = tokio::time::Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        peer.ask(904, &beat).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(peer.server.snapshot().brokers.len(), 1);
    until("dropped", async || peer.server.snapshot().brokers.is_empty()).await;
    until("disconnected", async || broker.connected().is_empty()).await;
    assert_eq!(peer.server.snapshot().counts.expired_total, 1);
    // A heartbeat alone does not bring it back.
    peer.ask(904, &beat).await.unwrap();
    assert!(peer.server.snapshot().brokers.is_empty());
}
