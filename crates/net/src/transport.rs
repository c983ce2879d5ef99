//! The socket under a connection, and the two ways to part from it.
//!
//! This is where a connection that speaks TLS, or that arrives behind a PROXY header, differs from a
//! plain one: `accept` would look at the first bytes and make another `Transport` of them. Nothing
//! above this file knows what carries its bytes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::limits::{
    KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, PARTING_TIMEOUT, UNACKNOWLEDGED_TIMEOUT, WRITE_STALL_TIMEOUT,
};

pub(crate) struct Transport {
    stream: TcpStream,
    peer: SocketAddr,
}

impl Transport {
    /// An accepted socket. It lingers for no time at all: if this process dies, or drops the socket
    /// without `part`, the kernel answers the peer with RST. A 4.9 client has no handler for a silent
    /// FIN and waits out its timeout, while a reset makes it retry in milliseconds (clients.md, rule 1).
    ///
    /// With `keepalive` the kernel asks a silent peer whether it is there: one that ended while nothing could reach us would
    /// otherwise be a member of its consumer groups, and have queues, for two minutes.
    ///
    /// `receive_buffer_bytes` bounds what the peer may have sent that we have not read; 0 leaves it to the system, which lets
    /// it grow to many MiB for whoever sends fast.
    pub(crate) fn accepted(
        stream: TcpStream,
        peer: SocketAddr,
        keepalive: bool,
        receive_buffer_bytes: usize,
    ) -> io::Result<Transport> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        if receive_buffer_bytes > 0 {
            socket.set_recv_buffer_size(receive_buffer_bytes)?;
        }
        socket.set_linger(Some(Duration::ZERO))?;
        if keepalive {
            let times = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
            socket.set_tcp_keepalive(&times)?;
            #[cfg(target_os = "linux")]
            socket.set_tcp_user_timeout(Some(WRITE_STALL_TIMEOUT))?;
        }
        Ok(Transport { stream, peer })
    }

    /// A socket that we opened. What it sends is acknowledged soon, or it ends: after a cut the kernel would try again ever
    /// more seldom, and calls would find no answer for as long again as the cut took, where a new connection works at once.
    pub(crate) fn connected(stream: TcpStream) -> io::Result<Transport> {
        stream.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT))?;
        let peer = stream.peer_addr()?;
        Ok(Transport { stream, peer })
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Bytes that have arrived and were not read; 0 where the system does not say.
    pub(crate) fn unread_bytes(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.stream).unwrap_or(0)
    }

    /// Ends a connection whose replies have all been handed to the kernel, so that the peer gets every
    /// one of them: FIN behind the last, then no close before the peer's own, for a close with bytes
    /// unread would be a reset, which discards what the peer has not taken yet.
    pub(crate) async fn part(mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let mut late = [0; 4096];
        let peer_closes = async { while let Ok(1..) = self.stream.read(&mut late).await {} };
        // Too late for whoever has not closed by then; the kernel goes on sending all the same.
        let _ = tokio::time::timeout(PARTING_TIMEOUT, peer_closes).await;
        self.fin();
    }

    /// Ends a connection with FIN rather than RST.
    pub(crate) fn fin(self) {
        // A failure means that the socket is gone already.
        let _ = SockRef::from(&self.stream).set_linger(None);
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
