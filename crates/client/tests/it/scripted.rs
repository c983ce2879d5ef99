//! A cluster in this process: one nameserver and broker groups that keep messages in memory, behave
//! like Apache's for a client, and misbehave when told to.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use net::{CloseReason, Connection, Handler, Listeners, Replier, Server, ServerConfig};
use wire::{
    BatchItems, Body, BrokerData, ConsumerGroupRequest, ConsumerSendMsgBackRequest,
    GetConsumerListByGroupResponseBody, GetMaxOffsetRequest, GetMinOffsetRequest, GetRouteInfoRequest,
    Header, HeartbeatData, LockBatchRequestBody, LockBatchResponseBody, MessageQueue, NewMessage,
    OffsetResponse, PullMessageRequest, PullMessageResponse, QueryConsumerOffsetRequest, QueueData, QueueId,
    QueueOffset, RemotingCommand, RequestCode, ResponseCode, SearchOffsetRequest, SendMessageRequest,
    SendMessageResponse, StoredMessage, TopicRouteData, UnregisterClientRequest, UpdateConsumerOffsetRequest,
    encode_message, patch_queue_offset, patch_store_timestamp, pull_flag,
};

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What a broker does instead of answering a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdeed {
    Answer(i32),
    /// Stores, then answers so.
    StoreAndAnswer(i32),
    Reset,
    Silence,
}

type Registration = (BTreeMap<i64, String>, i32);

/// What all nameservers of a cluster know.
#[derive(Default)]
pub struct Registry {
    /// Addresses by id, and number of queues, by broker name.
    brokers: Mutex<BTreeMap<String, Registration>>,
    topics: Mutex<BTreeSet<String>>,
    pub asked: Mutex<usize>,
}

pub struct Nameserver {
    pub address: String,
    _server: Server,
}

struct NameserverSide(Arc<Registry>);

fn start(handler: Arc<impl Handler>, address: &str) -> (Server, String) {
    let address: SocketAddr = address.parse().expect("an address");
    let listeners = Listeners::new().bind("main", address).expect("bound");
    let bound = listeners.addresses()[0].address.to_string();
    (Server::start(ServerConfig::default(), listeners, handler).expect("started"), bound)
}

fn respond(replier: Replier, code: ResponseCode, header: Option<&dyn Fn(&mut wire::ExtFields)>, body: Bytes) {
    let mut response = RemotingCommand::request(RequestCode(code.get())).with_body(body);
    response.flag = 1;
    if let Some(header) = header {
        header(&mut response.ext);
    }
    replier.send(response);
}

fn succeed(replier: Replier) {
    respond(replier, ResponseCode::SUCCESS, None, Bytes::new());
}

fn with(replier: Replier, header: &impl Header) {
    respond(replier, ResponseCode::SUCCESS, Some(&|ext| header.encode(ext)), Bytes::new());
}

impl Registry {
    pub fn new() -> Arc<Registry> {
        Arc::default()
    }

    pub fn nameserver(self: &Arc<Self>) -> Nameserver {
        let (server, address) = start(Arc::new(NameserverSide(Arc::clone(self))), "127.0.0.1:0");
        Nameserver { address, _server: server }
    }

    pub fn add_topic(&self, topic: &str) {
        locked(&self.topics).insert(topic.to_owned());
    }

    /// Puts a broker into every route; no addresses take it out.
    pub fn register(&self, name: &str, addresses: &[(i64, &str)], queues: i32) {
        let addresses: BTreeMap<i64, String> =
            addresses.iter().map(|(id, address)| (*id, (*address).into())).collect();
        let mut brokers = locked(&self.brokers);
        if addresses.is_empty() {
            brokers.remove(name);
        } else {
            brokers.insert(name.to_owned(), (addresses, queues));
        }
    }

