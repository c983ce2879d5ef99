//! Why a connection ended, and what a failed call says about its request.

use std::io;

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    #[error("the peer closed it")]
    PeerClosed,
    /// Reset by the peer, or any other failure of the socket.
    #[error("socket failed: {0}")]
    Io(io::ErrorKind),
    /// Bytes that are no frame: another protocol, TLS, a lying length.
    #[error("not the remoting protocol: {0}")]
    Garbage(wire::FrameError),
    #[error("a frame took too long to arrive")]
    SlowFrame,
    #[error("nothing was read or written for too long")]
    Idle,
    /// More waited for the peer than it may leave unread, or it took nothing for too long.
    #[error("the peer does not read its replies")]
    SlowReader,
    /// [`crate::Connection::reset`].
    #[error("reset by this side")]
    Reset,
    /// [`crate::Connection::close`], or the client that owned it is gone.
    #[error("closed by this side")]
    Closed,
    /// [`crate::Server::shutdown`]: all its requests were answered first.
    #[error("drained")]
    Drained,
    /// The server stopped before this connection's requests were answered.
    #[error("the server stopped")]
    Stopped,
    /// A handler panicked.
    #[error("a handler panicked")]
    Panicked,
}

impl CloseReason {
    pub(crate) const COUNT: usize = 11;

    /// Place in the counters of [`crate::ServerStats`].
    pub(crate) fn index(&self) -> usize {
        match self {
            CloseReason::PeerClosed => 0,
            CloseReason::Io(_) => 1,
            CloseReason::Garbage(_) => 2,
            CloseReason::SlowFrame => 3,
            CloseReason::Idle => 4,
            CloseReason::SlowReader => 5,
            CloseReason::Reset => 6,
            CloseReason::Closed => 7,
            CloseReason::Drained => 8,
            CloseReason::Stopped => 9,
            CloseReason::Panicked => 10,
        }
    }

    pub(crate) const NAMES: [&'static str; CloseReason::COUNT] = [
        "peer_closed",
        "io",
        "garbage",
        "slow_frame",
        "idle",
        "slow_reader",
        "reset",
        "closed",
        "drained",
        "stopped",
        "panicked",
    ];
}

/// What went wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("bad address: {0}")]
    Address(String),
    #[error("connect failed: {0}")]
    Connect(io::ErrorKind),
    #[error("no answer in time")]
    Timeout,
    #[error("connection over: {0}")]
    Closed(CloseReason),
    #[error("a frame of {bytes} bytes exceeds the maximum of {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("too many requests wait for their response")]
    TooManyPending,
    #[error("the client was shut down")]
    ShutDown,
}

/// A call that brought no response. The two variants are what a caller acts on: a request that was
/// not sent may be sent elsewhere at once, one of unknown outcome may have been carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The peer cannot have acted on it: not all of its bytes left this process.
    #[error("not sent to {peer}: {failure}")]
    NotSent { peer: String, failure: Failure },
    /// It left this process whole; whether it was carried out is not known.
    #[error("outcome unknown at {peer}: {failure}")]
    Unknown { peer: String, failure: Failure },
}

impl CallError {
    pub fn failure(&self) -> &Failure {
        match self {
            CallError::NotSent { failure, .. } | CallError::Unknown { failure, .. } => failure,
        }
    }

    pub fn is_not_sent(&self) -> bool {
        matches!(self, CallError::NotSent { .. })
    }
}
