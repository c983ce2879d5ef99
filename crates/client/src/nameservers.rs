//! The nameservers: one of them, until it fails.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use wire::{Body, GetRouteInfoRequest, RemotingCommand, RequestCode, ResponseCode, TopicRouteData};

use crate::call::{Caller, bad_answer, refusal};
use crate::error::ClientError;

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

    /// The answer, whatever its code, of the nameserver in use or the first that follows it and does
    /// answer. Everything asked of nameservers here may be asked twice.
    pub(crate) async fn call(
        &self,
        request: RemotingCommand,
    ) -> Result<(String, RemotingCommand), ClientError> {
        let count = self.addresses.len();
        let first = self.current.load(Relaxed);
        let mut last = ClientError::refused("no nameserver is given");
        for step in 0..count {
            let place = (first + step) % count;
            let address = &self.addresses[place];
            match self.caller.call(address, request.clone(), self.timeout).await {
                Ok(answer) => {
                    if step > 0 {
                        tracing::info!(
                            from = self.addresses[first % count],
                            to = address,
                            "another nameserver is used"
                        );
                        self.current.store(place, Relaxed);
                    }
                    return Ok((address.clone(), answer));
                }
                Err(ClientError::Closed) => return Err(ClientError::Closed),
                Err(error) => last = error,
            }
        }
        Err(last)
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
