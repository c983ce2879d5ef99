//! Where topics live: the brokers by name, and each topic's queues on them.
//!
//! ```text
//! Routes ── topics ──▶ Topic ── route ──▶ Route   the topic's queues, immutable, replaced on change
//!        └─ brokers ─▶ Broker                     addresses by broker id, updated in place, so that
//!                                                 a leader's move seen in one topic's route helps all
//! ```
//! Locks: each is a leaf, held for a look-up or a swap; `asked` is held across one question to the
//! nameserver, so that many who miss a route ask once.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use wire::{BrokerData, MASTER_ID, MessageQueue, QueueData, TopicRouteData, perm};

use crate::error::ClientError;
use crate::limits;
use crate::nameservers::Nameservers;

/// A broker group by its name.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) name: Arc<str>,
    addresses: RwLock<BTreeMap<i64, Arc<str>>>,
}

impl Broker {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<i64, Arc<str>>> {
        self.addresses.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where writes go.
    pub(crate) fn master(&self) -> Option<Arc<str>> {
        self.read().get(&MASTER_ID).cloned()
    }

    /// The master, or else anybody (BrokerData.selectBrokerAddr).
    pub(crate) fn any(&self) -> Option<Arc<str>> {
        let addresses = self.read();
        match addresses.get(&MASTER_ID) {
            Some(master) => Some(Arc::clone(master)),
            None if addresses.is_empty() => None,
            None => addresses.values().nth(rand::random_range(0..addresses.len())).cloned(),
        }
    }

    /// The broker to read from when `id` was suggested: that one, or for a slave's id the next one, or
    /// anybody (MQClientInstance.findBrokerAddressInSubscribe).
    pub(crate) fn for_reading(&self, id: i64) -> Option<(i64, Arc<str>)> {
        let addresses = self.read();
        let exact = |id: i64| addresses.get(&id).map(|address| (id, Arc::clone(address)));
        exact(id)
            .or_else(|| if id == MASTER_ID { None } else { exact(id + 1) })
            .or_else(|| addresses.first_key_value().map(|(id, address)| (*id, Arc::clone(address))))
    }

    pub(crate) fn all(&self) -> Vec<(i64, Arc<str>)> {
        self.read().iter().map(|(id, address)| (*id, Arc::clone(address))).collect()
    }

    fn update(&self, addresses: &BTreeMap<i64, String>) {
        let same = {
            let current = self.read();
            current.len() == addresses.len()
                && addresses.iter().all(|(id, address)| current.get(id).is_some_and(|old| **old == **address))
        };
        if !same {
            tracing::info!(broker = &*self.name, ?addresses, "broker addresses changed");
            let new = addresses.iter().map(|(id, address)| (*id, Arc::from(address.as_str()))).collect();
            *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = new;
        }
    }
}

/// The queues of a topic, as a nameserver told them.
#[derive(Debug)]
pub(crate) struct Route {
    /// As [`Topic::version`] when this is the topic's newest.
    pub(crate) version: u64,
    pub(crate) data: TopicRouteData,
    /// Brokers with their number of queues to write, in the order of their names; those without a
    /// master or without queues are left out.
    pub(crate) writable: Vec<(Arc<Broker>, usize)>,
    /// Queues to read, sorted.
    pub(crate) readable: Vec<MessageQueue>,
    pub(crate) brokers: Vec<Arc<Broker>>,
    /// The topic does not exist; this is what the first send would make of it.
    pub(crate) is_borrowed: bool,
}

impl Route {
    /// The queues to write, in the order of `writable`.
    pub(crate) fn write_queues(&self, topic: &str) -> Vec<MessageQueue> {
        let of = |(broker, count): &(Arc<Broker>, usize)| {
            let name = Arc::clone(&broker.name);
            (0..*count).map(move |id| MessageQueue::new(topic, &name, id as i32)).collect::<Vec<_>>()
        };
        self.writable.iter().flat_map(of).collect()
    }
}

/// Most queues believed of one broker's topic; upstream has no limit, sane topics have a few hundred.
const QUEUES_PER_BROKER_MAX: i32 = 65_536;

/// Queues to write by broker name (MQClientInstance.topicRouteData2TopicPublishInfo).
fn writable(data: &TopicRouteData) -> BTreeMap<&str, usize> {
    if let Some(order) = data.order_topic_conf.as_deref().filter(|order| !order.is_empty()) {
        let part = |part: &'_ str| -> Option<(usize, usize)> {
            let (name, count) = part.split_once(':')?;
            Some((name.len(), count.trim().parse::<usize>().ok()?.min(QUEUES_PER_BROKER_MAX as usize)))
        };
        return order
            .split(';')
            .filter_map(|text| part(text).map(|(len, count)| (&text[..len], count)))
            .collect();
    }
    let has_master = |name: &str| {
        data.broker_datas
            .iter()
            .any(|broker| broker.broker_name == name && broker.broker_addrs.contains_key(&MASTER_ID))
    };
    data.queue_datas
        .iter()
        .filter(|queues| perm::is_writable(queues.perm) && has_master(&queues.broker_name))
        .map(|queues| {
            (queues.broker_name.as_str(), queues.write_queue_nums.clamp(0, QUEUES_PER_BROKER_MAX) as usize)
        })
        .collect()
}

