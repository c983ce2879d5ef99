//! One request on its way through a node, with the duty to answer it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use net::{Connection, PushBack, Replier};
use replica::NodeId;
use tokio::sync::oneshot;
use wire::{RemotingCommand, RequestCode, ResponseCode};

use crate::limits::PARK;
use crate::park::{Ticket, Waits};

/// A request and what is known of its sender. Every call ends in exactly one of [`Call::answer`], [`Call::refuse`],
/// [`Call::give_up`] and [`Call::not_here`]; dropped, its client is told that the outcome is unknown.
pub(crate) struct Call {
    pub(crate) request: RemotingCommand,
    pub(crate) from: Sender,
    /// When it came to this node, however often it was tried since.
    pub(crate) arrived: Instant,
    /// After that nobody waits for the answer any more.
    pub(crate) deadline: Instant,
    pub(crate) ticket: Ticket,
    /// Somebody was asked to do it and refused: it is tried again, but not in a hurry.
    pub(crate) tried: bool,
    /// This node was found to lead after the request came (log.md 11).
    pub(crate) confirmed: bool,
    /// Of the connection of another node that brought it: [`Call::push_back`].
    push_back: Option<PushBack>,
    reply: Reply,
}

/// Who sent a request, also when another node passed it on.
#[derive(Debug, Clone)]
pub(crate) struct Sender {
    /// What a message stores as its born host.
    pub(crate) address: SocketAddr,
    /// The name that the listener has, and its address: RocketMQ tells them apart.
    pub(crate) listener: Arc<str>,
    /// From its heartbeat; empty before the first.
    pub(crate) client_id: String,
    /// Its connection presses: [`Connection::is_pressed`].
    pub(crate) is_pressed: bool,
    /// The node that passed the request on; `None`: it came over a connection of this node.
    pub(crate) node: Option<NodeId>,
}

impl Sender {
    /// One of which nothing else is known.
    pub(crate) fn new(address: SocketAddr, listener: Arc<str>) -> Sender {
        Sender { address, listener, client_id: String::new(), is_pressed: false, node: None }
    }
}

enum Reply {
    Connection(Replier),
    Node(oneshot::Sender<Forwarded>),
    None,
}

/// How a forwarded call ended.
#[derive(Debug)]
pub(crate) enum Forwarded {
    Answer(RemotingCommand),
    /// The same, of which the client is to feel that it sends too much: [`Call::push_back`].
    Busy(RemotingCommand, PushBack),
    /// Definitely not done: the receiver does not lead.
    NotHere(Option<NodeId>),
    /// The receiver gave it up; whether it was done is not known.
    GivenUp,
}

impl Call {
    /// A request that a connection of this node brought.
    pub(crate) fn from_connection(
        request: RemotingCommand,
        replier: Replier,
        listener: Arc<str>,
        ticket: Ticket,
    ) -> Call {
        let connection = replier.connection();
        let address = connection.peer();
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let is_pressed = connection.is_pressed();
        Call {
            request,
            from: Sender { is_pressed, ..Sender::new(address, listener) },
            arrived: Instant::now(),
            deadline: Instant::now() + PARK,
            ticket,
            tried: false,
            confirmed: false,
            push_back: None,
            reply: Reply::Connection(replier),
        }
    }

    /// A one-way request that this node makes of one of a client's.
    pub(crate) fn from_self(request: RemotingCommand, from: Sender, ticket: Ticket) -> Call {
        Call {
            request,
            from,
            arrived: Instant::now(),
            deadline: Instant::now() + PARK,
            ticket,
            tried: false,
            confirmed: false,
            push_back: None,
            reply: Reply::None,
        }
    }

    /// A request that another node passed on.
    pub(crate) fn from_node(
        request: RemotingCommand,
        from: Sender,
        deadline: Instant,
        ticket: Ticket,
        reply: oneshot::Sender<Forwarded>,
    ) -> Call {
        Call {
            request,
            from,
            arrived: Instant::now(),
            deadline,
            ticket,
            tried: false,
            confirmed: false,
            push_back: None,
            reply: Reply::Node(reply),
        }
    }

