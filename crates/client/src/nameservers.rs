//! The nameservers: one of them, until it fails or keeps us waiting.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::timeout;
use wire::{Body, GetRouteInfoRequest, RemotingCommand, RequestCode, ResponseCode, TopicRouteData};

use crate::call::{Caller, bad_answer, refusal};
use crate::error::ClientError;
use crate::limits;

#[derive(Debug)]
pub(crate) struct Nameservers {
    caller: Caller,
    addresses: Vec<String>,
    /// Place of the one in use.
    current: AtomicUsize,
    timeout: Duration,
}

impl Nameservers {
    pub(crate) fn new(caller: Caller, addresses: Vec<String>, timeout: Duration) -> Nameservers {
        let current = AtomicUsize::new(rand::random_range(0..addresses.len().max(1)));
        Nameservers { caller, addresses, current, timeout }
    }

    pub(crate) fn close(&self) {
        self.caller.net().close();
    }

    /// The answer, whatever its code, of the nameserver in use or of one that follows it: the next is asked when one fails, and
    /// also when one has not answered for [`limits::NAMESERVER_PATIENCE`], for the node that led may be asleep with its
    /// nameserver; whoever answers first counts. Everything asked of nameservers here may be asked twice.
    pub(crate) async fn call(
        &self,
        request: RemotingCommand,
    ) -> Result<(String, RemotingCommand), ClientError> {
        let count = self.addresses.len();
        let first = self.current.load(Relaxed);
        let ask = |step: usize| {
            let (place, request) = ((first + step) % count, request.clone());
            async move { (place, self.caller.call(&self.addresses[place], request, self.timeout).await) }
        };
        let mut asked = FuturesUnordered::new();
        let mut last = ClientError::refused("no nameserver is given");
        let mut steps = 0..count;
        loop {
            asked.extend(steps.next().map(ask));
            let is_last = steps.is_empty();
            let result = match timeout(limits::NAMESERVER_PATIENCE, asked.next()).await {
                Ok(result) => result,
                Err(_) if is_last => asked.next().await,
                Err(_) => continue,
            };
            let Some((place, result)) = result else { return Err(last) };
            match result {
                Ok(answer) => {
                    let address = &self.addresses[place];
                    if place != first % count {
                        let from = &self.addresses[first % count];
                        tracing::info!(from, to = address, "another nameserver is used");
                        self.current.store(place, Relaxed);
                    }
                    return Ok((address.clone(), answer));
                }
                Err(ClientError::Closed) => return Err(ClientError::Closed),
                Err(error) => last = error,
            }
        }
    }

    /// The answer to a request that must succeed.
    pub(crate) async fn ask(
        &self,
        request: RemotingCommand,
    ) -> Result<(String, RemotingCommand), ClientError> {
        let (from, answer) = self.call(request).await?;
        match answer.response_code() {
            ResponseCode::SUCCESS => Ok((from, answer)),
            _ => Err(refusal(&from, answer)),
        }
    }

    /// A topic's route; `None` when the nameserver knows none.
    pub(crate) async fn route(&self, topic: &str) -> Result<Option<TopicRouteData>, ClientError> {
        let header = GetRouteInfoRequest { topic: topic.to_owned(), accept_standard_json_only: Some(true) };
        let request = self.caller.request(RequestCode::GET_ROUTEINFO_BY_TOPIC, &header);
        let (from, answer) = self.call(request).await?;
        match answer.response_code() {
            ResponseCode::SUCCESS => match TopicRouteData::decode(&answer.body) {
                Ok(data) => Ok(Some(data)),
                Err(error) => Err(bad_answer(&from, error)),
            },
            ResponseCode::TOPIC_NOT_EXIST => Ok(None),
            _ => Err(refusal(&from, answer)),
        }
    }
}
