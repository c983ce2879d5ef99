//! 103 and 104, as a nameserver sees them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use net::{Handler, Listeners, Replier, Server, ServerConfig};
use wire::{Body, RegisterBrokerBody, RegisterBrokerRequest, ResponseCode, UnregisterBrokerRequest};

use super::three::Three;
use super::*;

/// Notes what brokers tell it, and answers as slowly as it is told.
#[derive(Default)]
struct Nameserver {
    /// The registrations of addresses that nobody has taken off since.
    heard: Mutex<Vec<Heard>>,
    gone: Mutex<Vec<UnregisterBrokerRequest>>,
    /// Connections over which a registration has come that is not answered yet.
    in_flight: Mutex<HashSet<u64>>,
    delay: Duration,
}

#[derive(Debug, Clone)]
struct Heard {
    header: RegisterBrokerRequest,
    body: RegisterBrokerBody,
}

impl Handler for Nameserver {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        if request.request_code() == RequestCode::UNREGISTER_BROKER {
            let header = UnregisterBrokerRequest::decode(&request.ext).unwrap();
            self.heard.lock().unwrap().retain(|heard| heard.header.broker_addr != header.broker_addr);
            self.gone.lock().unwrap().push(header);
            return replier.send(RemotingCommand::response_to(&request, ResponseCode::SUCCESS));
        }
        assert_eq!(request.request_code(), RequestCode::REGISTER_BROKER);
        let header = RegisterBrokerRequest::decode(&request.ext).unwrap();
        assert_eq!(wire::body_crc(&request.body) as i32, header.body_crc32);
        let body = if header.compressed {
            RegisterBrokerBody::decode_compressed(&request.body, request.version, 64 << 20).unwrap()
        } else {
            RegisterBrokerBody::decode(&request.body).unwrap()
        };
        self.heard.lock().unwrap().push(Heard { header, body });
        let connection = replier.connection().id();
        assert!(self.in_flight.lock().unwrap().insert(connection), "one registration in flight");
        std::thread::sleep(self.delay);
        self.in_flight.lock().unwrap().remove(&connection);
        replier.send(RemotingCommand::response_to(&request, ResponseCode::SUCCESS));
    }
}

