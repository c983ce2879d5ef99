//! 103 and 104, as a nameserver sees them.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use net::{Handler, Listeners, Replier, Server, ServerConfig};
use wire::{Body, RegisterBrokerBody, RegisterBrokerRequest, ResponseCode, UnregisterBrokerRequest};

use super::*;

/// Notes what brokers tell it, and answers as slowly as it is told.
#[derive(Default)]
struct Nameserver {
    heard: Mutex<Vec<Heard>>,
    in_flight: Mutex<usize>,
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
        *self.in_flight.lock().unwrap() += 1;
        assert_eq!(*self.in_flight.lock().unwrap(), 1, "one registration in flight");
        std::thread::sleep(self.delay);
        *self.in_flight.lock().unwrap() -= 1;
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

    async fn until(&self, wanted: impl Fn(&Heard) -> bool) -> Heard {
        let start = Instant::now();
        loop {
            if let Some(heard) = self.last().filter(&wanted) {
                return heard;
            }
            assert!(start.elapsed() < SOON, "last heard: {:?}", self.last().map(|heard| heard.header));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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
