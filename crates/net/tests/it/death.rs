//! A killed server is a reset to its clients, not a silent FIN (clients.md, rule 1).

use std::io::ErrorKind;
use std::sync::Arc;

use net::{CallError, Client, ClientConfig, CloseReason, Failure, ServerConfig};

use crate::support::*;

/// Not a test of its own: the process that dies. It says where it listens and holds every request.
#[tokio::test]
async fn the_victim() {
    if !plays("victim") {
        return;
    }
    let hold = |request: wire::RemotingCommand, replier: net::Replier| {
        if request.body == "hold" { std::mem::forget(replier) } else { echo(request, replier) }
    };
    let (_server, address) = start(ServerConfig::default(), Arc::new(hold));
    println!("listens on {address}");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn kill_9_is_a_reset_even_for_a_request_in_flight() {
    let mut victim = Victim::start("victim", "death::the_victim");
    let address = victim.address;
    let mut idle = Raw::connect(address).await;
    idle.call(1, "x").await;
    let mut waits = Raw::connect(address).await;
    waits.call(1, "x").await;
    waits.write(&frame(&request("hold"))).await;
    victim.kill();
    assert_eq!(idle.end().await, Some(ErrorKind::ConnectionReset));
    assert_eq!(waits.end().await, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_call_in_flight_is_of_unknown_outcome_and_the_next_is_not_sent() {
    let mut victim = Victim::start("victim", "death::the_victim");
    let address = victim.address;
    let client = Client::new(ClientConfig::default());
    let address = address.to_string();
    client.call(&address, request("x"), LONG).await.unwrap();
    let waits = tokio::spawn({
        let (client, address) = (client.clone(), address.clone());
        async move { client.call(&address, request("hold"), LONG).await }
    });
    // Answered after it on the same connection, so the held one has arrived.
    client.call(&address, request("y"), LONG).await.unwrap();
    victim.kill();
    let failure = Failure::Closed(CloseReason::Io(ErrorKind::ConnectionReset));
    assert_eq!(within(waits).await.unwrap(), Err(CallError::Unknown { peer: address.clone(), failure }));
    let refused = client.call(&address, request("x"), LONG).await;
    let failure = Failure::Connect(ErrorKind::ConnectionRefused);
    assert_eq!(refused, Err(CallError::NotSent { peer: address, failure }));
}
