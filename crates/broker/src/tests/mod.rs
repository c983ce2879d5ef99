//! A broker with one node and one group, asked with real frames over a real connection.

mod administering;
mod clients;
mod clocks;
mod damaging;
mod delaying;
mod digesting;
mod duties;
mod failover;
mod filtering;
mod limiting;
mod locking;
mod offsets;
mod popping;
mod pulling;
mod purging;
mod raising;
mod refusing;
mod registering;
mod replying;
mod resetting;
mod sending;
mod slow_disk;
mod three;
mod transactions;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use net::{Client, ClientConfig};
use store::{Disk, OsDisk};
use tempfile::TempDir;
use wire::{
    Header, Message, PullMessageRequest, PullMessageResponse, RemotingCommand, RequestCode,
    SendMessageRequest, SendMessageResponse, SerializeType, pull_flag,
};

use crate::{Broker, BrokerConfig, Drain, GroupConfig};

const SOON: Duration = Duration::from_secs(10);

/// One node, its directory, and a client.
pub(crate) struct OneNode {
    pub(crate) broker: Broker,
    address: String,
    client: Client,
    data: TempDir,
}

fn config(data: &TempDir) -> BrokerConfig {
    // RUST_LOG=info shows what a test does.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    BrokerConfig {
        cluster: "c1".into(),
        data: data.path().to_owned(),
        peer_listen: any,
        groups: vec![GroupConfig {
            name: "b1".into(),
            voters: vec![1],
            listen: any,
            segment_bytes: 16 << 20,
            ..GroupConfig::default()
        }],
        ..BrokerConfig::default()
    }
}

impl OneNode {
    pub(crate) async fn start() -> OneNode {
        OneNode::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut BrokerConfig)) -> OneNode {
        OneNode::on_disk(Arc::new(OsDisk), change).await
    }

    async fn on(data: TempDir, change: impl FnOnce(&mut BrokerConfig)) -> OneNode {
        OneNode::begin(data, Arc::new(OsDisk), change).await
    }

    async fn on_disk(disk: Arc<dyn Disk>, change: impl FnOnce(&mut BrokerConfig)) -> OneNode {
        OneNode::begin(tempfile::tempdir().unwrap(), disk, change).await
    }

    async fn begin(data: TempDir, disk: Arc<dyn Disk>, change: impl FnOnce(&mut BrokerConfig)) -> OneNode {
        let mut config = config(&data);
        change(&mut config);
        let broker = Broker::start_on(config, disk).await.unwrap();
        broker.ready().await;
        let address = broker.addresses()["b1"].to_string();
        OneNode { broker, address, client: Client::new(ClientConfig::default()), data }
    }

    /// Stops it, and starts it again.
    async fn again(self, change: impl FnOnce(&mut BrokerConfig)) -> OneNode {
        let OneNode { broker, data, .. } = self;
        broker.shutdown(Drain::Now).await;
        OneNode::on(data, change).await
    }

    fn at(&self) -> At<'_> {
        At { client: &self.client, address: &self.address }
    }

    async fn call(&self, request: RemotingCommand) -> RemotingCommand {
        self.at().call(request).await
    }

    async fn ask(&self, code: RequestCode, header: &impl Header) -> RemotingCommand {
        self.at().ask(code, header).await
    }

    /// Sends one message; its offset.
    async fn send(&self, topic: &str, queue: i32, properties: &str, body: &str) -> i64 {
        self.at().send(topic, queue, properties, body).await
    }

    async fn create_topic(&self, topic: &str, queues: i32) {
        let header = wire::CreateTopicRequest {
            topic: topic.into(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: 6,
            ..Default::default()
        };
        let response = self.ask(RequestCode::UPDATE_AND_CREATE_TOPIC, &header).await;
        assert_eq!(response.code, 0, "{:?}", response.remark);
    }

    pub(crate) async fn stop(self) {
        self.broker.shutdown(Drain::Now).await;
    }
}

/// A client, and the node that it asks.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    client: &'a Client,
    address: &'a str,
}

impl At<'_> {
    async fn call(&self, request: RemotingCommand) -> RemotingCommand {
        self.client.call(self.address, request, SOON).await.unwrap()
    }

    async fn ask(&self, code: RequestCode, header: &impl Header) -> RemotingCommand {
        self.call(RemotingCommand::request(code).with_header(header)).await
    }

    /// Sends one message; its offset.
    async fn send(&self, topic: &str, queue: i32, properties: &str, body: &str) -> i64 {
        let response = self.call(send_request(topic, queue, properties, body)).await;
        assert_eq!(response.code, 0, "{:?}", response.remark);
        SendMessageResponse::decode(&response.ext).unwrap().queue_offset
    }

    /// Sends one message to queue 0 of T; its offset.
    async fn message(&self, body: &str) -> i64 {
        self.send("T", 0, "", body).await
    }

    /// Code and bodies of a pull.
    async fn pulled(&self, header: &PullMessageRequest) -> (i32, Vec<String>) {
        let response = self.ask(RequestCode::PULL_MESSAGE, header).await;
        let messages = Message::decode_all(&response.body).unwrap();
        (response.code, messages.iter().map(|m| String::from_utf8(m.body.to_vec()).unwrap()).collect())
    }
}

