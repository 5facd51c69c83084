//! One TCP connection, from either end: how it is made, greeted, framed, written to in time and closed.

use std::future::Future;
use std::io;
use std::net::{Shutdown, ToSocketAddrs};
use std::time::Duration;

use async_std::future::timeout;
use async_std::net::TcpStream;
use bytes::{Buf, Bytes, BytesMut};
use futures::{AsyncReadExt, SinkExt, StreamExt};
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio_util::codec::Framed;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

use crate::net::guard::GuardedCodec;
use crate::net::handshake::{self, Entry, Guest};
use crate::net::shared::Ctx;
use crate::replica::view::View;
use crate::types::NodeId;
use crate::wire::frame::{BODY_BYTES_MAX, Frame, FrameError, HELLO_BYTES_MAX, PREAMBLE};
use crate::wire::hello::{Greeting, Reject};
use crate::wire::hello::{Hello, Role};
use crate::wire::message::Code;

/// A connection that carries frames.
pub type Frames = Framed<Compat<TcpStream>, GuardedCodec>;

/// Connections that the kernel keeps for us between two turns of the accept loop. Rust's own 128
/// overflows when a thousand clients start together.
const BACKLOG: i32 = 4096;

/// Bytes collected before a write; one write then carries hundreds of answers.
const WRITE_BYTES: usize = 64 << 10;

/// Bytes read and dropped after our last word, at most, before a connection is closed all the same.
const LINGER_BYTES_MAX: usize = 4 << 20;

/// What a caller hears that begins otherwise.
const NO_PREAMBLE: &str = "these are not the eight bytes a connection begins with: another protocol, \
                           or something on the way translates line ends";

/// A silent connection is asked after so long whether its other end still lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// And again after so long, three times, before it counts as dead.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);

/// How long bytes to a peer may stay unacknowledged. TCP alone would double its pauses through a
/// partition and find out seconds after the end of it; a link that breaks is dialled anew at once.
const PEER_UNACKED: Duration = Duration::from_secs(2);

/// Binds the listening socket. What is set on it holds for the connections accepted from it.
///
/// # Errors
/// What went wrong, with the address and what to do.
pub fn listen(addr: &str) -> io::Result<std::net::TcpListener> {
    let at = addr.to_socket_addrs().and_then(|mut found| {
        found.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no such host"))
    });
    let at = at.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {addr}: {error}; --listen takes HOST:PORT"),
        )
    })?;
    bind(at).map_err(|error| {
        #[expect(clippy::wildcard_enum_match_arm, reason = "advice for the likely ones")]
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another process has that port: stop it, or choose another with --listen"
            }
            io::ErrorKind::AddrNotAvailable => "this machine has no such address: correct --listen",
            io::ErrorKind::PermissionDenied => "ports below 1024 need a right this user has not",
            _ => "correct --listen",
        };
        io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}; {advice}"))
    })
}

fn bind(at: std::net::SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    keep_alive(&SockRef::from(&socket))?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn keep_alive(socket: &SockRef<'_>) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

/// Connects to a peer, with the settings of a link between nodes. Returns the same socket twice.
async fn connect(
    addr: &str,
    patience: Duration,
    unacked: Duration,
) -> io::Result<(TcpStream, std::net::TcpStream)> {
    let stream = within(patience, TcpStream::connect(addr)).await?;
    // The socket's options are reached through the standard library's type; it is nobody else's yet.
    let plain = std::net::TcpStream::try_from(stream)?;
    let socket = SockRef::from(&plain);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(unacked))?;
    keep_alive(&socket)?;
    let second = plain.try_clone()?;
    Ok((TcpStream::from(plain), second))
}

/// Waits for an operation, but no longer than that.
///
/// # Errors
/// Its own, or `TimedOut`.
pub async fn within<T>(
    patience: Duration,
    operation: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match timeout(patience, operation).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing for {patience:?}"))),
    }
}

/// Frames a stream. Its limit is the one for strangers until the handshake is done.
fn framed(ctx: &Ctx, stream: TcpStream) -> Frames {
    let codec = GuardedCodec::new(HELLO_BYTES_MAX, ctx.bytes_partial.clone());
    let mut frames = Framed::new(stream.compat(), codec);
    frames.set_backpressure_boundary(WRITE_BYTES);
    frames
}

