use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use net::{CallError, Client, ClientConfig, ConnectionConfig, Failure, Replier, ServerConfig};
use wire::{RemotingCommand, RequestCode, ResponseCode};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_one_connection() {
    let (server, address) = start(ServerConfig::default(), Arc::new(echo));
    let client = Client::new(ClientConfig::default());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..500_usize {
        let (client, address) = (client.clone(), address.to_string());
        tasks.spawn(async move {
            for round in 0..20 {
                let body = format!("{number}/{round}");
                let response = client.call(&address, request(body.clone()), LONG).await.unwrap();
                assert_eq!(response.body, body);
            }
        });
    }
    within(tasks.join_all()).await;
    assert_eq!(server.stats().accepted_total, 1);
    assert_eq!(server.stats().requests_total, 10_000);
    assert_eq!(client.connected(), [address.to_string()]);
    drop(client);
    until("closed with its last clone", || server.stats().connections == 0).await;
}

#[tokio::test]
async fn a_lost_connection_is_opened_again_on_demand() {
    let (server, address) = start(ServerConfig::default(), Arc::new(echo));
    let client = Client::new(ClientConfig::default());
    let address = address.to_string();
    for round in 1..=3 {
        client.call(&address, request("x"), LONG).await.unwrap();
        assert_eq!(server.stats().accepted_total, round);
        let connection = client.connection(&address, LONG).await.unwrap();
        if round == 2 {
            client.disconnect(&address);
        } else {
            server.connections().pop().unwrap().reset();
        }
        within(connection.ended()).await;
        until("forgotten", || client.connected().is_empty()).await;
    }
    client.close();
    let refused = client.call(&address, request("x"), LONG).await;
    assert_eq!(refused, Err(CallError::NotSent { peer: address, failure: Failure::ShutDown }));
}

#[tokio::test]
async fn errors_say_whether_the_request_may_have_been_carried_out() {
    let client = Client::new(ClientConfig {
        connect_timeout: Duration::from_millis(300),
        connection: ConnectionConfig { pending_max: 2, ..ConnectionConfig::default() },
        ..ClientConfig::default()
    });
    let failure = |result: Result<RemotingCommand, CallError>| result.unwrap_err();
    let refused = {
        let listener = std::net::TcpListener::bind(ANY).unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let error = failure(client.call(&refused, request("x"), LONG).await);
    assert_eq!(error.failure(), &Failure::Connect(std::io::ErrorKind::ConnectionRefused));
    assert!(error.is_not_sent());

    for bad in ["", "nonsense", "host:", ":1", "host:port", "host:99999"] {
        let error = failure(client.call(bad, request("x"), LONG).await);
        assert!(matches!(error, CallError::NotSent { failure: Failure::Address(_), .. }), "{bad}: {error}");
    }

    let (_server, address) =
        start(ServerConfig::default(), Arc::new(|_: RemotingCommand, replier: Replier| replier.forget()));
    let address = address.to_string();
    let error = failure(client.call(&address, request("x"), Duration::from_millis(50)).await);
    assert!(matches!(error, CallError::Unknown { failure: Failure::Timeout, .. }), "{error}");

    let error = failure(client.call(&address, request(vec![0; wire::FRAME_BYTES_MAX]), LONG).await);
    assert!(matches!(error, CallError::NotSent { failure: Failure::TooLarge { .. }, .. }), "{error}");

    let wait = Duration::from_millis(200);
    let (one, two, three) = tokio::join!(
        client.call(&address, request("1"), wait),
        client.call(&address, request("2"), wait),
        client.call(&address, request("3"), wait)
    );
    assert!(!failure(one).is_not_sent() && !failure(two).is_not_sent());
    assert_eq!(failure(three).failure(), &Failure::TooManyPending);
    // Both places are free again after their timeouts.
    assert!(!failure(client.call(&address, request("4"), wait).await).is_not_sent());
}

/// A request that was still queued when the connection ended cannot have been carried out; one whose
/// bytes had all left may have been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_never_left_is_known_not_to_have_been_sent() {
    let listener = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = Client::new(ClientConfig::default());
    let call = |size: usize| {
        let (client, address) = (client.clone(), address.clone());
        tokio::spawn(async move { client.call(&address, request(vec![0; size]), LONG).await })
    };
    let first = call(10);
    let (peer, _) = within(listener.accept()).await.unwrap();
    let mut buffer = bytes::BytesMut::new();
    let mut peer = peer;
    within(tokio::io::AsyncReadExt::read_buf(&mut peer, &mut buffer)).await.unwrap();
    // More than both socket buffers hold, then one more behind it.
    let second = call(15 * 1024 * 1024);
    let connection = client.connection(&address, LONG).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let third = call(10);
    tokio::time::sleep(Duration::from_millis(100)).await;
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    within(connection.ended()).await;
    let ends =
        [first, second, third].map(|call| async { within(call).await.unwrap().unwrap_err().is_not_sent() });
    let [first, second, third] = ends;
    assert!(!first.await, "it was read");
    assert!(second.await, "only a part of it had left");
    assert!(third.await, "none of it had left");
}

