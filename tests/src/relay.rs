//! An address that moves: what a virtual IP, a Kubernetes Service or a balancer does for clients.
//!
//! Two processes of one machine cannot hold one address, so the test holds it (another loopback address) and passes
//! bytes on to the node that has "taken it over". When that changes or the node dies, the client's connections are
//! reset, as the kernel of a virtual address's new owner does.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::SockRef;

struct Shared {
    target: Mutex<Target>,
    stopped: AtomicBool,
}

struct Target {
    address: SocketAddr,
    open: Vec<Weak<Pair>>,
}

/// A client's connection and the one to the node. The threads that copy own it; closing both sends RST.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

/// Stops listening and resets its connections when dropped.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Relay {
    /// Listens on `address` and passes connections on to `target`.
    pub fn start(address: &str, target: &str) -> Result<Relay> {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        let target = Target { address: target.parse()?, open: Vec::new() };
        let shared = Arc::new(Shared { target: Mutex::new(target), stopped: AtomicBool::new(false) });
        let relay = Relay { address: listener.local_addr()?, shared: shared.clone() };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = shared.clone();
                thread::spawn(move || pass(client, &shared));
            }
        });
        Ok(relay)
    }

    /// The address moves to another node; what is connected is reset.
    pub fn move_to(&self, target: &str) -> Result<()> {
        let address = target.parse()?;
        let mut target = self.shared.target();
        target.address = address;
        target.reset_all();
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        self.shared.target().reset_all();
    }
}

impl Shared {
    fn target(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target {
    fn reset_all(&mut self) {
        for pair in self.open.drain(..).filter_map(|pair| pair.upgrade()) {
            pair.reset();
        }
    }
}

impl Pair {
    /// Both copying threads see an end and drop the pair; linger 0 makes RST of what would be FIN.
    fn reset(&self) {
        for stream in [&self.client, &self.server] {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Read);
        }
    }
}

fn pass(client: TcpStream, shared: &Shared) {
    let pair = {
        let mut target = shared.target();
        let Ok(server) = TcpStream::connect_timeout(&target.address, Duration::from_millis(300)) else {
            // As if nobody listened: the client is to see an error, not an end.
            let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
            return;
        };
        let pair = Arc::new(Pair { client, server });
        target.open.retain(|pair| pair.strong_count() > 0);
        target.open.push(Arc::downgrade(&pair));
        pair
    };
    let _ = (pair.client.set_nodelay(true), pair.server.set_nodelay(true));
    let back = pair.clone();
    thread::spawn(move || copy(&back.server, &back.client, &back));
    copy(&pair.client, &pair.server, &pair);
}

/// Passes bytes until one side ends, then resets both.
fn copy(mut from: &TcpStream, mut to: &TcpStream, pair: &Pair) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    pair.reset();
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    /// A server that answers each byte with `name`.
    fn server(name: u8) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&[name]).is_ok() {}
                });
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream) -> std::io::Result<u8> {
        let mut answer = [0];
        stream.write_all(b"?")?;
        stream.read_exact(&mut answer)?;
        Ok(answer[0])
    }

    #[test]
    fn a_moved_address_resets_and_leads_to_the_new_owner() {
        let relay = Relay::start("127.0.0.77:0", &server(b'1')).unwrap();
        let mut client = TcpStream::connect(relay.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(ask(&mut client).unwrap(), b'1');
        relay.move_to(&server(b'2')).unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let mut client = TcpStream::connect(relay.address).unwrap();
        assert_eq!(ask(&mut client).unwrap(), b'2');
    }
}
