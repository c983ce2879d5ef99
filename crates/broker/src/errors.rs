//! Why a request was not done, and what its client is told: [`Error::answer`] is the one place where errors become
//! RocketMQ's codes. docs/errors.md says the same for operators.

use net::PushBack;
use replica::{NodeId, ProposeError, ReadError};
use store::StoreError;
use store::index::IndexError;
use wire::{BodyError, HeaderError, ResponseCode};

use crate::state::rules::Refusal;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A rule says no.
    #[error("{remark}")]
    Refused { code: ResponseCode, remark: String },
    /// There is too much of what this client sends: it is told so, and is not read for a while.
    #[error("{remark}")]
    Busy { code: ResponseCode, remark: String, what: PushBack },
    /// Definitely not done here: another node leads, or none.
    #[error("this node does not lead the group")]
    NotLeader { leader: Option<NodeId> },
    /// Definitely not stored: the entry was void. May be tried again at once.
    #[error("the entry was void")]
    Void,
    /// It may or may not have been done.
    #[error("the outcome of the request is unknown: {0}")]
    Unknown(String),
    /// Definitely not done: a limit is reached, or a member of the group would not know it.
    #[error("{0}")]
    Overloaded(String),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Error {
    pub(crate) fn refused(code: ResponseCode, remark: impl Into<String>) -> Error {
        Error::Refused { code, remark: remark.into() }
    }

    /// The same, for another request that it befell.
    pub(crate) fn shared(&self) -> Error {
        match self {
            Error::Refused { code, remark } => Error::refused(*code, remark),
            Error::Busy { code, remark, what } => {
                Error::Busy { code: *code, remark: remark.clone(), what: *what }
            }
            Error::NotLeader { leader } => Error::NotLeader { leader: *leader },
            Error::Void => Error::Void,
            Error::Unknown(why) => Error::Unknown(why.clone()),
            Error::Overloaded(why) => Error::Overloaded(why.clone()),
            Error::Header(_) | Error::Body(_) | Error::Store(_) => {
                Error::refused(ResponseCode::SYSTEM_ERROR, self.to_string())
            }
        }
    }

    /// Whether the request may be tried again, here or elsewhere: it is certain that nothing was done, and another
    /// try can end otherwise (log.md 12).
    pub(crate) fn may_retry(&self) -> bool {
        matches!(self, Error::NotLeader { .. } | Error::Void)
    }

    /// The response code and remark. Never 10, 11 or 12, which clients count as sent (clients.md 2).
    pub(crate) fn answer(self) -> (ResponseCode, String) {
        let code = match &self {
            Error::Refused { code, .. } | Error::Busy { code, .. } => *code,
            // Sync producers of every version retry 14 on another broker.
            Error::NotLeader { .. } | Error::Void | Error::Overloaded(_) => {
                ResponseCode::SERVICE_NOT_AVAILABLE
            }
            // Java answers these so; its clients count none of them as sent.
            Error::Unknown(_) | Error::Header(_) | Error::Body(_) | Error::Store(_) => {
                ResponseCode::SYSTEM_ERROR
            }
        };
        match self {
            Error::Refused { remark, .. } | Error::Busy { remark, .. } => (code, remark),
            error => (code, error.to_string()),
        }
    }
}

impl From<Refusal> for Error {
    fn from(Refusal { code, remark }: Refusal) -> Error {
        Error::Refused { code, remark }
    }
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Error {
        match error {
            ProposeError::NotLeader { leader } => Error::NotLeader { leader },
            // Another node may have the group running.
            ProposeError::Stopped => Error::NotLeader { leader: None },
            ProposeError::Void => Error::Void,
            ProposeError::Unknown(why) => Error::Unknown(why.into()),
            ProposeError::NoQueue { ref topic, .. } => {
                Error::refused(ResponseCode::TOPIC_NOT_EXIST, format!("topic[{topic}] not exist: {error}"))
            }
            ProposeError::TooLarge { .. } => Error::refused(ResponseCode::MESSAGE_ILLEGAL, error.to_string()),
            ProposeError::Full { .. } => Error::Busy {
                code: ResponseCode::SERVICE_NOT_AVAILABLE,
                remark: error.to_string(),
                what: PushBack::Connection,
            },
            ProposeError::NoRoom { .. } | ProposeError::Level { .. } => Error::Overloaded(error.to_string()),
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Error {
        match error {
            ReadError::NotLeader { leader } => Error::NotLeader { leader },
            // Nothing was read, so that asking again is harmless.
            ReadError::NoQuorum | ReadError::Stopped => Error::NotLeader { leader: None },
        }
    }
}

impl From<IndexError> for Error {
    fn from(error: IndexError) -> Error {
        match error {
            IndexError::Store(error) => Error::Store(error),
            // The client tries again in a second; the range is being built again.
            IndexError::Rebuilding { .. } => Error::refused(ResponseCode::SYSTEM_BUSY, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::QueueId;

    use super::*;

    #[test]
    fn proposals_map_by_what_is_known() {
        for (error, retry, code) in [
            (ProposeError::NotLeader { leader: None }, true, 14),
            (ProposeError::Stopped, true, 14),
            (ProposeError::Void, true, 14),
            (ProposeError::Unknown("x"), false, 1),
            (ProposeError::Full { pending_bytes: 1, limit_bytes: 1 }, false, 14),
            (ProposeError::NoRoom { reason: "full".into() }, false, 14),
            (ProposeError::Level { needed: 2, nodes: vec![NodeId(3)] }, false, 14),
            (ProposeError::TooLarge { len: 2, limit: 1 }, false, 13),
            (ProposeError::NoQueue { topic: "t".into(), queue: QueueId(1) }, false, 17),
        ] {
            let text = error.to_string();
            let error = Error::from(error);
            assert_eq!(error.may_retry(), retry, "{text}");
            let (got, remark) = error.answer();
            assert_eq!(got.get(), code, "{text}");
            assert!(!remark.is_empty());
        }
        let (code, remark) = Error::Unknown("no answer".into()).answer();
        assert!(remark.contains("unknown"), "{remark}");
        assert!(![10, 11, 12].contains(&code.get()));
    }
}
