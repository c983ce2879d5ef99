//! What can go wrong, in the words of what a caller can do about it.

use wire::ResponseCode;

/// The errors of this crate.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing left this machine: the connection could not be made, or broke before the request was
    /// written. To repeat the request is safe.
    #[error("not sent to {to}: {why}")]
    NotSent { to: String, why: String },

    /// The request went out and no answer came: it may have been carried out. To repeat it may do it
    /// twice.
    #[error("outcome unknown, no answer from {from}: {why}")]
    Unknown { from: String, why: String },

    /// A server refused. See [`ClientError::may_have_happened`] for what code 1 means on a send.
    #[error("{from} answered {code}: {remark}")]
    Broker { from: String, code: ResponseCode, remark: String },

    /// No nameserver knows the topic, or what it says of it cannot be used.
    #[error("no route to topic {topic}: {why}")]
    NoRoute { topic: String, why: String },

    /// The topic exists, and none of its brokers takes writes at present.
    #[error("topic {topic} takes no writes now: {why}")]
    NotWritable { topic: String, why: String },

    /// All attempts of a send failed, or its time was up. `may_be_stored` is true when one of them
    /// may have stored the message, not only the last.
    #[error("send failed after {attempts} attempts: {last}")]
    SendFailed { attempts: u32, may_be_stored: bool, last: Box<ClientError> },

    /// What the caller gave breaks a rule; nothing was sent.
    #[error("{0}")]
    Refused(String),

    /// A server sent what cannot be understood.
    #[error("cannot read the answer of {from}: {why}")]
    BadAnswer { from: String, why: String },

    /// Too much is under way already; nothing was sent.
    #[error("too much under way: {0}")]
    Busy(&'static str),

    /// The offset file of a broadcast consumer cannot be read or written.
    #[error("offset file {path}: {why}")]
    OffsetFile { path: String, why: String },

    /// The client, producer or consumer was shut down.
    #[error("shut down")]
    Closed,
}

impl ClientError {
    /// Whether the request may have been carried out in spite of the error. Code 1 counts as unknown:
    /// brokers use it when replication timed out (protocol.md 9.1).
    pub fn may_have_happened(&self) -> bool {
        match self {
            ClientError::Unknown { .. } | ClientError::BadAnswer { .. } => true,
            ClientError::Broker { code, .. } => *code == ResponseCode::SYSTEM_ERROR,
            ClientError::SendFailed { may_be_stored, .. } => *may_be_stored,
            ClientError::NotSent { .. }
            | ClientError::NoRoute { .. }
            | ClientError::NotWritable { .. }
            | ClientError::Refused(_)
            | ClientError::Busy(_)
            | ClientError::OffsetFile { .. }
            | ClientError::Closed => false,
        }
    }

    /// The response code, if a server gave one.
    pub fn code(&self) -> Option<ResponseCode> {
        match self {
            ClientError::Broker { code, .. } => Some(*code),
            ClientError::SendFailed { last, .. } => last.code(),
            _ => None,
        }
    }

    /// Whether a send is tried again on another broker: on any failure of the connection, and on the
    /// codes of the Java client (4.9: 17, 14, 1, 16, 204, 205; 5.3 adds 2 and 1500).
    pub(crate) fn is_retried(&self) -> bool {
        match self {
            ClientError::NotSent { .. } | ClientError::Unknown { .. } | ClientError::NotWritable { .. } => {
                true
            }
            ClientError::Broker { code, .. } => matches!(
                *code,
                ResponseCode::TOPIC_NOT_EXIST
                    | ResponseCode::SERVICE_NOT_AVAILABLE
                    | ResponseCode::SYSTEM_ERROR
                    | ResponseCode::SYSTEM_BUSY
                    | ResponseCode::NO_PERMISSION
                    | ResponseCode::NO_BUYER_ID
                    | ResponseCode::NOT_IN_CURRENT_UNIT
                    | ResponseCode::GO_AWAY
            ),
            _ => false,
        }
    }

    /// Whether waiting may help and repeating does no harm: nothing was stored, and only because
    /// nobody leads or has room at this moment.
    pub(crate) fn is_for_want_of_a_leader(&self) -> bool {
        match self {
            ClientError::NotSent { .. } | ClientError::NotWritable { .. } => true,
            ClientError::Broker { code, .. } => matches!(
                *code,
                ResponseCode::SERVICE_NOT_AVAILABLE | ResponseCode::SYSTEM_BUSY | ResponseCode::GO_AWAY
            ),
            _ => false,
        }
    }

    pub(crate) fn refused(why: impl Into<String>) -> ClientError {
        ClientError::Refused(why.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(code: i32) -> ClientError {
        ClientError::Broker { from: "a".into(), code: ResponseCode(code), remark: String::new() }
    }

    #[test]
    fn the_retried_codes_are_javas() {
        let retried: Vec<i32> = (-10..4000).filter(|code| broker(*code).is_retried()).collect();
        assert_eq!(retried, [1, 2, 14, 16, 17, 204, 205, 1500]);
        assert!(ClientError::NotSent { to: "a".into(), why: String::new() }.is_retried());
        assert!(ClientError::Unknown { from: "a".into(), why: String::new() }.is_retried());
        assert!(!ClientError::Closed.is_retried());
    }

    #[test]
    fn only_code_1_leaves_the_outcome_open() {
        assert!(broker(1).may_have_happened());
        assert!(!broker(14).may_have_happened());
        let failed = |may_be_stored| ClientError::SendFailed {
            attempts: 3,
            may_be_stored,
            last: Box::new(broker(14)),
        };
        assert!(failed(true).may_have_happened());
        assert!(!failed(false).may_have_happened());
        assert_eq!(failed(true).code(), Some(ResponseCode::SERVICE_NOT_AVAILABLE));
    }
}
