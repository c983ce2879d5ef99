//! What a message costs in this crate alone: a server that echoes, and calls to it.
//! `echo [IN_FLIGHT] [BYTES] [SECONDS]` runs both in two processes and prints CPU µs per message of each.
//! Build it optimised; figures of an unoptimised build say nothing.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use net::{Client, ClientConfig, Listeners, Replier, Server, ServerConfig};
use wire::{RemotingCommand, RequestCode, ResponseCode};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if args.first().is_some_and(|arg| arg == "serve") {
        return runtime.block_on(serve());
    }
    let number = |at: usize, default: u64| args.get(at).map_or(Ok(default), |arg| arg.parse());
    let (in_flight, bytes, seconds) = (number(0, 64)?, number(1, 1024)?, number(2, 5)?);
    let mut server = Command::new(std::env::current_exe()?)
        .arg("serve")
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(server.stdout.take().ok_or("no output")?).lines();
    let address = lines.next().ok_or("the server said nothing")??;
    let (calls, wall) =
        runtime.block_on(load(address, in_flight, bytes as usize, Duration::from_secs(seconds)));
    drop(server.stdin.take());
    let server_cpu: f64 = lines.next().ok_or("the server said nothing")??.parse()?;
    server.wait()?;
    let per_call = |seconds: f64| seconds * 1e6 / calls as f64;
    println!(
        "{in_flight} in flight, {bytes} bytes: {:.0}/s, mean {:.0} us, CPU us per message: server {:.2}, client {:.2}",
        calls as f64 / wall,
        wall * 1e6 * in_flight as f64 / calls as f64,
        per_call(server_cpu),
        per_call(cpu_seconds()?),
    );
    Ok(())
}

/// Echoes until its input ends, then says what CPU time it took.
async fn serve() -> Result<(), Box<dyn Error>> {
    let echo = |request: RemotingCommand, replier: Replier| {
        let response = RemotingCommand::response_to(&request, ResponseCode::SUCCESS).with_body(request.body);
        replier.send(response);
    };
    let any: SocketAddr = "127.0.0.1:0".parse()?;
    let server = Server::start(ServerConfig::default(), Listeners::new().bind("main", any)?, Arc::new(echo))?;
    println!("{}", server.listeners()[0].address);
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await?;
    println!("{}", cpu_seconds()?);
    Ok(())
}

async fn load(address: String, in_flight: u64, bytes: usize, time: Duration) -> (u64, f64) {
    let client = Client::new(ClientConfig::default());
    let calls = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let (client, address, calls) = (client.clone(), address.clone(), calls.clone());
        tasks.spawn(async move {
            let request = RemotingCommand::request(RequestCode::SEND_MESSAGE_V2)
                .with_ext("a", "group")
                .with_ext("b", "topic")
                .with_ext("e", "3")
                .with_body(vec![7; bytes]);
            while start.elapsed() < time {
                if let Err(error) = client.call(&address, request.clone(), Duration::from_secs(3)).await {
                    eprintln!("{error}");
                    return;
                }
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tasks.join_all().await;
    (calls.load(Ordering::Relaxed), start.elapsed().as_secs_f64())
}

/// User and system time of this process, from /proc in ticks of 10 ms.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / 100.0)
}