/// Queues to read, sorted (MQClientInstance.topicRouteData2TopicSubscribeInfo).
fn readable(topic: &str, data: &TopicRouteData) -> Vec<MessageQueue> {
    let mut queues: Vec<MessageQueue> = Vec::new();
    for QueueData { broker_name, perm: bits, read_queue_nums, .. } in &data.queue_datas {
        if perm::is_readable(*bits) {
            let count = (*read_queue_nums).clamp(0, QUEUES_PER_BROKER_MAX);
            queues.extend((0..count).map(|id| MessageQueue::new(topic, broker_name, id)));
        }
    }
    queues.sort_unstable();
    queues.dedup();
    queues
}

/// What is known of one topic.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    route: RwLock<Option<Arc<Route>>>,
    /// Grows with each new route.
    version: AtomicU64,
    asked: tokio::sync::Mutex<Option<Instant>>,
    /// So often it was asked for in the background since that began; 0: nobody does.
    wishes: AtomicU32,
}

impl Topic {
    /// True for one caller, who asks for the route until [`Topic::end_refresh`].
    pub(crate) fn begin_refresh(&self) -> bool {
        self.wishes.fetch_add(1, Ordering::AcqRel) == 0
    }

    /// What is wished for now; for [`Topic::end_refresh`], once that has been done.
    pub(crate) fn wishes(&self) -> u32 {
        self.wishes.load(Ordering::Acquire)
    }

