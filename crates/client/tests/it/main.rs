//! The client against a scripted cluster in this process: what it does when servers fail, move, refuse
//! or forget. What it does against Apache's own broker is shown by examples/drill.rs and tested in the
//! package `tests`.

#![allow(unreachable_pub)]

mod consuming;
mod scripted;
mod sending;

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Client, ClientConfig};
use scripted::{Broker, Nameserver, Registry};

/// A nameserver, brokers `a`, `b`, … with these numbers of queues, and the topic `t`.
struct Cluster {
    registry: Arc<Registry>,
    nameserver: Nameserver,
    brokers: Vec<Broker>,
}

impl Cluster {
    fn start(queues: &[i32]) -> Cluster {
        // RUST_LOG=client=debug shows what went on in a test that failed. Only the first call takes.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let registry = Registry::new();
        registry.add_topic("t");
        let nameserver = registry.nameserver();
        let names = ["a", "b", "c", "d"];
        let brokers =
            queues.iter().zip(names).map(|(queues, name)| Broker::start(&registry, name, *queues)).collect();
        Cluster { registry, nameserver, brokers }
    }

    fn config(&self) -> ClientConfig {
        ClientConfig {
            // Tests see what happens without the periodic work.
            rebalance: Duration::from_mins(10),
            heartbeat: Duration::from_mins(10),
            route_poll: Duration::from_mins(10),
            ..ClientConfig::from_list(&self.nameserver.address)
        }
    }

    async fn client(&self) -> Client {
        Client::start(self.config()).await.expect("a client")
    }
}

/// Waits for a condition, long enough for any machine.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
