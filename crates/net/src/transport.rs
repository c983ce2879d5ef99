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

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::limits::{PARTING_RESET_DELAY, PARTING_TIMEOUT};

pub(crate) struct Transport {
    stream: TcpStream,
    peer: SocketAddr,
}

impl Transport {
    /// An accepted socket. It lingers for no time at all: if this process dies, or drops the socket
    /// without `part`, the kernel answers the peer with RST. A 4.9 client has no handler for a silent
    /// FIN and waits out its timeout, while a reset makes it retry in milliseconds (clients.md, rule 1).
    pub(crate) fn accepted(stream: TcpStream, peer: SocketAddr) -> io::Result<Transport> {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        Ok(Transport { stream, peer })
    }

    /// A socket that we opened.
    pub(crate) fn connected(stream: TcpStream) -> io::Result<Transport> {
        stream.set_nodelay(true)?;
        let peer = stream.peer_addr()?;
        Ok(Transport { stream, peer })
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Ends a connection whose replies have all been written, so that the peer gets them all. A peer
    /// that has sent more meanwhile gets RST after them, for its requests will not be answered.
    pub(crate) async fn part(mut self) {
        let mut late = [0; 1024];
        match self.stream.try_read(&mut late) {
            Ok(0) => return self.fin(),
            Ok(_) => {
                tokio::time::sleep(PARTING_RESET_DELAY).await;
                return;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        if self.stream.shutdown().await.is_err() {
            return;
        }
        match tokio::time::timeout(PARTING_TIMEOUT, self.stream.read(&mut late)).await {
            Ok(Ok(0)) | Err(_) => self.fin(),
            // Sent before our FIN was seen. Its sender waits for an answer, so keep the reset.
            Ok(Ok(_)) => tokio::time::sleep(PARTING_RESET_DELAY).await,
            Ok(Err(_)) => {}
        }
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