    /// False where somebody has wished for it since those: it is to be asked for once more.
    pub(crate) fn end_refresh(&self, wishes: u32) -> bool {
        self.wishes.compare_exchange(wishes, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(crate) fn route(&self) -> Option<Arc<Route>> {
        self.route.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}

/// All topics and brokers that a client has heard of.
#[derive(Debug)]
pub(crate) struct Routes {
    nameservers: Nameservers,
    topics: RwLock<HashMap<Arc<str>, Arc<Topic>>>,
    brokers: RwLock<HashMap<Arc<str>, Arc<Broker>>>,
    /// Counts changes of any route, for those who wait for one.
    changes: watch::Sender<u64>,
}

impl Routes {
    pub(crate) fn new(nameservers: Nameservers) -> Routes {
        Routes {
            nameservers,
            topics: RwLock::default(),
            brokers: RwLock::default(),
            changes: watch::Sender::new(0),
        }
    }

    pub(crate) fn nameservers(&self) -> &Nameservers {
        &self.nameservers
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The entry of a topic, from now on polled.
    pub(crate) fn follow(&self, topic: &Arc<str>) -> Result<Arc<Topic>, ClientError> {
        if let Some(found) = self.topics.read().unwrap_or_else(PoisonError::into_inner).get(topic) {
            return Ok(Arc::clone(found));
        }
        wire::validate_topic(topic).map_err(|error| ClientError::Refused(error.to_string()))?;
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if topics.len() >= limits::TOPICS_MAX {
            return Err(ClientError::Busy("topics of one client"));
        }
        let new = || {
            Arc::new(Topic {
                name: Arc::clone(topic),
                route: RwLock::new(None),
                version: AtomicU64::new(0),
                asked: tokio::sync::Mutex::new(None),
                wishes: AtomicU32::new(0),
            })
        };
        Ok(Arc::clone(topics.entry(Arc::clone(topic)).or_insert_with(new)))
    }

    pub(crate) fn followed(&self) -> Vec<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn broker(&self, name: &str) -> Option<Arc<Broker>> {
        self.brokers.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The brokers that some topic's route names.
    pub(crate) fn brokers_in_use(&self) -> Vec<Arc<Broker>> {
        let mut brokers: BTreeMap<Arc<str>, Arc<Broker>> = BTreeMap::new();
        for route in self.followed().iter().filter_map(|topic| topic.route()) {
            for broker in &route.brokers {
                brokers.entry(Arc::clone(&broker.name)).or_insert_with(|| Arc::clone(broker));
            }
        }
        brokers.into_values().collect()
    }

    /// Asks for a topic's route, unless somebody did just now. A route that the nameserver no longer
    /// has is kept: a nameserver that has just started knows nothing for up to 30 s.
    pub(crate) async fn refresh(&self, topic: &Topic) -> Result<Option<Arc<Route>>, ClientError> {
        self.refresh_if_older(topic, limits::ROUTE_FRESH).await
    }

    /// As `refresh`, with another idea of "just now".
    pub(crate) async fn refresh_if_older(
        &self,
        topic: &Topic,
        age: Duration,
    ) -> Result<Option<Arc<Route>>, ClientError> {
        let mut asked = topic.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < age) {
            return Ok(topic.route());
        }
        if let Some(data) = self.nameservers.route(&topic.name).await? {
            self.store(topic, data, false)?;
        }
        *asked = Some(Instant::now());
        Ok(topic.route())
    }

    /// The route for a producer: the topic's own, or one borrowed from the topic after which the first
    /// send would make it.
    pub(crate) async fn for_sending(
        &self,
        topic: &Topic,
        default_queues: u32,
    ) -> Result<Arc<Route>, ClientError> {
        let usable = |route: Option<Arc<Route>>| route.filter(|route| !route.writable.is_empty());
        if let Some(route) = usable(topic.route()) {
            return Ok(route);
        }
        let found = self.refresh(topic).await?;
        let no_route =
            |why: &str| ClientError::NoRoute { topic: topic.name.to_string(), why: why.to_owned() };
        match found {
            Some(route) if !route.writable.is_empty() => return Ok(route),
            Some(_) => {
                let why = "no broker of it has a master and write permission".to_owned();
                return Err(ClientError::NotWritable { topic: topic.name.to_string(), why });
            }
            None => {}
        }
        let mut asked = topic.asked.lock().await;
        if let Some(route) = usable(topic.route()) {
            return Ok(route);
        }
        let Some(mut data) = self.nameservers.route(wire::topic::AUTO_CREATE).await? else {
            return Err(no_route("the topic does not exist and cannot be made by a send"));
        };
        for queues in &mut data.queue_datas {
            let count = queues.read_queue_nums.min(i32::try_from(default_queues).unwrap_or(i32::MAX));
            (queues.read_queue_nums, queues.write_queue_nums) = (count, count);
        }
        self.store(topic, data, true)?;
        *asked = Some(Instant::now());
        usable(topic.route()).ok_or_else(|| no_route("no broker takes new topics now"))
    }

    fn store(&self, topic: &Topic, data: TopicRouteData, is_borrowed: bool) -> Result<(), ClientError> {
        if data.topic_queue_mapping_by_broker.as_ref().is_some_and(|mapping| !mapping.is_empty()) {
            let why = "static topics are not supported".to_owned();
            return Err(ClientError::NoRoute { topic: topic.name.to_string(), why });
        }
        // Addresses may move without any change of queues, so they are taken in first.
        let brokers: Vec<Arc<Broker>> = data.broker_datas.iter().map(|broker| self.learn(broker)).collect();
        if topic.route().is_some_and(|old| old.data == data && old.is_borrowed == is_borrowed) {
            return Ok(());
        }
        let named = |name: &str| brokers.iter().find(|broker| *broker.name == *name).cloned();
        let route = Route {
            version: topic.version() + 1,
            writable: writable(&data)
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .filter_map(|(name, count)| Some((named(name)?, count)))
                .collect(),
            readable: if is_borrowed { Vec::new() } else { readable(&topic.name, &data) },
            brokers: brokers.clone(),
            is_borrowed,
            data,
        };
        tracing::info!(
            topic = &*topic.name,
            is_borrowed,
            to_write = route.writable.iter().map(|(_, count)| count).sum::<usize>(),
            to_read = route.readable.len(),
            "route changed"
        );
        let version = route.version;
        *topic.route.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(route));
        // One question per topic at a time (`asked`), so nobody else counts.
        topic.version.store(version, Ordering::Release);
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Takes in what a route says of a broker.
    pub(crate) fn learn(&self, data: &BrokerData) -> Arc<Broker> {
        let found = self.broker(&data.broker_name);
        let broker = found.unwrap_or_else(|| {
            let name: Arc<str> = data.broker_name.as_str().into();
            let mut brokers = self.brokers.write().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Broker { name: Arc::clone(&name), addresses: RwLock::default() });
            Arc::clone(brokers.entry(Arc::clone(&name)).or_insert_with(new))
        });
        broker.update(&data.broker_addrs);
        broker
    }

    /// Asks again for every topic; `only_borrowed` for those whose real route is still awaited.
    pub(crate) async fn poll(&self, only_borrowed: bool) {
        for topic in self.followed() {
            let is_borrowed = topic.route().is_some_and(|route| route.is_borrowed);
            if only_borrowed && !is_borrowed {
                continue;
            }
            match self.refresh(&topic).await {
                Ok(_) => {}
                // No nameserver answers: the other topics would only wait as long.
                Err(
                    error @ (ClientError::NotSent { .. } | ClientError::Unknown { .. } | ClientError::Closed),
                ) => {
                    tracing::warn!(%error, "route poll failed");
                    return;
                }
                Err(error) => tracing::warn!(topic = &*topic.name, %error, "route poll failed"),
            }
        }
    }

    /// A route that can be read, asked for when there is none.
    pub(crate) async fn for_consuming(&self, topic: &Topic) -> Result<Arc<Route>, ClientError> {
        let usable = |route: Option<Arc<Route>>| route.filter(|route| !route.is_borrowed);
        if let Some(route) = usable(topic.route()) {
            return Ok(route);
        }
        // However fresh the last answer is: a send may have made the topic since.
        usable(self.refresh_if_older(topic, Duration::ZERO).await?).ok_or_else(|| ClientError::NoRoute {
            topic: topic.name.to_string(),
            why: "the nameserver does not know it".into(),
        })
    }
}

/// How often topics that are about to exist are asked for.
pub(crate) const BORROWED_POLL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn route(json: &str) -> TopicRouteData {
        wire::from_json(json.as_bytes()).expect("a route")
    }

    const TWO: &str = r#"{"brokerDatas":[
        {"brokerAddrs":{0:"h:1",1:"h:2"},"brokerName":"b","cluster":"c"},
        {"brokerAddrs":{"1":"h:4"},"brokerName":"a","cluster":"c"},
        {"brokerAddrs":{"0":"h:5"},"brokerName":"d","cluster":"c"}],
      "queueDatas":[
        {"brokerName":"d","perm":2,"readQueueNums":3,"writeQueueNums":2},
        {"brokerName":"b","perm":6,"readQueueNums":2,"writeQueueNums":1},
        {"brokerName":"a","perm":4,"readQueueNums":1,"writeQueueNums":9}]}"#;

