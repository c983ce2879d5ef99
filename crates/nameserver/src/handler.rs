//! Requests and what answers them (protocol.md 2.1, DefaultRequestProcessor.java).
//!
//! Locks: `settings`, `routes` and the key-value table are taken one after the other, none while
//! another is held; nothing is encoded and nothing is written to disk under `routes`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use net::{CloseReason, Connection, Handler, Replier};
use tokio::sync::Notify;
use tokio::time::Instant;
use wire::{
    AddWritePermOfBrokerResponse, Body, BrokerHeartbeatRequest, BrokerNameRequest, DataVersion,
    DeleteTopicFromNamesrvRequest, GetBrokerMemberGroupRequest, GetBrokerMemberGroupResponseBody,
    GetKvConfigResponse, GetKvListByNamespaceRequest, GetRouteInfoRequest, GetTopicsByClusterRequest,
    KvConfigRequest, KvTable, PutKvConfigRequest, QueryDataVersionRequest, QueryDataVersionResponse,
    RegisterBrokerBody, RegisterBrokerRequest, RegisterBrokerResponse, RemotingCommand, RequestCode,
    ResponseCode, TopicConfigSerializeWrapper, TopicList, TopicRouteData, UnregisterBrokerRequest,
    WipeWritePermOfBrokerResponse, ext_key, version,
};

use crate::dialect::with_raw_ids;
use crate::kv::{Kv, KvError, KvTables, ORDER_TOPIC_CONFIG};
use crate::limits::REMARK_NAME_CHARS_MAX;
use crate::names::is_text;
use crate::routes::{Registration, Routes, UnitTopics, filter_by_zone};
use crate::settings::{Settings, SettingsError};

/// What requests share.
pub(crate) struct Desk {
    start: Instant,
    routes: RwLock<Routes>,
    settings: RwLock<Settings>,
    allows_updates: bool,
    kv: Arc<Kv>,
    /// Connections that carry registrations, to close those of silent brokers.
    registrants: Mutex<HashMap<u64, Weak<Connection>>>,
    /// Something happened that may change when the next hold ends.
    pub(crate) changed: Notify,
}

/// A refusal: code and remark.
struct Refusal(ResponseCode, String);

impl<E: std::error::Error> From<E> for Refusal {
    /// As upstream: whatever is wrong with a request is a system error that says what.
    fn from(error: E) -> Refusal {
        Refusal(ResponseCode::SYSTEM_ERROR, error.to_string())
    }
}

type Answer = Result<RemotingCommand, Refusal>;

impl Handler for Desk {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        let is_kv_change =
            matches!(request.request_code(), RequestCode::PUT_KV_CONFIG | RequestCode::DELETE_KV_CONFIG);
        if is_kv_change && self.kv.is_persistent() {
            let kv = self.kv.clone();
            tokio::task::spawn_blocking(move || respond(&request, replier, change_kv(&kv, &request)));
            return;
        }
        let answer = self.answer(&request, replier.connection());
        respond(&request, replier, answer);
    }

    fn closed(&self, connection: &Arc<Connection>, _reason: &CloseReason) {
        if self.registrants().remove(&connection.id()).is_some() {
            let now_ms = self.now_ms();
            self.routes_mut().connection_closed(now_ms, connection.id());
            self.changed.notify_one();
        }
    }
}

fn respond(request: &RemotingCommand, replier: Replier, answer: Answer) {
    match answer {
        Ok(response) => replier.send(response),
        Err(Refusal(code, remark)) => {
            tracing::debug!(code = request.code, remark, peer = %replier.connection().peer(), "refused");
            replier.refuse(code, remark);
        }
    }
}

fn success(request: &RemotingCommand) -> RemotingCommand {
    RemotingCommand::response_to(request, ResponseCode::SUCCESS)
}

