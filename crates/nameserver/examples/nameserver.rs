//! A nameserver on its own, to try RocketMQ's tools and brokers against:
//! `cargo run -p nameserver --example nameserver -- 127.0.0.1:40876 [KV_FILE]`. Ends with its input.

use std::error::Error;
use std::net::SocketAddr;

use nameserver::{NameServer, NameServerConfig, limits};
use net::Listeners;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address: SocketAddr = args.next().unwrap_or_else(|| "127.0.0.1:9876".into()).parse()?;
    let config = NameServerConfig { kv_path: args.next().map(Into::into), ..NameServerConfig::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = NameServer::start(config, Listeners::new().bind("main", address)?)?;
        println!("nameserver on {}", server.listeners()[0].address);
        tokio::task::spawn_blocking(|| {
            for line in std::io::stdin().lines() {
                if line.is_err() {
                    break;
                }
            }
        })
        .await?;
        println!("{:#?}\n{:#?}", server.snapshot(), server.stats());
        server.shutdown(limits::SHUTDOWN_GRACE).await;
        Ok(())
    })
}
