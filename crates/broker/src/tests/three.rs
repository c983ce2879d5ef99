//! Three nodes of one group in one process, and a client of theirs.

use std::collections::BTreeMap;

use super::*;

pub(super) struct Three {
    pub(super) brokers: BTreeMap<u64, Broker>,
    configs: BTreeMap<u64, BrokerConfig>,
    pub(super) addresses: BTreeMap<u64, String>,
    pub(super) client: Client,
    data: Vec<TempDir>,
    disk: Arc<dyn Disk>,
}

impl Three {
    pub(super) async fn start(change: impl Fn(&mut BrokerConfig)) -> Three {
        Three::on_disk(Arc::new(OsDisk), change).await
    }

    /// All on one disk.
    pub(super) async fn on_disk(disk: Arc<dyn Disk>, change: impl Fn(&mut BrokerConfig)) -> Three {
        let data: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let peers: BTreeMap<u64, String> =
            (1..=3).map(|n| (n, format!("127.0.0.1:{}", tests::ports::free().unwrap()))).collect();
        let mut three = Three {
            brokers: BTreeMap::new(),
            configs: BTreeMap::new(),
            addresses: BTreeMap::new(),
            client: Client::new(ClientConfig::default()),
            data: Vec::new(),
            disk,
        };
        for (node, data) in (1..=3).zip(&data) {
            let mut config = config(data);
            config.node = node;
            config.peers = peers.clone();
            config.peer_listen = peers[&node].parse().unwrap();
            config.groups[0].voters = vec![1, 2, 3];
            config.groups[0].listen.set_port(tests::ports::free().unwrap());
            change(&mut config);
            three.addresses.insert(node, config.groups[0].listen.to_string());
            three.configs.insert(node, config);
        }
        three.data = data;
        for node in 1..=3 {
            three.start_node(node).await;
        }
        for broker in three.brokers.values() {
            broker.ready().await;
        }
        three
    }

    pub(super) async fn start_node(&mut self, node: u64) {
        let broker = Broker::start_on(self.configs[&node].clone(), self.disk.clone()).await.unwrap();
        self.brokers.insert(node, broker);
    }

    /// Waits until every living node has everything, on its disk and applied, as the leader knows.
    pub(super) async fn level(&self) {
        let leader = self.leader().await;
        eventually("all have everything", || async {
            let of = |node: &u64| self.brokers[node].status().remove(0);
            let led = of(&leader);
            let has = |node: &u64| {
                let lag = led.followers.iter().find(|follower| follower.node == *node).map(|f| f.lag);
                *node == leader || lag == Some(0)
            };
            let all = || self.brokers.keys();
            (all().all(has) && all().all(|node| of(node).applied_index == led.last_index)).then_some(())
        })
        .await;
    }

    /// Stops a node and starts it again with other settings.
    pub(super) async fn restart(&mut self, node: u64, change: impl FnOnce(&mut BrokerConfig)) {
        if let Some(broker) = self.brokers.remove(&node) {
            broker.shutdown(Drain::Now).await;
        }
        self.configs.get_mut(&node).map(change);
        self.start_node(node).await;
        self.brokers[&node].ready().await;
    }

    /// The leader as the living nodes see it.
    pub(super) async fn leader(&self) -> u64 {
        loop {
            let named: Vec<u64> = self
                .brokers
                .values()
                .map(|broker| broker.status()[0].leader)
                .filter(|leader| *leader != 0)
                .collect();
            if let Some(leader) = named.first()
                && named.len() == self.brokers.len()
                && named.iter().all(|other| other == leader)
                && self.brokers.contains_key(leader)
            {
                return *leader;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A node that does not lead.
    pub(super) fn other_than(&self, leader: u64) -> u64 {
        *self.addresses.keys().find(|node| **node != leader).unwrap()
    }

    /// A node as this client asks it.
    pub(super) fn at(&self, node: u64) -> At<'_> {
        At { client: &self.client, address: &self.addresses[&node] }
    }

    pub(super) async fn stop(self) {
        let _until_then = &self.data;
        futures::future::join_all(self.brokers.into_values().map(|broker| broker.shutdown(Drain::Now))).await;
    }
}