    pub(crate) fn code(&self) -> RequestCode {
        self.request.request_code()
    }

    /// The connection, when it is one of this node.
    pub(crate) fn connection(&self) -> Option<&Arc<Connection>> {
        match &self.reply {
            Reply::Connection(replier) => Some(replier.connection()),
            Reply::Node(_) | Reply::None => None,
        }
    }

    /// One hop at most: such a request is not passed on again.
    pub(crate) fn is_forwarded(&self) -> bool {
        self.from.node.is_some()
    }

    /// It waited here, and is tried again as if it had just come: what was found out before says nothing by now.
    pub(crate) fn renew(&mut self, ticket: Ticket) {
        self.deadline = Instant::now() + PARK;
        self.ticket = ticket;
        self.tried = false;
        self.confirmed = false;
    }

    pub(crate) fn answer(mut self, response: RemotingCommand) {
        match std::mem::replace(&mut self.reply, Reply::None) {
            Reply::Connection(replier) => replier.send(response),
            // The other node may have given up waiting.
            Reply::Node(reply) => drop(reply.send(match self.push_back {
                Some(what) => Forwarded::Busy(response, what),
                None => Forwarded::Answer(response),
            })),
            Reply::None => {}
        }
    }

    /// Its client sends too much and is not to be read for a while, here or at the node that passed this on. Before the
    /// answer.
    pub(crate) fn push_back(&mut self, what: PushBack) {
        match &self.reply {
            Reply::Connection(replier) => replier.connection().push_back(what),
            Reply::Node(_) => self.push_back = Some(what),
            Reply::None => {}
        }
    }

    /// An empty response with this code, to be filled and given to [`Call::answer`].
    pub(crate) fn response(&self, code: ResponseCode) -> RemotingCommand {
        RemotingCommand::response_to(&self.request, code)
    }

    pub(crate) fn succeed(self) {
        let response = self.response(ResponseCode::SUCCESS);
        self.answer(response);
    }

    pub(crate) fn refuse(self, code: ResponseCode, remark: impl Into<String>) {
        let response = self.response(code).with_remark(remark);
        self.answer(response);
    }

    /// Nobody can do it in time: resets the connection, which makes every stock client try again at once, where any
    /// code would be final for an asynchronous send (clients.md 2).
    pub(crate) fn give_up(mut self) {
        match std::mem::replace(&mut self.reply, Reply::None) {
            Reply::Connection(replier) if replier.is_oneway() => replier.forget(),
            Reply::Connection(replier) => replier.reset_connection(),
            Reply::Node(reply) => drop(reply.send(Forwarded::GivenUp)),
            Reply::None => {}
        }
    }

    /// Tells the node that passed this on that it is definitely not done. Only for forwarded calls.
    pub(crate) fn not_here(mut self, leader: Option<NodeId>) {
        match std::mem::replace(&mut self.reply, Reply::None) {
            Reply::Node(reply) => drop(reply.send(Forwarded::NotHere(leader))),
            other => self.reply = other,
        }
    }
}

impl Waits for Call {
    fn ticket(&self) -> Ticket {
        self.ticket
    }

    fn bytes(&self) -> usize {
        // The fields of a header are seldom more than this.
        self.request.body.len() + 512
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minute may lie between: the node may have been deposed.
    #[test]
    fn what_waited_is_to_be_confirmed_again() {
        let from = Sender::new(SocketAddr::from(([127, 0, 0, 1], 1)), "l".into());
        let ticket = crate::park::Park::<Call>::new(1, 1).ticket();
        let mut call = Call::from_self(RemotingCommand::request(RequestCode::PULL_MESSAGE), from, ticket);
        (call.confirmed, call.tried, call.deadline) = (true, true, Instant::now());
        let before = call.deadline;
        call.renew(ticket);
        assert!(!call.confirmed && !call.tried && call.deadline > before);
    }
}
