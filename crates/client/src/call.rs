//! One request, one answer: the bridge between `net` and this crate's errors.

use std::fmt;
use std::time::Duration;

use net::{CallError, Failure};
use wire::{Body, Header, Language, RemotingCommand, RequestCode, ResponseCode, SerializeType};

use crate::error::ClientError;

/// Makes requests and sends them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Caller {
    net: net::Client,
    serialize: SerializeType,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("serialize", &self.serialize).finish_non_exhaustive()
    }
}

impl Caller {
    pub(crate) fn new(net: net::Client, json_headers: bool) -> Caller {
        Caller { net, serialize: if json_headers { SerializeType::Json } else { SerializeType::RocketMq } }
    }

    pub(crate) fn net(&self) -> &net::Client {
        &self.net
    }

    pub(crate) fn bare_request(&self, code: RequestCode) -> RemotingCommand {
        let mut request = RemotingCommand::request(code);
        request.language = Language::Rust;
        // The code's 16 bits in the binary header would cut the pop family (protocol.md 1.3).
        let fits = i16::try_from(code.get()).is_ok();
        request.serialize = if fits { self.serialize } else { SerializeType::Json };
        request
    }

    pub(crate) fn request(&self, code: RequestCode, header: &impl Header) -> RemotingCommand {
        self.bare_request(code).with_header(header)
    }

    /// The answer, whatever its code.
    pub(crate) async fn call(
        &self,
        address: &str,
        request: RemotingCommand,
        timeout: Duration,
    ) -> Result<RemotingCommand, ClientError> {
        self.net.call(address, request, timeout).await.map_err(ClientError::from)
    }

    /// The answer to a request that must succeed.
    pub(crate) async fn ask(
        &self,
        address: &str,
        request: RemotingCommand,
        timeout: Duration,
    ) -> Result<RemotingCommand, ClientError> {
        let answer = self.call(address, request, timeout).await?;
        match answer.response_code() {
            ResponseCode::SUCCESS => Ok(answer),
            _ => Err(refusal(address, answer)),
        }
    }

    /// The body of a successful answer.
    pub(crate) async fn ask_body<T: Body>(
        &self,
        address: &str,
        request: RemotingCommand,
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.ask(address, request, timeout).await?;
        T::decode(&answer.body).map_err(|error| bad_answer(address, error))
    }
}

/// What an answer with another code than success says.
pub(crate) fn refusal(from: &str, answer: RemotingCommand) -> ClientError {
    ClientError::Broker {
        from: from.to_owned(),
        code: answer.response_code(),
        remark: answer.remark.unwrap_or_default(),
    }
}

pub(crate) fn bad_answer(from: &str, why: impl fmt::Display) -> ClientError {
    ClientError::BadAnswer { from: from.to_owned(), why: why.to_string() }
}

impl From<CallError> for ClientError {
    fn from(error: CallError) -> ClientError {
        match error {
            CallError::NotSent { failure: Failure::ShutDown, .. } => ClientError::Closed,
            CallError::NotSent { failure: Failure::TooManyPending, .. } => {
                ClientError::Busy("requests on one connection")
            }
            CallError::NotSent {
                failure: failure @ (Failure::TooLarge { .. } | Failure::Address(_)),
                ..
            } => ClientError::Refused(failure.to_string()),
            CallError::NotSent { peer, failure } => {
                ClientError::NotSent { to: peer, why: failure.to_string() }
            }
            CallError::Unknown { peer, failure } => {
                ClientError::Unknown { from: peer, why: failure.to_string() }
            }
        }
    }
}