impl Nameserver {
    fn start(delay: Duration) -> (Arc<Nameserver>, Server, String) {
        let nameserver = Arc::new(Nameserver { delay, ..Nameserver::default() });
        let listeners = Listeners::new().bind("ns", SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let server = Server::start(ServerConfig::default(), listeners, nameserver.clone()).unwrap();
        let address = server.listeners()[0].address.to_string();
        (nameserver, server, address)
    }

    fn last(&self) -> Option<Heard> {
        self.heard.lock().unwrap().last().cloned()
    }

    /// The newest registration that is wanted, which may come within `limit`.
    async fn until_within(&self, limit: Duration, wanted: impl Fn(&Heard) -> bool) -> Heard {
        let start = Instant::now();
        loop {
            let found = self.heard.lock().unwrap().iter().rev().find(|heard| wanted(heard)).cloned();
            if let Some(heard) = found {
                return heard;
            }
            assert!(start.elapsed() < limit, "last heard: {:?}", self.last().map(|heard| heard.header));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until(&self, wanted: impl Fn(&Heard) -> bool) -> Heard {
        self.until_within(SOON, wanted).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_registers_at_once_and_with_every_topic() {
    let (nameserver, _server, address) = Nameserver::start(Duration::from_millis(20));
    let node = OneNode::with(|config| config.nameservers = vec![address]).await;
    let heard = nameserver.until(|_| true).await;
    let RegisterBrokerRequest { broker_name, broker_addr, cluster_name, broker_id, compressed, .. } =
        &heard.header;
    assert_eq!(
        (broker_name.as_str(), cluster_name.as_str(), *broker_id, *compressed),
        ("b1", "c1", 0, false)
    );
    assert_eq!(*broker_addr, node.address);
    let wrapper = &heard.body.topic_config_serialize_wrapper;
    assert!(wrapper.data_version.state_version > 0, "the term");
    assert!(wrapper.topic_config_table.contains_key("TBW102"));
    // A tool that creates a topic asks for its route next.
    node.create_topic("T", 3).await;
    let table = nameserver.last().unwrap().body.topic_config_serialize_wrapper.topic_config_table;
    assert_eq!((table["T"].read_queue_nums, table["T"].perm), (3, 6));
    // A heartbeat's retry topic.
    let data = wire::HeartbeatData {
        client_id: "c".into(),
        consumer_data_set: vec![wire::ConsumerData { group_name: "g".into(), ..Default::default() }],
        ..Default::default()
    };
    node.call(RemotingCommand::request(RequestCode::HEART_BEAT).with_body(data.encode())).await;
    let has = |topic: &'static str| {
        move |heard: &Heard| heard.body.topic_config_serialize_wrapper.topic_config_table.contains_key(topic)
    };
    nameserver.until(has("%RETRY%g")).await;
    node.stop().await;
    assert!(nameserver.last().is_none(), "a planned stop takes it off");
}

/// Nobody waits for the interval of 30 s. The leaders have one address; who becomes one is not known by its own any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_registers_at_once_and_under_one_address() {
    let (nameserver, _server, address) = Nameserver::start(Duration::ZERO);
    let shared = "127.0.0.9:10911";
    let mut three = Three::start(|config| {
        config.nameservers = vec![address.clone()];
        config.groups[0].advertise_leader = Some(shared.into());
    })
    .await;
    let term = |heard: &Heard| heard.body.topic_config_serialize_wrapper.data_version.state_version;
    let first = nameserver.until(|heard| heard.header.broker_id == 0).await;
    let leader = three.leader().await;
    let followers = three.addresses.iter().filter(|(node, _)| **node != leader);
    for (node, own) in followers {
        // A member's id is its place among the voters.
        let is_it =
            |heard: &Heard| heard.header.broker_addr == *own && heard.header.broker_id == *node as i64;
        nameserver.until(is_it).await;
    }
    drop(three.brokers.remove(&leader));
    let start = Instant::now();
    let is_newer = |heard: &Heard| heard.header.broker_id == 0 && term(heard) > term(&first);
    // Usually well within a second.
    let second = nameserver.until_within(Duration::from_secs(5), is_newer).await;
    tracing::info!(elapsed = ?start.elapsed(), "the new leader has registered");
    assert_eq!(second.header.broker_addr, shared);

    let heir = three.leader().await;
    let own = three.addresses[&heir].as_str();
    while !nameserver.gone.lock().unwrap().iter().any(|gone| gone.broker_addr == own) {
        assert!(start.elapsed() < SOON, "{own} is still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gone = nameserver.gone.lock().unwrap().clone();
    assert!(gone.iter().all(|gone| gone.broker_addr != shared), "{gone:?}");
    assert!(gone.iter().any(|gone| gone.broker_addr == own && gone.broker_id == heir as i64), "{gone:?}");
    let heard = nameserver.heard.lock().unwrap().clone();
    assert!(heard.iter().any(is_newer) && heard.iter().all(|heard| heard.header.broker_addr != own));
    three.stop().await;
    assert!(nameserver.gone.lock().unwrap().iter().all(|gone| gone.broker_addr != shared));
}

/// Each topic that a first send makes costs a task and a command that everything behind it waits for.
#[tokio::test(flavor = "multi_thread")]
async fn topics_that_first_sends_make_are_bounded() {
    let node = OneNode::with(|config| config.limits.waiting_for_topic = 1).await;
    let sends = (0..50).map(|n| node.call(send_request(&format!("T{n}"), 0, "", "m")));
    let codes: Vec<i32> =
        futures::future::join_all(sends).await.into_iter().map(|answer| answer.code).collect();
    assert!(codes.contains(&0) && codes.contains(&14), "{codes:?}");
    assert!(codes.iter().all(|code| [0, 14].contains(code)), "{codes:?}");
    for n in 0..50 {
        node.send(&format!("T{n}"), 0, "", "m").await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_topics_are_compressed() {
    let (nameserver, _server, address) = Nameserver::start(Duration::ZERO);
    let node = Arc::new(OneNode::with(|config| config.nameservers = vec![address]).await);
    for chunk in 0..20 {
        let creates = (0..51).map(|n| {
            let node = node.clone();
            async move { node.create_topic(&format!("T-{chunk}-{n}"), 1).await }
        });
        futures::future::join_all(creates).await;
    }
    let all = nameserver
        .until(|heard| heard.body.topic_config_serialize_wrapper.topic_config_table.len() > 1020)
        .await;
    assert!(all.header.compressed);
    Arc::into_inner(node).unwrap().stop().await;
}
