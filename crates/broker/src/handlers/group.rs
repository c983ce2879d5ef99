//! Consumer groups as configured: 200 create or change, 207 delete, 352 one, 201 all (protocol.md 8.2).

use std::collections::BTreeMap;

use wire::{
    Body, DeleteSubscriptionGroupRequest, GetAllSubscriptionGroupConfigRequest,
    GetAllSubscriptionGroupConfigResponse, GroupRequest, RemotingCommand, ResponseCode,
    SubscriptionGroupConfig, SubscriptionGroupWrapper,
};

use crate::errors::Error;
use crate::handlers::page::{self, Page};
use crate::handlers::step::{Step, success};
use crate::state::command::{DeleteGroup, Kind};
use crate::state::rules;
use crate::state::{Command, GroupConfig, State};

/// 200.
pub(crate) fn update(request: &RemotingCommand) -> Result<Step, Error> {
    if request.body.is_empty() {
        return Err(Error::refused(
            ResponseCode::INVALID_PARAMETER,
            "the request has no group configuration",
        ));
    }
    let config = SubscriptionGroupConfig::decode(&request.body)?;
    change(&config).map(Step::Propose)
}

/// What an administrator asks for, as a command.
pub(crate) fn change(config: &SubscriptionGroupConfig) -> Result<Command, Error> {
    rules::group_config(config)?;
    Ok(Kind::UpdateGroup(GroupConfig::from(config)).into())
}

/// 207. A group that does not exist counts as deleted.
pub(crate) fn delete(request: &RemotingCommand) -> Result<Step, Error> {
    let header = DeleteSubscriptionGroupRequest::decode(&request.ext)?;
    if header.group_name.trim().is_empty() {
        return Err(Error::refused(ResponseCode::INVALID_PARAMETER, "The specified group is blank."));
    }
    let DeleteSubscriptionGroupRequest { group_name, clean_offset } = header;
    Ok(Step::Propose(Kind::DeleteGroup(DeleteGroup { name: group_name, clean_offsets: clean_offset }).into()))
}

/// 352.
pub(crate) fn one(state: &State, request: &RemotingCommand) -> Result<RemotingCommand, Error> {
    let GroupRequest { group } = GroupRequest::decode(&request.ext)?;
    let live = state.group(&group).ok_or_else(|| {
        Error::refused(
            ResponseCode::SUBSCRIPTION_GROUP_NOT_EXIST,
            format!("No group in this broker. group: {group}"),
        )
    })?;
    Ok(success(request).with_body(live.config.to_wire().encode()))
}

/// 201: all of them, or for clients since 5.3.4 a page.
pub(crate) fn all(state: &State, term: u64, request: &RemotingCommand) -> Result<RemotingCommand, Error> {
    let header = GetAllSubscriptionGroupConfigRequest::decode(&request.ext)?;
    let (groups, version) = state.groups_with_version();
    let version = version.to_wire(term);
    let page = Page::wanted(header.group_seq, header.max_group_num, header.data_version.as_deref(), version)?;
    let body = SubscriptionGroupWrapper {
        data_version: version,
        forbidden_table: BTreeMap::new(),
        subscription_group_table: page::take(&groups, page)
            .iter()
            .map(|group| (group.name.to_string(), group.config.to_wire()))
            .collect(),
    };
    let total = GetAllSubscriptionGroupConfigResponse { total_group_num: Some(groups.len() as i32) };
    Ok(success(request).with_header(&total).with_body(body.encode()))
}

#[cfg(test)]
mod tests {
    use wire::RequestCode;

    use super::*;
    use crate::state::testing::small_state;

    #[test]
    fn an_update_is_proposed_or_refused() {
        let ask = |body: &[u8]| {
            let request = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP);
            update(&request.with_body(body.to_vec()))
        };
        // As mqadmin 5.3.3 sends it.
        let body = br#"{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,
            "consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"g",
            "groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,
            "retryMaxTimes":3,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}"#;
        let Ok(Step::Propose(command)) = ask(body) else { panic!("a proposal") };
        assert!(!command.is_barrier());
        let Some(Kind::UpdateGroup(config)) = command.kind else { panic!("{command:?}") };
        assert_eq!((config.name.as_str(), config.retry_max_times), ("g", 3));
        for (body, code) in [
            (&b""[..], 29),
            (b"{}", 29),
            (b"{\"groupName\":\"a b\"}", 29),
            (b"{\"groupName\":\"g\",\"attributes\":{\"+a\":\"b\"}}", 29),
            (b"{\"groupName\":\"g\",\"retryQueueNums\":-1}", 29),
            (b"[1", 1),
        ] {
            assert_eq!(ask(body).unwrap_err().answer().0.get(), code, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn deletion() {
        let ask = |name: &str, clean_offset| {
            let header = DeleteSubscriptionGroupRequest { group_name: name.into(), clean_offset };
            delete(&RemotingCommand::request(RequestCode::DELETE_SUBSCRIPTIONGROUP).with_header(&header))
        };
        let Ok(Step::Propose(command)) = ask("g", true) else { panic!("a proposal") };
        assert_eq!(
            command.kind,
            Some(Kind::DeleteGroup(DeleteGroup { name: "g".into(), clean_offsets: true }))
        );
        assert_eq!(ask(" ", false).unwrap_err().answer().0.get(), 29);
    }

    #[test]
    fn groups_in_javas_shape() {
        let state = small_state();
        let ask = |group: &str| {
            let header = GroupRequest { group: group.into() };
            one(
                &state,
                &RemotingCommand::request(RequestCode::GET_SUBSCRIPTIONGROUP_CONFIG).with_header(&header),
            )
        };
        assert_eq!(
            std::str::from_utf8(&ask("g").unwrap().body).unwrap(),
            r#"{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,"#.to_owned()
                + r#""consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"#
                + r#""groupName":"g","groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,"#
                + r#""notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,"#
                + r#""whichBrokerWhenConsumeSlowly":1}"#
        );
        assert_eq!(ask("none").unwrap_err().answer().0.get(), 26);

        let request = RemotingCommand::request(RequestCode::GET_ALL_SUBSCRIPTIONGROUP_CONFIG);
        let response = all(&state, 5, &request).unwrap();
        assert_eq!(response.ext.get("totalGroupNum"), Some("2"));
        let table = SubscriptionGroupWrapper::decode(&response.body).unwrap();
        assert_eq!(table.subscription_group_table.into_keys().collect::<Vec<_>>(), ["g", "h"]);
        assert_eq!((table.data_version.counter, table.data_version.state_version), (2, 5));
    }
}
