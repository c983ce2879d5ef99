//! The network: streams of bytes between nodes, which arrive late, in any order between streams, break, or wait behind a cut.
//!
//! ```text
//! write ──▶ segments in flight, each with the time of its arrival ──deliver──▶ arrived ──▶ read
//! ```
//! A connection is two pipes. Within a pipe bytes keep their order, as over TCP: a lost segment holds up what follows until
//! it is sent again. A cut holds up everything; what waited arrives some time after it is healed. A process that is killed
//! resets its connections; a machine without power says nothing, and resets them when it is asked after it is back.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use replica::{PeerStream, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock;
use crate::random::Random;

/// Bytes of a pipe that are written and not read: what sockets and the wire hold.
const WINDOW: usize = 256 << 10;
/// A lost segment is sent again after this, at the least (Linux's minimum).
const RESEND_MS: u64 = 200;
/// The longest time between two tries to get through.
const RESEND_MS_MAX: u64 = 1000;
const PORT: u16 = 10920;

pub(crate) fn address(node: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node as u8], PORT))
}

fn node_at(address: SocketAddr) -> u64 {
    match address.ip() {
        std::net::IpAddr::V4(ip) => u64::from(ip.octets()[3]),
        std::net::IpAddr::V6(_) => 0,
    }
}

/// One direction between two nodes.
#[derive(Clone, Debug, Default)]
struct Link {
    /// Since when nothing gets through.
    cut_since: Option<u64>,
    extra_ms: u64,
    loss_permille: u64,
}

enum Content {
    Bytes(Bytes),
    End,
    Reset,
}

struct Segment {
    at: u64,
    content: Content,
}

struct Pipe {
    from: u64,
    to: u64,
    /// The other direction of the connection.
    back: u64,
    segments: VecDeque<Segment>,
    /// When the last segment arrives.
    last_at: u64,
    arrived: VecDeque<Bytes>,
    /// Bytes in flight and arrived.
    unread: usize,
    has_ended: bool,
    /// The connection was reset, as the reading end sees it.
    is_reset: bool,
    is_reader_gone: bool,
    is_writer_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Default)]
struct Machine {
    is_on: bool,
    /// Processes so far.
    epoch: u64,
}

struct Listener {
    epoch: u64,
    waiting: VecDeque<SimStream>,
    waker: Option<Waker>,
}

struct World {
    random: Random,
    /// Of every segment, ms.
    latency_ms: (u64, u64),
    links: BTreeMap<(u64, u64), Link>,
    machines: BTreeMap<u64, Machine>,
    listeners: BTreeMap<u64, Listener>,
    pipes: BTreeMap<u64, Pipe>,
    pipes_ever: u64,
}

/// See the module. A clone is a reference.
#[derive(Clone)]
pub(crate) struct Net(Arc<Mutex<World>>);