/// Writes frames and sees to it that they leave.
///
/// # Errors
/// What the socket says, or `TimedOut` when the other end reads too slowly.
pub async fn write(
    frames: &mut Frames,
    batch: impl IntoIterator<Item = Frame>,
    patience: Duration,
) -> io::Result<()> {
    for frame in batch {
        within(patience, feed(frames, frame)).await?;
    }
    within(patience, async { SinkExt::<Frame>::flush(frames).await.map_err(io_error) }).await
}

/// Writes to a socket that does not wait as much as it takes at once, and returns the rest. A socket that breaks is
/// shut down: whoever reads from it hears the end, and nothing may follow half a frame.
///
/// # Errors
/// What the socket says.
pub fn write_now(socket: SockRef<'_>, mut out: BytesMut) -> io::Result<Bytes> {
    while !out.is_empty() {
        let error = match socket.send(&out) {
            Ok(count @ 1..) => {
                out.advance(count.min(out.len()));
                continue;
            }
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => error,
        };
        if let Err(error) = socket.shutdown(Shutdown::Both) {
            log::trace!("it was closed already: {error}");
        }
        return Err(error);
    }
    Ok(out.freeze())
}

async fn feed(frames: &mut Frames, frame: Frame) -> io::Result<()> {
    match frames.feed(frame).await {
        // Nothing of it was written, and the connection is as good as before.
        Err(error @ FrameError::TooLarge { .. }) => {
            log::error!("not sent: {error}");
            Ok(())
        }
        fed => fed.map_err(io_error),
    }
}

/// Closes a connection so that its other end can read our last word: closing with unread input would
/// make the kernel throw that word away.
pub async fn linger(stream: &mut TcpStream, patience: Duration) {
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let drained = within(patience, async {
        let mut dropped = [0; 4096];
        let mut total = 0;
        while total < LINGER_BYTES_MAX {
            match stream.read(&mut dropped).await? {
                0 => break,
                count => total += count,
            }
        }
        Ok(())
    });
    if let Err(error) = drained.await {
        log::trace!("a connection did not close after our last word: {error}");
    }
}

/// Closes a framed connection after our last word.
pub async fn linger_frames(frames: Frames, patience: Duration) {
    linger(&mut frames.into_inner().into_inner(), patience).await;
}

/// Closes a connection whose other end does not read, and throws away what waits for it in the kernel. A plain
/// close would leave it there, megabytes of it, for as long as the other end's kernel says that there is no
/// room: minutes.
pub fn cut(frames: Frames) {
    let plain = std::net::TcpStream::try_from(frames.into_inner().into_inner());
    let cut = plain.and_then(|plain| SockRef::from(&plain).set_linger(Some(Duration::ZERO)));
    if let Err(error) = cut {
        log::debug!("what waits for a slow reader is left to the kernel: {error}");
    }
}

/// Greets a caller: reads its preamble and hello, and answers with a welcome, or with the reason why
/// not and the end of the connection.
///
/// # Errors
/// Why the connection is over: the caller was turned away and told so, or broke off.
pub async fn greet(
    ctx: &Ctx,
    mut stream: TcpStream,
    reserved: bool,
) -> io::Result<(Frames, Guest)> {
    let patience = &ctx.config.patience;
    let mut preamble = [0; PREAMBLE.len()];
    let read = within(patience.handshake, async {
        stream.read_exact(&mut preamble).await?;
        let mut frames = framed(ctx, stream);
        let hello = if preamble == PREAMBLE { Some(next(&mut frames).await) } else { None };
        Ok((frames, hello))
    });
    let (mut frames, hello) = read.await?;
    let view = ctx.shared.view.load();
    let judged = match hello {
        None => Err(Reject::new(Code::InvalidArgument, NO_PREAMBLE)),
        Some(Err(FrameError::Io(error))) => return Err(error),
        Some(Err(error)) => Err(Reject::new(Code::InvalidArgument, error.to_string())),
        Some(Ok(frame)) => judge(ctx, &view, &frame, reserved).map(|guest| (guest, frame.corr)),
    };
    frames.write_buffer_mut().extend_from_slice(&PREAMBLE);
    match judged {
        Ok((guest, corr)) => {
            let welcome = handshake::welcome(&ctx.config, &view, guest.version);
            write(&mut frames, [welcome.to_frame(corr)], patience.write).await?;
            frames.codec_mut().set_body_bytes_max(BODY_BYTES_MAX);
            if guest.entry != Entry::Client {
                frames.codec_mut().trust();
            }
            ctx.metrics().handshakes_accepted.raise();
            Ok((frames, guest))
        }
        Err(reject) => {
            ctx.metrics().handshakes_refused.raise();
            write(&mut frames, [reject.to_frame(0)], patience.write).await?;
            linger_frames(frames, patience.linger).await;
            Err(io::Error::new(io::ErrorKind::PermissionDenied, reject.message))
        }
    }
}

