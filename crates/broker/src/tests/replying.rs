//! 324, 325, 326: a reply finds who waits for it.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use net::{Handler, Replier};
use tokio::sync::mpsc;
use wire::{Body, HeartbeatData, ProducerData, ReplyMessageRequest, ResponseCode, prop, properties_get};

use super::three::Three;
use super::*;

/// A requester: it notes what is pushed to it, and answers with a code.
struct Requester {
    pushed: Mutex<mpsc::UnboundedSender<RemotingCommand>>,
    answer: ResponseCode,
}

impl Handler for Requester {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        assert_eq!(request.request_code(), RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT);
        assert!(!request.is_oneway());
        let response = RemotingCommand::response_to(&request, self.answer).with_remark("as told");
        self.pushed.lock().unwrap().send(request).unwrap();
        replier.send(response);
    }
}

/// A producer `id` that is connected to `address`.
async fn requester(
    address: &str,
    id: &str,
    answer: ResponseCode,
) -> (Client, mpsc::UnboundedReceiver<RemotingCommand>) {
    let (sender, pushed) = mpsc::unbounded_channel();
    (connected(address, id, Requester { pushed: Mutex::new(sender), answer }).await, pushed)
}

/// The same, with a handler of its own.
async fn connected(address: &str, id: &str, handler: impl Handler) -> Client {
    let client = Client::with_handler(ClientConfig::default(), Arc::new(handler));
    let data = HeartbeatData {
        client_id: id.into(),
        producer_data_set: vec![ProducerData { group_name: "p".into() }],
        ..HeartbeatData::default()
    };
    let request = RemotingCommand::request(RequestCode::HEART_BEAT).with_body(data.encode());
    assert_eq!(client.call(address, request, SOON).await.unwrap().code, 0);
    client
}

/// A requester that never says whether it has the reply.
struct Silent {
    pushed: mpsc::UnboundedSender<Replier>,
}

impl Handler for Silent {
    fn handle(&self, _request: RemotingCommand, replier: Replier) {
        self.pushed.send(replier).unwrap();
    }
}