#[tokio::test]
async fn a_dead_address_fails_all_who_wait_for_it_once() {
    // No route answers for this address: the connect can only time out, or fail at once where the
    // machine has no network.
    let client =
        Client::new(ClientConfig { connect_timeout: Duration::from_millis(300), ..ClientConfig::default() });
    let start = tokio::time::Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = client.clone();
        tasks.spawn(async move { client.call("192.0.2.1:9876", request("x"), LONG).await });
    }
    for result in within(tasks.join_all()).await {
        assert!(result.unwrap_err().is_not_sent());
    }
    assert!(start.elapsed() < Duration::from_secs(2), "one after the other: {:?}", start.elapsed());
}

#[tokio::test]
async fn a_client_answers_its_server() {
    let (server, address) = start(ServerConfig::default(), Arc::new(echo));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let handler = move |request: RemotingCommand, replier: Replier| {
        count.fetch_add(1, Ordering::SeqCst);
        echo(request, replier);
    };
    let client = Client::with_handler(ClientConfig::default(), Arc::new(handler));
    let plain = Client::new(ClientConfig::default());
    let address = address.to_string();
    client.call(&address, request("hello"), LONG).await.unwrap();
    let connection = server.connections().pop().unwrap();
    let notify = RemotingCommand::request(RequestCode::NOTIFY_CONSUMER_IDS_CHANGED);
    assert_eq!(connection.request(notify.clone().with_body("?"), LONG).await.unwrap().body, "?");
    connection.send_oneway(notify.clone()).unwrap();
    until("both", || asked.load(Ordering::SeqCst) == 2).await;
    client.send_oneway(&address, request("x"), LONG).await.unwrap();
    until("arrived", || server.stats().requests_total == 2).await;

    plain.call(&address, request("hello"), LONG).await.unwrap();
    let id = connection.id();
    let connection = server.connections().into_iter().find(|other| other.id() != id).unwrap();
    let refused = connection.request(notify, LONG).await.unwrap();
    assert_eq!(refused.response_code(), ResponseCode::REQUEST_CODE_NOT_SUPPORTED);
    assert_eq!(refused.remark.as_deref(), Some(" request type 40 not supported"));
}

#[tokio::test]
async fn a_cancelled_call_leaves_nothing_behind() {
    let (_server, address) =
        start(ServerConfig::default(), Arc::new(|_: RemotingCommand, replier: Replier| replier.forget()));
    let client = Client::new(ClientConfig {
        connection: ConnectionConfig { pending_max: 1, ..ConnectionConfig::default() },
        ..ClientConfig::default()
    });
    let address = address.to_string();
    for _ in 0..10 {
        let call = client.call(&address, request("x"), LONG);
        let given_up = tokio::time::timeout(Duration::from_millis(20), call).await;
        assert!(given_up.is_err(), "no place was free: {given_up:?}");
    }
}