    #[test]
    fn queues_as_in_java() {
        let data = route(TWO);
        // a cannot be written and has no master; b sorts before d.
        assert_eq!(writable(&data).into_iter().collect::<Vec<_>>(), [("b", 1), ("d", 2)]);
        let queue = |broker: &str, id| MessageQueue::new("t", broker, id);
        assert_eq!(readable("t", &data), [queue("a", 0), queue("b", 0), queue("b", 1)]);
    }

    #[test]
    fn an_order_topic_names_its_queues() {
        let mut data = route(TWO);
        data.order_topic_conf = Some("b:4;d:2;broken".into());
        assert_eq!(writable(&data).into_iter().collect::<Vec<_>>(), [("b", 4), ("d", 2)]);
    }

    #[test]
    fn whom_to_read_from() {
        let broker = |ids: &[i64]| {
            let broker = Broker { name: "b".into(), addresses: RwLock::default() };
            broker.update(&ids.iter().map(|id| (*id, format!("h:{id}"))).collect());
            broker
        };
        let id = |broker: &Broker, wanted| broker.for_reading(wanted).map(|(id, _)| id);
        assert_eq!(id(&broker(&[0, 1, 2]), 1), Some(1));
        assert_eq!(id(&broker(&[0, 2]), 1), Some(2));
        assert_eq!(id(&broker(&[0, 3]), 1), Some(0));
        assert_eq!(id(&broker(&[2, 3]), 0), Some(2));
        assert_eq!(id(&broker(&[]), 0), None);
        assert_eq!(broker(&[1]).master(), None);
        assert_eq!(broker(&[1]).any().as_deref(), Some("h:1"));
        assert_eq!(broker(&[0, 1]).any().as_deref(), Some("h:0"));
    }
}
