//! What a handler that only reads tables comes to.

use wire::{RemotingCommand, ResponseCode};

use crate::state::{Command, Reply};

/// The next step of a request.
#[derive(Debug)]
pub(crate) enum Step {
    /// This is the answer.
    Answer(RemotingCommand),
    /// Propose this (`Command::is_barrier` says how); the answer is [`answer`] of the reply. A reply that
    /// `changed` is registered with the nameservers first.
    Propose(Command),
}

/// A success without header or body.
pub(crate) fn success(request: &RemotingCommand) -> RemotingCommand {
    RemotingCommand::response_to(request, ResponseCode::SUCCESS)
}

/// The answer to a request whose command was applied.
pub(crate) fn answer(request: &RemotingCommand, reply: &Reply) -> RemotingCommand {
    let response = RemotingCommand::response_to(request, ResponseCode(reply.code));
    if reply.remark.is_empty() { response } else { response.with_remark(&reply.remark) }
}