pub(super) fn reply_request(code: RequestCode, topic: &str, to: &str, body: &str) -> RemotingCommand {
    let properties = properties(&[
        (prop::CORRELATION_ID, "c-1"),
        (prop::REPLY_TO_CLIENT, to),
        (prop::MSG_TYPE, "reply"),
        ("mine", "x"),
    ]);
    let mut request = RemotingCommand::request(code).with_body(Bytes::copy_from_slice(body.as_bytes()));
    send_header(topic, 0, &properties).encode_for(code, &mut request.ext);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_pushed_and_stored() {
    let node = OneNode::start().await;
    let (_requester, mut pushed) = requester(&node.address, "asks", ResponseCode::SUCCESS).await;
    for (n, code) in
        [RequestCode::SEND_REPLY_MESSAGE, RequestCode::SEND_REPLY_MESSAGE_V2].into_iter().enumerate()
    {
        let response = node.call(reply_request(code, "c1_REPLY_TOPIC", "asks", "answer")).await;
        assert_eq!(response.code, 0, "{:?}", response.remark);
        assert_eq!(response.ext.get("MSG_REGION"), Some("DefaultRegion"));
        let sent = SendMessageResponse::decode(&response.ext).unwrap();
        assert_eq!((sent.queue_id, sent.queue_offset), (0, n as i64));
        let push = pushed.recv().await.unwrap();
        assert_eq!(&push.body[..], b"answer");
        let header = ReplyMessageRequest::decode(&push.ext).unwrap();
        let properties = header.properties.unwrap();
        assert_eq!((header.topic.as_str(), header.producer_group.as_str()), ("c1_REPLY_TOPIC", "p"));
        assert!(header.born_host.starts_with("127.0.0.1:"), "{}", header.born_host);
        assert_eq!(properties_get(&properties, prop::CORRELATION_ID), Some("c-1"));
        assert_eq!(properties_get(&properties, "mine"), Some("x"));
        assert!(properties_get(&properties, prop::PUSH_REPLY_TIME).is_some());
    }
    let stored = node.pull(pull_header("c1_REPLY_TOPIC", 0, 0)).await;
    assert_eq!(stored.bodies(), ["answer", "answer"]);
    assert_eq!(stored.messages[0].properties.get(prop::CLUSTER).map(String::as_str), Some("c1"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_reaches_nobody_is_refused() {
    let node = OneNode::start().await;
    let (_requester, mut pushed) = requester(&node.address, "fails", ResponseCode::SYSTEM_ERROR).await;
    let code = RequestCode::SEND_REPLY_MESSAGE_V2;
    for (to, want) in [
        ("nobody", "channel of <nobody> not found"),
        ("fails", "push reply message to fails fail: code 1 as told"),
        ("", "reply message properties[REPLY_TO_CLIENT] is null"),
    ] {
        let response = node.call(reply_request(code, "c1_REPLY_TOPIC", to, "m")).await;
        let remark = response.remark.unwrap();
        assert_eq!(response.code, 1);
        assert!(remark.contains(want), "{remark}");
    }
    assert!(pushed.recv().await.is_some());
    // What cannot be stored is not pushed.
    for (topic, want) in [("RMQ_SYS_TRANS_HALF_TOPIC", 16), ("a b", 29)] {
        let response = node.call(reply_request(code, topic, "fails", "m")).await;
        assert_eq!(response.code, want, "{:?}", response.remark);
    }
    // A topic that is not there is made as by a send.
    let response = node.call(reply_request(code, "New", "fails", "m")).await;
    assert_eq!(response.code, 1);
    assert_eq!(node.pull(pull_header("New", 0, 0)).await.bodies(), ["m"]);
    assert!(pushed.recv().await.is_some() && pushed.try_recv().is_err());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_finds_a_requester_on_any_node() {
    let three = Three::start(|_| {}).await;
    let code = RequestCode::SEND_REPLY_MESSAGE_V2;
    let replier = Client::new(ClientConfig::default());
    for (asked, asked_at) in &three.addresses {
        let id = format!("asks-{asked}");
        let (requester, mut pushed) = requester(asked_at, &id, ResponseCode::SUCCESS).await;
        for address in three.addresses.values() {
            let start = Instant::now();
            // The other nodes hear of a client a moment later.
            while replier
                .call(address, reply_request(code, "c1_REPLY_TOPIC", &id, "r"), SOON)
                .await
                .unwrap()
                .code
                != 0
            {
                assert!(start.elapsed() < SOON);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(&pushed.recv().await.unwrap().body[..], b"r");
        }
        requester.close();
    }
    three.stop().await;
}

/// What a follower passes on is answered for itself, and sends do not wait for what waits for a client.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_waits_for_its_client_holds_up_no_send() {
    let three = Three::start(|_| {}).await;
    let leader = three.leader().await;
    let follower = three.other_than(leader);
    let (sender, mut pushed) = mpsc::unbounded_channel();
    let _requester = connected(&three.addresses[&leader], "silent", Silent { pushed: sender }).await;
    three.at(follower).message("m").await;
    let request = reply_request(RequestCode::SEND_REPLY_MESSAGE_V2, "c1_REPLY_TOPIC", "silent", "r");
    let (replier, at) = (Client::new(ClientConfig::default()), three.addresses[&follower].clone());
    let replying = tokio::spawn(async move { replier.call(&at, request, SOON).await });
    let _unanswered = pushed.recv().await.unwrap();
    for _ in 0..5 {
        three.at(follower).message("m").await;
    }
    assert!(!replying.is_finished(), "the sends waited for the reply");
    assert_eq!(replying.await.unwrap().unwrap().code, 1);
    three.stop().await;
}