    fn route(&self, topic: &str) -> Option<TopicRouteData> {
        if !locked(&self.topics).contains(topic) {
            return None;
        }
        let mut route = TopicRouteData::default();
        for (name, (addresses, queues)) in &*locked(&self.brokers) {
            route.broker_datas.push(BrokerData {
                broker_addrs: addresses.clone(),
                broker_name: name.clone(),
                cluster: "c".into(),
                ..BrokerData::default()
            });
            let queues = if wire::is_retry_topic(topic) { 1 } else { *queues };
            route.queue_datas.push(QueueData {
                broker_name: name.clone(),
                perm: 6,
                read_queue_nums: queues,
                topic_sys_flag: 0,
                write_queue_nums: queues,
            });
        }
        Some(route)
    }
}

impl Handler for NameserverSide {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        assert_eq!(request.request_code(), RequestCode::GET_ROUTEINFO_BY_TOPIC);
        *locked(&self.0.asked) += 1;
        let header = GetRouteInfoRequest::decode(&request.ext).expect("a header");
        match self.0.route(&header.topic) {
            Some(route) => respond(replier, ResponseCode::SUCCESS, None, route.encode()),
            None => replier.refuse(ResponseCode::TOPIC_NOT_EXIST, "no topic"),
        }
    }
}

type Key = (String, i32);

struct Held {
    key: Key,
    offset: i64,
    replier: Replier,
}

/// A broker group's memory; it outlives its servers.
#[derive(Default)]
struct Memory {
    queues: HashMap<Key, Vec<Bytes>>,
    offsets: HashMap<(String, Key), i64>,
    min: HashMap<Key, i64>,
    members: BTreeMap<String, BTreeMap<String, Arc<Connection>>>,
    locks: HashMap<(String, MessageQueue), String>,
    misdeeds: VecDeque<Misdeed>,
    always: Option<Misdeed>,
    refuse_send_back: bool,
    held: Vec<Held>,
    held_sends: Vec<Replier>,
    /// Requests by code, one-way ones included.
    counts: BTreeMap<i32, usize>,
    heartbeats: Vec<HeartbeatData>,
    unregistered: Vec<UnregisterClientRequest>,
    sent_back: Vec<ConsumerSendMsgBackRequest>,
}

pub struct Broker {
    pub name: String,
    registry: Arc<Registry>,
    memory: Arc<Mutex<Memory>>,
    server: Mutex<Option<Server>>,
    address: Mutex<String>,
    queues: i32,
}

struct BrokerSide {
    memory: Arc<Mutex<Memory>>,
    registry: Arc<Registry>,
}

impl Broker {
    /// Starts a broker and registers it as id 0.
    pub fn start(registry: &Arc<Registry>, name: &str, queues: i32) -> Broker {
        let broker = Broker {
            name: name.into(),
            registry: Arc::clone(registry),
            memory: Arc::default(),
            server: Mutex::default(),
            address: Mutex::default(),
            queues,
        };
        broker.up();
        broker.register();
        broker
    }

    /// Listens, at an address of its own each time.
    pub fn up(&self) {
        let side = BrokerSide { memory: Arc::clone(&self.memory), registry: Arc::clone(&self.registry) };
        let (server, address) = start(Arc::new(side), "127.0.0.1:0");
        *locked(&self.server) = Some(server);
        *locked(&self.address) = address;
    }

    pub fn register(&self) {
        self.registry.register(&self.name, &[(0, &self.address())], self.queues);
    }

    /// As kill -9: connections are reset, the port is closed. What it stored stays.
    pub fn down(&self) {
        let server = locked(&self.server).take();
        drop(server);
        let mut memory = locked(&self.memory);
        memory.members.clear();
        let held: Vec<Replier> = memory.held.drain(..).map(|held| held.replier).collect();
        let sends = std::mem::take(&mut memory.held_sends);
        drop(memory);
        held.into_iter().chain(sends).for_each(Replier::forget);
    }

    pub fn address(&self) -> String {
        locked(&self.address).clone()
    }