impl Desk {
    pub(crate) fn new(settings: Settings, allows_updates: bool, kv: Kv) -> Desk {
        Desk {
            start: Instant::now(),
            routes: RwLock::default(),
            settings: RwLock::new(settings),
            allows_updates,
            kv: Arc::new(kv),
            registrants: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// The moment of a time of [`Desk::now_ms`].
    pub(crate) fn instant(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    pub(crate) fn routes(&self) -> RwLockReadGuard<'_, Routes> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn routes_mut(&self) -> RwLockWriteGuard<'_, Routes> {
        self.routes.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn registrants(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Weak<Connection>>> {
        self.registrants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn registrant(&self, connection: u64) -> Option<Arc<Connection>> {
        self.registrants().get(&connection)?.upgrade()
    }

    fn answer(&self, request: &RemotingCommand, connection: &Arc<Connection>) -> Answer {
        match request.request_code() {
            RequestCode::PUT_KV_CONFIG | RequestCode::DELETE_KV_CONFIG => change_kv(&self.kv, request),
            RequestCode::GET_KV_CONFIG => self.get_kv(request),
            RequestCode::GET_KVLIST_BY_NAMESPACE => self.list_kv(request),
            RequestCode::REGISTER_BROKER => self.register(request, connection),
            RequestCode::UNREGISTER_BROKER => self.unregister(request, connection),
            RequestCode::BROKER_HEARTBEAT => self.heartbeat(request),
            RequestCode::QUERY_DATA_VERSION => self.query_data_version(request),
            RequestCode::GET_ROUTEINFO_BY_TOPIC => self.route(request),
            RequestCode::GET_BROKER_CLUSTER_INFO => Ok(self.cluster_info(request)),
            RequestCode::GET_BROKER_MEMBER_GROUP => self.member_group(request),
            RequestCode::WIPE_WRITE_PERM_OF_BROKER => self.wipe_write_perm(request),
            RequestCode::ADD_WRITE_PERM_OF_BROKER => self.add_write_perm(request),
            RequestCode::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => self.all_topics(request),
            RequestCode::GET_TOPICS_BY_CLUSTER => self.topics_of_cluster(request),
            RequestCode::GET_SYSTEM_TOPIC_LIST_FROM_NS => Ok(self.system_topics(request)),
            RequestCode::GET_UNIT_TOPIC_LIST => self.unit_topics(request, UnitTopics::Unit),
            RequestCode::GET_HAS_UNIT_SUB_TOPIC_LIST => self.unit_topics(request, UnitTopics::HasUnitSub),
            RequestCode::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST => {
                self.unit_topics(request, UnitTopics::HasUnitSubNotUnit)
            }
            RequestCode::REGISTER_TOPIC_IN_NAMESRV => self.register_topic(request),
            RequestCode::DELETE_TOPIC_IN_NAMESRV => self.delete_topic(request),
            RequestCode::UPDATE_NAMESRV_CONFIG => self.update_settings(request, connection),
            RequestCode::GET_NAMESRV_CONFIG => Ok(self.get_settings(request)),
            code => Err(Refusal(ResponseCode::REQUEST_CODE_NOT_SUPPORTED, not_supported(code))),
        }
    }

    fn register(&self, request: &RemotingCommand, connection: &Arc<Connection>) -> Answer {
        let header = RegisterBrokerRequest::decode(&request.ext)?;
        if header.body_crc32 != 0 && wire::body_crc(&request.body) as i32 != header.body_crc32 {
            return Err(Refusal(ResponseCode::SYSTEM_ERROR, "crc32 not match".into()));
        }
        let (topics, filter_servers) = registration_body(request, header.compressed)?;
        let registration = Registration {
            cluster: header.cluster_name,
            broker_name: header.broker_name,
            broker_addr: header.broker_addr,
            broker_id: header.broker_id,
            ha_server_addr: header.ha_server_addr,
            zone: request.ext.get(ext_key::ZONE_NAME).map(str::to_owned),
            timeout_ms: header.heartbeat_timeout_millis,
            enable_acting_master: header.enable_acting_master,
            topics,
            filter_servers,
            connection: connection.id(),
        };
        let settings = self.settings();
        // `closed` comes after this, on the same task.
        self.registrants().insert(connection.id(), Arc::downgrade(connection));
        let now_ms = self.now_ms();
        let registered = self.routes_mut().register(now_ms, settings.route_options(), registration)?;
        self.changed.notify_one();
        let mut response = success(request).with_header(&RegisterBrokerResponse {
            ha_server_addr: registered.ha_server_addr,
            master_addr: registered.master_addr,
        });
        if settings.return_order_topic_config_to_broker
            && let Some(table) = self.kv.current().namespace(ORDER_TOPIC_CONFIG)
        {
            response.body = KvTable { table: table.clone() }.encode();
        }
        Ok(response)
    }

    fn unregister(&self, request: &RemotingCommand, connection: &Arc<Connection>) -> Answer {
        let UnregisterBrokerRequest { broker_name, broker_addr, cluster_name, broker_id } =
            UnregisterBrokerRequest::decode(&request.ext)?;
        self.routes_mut().unregister(&cluster_name, &broker_name, &broker_addr, broker_id, connection.id());
        Ok(success(request))
    }

    fn heartbeat(&self, request: &RemotingCommand) -> Answer {
        let header = BrokerHeartbeatRequest::decode(&request.ext)?;
        let now_ms = self.now_ms();
        self.routes_mut().heard_from(now_ms, &header.cluster_name, &header.broker_addr);
        Ok(success(request))
    }

    fn query_data_version(&self, request: &RemotingCommand) -> Answer {
        let header = QueryDataVersionRequest::decode(&request.ext)?;
        let theirs = DataVersion::decode(&request.body)?;
        let now_ms = self.now_ms();
        let ours = {
            let mut routes = self.routes_mut();
            routes.heard_from(now_ms, &header.cluster_name, &header.broker_addr);
            routes.data_version(&header.cluster_name, &header.broker_addr)
        };
        let changed = ours != Some(theirs);
        let response = success(request).with_header(&QueryDataVersionResponse { changed });
        Ok(match ours {
            Some(ours) => response.with_body(ours.encode()),
            None => response,
        })
    }

    fn route(&self, request: &RemotingCommand) -> Answer {
        let header = GetRouteInfoRequest::decode(&request.ext)?;
        let settings = self.settings();
        let is_early = self.start.elapsed() < Duration::from_secs(settings.wait_seconds_for_service);
        if settings.need_wait_for_service && is_early {
            return Err(Refusal(ResponseCode::SYSTEM_ERROR, "name server not ready".into()));
        }
        let route = self.routes().route(settings.route_options(), &header.topic);
        let Some(mut route) = route else {
            let topic = shortened(&header.topic);
            let remark = format!("No topic route info in name server for the topic: {topic}");
            return Err(Refusal(ResponseCode::TOPIC_NOT_EXIST, remark));
        };
        if settings.order_message_enable {
            let order = self.kv.current().get(ORDER_TOPIC_CONFIG, &header.topic).map(str::to_owned);
            route.order_topic_conf = order;
        }
        if request.ext.get(ext_key::ZONE_MODE).is_some_and(|mode| mode.eq_ignore_ascii_case("true"))
            && let Some(zone) = request.ext.get(ext_key::ZONE_NAME).filter(|zone| !zone.trim().is_empty())
        {
            filter_by_zone(&mut route, zone);
        }
        let json = route.encode();
        let is_standard =
            request.version >= version::V4_9_4 || header.accept_standard_json_only == Some(true);
        Ok(success(request).with_body(if is_standard { json } else { with_raw_ids(json) }))
    }

    fn cluster_info(&self, request: &RemotingCommand) -> RemotingCommand {
        let info = self.routes().cluster_info();
        success(request).with_body(with_raw_ids(info.encode()))
    }

    fn member_group(&self, request: &RemotingCommand) -> Answer {
        let header = GetBrokerMemberGroupRequest::decode(&request.ext)?;
        for (what, name) in [("clusterName", &header.cluster_name), ("brokerName", &header.broker_name)] {
            if !is_text(name) {
                return Err(Refusal(ResponseCode::SYSTEM_ERROR, format!("{what} is not valid")));
            }
        }
        let group = self.routes().member_group(&header.cluster_name, &header.broker_name);
        let body = GetBrokerMemberGroupResponseBody { broker_member_group: group };
        Ok(success(request).with_body(with_raw_ids(body.encode())))
    }

    fn wipe_write_perm(&self, request: &RemotingCommand) -> Answer {
        let wipe_topic_count = self.set_writable(request, false)?;
        Ok(success(request).with_header(&WipeWritePermOfBrokerResponse { wipe_topic_count }))
    }

    fn add_write_perm(&self, request: &RemotingCommand) -> Answer {
        let add_topic_count = self.set_writable(request, true)?;
        Ok(success(request).with_header(&AddWritePermOfBrokerResponse { add_topic_count }))
    }

    fn set_writable(&self, request: &RemotingCommand, is_writable: bool) -> Result<i32, Refusal> {
        let header = BrokerNameRequest::decode(&request.ext)?;
        let count = self.routes_mut().set_writable(&header.broker_name, is_writable);
        tracing::info!(
            broker = shortened(&header.broker_name),
            is_writable,
            count,
            "write permission changed"
        );
        Ok(count as i32)
    }

    fn all_topics(&self, request: &RemotingCommand) -> Answer {
        if !self.settings().enable_all_topic_list {
            return Err(disabled());
        }
        let list = self.routes().topics();
        Ok(success(request).with_body(list.encode()))
    }

    fn topics_of_cluster(&self, request: &RemotingCommand) -> Answer {
        let header = GetTopicsByClusterRequest::decode(&request.ext)?;
        self.topic_list(request, |routes| routes.topics_of_cluster(&header.cluster))
    }

    fn unit_topics(&self, request: &RemotingCommand, which: UnitTopics) -> Answer {
        self.topic_list(request, |routes| routes.unit_topics(which))
    }

    fn topic_list(&self, request: &RemotingCommand, list: impl Fn(&Routes) -> TopicList) -> Answer {
        if !self.settings().enable_topic_list {
            return Err(disabled());
        }
        let list = list(&self.routes());
        Ok(success(request).with_body(list.encode()))
    }

    fn system_topics(&self, request: &RemotingCommand) -> RemotingCommand {
        let list = self.routes().system_topics();
        success(request).with_body(list.encode())
    }

    fn register_topic(&self, request: &RemotingCommand) -> Answer {
        let topic = request.ext.get("topic").unwrap_or_default();
        if request.body.is_empty() {
            return Ok(success(request));
        }
        let route = TopicRouteData::decode(&request.body)?;
        self.routes_mut().register_topic(topic, route.queue_datas)?;
        Ok(success(request))
    }

    fn delete_topic(&self, request: &RemotingCommand) -> Answer {
        let header = DeleteTopicFromNamesrvRequest::decode(&request.ext)?;
        let cluster = header.cluster_name.as_deref().filter(|name| !name.is_empty());
        self.routes_mut().delete_topic(&header.topic, cluster);
        tracing::info!(topic = shortened(&header.topic), cluster, "topic deleted");
        Ok(success(request))
    }

    fn update_settings(&self, request: &RemotingCommand, connection: &Arc<Connection>) -> Answer {
        if !self.allows_updates {
            let remark = "updates are switched off on this name server";
            return Err(Refusal(ResponseCode::NO_PERMISSION, remark.into()));
        }
        let text = std::str::from_utf8(&request.body)?;
        let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        *settings = settings.updated(text).map_err(|error| {
            let code = match error {
                SettingsError::Forbidden(_) => ResponseCode::NO_PERMISSION,
                SettingsError::Bad { .. } => ResponseCode::INVALID_PARAMETER,
            };
            Refusal(code, error.to_string())
        })?;
        tracing::info!(settings = ?*settings, peer = %connection.peer(), "settings updated");
        Ok(success(request))
    }

    fn get_settings(&self, request: &RemotingCommand) -> RemotingCommand {
        success(request).with_body(self.settings().to_text())
    }

    fn get_kv(&self, request: &RemotingCommand) -> Answer {
        let header = KvConfigRequest::decode(&request.ext)?;
        match self.kv.current().get(&header.namespace, &header.key) {
            Some(value) => {
                Ok(success(request).with_header(&GetKvConfigResponse { value: Some(value.to_owned()) }))
            }
            None => {
                let (namespace, key) = (shortened(&header.namespace), shortened(&header.key));
                Err(not_found(format!("No config item, Namespace: {namespace} Key: {key}")))
            }
        }
    }

    fn list_kv(&self, request: &RemotingCommand) -> Answer {
        let header = GetKvListByNamespaceRequest::decode(&request.ext)?;
        let tables: Arc<KvTables> = self.kv.current();
        match tables.namespace(&header.namespace) {
            Some(table) => Ok(success(request).with_body(KvTable { table: table.clone() }.encode())),
            None => Err(not_found(format!("No config item, Namespace: {}", shortened(&header.namespace)))),
        }
    }
}

/// RocketMQ's controller may live in a nameserver, so tools may look for it here.
const CONTROLLER_CODES: std::ops::RangeInclusive<i32> = 1001..=1018;

fn not_supported(code: RequestCode) -> String {
    let why = if CONTROLLER_CODES.contains(&code.get()) {
        ": there is no controller, the nodes of a group elect their leader by Raft; see `raftmq admin group status` \
         and `raftmq admin group transfer`"
    } else {
        ""
    };
    format!(" request type {} not supported{why}", code.get())
}

/// 100 and 102.
fn change_kv(kv: &Kv, request: &RemotingCommand) -> Answer {
    let missing = ["namespace", "key"].into_iter().any(|key| request.ext.get(key).is_none());
    if missing {
        return Err(Refusal(ResponseCode::SYSTEM_ERROR, "namespace or key is null".into()));
    }
    let changed: Result<(), KvError> = if request.request_code() == RequestCode::PUT_KV_CONFIG {
        let header = PutKvConfigRequest::decode(&request.ext)?;
        kv.put(&header.namespace, &header.key, &header.value)
    } else {
        let header = KvConfigRequest::decode(&request.ext)?;
        kv.delete(&header.namespace, &header.key)
    };
    if let Err(error) = &changed {
        tracing::warn!(%error, "key-value table not changed");
    }
    changed?;
    Ok(success(request))
}

/// Of a zlib stream with the usual window of 32 KiB (RFC 1950).
const ZLIB_FIRST_BYTE: u8 = 0x78;

/// The body of 103: since 3.0.11 topics and filter servers, before that topics alone.
fn registration_body(
    request: &RemotingCommand,
    is_compressed: bool,
) -> Result<(TopicConfigSerializeWrapper, Option<Vec<String>>), wire::BodyError> {
    let is_old = request.version < version::V3_0_11;
    if request.body.is_empty() {
        return Ok((TopicConfigSerializeWrapper::default(), if is_old { None } else { Some(Vec::new()) }));
    }
    if is_old {
        return Ok((TopicConfigSerializeWrapper::decode(&request.body)?, None));
    }
    // Apache 5.3.3 with compressedRegister=true compresses the body and says in the header that it did
    // not (BrokerOuterAPI.java:522), so that its own nameserver refuses it. JSON never begins like zlib.
    let body = if is_compressed || request.body.first() == Some(&ZLIB_FIRST_BYTE) {
        RegisterBrokerBody::decode_compressed(&request.body, request.version, wire::REGISTER_BYTES_MAX)?
    } else {
        RegisterBrokerBody::decode(&request.body)?
    };
    let RegisterBrokerBody { filter_server_list, topic_config_serialize_wrapper } = body;
    Ok((topic_config_serialize_wrapper, Some(filter_server_list)))
}

fn disabled() -> Refusal {
    Refusal(ResponseCode::SYSTEM_ERROR, "disable".into())
}

fn not_found(remark: String) -> Refusal {
    Refusal(ResponseCode::QUERY_NOT_FOUND, remark)
}

fn shortened(name: &str) -> String {
    name.chars().take(REMARK_NAME_CHARS_MAX).collect()
}
