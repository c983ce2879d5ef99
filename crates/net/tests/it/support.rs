//! What the tests share: servers on a free port, a peer that speaks bytes, a small random source.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use net::{Handler, Listeners, Replier, Server, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::{RemotingCommand, RequestCode, ResponseCode};

pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Longer than anything here takes unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn start<H: Handler + ?Sized>(config: ServerConfig, handler: Arc<H>) -> (Server, SocketAddr) {
    let server = Server::start(config, Listeners::new().bind("main", ANY).unwrap(), handler).unwrap();
    let address = server.listeners()[0].address;
    (server, address)
}

pub(crate) fn echo(request: RemotingCommand, replier: Replier) {
    let response = RemotingCommand::response_to(&request, ResponseCode::SUCCESS).with_body(request.body);
    replier.send(response);
}

pub(crate) fn request(body: impl Into<Bytes>) -> RemotingCommand {
    RemotingCommand::request(RequestCode::SEND_MESSAGE).with_ext("a", "group").with_body(body)
}

pub(crate) fn frame(command: &RemotingCommand) -> BytesMut {
    let mut out = BytesMut::new();
    command.encode(&mut out);
    out
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("took too long")
}

/// Waits until `is_so`, which something else makes true.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A peer that speaks bytes.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    buffer: BytesMut,
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Raw { stream, buffer: BytesMut::new() }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next command; `Err` where the connection ended: `None` for FIN.
    pub(crate) async fn read(&mut self) -> Result<RemotingCommand, Option<std::io::ErrorKind>> {
        loop {
            if let Some(command) = wire::decode_frame(&mut self.buffer, wire::FRAME_BYTES_MAX).unwrap() {
                return Ok(command);
            }
            match within(self.stream.read_buf(&mut self.buffer)).await {
                Ok(0) => return Err(None),
                Ok(_) => {}
                Err(error) => return Err(Some(error.kind())),
            }
        }
    }

    pub(crate) async fn call(&mut self, opaque: i32, body: impl Into<Bytes>) -> RemotingCommand {
        let mut request = request(body);
        request.opaque = opaque;
        self.write(&frame(&request)).await;
        let response = self.read().await.unwrap();
        assert_eq!(response.opaque, opaque);
        response
    }

    /// Waits for the end of the connection, whatever comes before it.
    pub(crate) async fn end(&mut self) -> Option<std::io::ErrorKind> {
        loop {
            match self.read().await {
                Ok(_) => {}
                Err(end) => return end,
            }
        }
    }
}

const ROLE: &str = "RAFTMQ_NET_TEST_ROLE";

/// Whether this process is the one that [`Victim::start`] started for `role`.
pub(crate) fn plays(role: &str) -> bool {
    std::env::var(ROLE).as_deref() == Ok(role)
}

/// A process of this test binary that runs one test only, in a role. It says where it listens.
pub(crate) struct Victim {
    pub(crate) child: std::process::Child,
    pub(crate) address: SocketAddr,
}

impl Victim {
    pub(crate) fn start(role: &str, test: &str) -> Victim {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut victim = Victim { child, address: ANY };
        let output = BufReader::new(victim.child.stdout.take().unwrap());
        for line in output.lines() {
            if let Some((_, address)) = line.unwrap().split_once("listens on ") {
                victim.address = address.parse().unwrap();
                return victim;
            }
        }
        panic!("the victim said nothing");
    }

    /// kill -9, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn resident_bytes(&self) -> usize {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Already dead where a test killed it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// xorshift64*: enough to vary tests, and the same on every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}