fn send_header<'a>(topic: &'a str, queue: i32, properties: &'a str) -> SendMessageRequest<'a> {
    SendMessageRequest {
        producer_group: "p",
        topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id: queue,
        born_timestamp: 1_700_000_000_000,
        properties: Some(properties),
        ..SendMessageRequest::default()
    }
}

fn send_request(topic: &str, queue: i32, properties: &str, body: &str) -> RemotingCommand {
    let mut request = RemotingCommand::request(RequestCode::SEND_MESSAGE_V2)
        .with_body(Bytes::copy_from_slice(body.as_bytes()));
    send_header(topic, queue, properties).encode_for(RequestCode::SEND_MESSAGE_V2, &mut request.ext);
    request
}

fn pull_header(topic: &str, queue: i32, offset: i64) -> PullMessageRequest {
    PullMessageRequest {
        consumer_group: "g".into(),
        topic: topic.into(),
        queue_id: queue,
        queue_offset: offset,
        max_msg_nums: 32,
        sys_flag: pull_flag::SUBSCRIPTION,
        subscription: Some("*".into()),
        ..PullMessageRequest::default()
    }
}

struct Pulled {
    code: i32,
    header: PullMessageResponse,
    messages: Vec<Message>,
}

impl OneNode {
    async fn pull(&self, header: PullMessageRequest) -> Pulled {
        let response = self.ask(RequestCode::PULL_MESSAGE, &header).await;
        let code = response.code;
        let header = PullMessageResponse::decode(&response.ext)
            .unwrap_or_else(|error| panic!("{code} {:?}: {error}", response.remark));
        Pulled { code, header, messages: Message::decode_all(&response.body).unwrap() }
    }

    async fn pull_code(&self, header: PullMessageRequest) -> i32 {
        self.ask(RequestCode::PULL_MESSAGE, &header).await.code
    }
}

impl Pulled {
    fn bodies(&self) -> Vec<&str> {
        self.messages.iter().map(|message| std::str::from_utf8(&message.body).unwrap()).collect()
    }
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < 3 * SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn properties(pairs: &[(&str, &str)]) -> String {
    wire::properties_from(pairs.iter().copied())
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_codes_and_both_serialisations() {
    let node = OneNode::start().await;
    for serialize in [SerializeType::Json, SerializeType::RocketMq] {
        let mut request = RemotingCommand::request(RequestCode(7777));
        request.serialize = serialize;
        let response = node.call(request).await;
        assert_eq!((response.code, response.version, response.serialize), (3, 479, serialize));
        assert_eq!(response.remark.as_deref(), Some(" request type 7777 not supported"));
        let mut request = send_request("T", 0, "", "hello");
        request.serialize = serialize;
        let response = node.call(request).await;
        assert_eq!((response.code, response.serialize), (0, serialize), "{:?}", response.remark);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_has_everything() {
    let data = tempfile::tempdir().unwrap();
    let client = Client::new(ClientConfig::default());
    for round in 0..3 {
        // What a dropped broker still has running lets go of the directory a moment later.
        let broker = loop {
            let mut broker = Broker::start(config(&data)).await.unwrap();
            match broker.ready_or_failed().await {
                Ok(()) => break broker,
                Err(crate::BrokerError::Open(replica::OpenError::Store(store::StoreError::Locked {
                    ..
                }))) => {
                    broker.shutdown(Drain::Now).await;
                }
                Err(error) => panic!("{error}"),
            }
        };
        let address = broker.addresses()["b1"].to_string();
        let response = client.call(&address, send_request("T", 0, "", "m"), SOON).await.unwrap();
        assert_eq!(response.code, 0, "{:?}", response.remark);
        assert_eq!(SendMessageResponse::decode(&response.ext).unwrap().queue_offset, round);
        let request =
            RemotingCommand::request(RequestCode::PULL_MESSAGE).with_header(&pull_header("T", 0, 0));
        let response = client.call(&address, request, SOON).await.unwrap();
        assert_eq!(Message::decode_all(&response.body).unwrap().len() as i64, round + 1);
        if round == 1 {
            // A crash, as far as the disk can tell.
            drop(broker);
        } else {
            broker.shutdown(Drain::Now).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_names_its_key() {
    let data = tempfile::tempdir().unwrap();
    let mut config = config(&data);
    config.groups[0].voters = vec![1, 2];
    config.peers = BTreeMap::from([(1, "127.0.0.1:1".to_owned())]);
    let error = Broker::start(config).await.err().unwrap().to_string();
    assert!(error.starts_with("groups.0.voters: voter 2"), "{error}");
}