    /// The next sends meet these, one each.
    pub fn misbehave(&self, misdeeds: &[Misdeed]) {
        locked(&self.memory).misdeeds.extend(misdeeds);
    }

    /// All sends meet this.
    pub fn always(&self, misdeed: Option<Misdeed>) {
        locked(&self.memory).always = misdeed;
    }

    /// Answers sends that met silence.
    pub fn speak(&self) {
        let sends = std::mem::take(&mut locked(&self.memory).held_sends);
        for replier in sends {
            replier.refuse(ResponseCode::SERVICE_NOT_AVAILABLE, "late");
        }
    }

    pub fn refuse_send_back(&self) {
        locked(&self.memory).refuse_send_back = true;
    }

    pub fn count(&self, code: RequestCode) -> usize {
        locked(&self.memory).counts.get(&code.get()).copied().unwrap_or(0)
    }

    pub fn heartbeats(&self) -> Vec<HeartbeatData> {
        locked(&self.memory).heartbeats.clone()
    }

    pub fn unregistered(&self) -> Vec<UnregisterClientRequest> {
        locked(&self.memory).unregistered.clone()
    }

    pub fn sent_back(&self) -> Vec<ConsumerSendMsgBackRequest> {
        locked(&self.memory).sent_back.clone()
    }

    pub fn members(&self, group: &str) -> usize {
        locked(&self.memory).members.get(group).map_or(0, BTreeMap::len)
    }

    pub fn offset(&self, group: &str, topic: &str, queue: i32) -> Option<i64> {
        locked(&self.memory).offsets.get(&(group.to_owned(), (topic.to_owned(), queue))).copied()
    }

    pub fn set_offset(&self, group: &str, topic: &str, queue: i32, offset: i64) {
        locked(&self.memory).offsets.insert((group.to_owned(), (topic.to_owned(), queue)), offset);
    }

    /// Messages below this offset are gone.
    pub fn set_min(&self, topic: &str, queue: i32, min: i64) {
        locked(&self.memory).min.insert((topic.to_owned(), queue), min);
    }

    /// Bodies stored in a topic, by queue and offset.
    pub fn bodies(&self, topic: &str) -> Vec<String> {
        let memory = locked(&self.memory);
        let mut keys: Vec<&Key> = memory.queues.keys().filter(|(name, _)| name == topic).collect();
        keys.sort();
        keys.iter()
            .flat_map(|key| &memory.queues[*key])
            .map(|record| {
                let stored = StoredMessage::parse(record).expect("a record");
                String::from_utf8_lossy(stored.body).into_owned()
            })
            .collect()
    }

    /// Properties of the first message of a topic's queue.
    pub fn first_properties(&self, topic: &str, queue: i32) -> Option<wire::Properties> {
        let memory = locked(&self.memory);
        let record = memory.queues.get(&(topic.to_owned(), queue))?.first()?;
        Some(wire::properties_to_map(StoredMessage::parse(record).expect("a record").properties))
    }

    /// Gives another client's name a lock.
    pub fn steal_lock(&self, group: &str, queue: &MessageQueue) {
        locked(&self.memory).locks.insert((group.to_owned(), queue.clone()), "thief".into());
    }

    pub fn lock_owner(&self, group: &str, queue: &MessageQueue) -> Option<String> {
        locked(&self.memory).locks.get(&(group.to_owned(), queue.clone())).cloned()
    }

    /// Sends a request to every member of a group and gives the first answer.
    pub async fn ask_member(&self, group: &str, request: RemotingCommand) -> RemotingCommand {
        let member =
            locked(&self.memory).members.get(group).and_then(|members| members.values().next().cloned());
        let member = member.expect("a member");
        member.request(request, Duration::from_secs(5)).await.expect("an answer")
    }
}

