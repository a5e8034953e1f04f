//! What clients of the HTTP listener may take: so many connections, so long for a request, so long to take an answer. A
//! client that opens all of them, or sends a request byte by byte, keeps `/metrics` from no other client.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result as IoResult};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::debug;

/// Connections at a time. For one more, the one that has been still for the longest is closed.
pub const CONNECTIONS_MAX: usize = 256;
/// How long a request may take from its first byte to the beginning of its answer.
pub const REQUEST_MAX: Duration = Duration::from_secs(10);
/// How long a client may take none of an answer.
pub const UNREAD_MAX: Duration = Duration::from_secs(10);
/// How long a connection may be still. A page that is kept up to date hears something more often.
pub const STILL_MAX: Duration = Duration::from_secs(75);

/// A listener whose clients have limits.
pub struct Limited<L> {
    listener: L,
    open: Arc<Mutex<OpenConnections>>,
}

/// The connections that are open.
#[derive(Debug, Default)]
struct OpenConnections {
    next: u64,
    /// When each last sent or took something, and what closes it.
    last: BTreeMap<u64, (Instant, CancellationToken)>,
}

impl OpenConnections {
    /// Makes room for one, at the cost of the one that has been still for the longest.
    fn admit(&mut self) -> (u64, CancellationToken) {
        while self.last.len() >= CONNECTIONS_MAX {
            let stillest = self.last.iter().min_by_key(|(_, (at, _))| *at).map(|(id, _)| *id);
            let Some((_, close)) = stillest.and_then(|id| self.last.remove(&id)) else { break };
            close.cancel();
        }
        self.next += 1;
        let close = CancellationToken::new();
        self.last.insert(self.next, (Instant::now(), close.clone()));
        (self.next, close)
    }
}

impl<L> Limited<L> {
    /// Takes the clients of this one.
    pub fn new(listener: L) -> Self {
        Self { listener, open: Arc::default() }
    }
}

impl<L: Listener<Addr = SocketAddr>> Listener for Limited<L> {
    type Io = LimitedStream<L::Io>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (io, from) = self.listener.accept().await;
        let (id, close) = entered(&self.open).admit();
        (LimitedStream::new(io, Place { open: self.open.clone(), id, from }, close), from)
    }

    fn local_addr(&self) -> IoResult<SocketAddr> {
        self.listener.local_addr()
    }
}

fn entered(open: &Mutex<OpenConnections>) -> MutexGuard<'_, OpenConnections> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place among those that are open, until this is dropped.
struct Place {
    open: Arc<Mutex<OpenConnections>>,
    id: u64,
    from: SocketAddr,
}

impl Place {
    fn moved(&self, at: Instant) {
        if let Some((last, _)) = entered(&self.open).last.get_mut(&self.id) {
            *last = at;
        }
    }

    fn closed(&self, why: &str) -> Error {
        debug!("HTTP client {}: {why}", self.from);
        Error::new(ErrorKind::TimedOut, why.to_owned())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        entered(&self.open).last.remove(&self.id);
    }
}

/// A connection with limits.
pub struct LimitedStream<S> {
    io: S,
    place: Place,
    close: Pin<Box<WaitForCancellationFutureOwned>>,
    /// When it last sent or took something.
    last: Instant,
    /// When the request began that has no answer yet.
    asked: Option<Instant>,
    /// Since when it takes nothing.
    unread: Option<Instant>,
    patience: Pin<Box<Sleep>>,
}

impl<S> LimitedStream<S> {
    fn new(io: S, place: Place, close: CancellationToken) -> Self {
        let last = Instant::now();
        let close = Box::pin(close.cancelled_owned());
        let patience = Box::pin(sleep_until(last + STILL_MAX));
        Self { io, place, close, last, asked: None, unread: None, patience }
    }

    /// What is spoken over.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    fn moved(&mut self) -> Instant {
        self.last = Instant::now();
        self.place.moved(self.last);
        self.last
    }

    /// While nothing moves: whether it has to end, and why.
    fn is_over(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        if self.close.as_mut().poll(context).is_ready() {
            return Poll::Ready(
                self.place.closed("closed for another one: it was still for longest"),
            );
        }
        let (until, why) = match (self.unread, self.asked) {
            (Some(since), _) => (since + UNREAD_MAX, "it does not read its answer"),
            (None, Some(since)) => (since + REQUEST_MAX, "its request takes too long"),
            (None, None) => (self.last + STILL_MAX, "it is still"),
        };
        if self.patience.deadline() != until {
            self.patience.as_mut().reset(until);
        }
        self.patience.as_mut().poll(context).map(|()| self.place.closed(why))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<IoResult<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        match Pin::new(&mut this.io).poll_read(context, into) {
            Poll::Ready(Ok(())) if into.filled().len() > before => {
                let now = this.moved();
                this.asked.get_or_insert(now);
                // A request that has begun is not over by its next byte.
                match this.asked {
                    Some(since) if now > since + REQUEST_MAX => {
                        Poll::Ready(Err(this.place.closed("its request takes too long")))
                    }
                    _ => Poll::Ready(Ok(())),
                }
            }
            Poll::Pending => this.is_over(context).map(Err),
            ended => ended,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<IoResult<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(context, bytes);
        this.note_written(written, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<IoResult<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(context, bytes);
        this.note_written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<IoResult<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

impl<S> LimitedStream<S> {
    fn note_written(
        &mut self,
        written: Poll<IoResult<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<IoResult<usize>> {
        match written {
            Poll::Ready(Ok(_)) => {
                self.moved();
                (self.asked, self.unread) = (None, None);
                written
            }
            Poll::Pending => {
                self.unread.get_or_insert_with(Instant::now);
                self.is_over(context).map(Err)
            }
            ended => ended,
        }
    }
}