impl Net {
    pub(crate) fn new(seed: u64, latency_ms: (u64, u64)) -> Self {
        Net(Arc::new(Mutex::new(World {
            random: Random::of(seed, "net"),
            latency_ms,
            links: BTreeMap::new(),
            machines: BTreeMap::new(),
            listeners: BTreeMap::new(),
            pipes: BTreeMap::new(),
            pipes_ever: 0,
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings what is due, and wakes those who wait for it.
    pub(crate) fn deliver(&self) {
        let wakers = self.world().deliver(clock::now_ms());
        for waker in wakers {
            waker.wake();
        }
    }

    /// Cuts or heals one direction.
    pub(crate) fn cut(&self, from: u64, to: u64, is_cut: bool) {
        self.world().cut(from, to, is_cut);
    }

    pub(crate) fn is_cut(&self, from: u64, to: u64) -> bool {
        self.world().link(from, to).cut_since.is_some()
    }

    pub(crate) fn slow(&self, from: u64, to: u64, extra_ms: u64) {
        self.world().links.entry((from, to)).or_default().extra_ms = extra_ms;
    }

    pub(crate) fn lose(&self, from: u64, to: u64, permille: u64) {
        self.world().links.entry((from, to)).or_default().loss_permille = permille;
    }

    /// Everything is well again.
    pub(crate) fn heal(&self) {
        let mut world = self.world();
        let cut: Vec<(u64, u64)> = world.links.keys().copied().collect();
        for (from, to) in cut {
            world.cut(from, to, false);
        }
        world.links.clear();
    }

    /// Breaks the connections between two nodes; how many there were.
    pub(crate) fn reset(&self, one: u64, other: u64) -> usize {
        let mut world = self.world();
        let ends = [(one, other), (other, one)];
        let pipes: Vec<u64> = world
            .pipes
            .iter()
            .filter(|(_, pipe)| ends.contains(&(pipe.from, pipe.to)) && !pipe.is_reset)
            .map(|(id, _)| *id)
            .collect();
        for id in &pipes {
            world.send(*id, Content::Reset);
        }
        pipes.len() / 2
    }

    /// A process starts on a machine.
    pub(crate) fn begin(&self, node: u64) {
        let mut world = self.world();
        let machine = world.machines.entry(node).or_default();
        machine.is_on = true;
        machine.epoch += 1;
    }

    /// The process of a node is no more. Its kernel resets its connections, unless the power is gone with it.
    pub(crate) fn end(&self, node: u64, has_power: bool) {
        let mut world = self.world();
        let machine = world.machines.entry(node).or_default();
        machine.is_on = has_power;
        machine.epoch += 1;
        let listener = world.listeners.remove(&node);
        let mut resets = Vec::new();
        for (id, pipe) in &mut world.pipes {
            if pipe.to == node {
                pipe.is_reader_gone = true;
                pipe.reader = None;
                pipe.arrived.clear();
                pipe.unread = pipe.unread_in_flight();
            }
            if pipe.from == node && !pipe.is_writer_gone {
                pipe.is_writer_gone = true;
                pipe.writer = None;
                // Without power: what is on the wire arrives, and then nothing.
                if has_power {
                    resets.push(*id);
                }
            }
        }
        for id in resets {
            world.send(id, Content::Reset);
        }
        drop(world);
        // Streams that nobody has taken yet.
        drop(listener);
    }

    fn poll_read(&self, id: u64, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut world = self.world();
        let Some(pipe) = world.pipes.get_mut(&id) else { return Poll::Ready(Err(reset())) };
        let mut freed = 0;
        while buf.remaining() > 0
            && let Some(bytes) = pipe.arrived.front_mut()
        {
            let n = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..n]);
            bytes.advance(n);
            freed += n;
            if bytes.is_empty() {
                pipe.arrived.pop_front();
            }
        }
        if freed > 0 {
            pipe.unread -= freed;
            let writer = pipe.writer.take();
            drop(world);
            if let Some(writer) = writer {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() == 0 || pipe.has_ended {
            return Poll::Ready(Ok(()));
        }
        if pipe.is_reset {
            return Poll::Ready(Err(reset()));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_write(&self, id: u64, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut world = self.world();
        let Some(pipe) = world.pipes.get_mut(&id) else { return Poll::Ready(Err(reset())) };
        let back = pipe.back;
        let room = WINDOW.saturating_sub(pipe.unread);
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
        }
        if world.pipes.get(&back).is_none_or(|back| back.is_reset) {
            return Poll::Ready(Err(reset()));
        }
        if room == 0 {
            return Poll::Pending;
        }
        let n = bytes.len().min(room);
        if n > 0 {
            world.send(id, Content::Bytes(Bytes::copy_from_slice(&bytes[..n])));
        }
        Poll::Ready(Ok(n))
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl Pipe {
    fn new(from: u64, to: u64, back: u64) -> Self {
        Pipe {
            from,
            to,
            back,
            segments: VecDeque::new(),
            last_at: 0,
            arrived: VecDeque::new(),
            unread: 0,
            has_ended: false,
            is_reset: false,
            is_reader_gone: false,
            is_writer_gone: false,
            reader: None,
            writer: None,
        }
    }

    fn unread_in_flight(&self) -> usize {
        let len = |segment: &Segment| match &segment.content {
            Content::Bytes(bytes) => bytes.len(),
            Content::End | Content::Reset => 0,
        };
        self.segments.iter().map(len).sum()
    }
}

impl World {
    fn link(&self, from: u64, to: u64) -> Link {
        self.links.get(&(from, to)).cloned().unwrap_or_default()
    }

    fn is_on(&self, node: u64) -> bool {
        self.machines.get(&node).is_some_and(|machine| machine.is_on)
    }

    fn epoch(&self, node: u64) -> u64 {
        self.machines.get(&node).map_or(0, |machine| machine.epoch)
    }

    fn latency_ms(&mut self, from: u64, to: u64) -> u64 {
        let link = self.link(from, to);
        let (least, most) = self.latency_ms;
        let mut ms = self.random.between(least, most) + link.extra_ms;
        let mut resend = RESEND_MS;
        while self.random.permille(link.loss_permille) {
            ms += resend;
            resend = (resend * 2).min(RESEND_MS_MAX);
        }
        ms
    }

    /// Puts a segment on its way.
    fn send(&mut self, id: u64, content: Content) {
        let Some((from, to)) = self.pipes.get(&id).map(|pipe| (pipe.from, pipe.to)) else { return };
        let at = clock::now_ms() + self.latency_ms(from, to).max(1);
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        pipe.last_at = pipe.last_at.max(at);
        if let Content::Bytes(bytes) = &content {
            pipe.unread += bytes.len();
        }
        pipe.segments.push_back(Segment { at: pipe.last_at, content });
    }

    fn cut(&mut self, from: u64, to: u64, is_cut: bool) {
        let now = clock::now_ms();
        let link = self.links.entry((from, to)).or_default();
        if is_cut {
            link.cut_since.get_or_insert(now);
            return;
        }
        let Some(since) = link.cut_since.take() else { return };
        // Whoever has tried for longer tries less often.
        let longest = (now - since).clamp(1, RESEND_MS_MAX);
        for pipe in self.pipes.values_mut().filter(|pipe| (pipe.from, pipe.to) == (from, to)) {
            let next_try = now + self.random.between(1, longest);
            for segment in &mut pipe.segments {
                segment.at = segment.at.max(next_try);
            }
            pipe.last_at = pipe.last_at.max(next_try);
        }
    }

    fn deliver(&mut self, now: u64) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut resets = Vec::new();
        let mut broken = Vec::new();
        let on: BTreeMap<u64, bool> =
            self.machines.iter().map(|(node, machine)| (*node, machine.is_on)).collect();
        for pipe in self.pipes.values_mut() {
            let is_due = pipe.segments.front().is_some_and(|segment| segment.at <= now);
            if !is_due || self.links.get(&(pipe.from, pipe.to)).is_some_and(|link| link.cut_since.is_some()) {
                continue;
            }
            while pipe.segments.front().is_some_and(|segment| segment.at <= now) {
                let Some(segment) = pipe.segments.pop_front() else { break };
                match segment.content {
                    Content::Bytes(bytes) if pipe.is_reader_gone => {
                        pipe.unread -= bytes.len();
                        wakers.extend(pipe.writer.take());
                        if on.get(&pipe.to) == Some(&true) {
                            resets.push(pipe.back);
                        }
                    }
                    Content::End | Content::Reset if pipe.is_reader_gone => {}
                    Content::Bytes(bytes) => pipe.arrived.push_back(bytes),
                    Content::End => pipe.has_ended = true,
                    Content::Reset => {
                        pipe.is_reset = true;
                        // Who writes on the other pipe hears of it too.
                        broken.push(pipe.back);
                    }
                }
            }
            wakers.extend(pipe.reader.take());
        }
        for back in broken {
            if let Some(pipe) = self.pipes.get_mut(&back) {
                wakers.extend(pipe.writer.take());
            }
        }
        resets.dedup();
        for id in resets {
            let is_told = |pipe: &Pipe| {
                pipe.is_reset || pipe.segments.iter().any(|segment| matches!(segment.content, Content::Reset))
            };
            if self.pipes.get(&id).is_some_and(|pipe| !is_told(pipe)) {
                self.send(id, Content::Reset);
            }
        }
        self.pipes
            .retain(|_, pipe| !(pipe.is_writer_gone && pipe.is_reader_gone && pipe.segments.is_empty()));
        wakers
    }

    /// Connects two nodes: the end of the one that asked. `None`: nobody listens.
    fn connect(&mut self, net: &Net, from: u64, to: u64) -> Option<(SimStream, Option<Waker>)> {
        let (from_epoch, to_epoch) = (self.epoch(from), self.epoch(to));
        self.listeners.get(&to).filter(|listener| listener.epoch == to_epoch)?;
        let (there, back) = (self.pipes_ever, self.pipes_ever + 1);
        self.pipes_ever += 2;
        self.pipes.insert(there, Pipe::new(from, to, back));
        self.pipes.insert(back, Pipe::new(to, from, there));
        let theirs = SimStream { net: net.clone(), node: to, epoch: to_epoch, read: there, write: back };
        let ours = SimStream { net: net.clone(), node: from, epoch: from_epoch, read: back, write: there };
        let listener = self.listeners.get_mut(&to)?;
        listener.waiting.push_back(theirs);
        Some((ours, listener.waker.take()))
    }
}

/// One end of a connection.
struct SimStream {
    net: Net,
    node: u64,
    /// The process that has it.
    epoch: u64,
    read: u64,
    write: u64,
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.net.poll_read(self.read, cx, buf)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.net.poll_write(self.write, cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut world = self.net.world();
        if let Some(pipe) = world.pipes.get_mut(&self.write)
            && !std::mem::replace(&mut pipe.is_writer_gone, true)
        {
            world.send(self.write, Content::End);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut world = self.net.world();
        if world.epoch(self.node) != self.epoch {
            // Its process is gone, and with it the connection.
            return;
        }
        if let Some(pipe) = world.pipes.get_mut(&self.read) {
            pipe.is_reader_gone = true;
            pipe.reader = None;
            pipe.unread -= pipe.arrived.drain(..).map(|bytes| bytes.len()).sum::<usize>();
        }
        if let Some(pipe) = world.pipes.get_mut(&self.write)
            && !std::mem::replace(&mut pipe.is_writer_gone, true)
        {
            pipe.writer = None;
            world.send(self.write, Content::End);
        }
    }
}

/// The network as one node has it.
pub(crate) struct SimTransport {
    pub(crate) net: Net,
    pub(crate) node: u64,
}

impl Transport for SimTransport {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<PeerStream>> {
        let (net, from) = (self.net.clone(), self.node);
        let to = address.parse::<SocketAddr>().map(node_at);
        Box::pin(async move {
            let to = to.map_err(io::Error::other)?;
            net.cross(from, to).await;
            let connected = net.world().connect(&net, from, to);
            match connected {
                None => {
                    net.cross(to, from).await;
                    Err(io::ErrorKind::ConnectionRefused.into())
                }
                Some((stream, acceptor)) => {
                    if let Some(acceptor) = acceptor {
                        acceptor.wake();
                    }
                    net.cross(to, from).await;
                    Ok(PeerStream::new(stream))
                }
            }
        })
    }

    fn listen(&self, address: SocketAddr) -> io::Result<BoxStream<'static, io::Result<PeerStream>>> {
        let node = node_at(address);
        let mut world = self.net.world();
        let epoch = world.epoch(node);
        let listener = Listener { epoch, waiting: VecDeque::new(), waker: None };
        let before = world.listeners.insert(node, listener);
        drop(world);
        drop(before);
        Ok(Incoming { net: self.net.clone(), node, epoch }.boxed())
    }
}

impl Net {
    /// Returns when a packet has got from one node to the other. Without an answer it is sent again and again.
    async fn cross(&self, from: u64, to: u64) {
        loop {
            let ms = {
                let mut world = self.world();
                let is_cut = world.link(from, to).cut_since.is_some();
                if is_cut || !world.is_on(to) { None } else { Some(world.latency_ms(from, to)) }
            };
            match ms {
                Some(ms) => return tokio::time::sleep(Duration::from_millis(ms)).await,
                None => tokio::time::sleep(Duration::from_millis(RESEND_MS_MAX)).await,
            }
        }
    }
}

/// The streams that others open.
struct Incoming {
    net: Net,
    node: u64,
    epoch: u64,
}

impl Stream for Incoming {
    type Item = io::Result<PeerStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut world = self.net.world();
        let Some(listener) =
            world.listeners.get_mut(&self.node).filter(|listener| listener.epoch == self.epoch)
        else {
            return Poll::Ready(None);
        };
        match listener.waiting.pop_front() {
            Some(stream) => Poll::Ready(Some(Ok(PeerStream::new(stream)))),
            None => {
                listener.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut world = self.net.world();
        let is_ours = world.listeners.get(&self.node).is_some_and(|listener| listener.epoch == self.epoch);
        let listener = is_ours.then(|| world.listeners.remove(&self.node));
        drop(world);
        // Streams that nobody has taken yet: they lock the world themselves.
        drop(listener);
    }
}
