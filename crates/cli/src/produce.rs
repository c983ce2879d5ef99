//! `raftmq produce`: one message per line of standard input, or generated ones.

use std::io::BufRead as _;

use anyhow::Context as _;
use clap::Args;
use client::{Client, ClientConfig, Message, ProducerConfig};

use crate::ClusterArgs;

#[derive(Args)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[arg(short, long)]
    topic: String,
    /// Generate so many messages instead of reading standard input
    #[arg(short, long)]
    count: Option<u64>,
    /// Body of generated messages; {} becomes the number
    #[arg(long, default_value = "hello {}")]
    body: String,
    /// Tag of each message
    #[arg(long)]
    tag: Option<String>,
    /// Key of each message; {} becomes the number
    #[arg(long)]
    key: Option<String>,
    /// Producer group
    #[arg(long, default_value = "raftmq-produce")]
    group: String,
    /// Sends under way at a time; above 1 the order of messages is not kept
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Print nothing for stored messages
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(args: ProduceArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(produce(args))
}

async fn produce(args: ProduceArgs) -> anyhow::Result<()> {
    let client = Client::start(ClientConfig::from_list(&args.cluster.nameserver)).await?;
    let producer = client.producer(&args.group, ProducerConfig::default()).await?;
    let mut window = producer.window(args.in_flight);
    let bar = crate::progress::bar(args.count, "sent");
    let report =
        |outcome: Option<(u64, Result<client::SendReceipt, client::ClientError>)>| -> anyhow::Result<()> {
            if let Some((number, outcome)) = outcome {
                let receipt =
                    outcome.with_context(|| format!("message {number} was not stored for certain"))?;
                bar.inc(1);
                if !args.quiet {
                    bar.suspend(|| {
                        println!(
                            "{} queue {} of {} offset {}",
                            receipt.message_id, receipt.queue_id, receipt.broker, receipt.queue_offset
                        );
                    });
                }
            }
            Ok(())
        };
    let mut lines = std::io::stdin().lock().lines();
    let mut number = 0u64;
    while args.count.is_none_or(|count| number < count) {
        let body = match args.count {
            Some(_) => args.body.replace("{}", &number.to_string()),
            None => match lines.next() {
                Some(line) => line.context("standard input")?,
                None => break,
            },
        };
        let mut message = Message::new(args.topic.as_str(), body);
        if let Some(tag) = &args.tag {
            message = message.tag(tag);
        }
        if let Some(key) = &args.key {
            message = message.key(&key.replace("{}", &number.to_string()));
        }
        report(window.push(message, number).await)?;
        if args.in_flight == 1 {
            report(window.next().await)?;
        }
        number += 1;
    }
    while let Some(outcome) = window.next().await {
        report(Some(outcome))?;
    }
    bar.finish_and_clear();
    producer.shutdown().await;
    client.shutdown().await;
    Ok(())
}