impl BrokerSide {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        locked(&self.memory)
    }

    fn notify(&self, group: &str) {
        let members: Vec<_> = self
            .memory()
            .members
            .get(group)
            .map(|members| members.values().cloned().collect())
            .unwrap_or_default();
        for member in members {
            let header = ConsumerGroupRequest { consumer_group: group.to_owned() };
            let notice =
                RemotingCommand::request(RequestCode::NOTIFY_CONSUMER_IDS_CHANGED).with_header(&header);
            // The member may have gone.
            let _ = member.send_oneway(notice);
        }
    }

    fn send(&self, request: &RemotingCommand, replier: Replier) {
        let misdeed = {
            let mut memory = self.memory();
            let always = memory.always;
            memory.misdeeds.pop_front().or(always)
        };
        match misdeed {
            Some(Misdeed::Answer(code)) => return replier.refuse(ResponseCode(code), "as told"),
            Some(Misdeed::Reset) => return replier.reset_connection(),
            Some(Misdeed::Silence) => return self.memory().held_sends.push(replier),
            Some(Misdeed::StoreAndAnswer(_)) | None => {}
        }
        let header = SendMessageRequest::decode_for(request.request_code(), &request.ext).expect("a header");
        let key = (header.topic.to_owned(), header.queue_id);
        self.registry.add_topic(header.topic);
        let host = replier.connection().peer();
        let item = |body: &[u8], properties: &str, flag: i32| {
            let message = NewMessage {
                topic: header.topic,
                queue_id: QueueId(header.queue_id as u32),
                flag,
                sys_flag: header.sys_flag,
                born_timestamp: header.born_timestamp,
                born_host: host,
                store_host: host,
                reconsume_times: header.reconsume_times.unwrap_or(0),
                prepared_transaction_offset: 0,
                body,
                properties,
            };
            self.append(&key, &message)
        };
        let offset = if request.request_code() == RequestCode::SEND_BATCH_MESSAGE {
            let items = BatchItems::new(&request.body).map(|each| each.expect("an item"));
            items.map(|each| item(each.body, each.properties, each.flag)).min().expect("an item")
        } else {
            item(&request.body, header.properties.unwrap_or_default(), header.flag)
        };
        self.wake(&key);
        if let Some(Misdeed::StoreAndAnswer(code)) = misdeed {
            return replier.refuse(ResponseCode(code), "as told");
        }
        let response = SendMessageResponse {
            msg_id: "7F00000100002A9F0000000000000000".into(),
            queue_id: key.1,
            queue_offset: offset,
            transaction_id: None,
            batch_uniq_id: None,
            recall_handle: None,
        };
        with(replier, &response);
    }

    fn append(&self, key: &Key, message: &NewMessage<'_>) -> i64 {
        let mut memory = self.memory();
        let queue = memory.queues.entry(key.clone()).or_default();
        let offset = queue.len() as u64;
        let mut record = BytesMut::new();
        encode_message(message, &mut record).expect("it fits");
        patch_queue_offset(&mut record, QueueOffset(offset)).expect("a record");
        patch_store_timestamp(&mut record, message.born_timestamp).expect("a record");
        queue.push(record.freeze());
        offset as i64
    }

    fn wake(&self, key: &Key) {
        let ready: Vec<Held> = {
            let mut memory = self.memory();
            let held = std::mem::take(&mut memory.held);
            let (ready, rest) = held.into_iter().partition(|held| held.key == *key);
            memory.held = rest;
            ready
        };
        for Held { key, offset, replier } in ready {
            self.answer_pull(&key, offset, 32, replier, false);
        }
    }

    fn pull(&self, request: &RemotingCommand, replier: Replier) {
        let header = PullMessageRequest::decode(&request.ext).expect("a header");
        let key = (header.topic.clone(), header.queue_id);
        if header.sys_flag & pull_flag::COMMIT_OFFSET != 0 {
            self.memory().offsets.insert((header.consumer_group.clone(), key.clone()), header.commit_offset);
        }
        let knows = self.memory().members.contains_key(&header.consumer_group);
        if header.sys_flag & pull_flag::SUBSCRIPTION == 0 && !knows {
            return replier.refuse(ResponseCode::SUBSCRIPTION_NOT_EXIST, "the group is not known");
        }
        let holds = header.sys_flag & pull_flag::SUSPEND != 0;
        self.answer_pull(&key, header.queue_offset, header.max_msg_nums, replier, holds);
    }

    fn answer_pull(&self, key: &Key, offset: i64, count: i32, replier: Replier, holds: bool) {
        let mut memory = self.memory();
        let empty = Vec::new();
        let queue = memory.queues.get(key).unwrap_or(&empty);
        let (min, max) = (memory.min.get(key).copied().unwrap_or(0), queue.len() as i64);
        let mut response = PullMessageResponse {
            suggest_which_broker_id: 0,
            next_begin_offset: offset,
            min_offset: min,
            max_offset: max,
            offset_delta: None,
            topic_sys_flag: None,
            group_sys_flag: None,
            forbidden_type: None,
        };
        let mut body = BytesMut::new();
        let code = if offset < min {
            response.next_begin_offset = min;
            ResponseCode::PULL_OFFSET_MOVED
        } else if offset > max {
            response.next_begin_offset = max;
            ResponseCode::PULL_OFFSET_MOVED
        } else if offset == max {
            if holds {
                memory.held.push(Held { key: key.clone(), offset, replier });
                return;
            }
            ResponseCode::PULL_NOT_FOUND
        } else {
            for record in queue.iter().skip(offset as usize).take(count as usize) {
                body.extend_from_slice(record);
                response.next_begin_offset += 1;
            }
            ResponseCode::SUCCESS
        };
        drop(memory);
        respond(replier, code, Some(&|ext| response.encode(ext)), body.freeze());
    }

    fn heartbeat(&self, request: &RemotingCommand, replier: Replier) {
        let data = HeartbeatData::decode(&request.body).expect("a heartbeat");
        let mut changed = Vec::new();
        {
            let mut memory = self.memory();
            for consumer in &data.consumer_data_set {
                self.registry.add_topic(&wire::retry_topic(&consumer.group_name));
                let members = memory.members.entry(consumer.group_name.clone()).or_default();
                if members.insert(data.client_id.clone(), Arc::clone(replier.connection())).is_none() {
                    changed.push(consumer.group_name.clone());
                }
            }
            memory.heartbeats.push(data);
        }
        succeed(replier);
        for group in &changed {
            self.notify(group);
        }
    }

    fn locks(&self, request: &RemotingCommand, replier: Replier) {
        let body = LockBatchRequestBody::decode(&request.body).expect("a body");
        let mut ours = Vec::new();
        {
            let mut memory = self.memory();
            for queue in body.mq_set {
                let key = (body.consumer_group.clone(), queue.clone());
                let is_ours = memory.locks.get(&key).is_none_or(|owner| *owner == body.client_id);
                if is_ours && request.request_code() == RequestCode::LOCK_BATCH_MQ {
                    memory.locks.insert(key, body.client_id.clone());
                    ours.push(queue);
                } else if is_ours {
                    memory.locks.remove(&key);
                }
            }
        }
        respond(
            replier,
            ResponseCode::SUCCESS,
            None,
            LockBatchResponseBody { lock_ok_mq_set: ours }.encode(),
        );
    }

    fn queue_len(&self, topic: &str, queue: i32) -> i64 {
        self.memory().queues.get(&(topic.to_owned(), queue)).map_or(0, |queue| queue.len() as i64)
    }
}