fn judge(ctx: &Ctx, view: &View, frame: &Frame, reserved: bool) -> Result<Guest, Reject> {
    let hello = Hello::from_frame(frame).map_err(|error| Reject::from(&error))?;
    let guest = handshake::check(&hello, &ctx.config, view)?;
    if reserved && guest.entry == Entry::Client {
        return Err(Reject::new(
            Code::ResourceExhausted,
            "this node has as many connections as it takes; ask another one, or later",
        ));
    }
    Ok(guest)
}

/// Waits for the next frame; the end of the stream is an error here.
///
/// # Errors
/// Why there is none.
pub async fn next(frames: &mut Frames) -> Result<Frame, FrameError> {
    match frames.next().await {
        Some(frame) => frame,
        None => Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Makes an error of the codec one of the socket's.
#[must_use]
pub fn io_error(error: FrameError) -> io::Error {
    match error {
        FrameError::Io(error) => error,
        error @ (FrameError::TooLarge { .. }
        | FrameError::Checksum { .. }
        | FrameError::Truncated { .. }) => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

/// Why a call to another node came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It is not there, or broke off: to be tried again soon.
    #[error("unreachable: {0}")]
    Unreachable(#[from] io::Error),
    /// One of the two does not want the other: a person must mend it.
    #[error("refused: {0}")]
    Refused(String),
}

/// Calls another node and goes through the handshake with it. Returns the connection, and the same socket once
/// more for whoever writes to it without waiting.
///
/// # Errors
/// [`CallError`].
pub async fn call(
    ctx: &Ctx,
    to: NodeId,
    addr: &str,
    role: Role,
) -> Result<(Frames, std::net::TcpStream), CallError> {
    let patience = &ctx.config.patience;
    // What is sent of a snapshot waits for the receiver's disk, and may wait as long as that.
    let unacked = if role == Role::Bulk { patience.bulk } else { PEER_UNACKED };
    let (stream, second) = connect(addr, patience.connect, unacked).await?;
    let mut frames = framed(ctx, stream);
    let hello = handshake::hello(&ctx.config, &ctx.shared.view.load(), role, to);
    frames.write_buffer_mut().extend_from_slice(&PREAMBLE);
    write(&mut frames, [hello.to_frame(0)], patience.write).await?;
    let answer = within(patience.handshake, async {
        let mut preamble = [0; PREAMBLE.len()];
        frames.get_mut().get_mut().read_exact(&mut preamble).await?;
        if preamble != PREAMBLE {
            return Ok(None);
        }
        next(&mut frames).await.map(Some).map_err(io_error)
    });
    let Some(answer) = answer.await? else {
        return Err(CallError::Refused(format!("{addr} speaks another protocol")));
    };
    match Greeting::from_frame(&answer) {
        Ok(Greeting::Welcome(welcome)) => {
            let view = ctx.shared.view.load();
            handshake::check_welcome(&welcome, to, &ctx.config, &view)
                .map_err(CallError::Refused)?;
            frames.codec_mut().set_body_bytes_max(BODY_BYTES_MAX);
            frames.codec_mut().trust();
            Ok((frames, second))
        }
        Ok(Greeting::Reject(reject)) => Err(CallError::Refused(reject.message)),
        Err(error) => Err(CallError::Refused(error.to_string())),
    }
}
