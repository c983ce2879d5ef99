//! `raftmq consume`: a push consumer that prints bodies.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use client::{Client, ClientConfig, ConsumeFrom, ConsumeModel, ConsumerConfig, Filter, Verdict};
use tokio::sync::Notify;

use crate::ClusterArgs;

#[derive(Args)]
pub(crate) struct ConsumeArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[arg(short, long)]
    topic: String,
    /// Consumer group: its members share the messages, and its progress is kept by the brokers
    #[arg(short, long, default_value = "raftmq-consume")]
    group: String,
    /// Tags: "a || b", or * for all
    #[arg(long, default_value = "*")]
    tags: String,
    /// Start with new messages instead of the oldest, where the group has no progress yet
    #[arg(long)]
    new_only: bool,
    /// Every member gets every message; progress is kept in a local file
    #[arg(long)]
    broadcasting: bool,
    /// Stop after so many messages
    #[arg(short, long)]
    count: Option<u64>,
    /// Print queue, offset, id, tag and keys before each body
    #[arg(short, long)]
    verbose: bool,
}

pub(crate) fn run(args: ConsumeArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(consume(args))
}

async fn consume(args: ConsumeArgs) -> anyhow::Result<()> {
    let client = Client::start(ClientConfig::from_list(&args.cluster.nameserver)).await?;
    let config = ConsumerConfig {
        model: if args.broadcasting { ConsumeModel::Broadcasting } else { ConsumeModel::Clustering },
        from: if args.new_only { ConsumeFrom::Last } else { ConsumeFrom::First },
        ..ConsumerConfig::default()
    };
    let seen = Arc::new(AtomicU64::new(0));
    let done = Arc::new(Notify::new());
    let (count, verbose) = (args.count, args.verbose);
    let (counter, finished) = (seen.clone(), done.clone());
    let consumer = client
        .push_consumer(&args.group, config)?
        .subscribe(&args.topic, Filter::tags(&args.tags)?)
        .listen(move |messages| {
            let mut out = std::io::stdout().lock();
            for message in messages {
                let number = counter.fetch_add(1, Ordering::Relaxed) + 1;
                if count.is_some_and(|count| number > count) {
                    return std::future::ready(Verdict::Later);
                }
                if verbose {
                    let _ = write!(
                        out,
                        "{}:{} {} {} {} ",
                        message.queue().broker_name,
                        message.queue().queue_id,
                        message.offset(),
                        message.message_id(),
                        message.tag().unwrap_or("-")
                    );
                }
                let _ = out.write_all(message.body());
                let _ = out.write_all(b"\n");
                if count == Some(number) {
                    finished.notify_one();
                }
            }
            std::future::ready(Verdict::Success)
        })
        .await?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = done.notified() => {}
    }
    consumer.shutdown().await;
    client.shutdown().await;
    Ok(())
}