impl Handler for BrokerSide {
    fn handle(&self, request: RemotingCommand, replier: Replier) {
        *self.memory().counts.entry(request.code).or_default() += 1;
        let ext = &request.ext;
        match request.request_code() {
            RequestCode::SEND_MESSAGE_V2 | RequestCode::SEND_BATCH_MESSAGE => self.send(&request, replier),
            RequestCode::PULL_MESSAGE => self.pull(&request, replier),
            RequestCode::HEART_BEAT => self.heartbeat(&request, replier),
            RequestCode::UNREGISTER_CLIENT => {
                let header = UnregisterClientRequest::decode(ext).expect("a header");
                let group = header.consumer_group.clone();
                {
                    let mut memory = self.memory();
                    if let Some(members) = group.as_ref().and_then(|group| memory.members.get_mut(group)) {
                        members.remove(&header.client_id);
                    }
                    memory.unregistered.push(header);
                }
                succeed(replier);
                if let Some(group) = &group {
                    self.notify(group);
                }
            }
            RequestCode::GET_CONSUMER_LIST_BY_GROUP => {
                let header = ConsumerGroupRequest::decode(ext).expect("a header");
                let members = self
                    .memory()
                    .members
                    .get(&header.consumer_group)
                    .map(|them| them.keys().cloned().collect());
                let body =
                    GetConsumerListByGroupResponseBody { consumer_id_list: members.unwrap_or_default() };
                respond(replier, ResponseCode::SUCCESS, None, body.encode());
            }
            RequestCode::QUERY_CONSUMER_OFFSET => {
                let header = QueryConsumerOffsetRequest::decode(ext).expect("a header");
                let key = (header.consumer_group, (header.topic, header.queue_id));
                let offset = self.memory().offsets.get(&key).copied();
                match offset {
                    Some(offset) => with(replier, &OffsetResponse { offset }),
                    None => replier.refuse(ResponseCode::QUERY_NOT_FOUND, "no offset"),
                }
            }
            RequestCode::UPDATE_CONSUMER_OFFSET => {
                let header = UpdateConsumerOffsetRequest::decode(ext).expect("a header");
                let key = (header.consumer_group, (header.topic, header.queue_id));
                self.memory().offsets.insert(key, header.commit_offset);
                succeed(replier);
            }
            RequestCode::GET_MAX_OFFSET => {
                let header = GetMaxOffsetRequest::decode(ext).expect("a header");
                with(replier, &OffsetResponse { offset: self.queue_len(&header.topic, header.queue_id) });
            }
            RequestCode::GET_MIN_OFFSET => {
                let header = GetMinOffsetRequest::decode(ext).expect("a header");
                let min = self.memory().min.get(&(header.topic, header.queue_id)).copied();
                with(replier, &OffsetResponse { offset: min.unwrap_or(0) });
            }
            RequestCode::SEARCH_OFFSET_BY_TIMESTAMP => {
                SearchOffsetRequest::decode(ext).expect("a header");
                with(replier, &OffsetResponse { offset: 1 });
            }
            RequestCode::CONSUMER_SEND_MSG_BACK => {
                let header = ConsumerSendMsgBackRequest::decode(ext).expect("a header");
                let refuses = {
                    let mut memory = self.memory();
                    memory.sent_back.push(header);
                    memory.refuse_send_back
                };
                if refuses {
                    replier.refuse(ResponseCode::SYSTEM_ERROR, "as told");
                } else {
                    succeed(replier);
                }
            }
            RequestCode::LOCK_BATCH_MQ | RequestCode::UNLOCK_BATCH_MQ => self.locks(&request, replier),
            other => replier.refuse(ResponseCode::REQUEST_CODE_NOT_SUPPORTED, format!("{other}")),
        }
    }

    fn closed(&self, connection: &Arc<Connection>, _reason: &CloseReason) {
        let mut changed = Vec::new();
        for (group, members) in &mut self.memory().members {
            let before = members.len();
            members.retain(|_, member| member.id() != connection.id());
            if members.len() < before {
                changed.push(group.clone());
            }
        }
        for group in &changed {
            self.notify(group);
        }
    }
}
