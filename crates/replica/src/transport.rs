//! How bytes get from node to node: TCP, unless a simulation has something else in its place. The peer protocol runs over
//! either alike.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::codegen::Service;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};

/// Connects nodes by reliable streams of bytes that may break.
pub trait Transport: Send + Sync + 'static {
    /// Opens a stream to the node that listens at `address` (`host:port`). Has no time limit of its own.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<PeerStream>>;

    /// The streams that others open to `address`, until what is returned is dropped.
    fn listen(&self, address: SocketAddr) -> io::Result<BoxStream<'static, io::Result<PeerStream>>>;
}

trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// One end of a stream between two nodes.
pub struct PeerStream(Pin<Box<dyn Duplex>>);

impl PeerStream {
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        PeerStream(Box::pin(stream))
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }
}

impl Connected for PeerStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// A channel to `address` that connects when first used.
pub(crate) fn channel(endpoint: &Endpoint, transport: Option<&Arc<dyn Transport>>, address: &str) -> Channel {
    match transport {
        None => endpoint.connect_lazy(),
        Some(transport) => {
            let connector = Connector { transport: transport.clone(), address: address.to_owned() };
            endpoint.connect_with_connector_lazy(connector)
        }
    }
}

/// What tonic asks for a connection.
struct Connector {
    transport: Arc<dyn Transport>,
    address: String,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<PeerStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<PeerStream>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let stream = self.transport.connect(&self.address);
        Box::pin(async move { Ok(TokioIo::new(stream.await?)) })
    }
}
