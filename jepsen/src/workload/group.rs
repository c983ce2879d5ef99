//! A consumer group of the Rust client: members come and go, some in order, some as if they had crashed. What reaches a
//! listener is written down, and in the end what the group has committed.

use std::future::ready;
use std::time::Duration;

use client::{
    Client, ClientConfig, ClientError, ConsumeFrom, ConsumerConfig, Filter, ReceivedMessage, Verdict,
};
use rand::Rng as _;
use rand::rngs::StdRng;

use super::call::Caller;
use super::field::Field;
use crate::history::{Action, Details, Effect, EffectOf, Kind, Nemesis, Op, Process, Queue, Read, Value};

pub(super) const GROUP: &str = "jepsen-group";
const MEMBERS: u64 = 3;
/// How long a member stays; a rebalance takes a second or two.
const STAYS: std::ops::Range<u64> = 10_000..30_000;
/// Numbers of these faults, apart from those of the nemesis.
const CHURN_IDS: u32 = 1_000_000;
/// Between two looks at what the group has left to do.
const LOOK: Duration = Duration::from_millis(200);

/// Starts the members; the first one stays, so that the group is never without anybody for long.
pub(super) fn start(field: &Field, topic: &str) {
    for number in 0..MEMBERS {
        let topic = topic.to_owned();
        field.spawn(&field.members, move |field, _caller, rng| member(field, rng, topic, number));
    }
}

/// One place in the group: member after member until nothing more is written; the last one stays to the end.
async fn member(field: Field, mut rng: StdRng, topic: String, number: u64) {
    let mut round = 0;
    loop {
        let process = field.recorder.process();
        let running = match join(&field, &topic, &process).await {
            Ok(running) => running,
            Err(error) => {
                // No nameserver answers, or none knows the topic: a client would be started again too.
                tracing::debug!(%error, "a member cannot join");
                tokio::time::sleep(LOOK).await;
                continue;
            }
        };
        if round > 0 {
            let joined = Effect::new(EffectOf::ClientJoined).at(running.client.id());
            field.recorder.note(churn(number, round, Action::Stop, joined));
        }
        let stays = Duration::from_millis(rng.random_range(STAYS));
        if number == 0 || !field.pause(stays).await {
            // Until the whole run ends this task.
            std::future::pending::<()>().await;
        }
        round += 1;
        let left = Effect::new(EffectOf::ClientLeft).at(running.client.id());
        if rng.random() {
            running.consumer.shutdown().await;
            running.client.shutdown().await;
        } else {
            // As a crash: nobody is told, and the offsets of the last moment are not stored.
            drop(running.consumer);
            drop(running.client);
        }
        field.recorder.note(churn(number, round, Action::Start, left));
    }
}

struct Running {
    client: Client,
    consumer: client::PushConsumer,
}

async fn join(field: &Field, topic: &str, process: &Process) -> Result<Running, ClientError> {
    let config = ClientConfig {
        offset_commit: Duration::from_secs(1),
        route_poll: Duration::from_secs(5),
        heartbeat: Duration::from_secs(5),
        rebalance: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(1),
        ..ClientConfig::new(&field.nameservers)
    };
    let client = Client::start(config).await?;
    let config = ConsumerConfig {
        from: ConsumeFrom::First,
        batch: 32,
        concurrency: 4,
        suspend: Duration::from_secs(2),
        ..ConsumerConfig::default()
    };
    let (recorder, id) = (field.recorder.clone(), process.id());
    let builder = client.push_consumer(GROUP, config)?.subscribe(topic, Filter::all());
    let consumer = builder
        .listen(move |messages: Vec<ReceivedMessage>| {
            for (queue, messages) in by_queue(&messages) {
                let op = Op::Deliver { group: GROUP.to_owned(), queue, messages };
                recorder.record(id, Kind::Ok, op, Details::default());
            }
            ready(Verdict::Success)
        })
        .await?;
    Ok(Running { client, consumer })
}

/// Runs of messages of one queue.
fn by_queue(messages: &[ReceivedMessage]) -> Vec<(Queue, Vec<Read>)> {
    let mut runs: Vec<(Queue, Vec<Read>)> = Vec::new();
    for message in messages {
        let from = message.queue();
        let queue =
            Queue::new(&from.broker_name, &from.topic, u32::try_from(from.queue_id).unwrap_or(u32::MAX));
        let read = Read { offset: message.offset().get(), value: Value::of_body(message.body()) };
        match runs.last_mut() {
            Some((last, reads)) if *last == queue => reads.push(read),
            _ => runs.push((queue, vec![read])),
        }
    }
    runs
}

fn churn(number: u64, round: u32, action: Action, effect: Effect) -> Op {
    Op::Nemesis(Box::new(Nemesis {
        id: CHURN_IDS + number as u32 * 10_000 + round,
        fault: "client-churn".to_owned(),
        action,
        leaves_majority: true,
        effects: vec![effect],
        ..Nemesis::default()
    }))
}

/// Waits until the group has committed the end of each queue, and writes down what it has committed then. False when that
/// does not come to pass in time.
///
/// The members' own commits are in no history, since the client sends them by itself. So what the group has committed is
/// committed once more, by a client that writes it down, and asked for: then the history says how the register got its value.
pub(super) async fn settle(field: &Field, caller: &Caller, ends: &[(Queue, u64)]) -> bool {
    let mut is_level = true;
    for (queue, end) in ends {
        let began = tokio::time::Instant::now();
        let mut node = 1;
        let committed = loop {
            let committed = caller.query(node, GROUP, queue).await.result.flatten();
            if committed.is_some_and(|committed| committed >= *end) {
                break committed;
            }
            if began.elapsed() > super::CONVERGE {
                is_level = false;
                break committed;
            }
            node = node % caller.nodes() + 1;
            tokio::time::sleep(LOOK).await;
        };
        let Some(offset) = committed else { continue };
        let mut process = field.recorder.process();
        let op = || Op::Commit { group: GROUP.to_owned(), queue: queue.clone(), offset, oneway: false };
        process.invoke(op());
        let answered = caller.commit(node, GROUP, queue, offset).await;
        process.complete(answered.outcome, op(), answered.details);
        let op = |offset| Op::Query { group: GROUP.to_owned(), queue: queue.clone(), offset };
        process.invoke(op(None));
        let answered = caller.query(node, GROUP, queue).await;
        process.complete(answered.outcome, op(answered.result.flatten()), answered.details);
    }
    is_level
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_leaving_has_a_number_of_its_own() {
        let id = |number, round| match churn(number, round, Action::Start, Effect::new(EffectOf::ClientLeft))
        {
            Op::Nemesis(nemesis) => nemesis.id,
            _ => 0,
        };
        assert_ne!(id(1, 1), id(2, 1));
        assert_ne!(id(1, 1), id(1, 2));
        assert!(id(0, 0) >= CHURN_IDS);
    }
}
