//! What is proposed to the group's log: at this node where it leads, or wherever the leader is.

use std::sync::Arc;
use std::time::Instant;

use replica::{COUPLED_LEVEL, CoupledReceipt, MessagesProposal, ProposeError, Receipt};
use tokio::sync::oneshot;

use super::{Hosted, Toward, lock};
use crate::errors::Error;
use crate::forward;
use crate::limits::{PARK, PARK_RETRY};
use crate::state::{Command, Reply, rules};

impl Hosted {
    /// Proposes at this node; the reply is the tables', so its code may be a refusal.
    pub(crate) async fn propose_here(&self, command: Command) -> Result<Reply, Error> {
        let answer = self.served_here()?.group.propose_command(command.proposal()).await?;
        prost::Message::decode(answer).map_err(|error| Error::Unknown(format!("unreadable outcome: {error}")))
    }

    /// Proposes at this node a command and messages that take effect together or not at all. [`Error::Void`]: the tables say
    /// otherwise by now; read them again.
    pub(crate) async fn propose_coupled_here(
        &self,
        command: Command,
        messages: Vec<MessagesProposal>,
    ) -> Result<(Reply, Vec<Receipt>), Error> {
        let (told, outcome) = oneshot::channel();
        let proposal = command.coupled(messages);
        // Who asked may be gone by then.
        let done = Box::new(|outcome| drop(told.send(outcome)));
        self.served_here()?.group.propose_coupled(proposal, done);
        let stopped = ProposeError::Unknown("the group stopped while the entry was under way");
        let CoupledReceipt { answer, receipts } = outcome.await.unwrap_or(Err(stopped))?;
        let reply = prost::Message::decode(answer)
            .map_err(|error| Error::Unknown(format!("unreadable outcome: {error}")))?;
        Ok((reply, receipts))
    }

    /// Whether every member of the group knows the entries of feature level 2: those by which a message leaves the place where
    /// it waits, and all progress but offsets. What could not go on is not taken in.
    pub(crate) fn check_level(&self) -> Result<(), Error> {
        let group = &self.served_here()?.group;
        let role = group.role();
        if !role.ready {
            // Others answer the leader, so only it knows.
            return Err(Error::NotLeader { leader: role.leader });
        }
        Ok(group.check_level(COUPLED_LEVEL)?)
    }

    /// Proposes wherever the leader is. For what this node wants itself: commands that may be proposed twice.
    pub(crate) async fn propose_anywhere(
        &self,
        command: &Command,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        loop {
            let result = match self.toward() {
                Toward::Here => self.propose_here(command.clone()).await,
                Toward::Node(leader) => forward::propose_at(self, leader, command, deadline).await,
                Toward::Nobody => {
                    if let Some(leader) = forward::who_leads(self).await {
                        self.take_hint(Some(leader));
                    }
                    Err(Error::NotLeader { leader: None })
                }
            };
            match result {
                Err(error) if error.may_retry() && Instant::now() < deadline => {
                    tokio::time::sleep(PARK_RETRY).await;
                }
                result => return result,
            }
        }
    }

    /// Creates a consumer group and its retry topic, unless they exist or that is under way.
    pub(crate) async fn create_group(self: Arc<Self>, group: String) {
        if !self.state.lacks_group(&group) || !lock(&self.creating_groups).insert(group.clone()) {
            return;
        }
        let command = Command::create_group(rules::default_group(&group));
        let result = self.propose_anywhere(&command, Instant::now() + PARK).await;
        lock(&self.creating_groups).remove(&group);
        match result {
            Ok(reply) if reply.code == 0 => {}
            Ok(reply) => {
                tracing::warn!(broker = self.name(), group, remark = reply.remark, "group not created");
            }
            Err(error) => tracing::warn!(broker = self.name(), group, %error, "group not created"),
        }
    }
}
