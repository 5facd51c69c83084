//! The three pages for machines that watch: `/metrics`, `/healthz`, `/readyz`; nothing else is HTTP here.

use std::io;
use std::time::Duration;

use async_std::net::TcpStream;
use futures::{AsyncReadExt, AsyncWriteExt};

use crate::net::conn::{linger, within};
use crate::net::shared::{Ctx, Shared};
use crate::types::TICK_MS;

/// Bytes of a request's head, at most; more is answered 431.
pub const HEAD_BYTES_MAX: usize = 8 << 10;

/// Header lines of a request, at most; more is answered 431.
const HEADERS_MAX: usize = 64;

/// A Raft thread that has not ended a turn for so long is not healthy: it ends one every 10 ms.
const TURN_MS_MAX: u64 = 3_000;

/// One answer. The connection ends with it.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    status: &'static str,
    kind: &'static str,
    body: String,
}

impl Page {
    fn plain(status: &'static str, body: impl Into<String>) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// What is known of a request once its head has been read.
#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// More bytes are needed.
    Partial,
    /// Method and path, without the query.
    Whole(String, String),
    /// No request of HTTP.
    Bad,
    /// More headers than anybody needs.
    TooLong,
}

/// Answers one request whose first bytes have been read already, and closes the connection. Whatever
/// follows the head is thrown away: it is never read as a command, so that a page in a browser cannot
/// be made to speak text mode to a node.
///
/// # Errors
/// What the socket says.
pub async fn serve(ctx: &Ctx, mut stream: TcpStream, mut received: Vec<u8>) -> io::Result<()> {
    let patience = ctx.config.patience.first_byte;
    let head = within(patience, read_head(&mut stream, &mut received)).await?;
    ctx.metrics().http_requests.raise();
    let (page, with_body) = match head {
        Head::Whole(method, path) if method == "GET" => (page(&ctx.shared, &path), true),
        Head::Whole(method, path) if method == "HEAD" => (page(&ctx.shared, &path), false),
        Head::Whole(..) => (Page::plain("405 Method Not Allowed", "only GET and HEAD\n"), true),
        Head::TooLong => (Page::plain("431 Request Header Fields Too Large", "too long\n"), true),
        Head::Partial | Head::Bad => {
            (Page::plain("400 Bad Request", "not a request of HTTP\n"), true)
        }
    };
    let bytes = write_page(&page, with_body);
    within(ctx.config.patience.write, async {
        stream.write_all(bytes.as_bytes()).await?;
        stream.flush().await
    })
    .await?;
    linger(&mut stream, ctx.config.patience.linger).await;
    Ok(())
}

async fn read_head(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<Head> {
    let mut chunk = [0; 1024];
    loop {
        let head = parse(received);
        if head != Head::Partial {
            return Ok(head);
        }
        if received.len() >= HEAD_BYTES_MAX {
            return Ok(Head::TooLong);
        }
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(Head::Partial);
        }
        received.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
}

/// Reads the head of a request out of what has been received so far.
#[must_use]
pub fn parse(received: &[u8]) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(received) {
        Ok(httparse::Status::Complete(_)) => match (request.method, request.path) {
            (Some(method), Some(path)) => {
                let path = path.split_once('?').map_or(path, |(path, _query)| path);
                Head::Whole(method.into(), path.into())
            }
            (_, _) => Head::Bad,
        },
        Ok(httparse::Status::Partial) => Head::Partial,
        Err(httparse::Error::TooManyHeaders) => Head::TooLong,
        Err(_) => Head::Bad,
    }
}

fn page(shared: &Shared, path: &str) -> Page {
    match path {
        "/metrics" => Page {
            status: "200 OK",
            kind: "text/plain; version=0.0.4; charset=utf-8",
            body: metrics(shared, true),
        },
        "/healthz" => match health(shared) {
            Ok(()) => Page::plain("200 OK", "ok\n"),
            Err(reason) => Page::plain("503 Service Unavailable", format!("{reason}\n")),
        },
        "/readyz" => match readiness(shared) {
            Ok(()) => Page::plain("200 OK", "ready\n"),
            Err(reason) => Page::plain("503 Service Unavailable", format!("not ready: {reason}\n")),
        },
        _ => Page::plain("404 Not Found", "try /metrics, /healthz or /readyz\n"),
    }
}

fn write_page(page: &Page, with_body: bool) -> String {
    let allow = if page.status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n{allow}\
         Connection: close\r\n\r\n{}",
        page.status,
        page.kind,
        page.body.len(),
        if with_body { page.body.as_str() } else { "" }
    )
}

/// Tells all that is counted, as Prometheus text. A scrape begins the "recent" maxima anew.
#[must_use]
pub fn metrics(shared: &Shared, scrape: bool) -> String {
    let waiting = u64::try_from(shared.inbox.proposals_waiting()).unwrap_or(u64::MAX);
    shared.metrics.proposals_waiting.set(waiting);
    shared.metrics.render(scrape)
}

/// Tells whether the node works at all: whether its Raft thread goes round. A node without a quorum
/// is healthy; restarting it would help nobody.
///
/// # Errors
/// Why it does not.
pub fn health(shared: &Shared) -> Result<(), String> {
    let turned_at = shared.metrics.turned_at.value();
    let silent_ms = (shared.clock)().0.saturating_sub(turned_at).saturating_mul(TICK_MS);
    if shared.metrics.turns.count() == 0 {
        Err("the Raft thread has not begun".into())
    } else if silent_ms > TURN_MS_MAX {
        Err(format!("the Raft thread has been silent for {:?}", Duration::from_millis(silent_ms)))
    } else {
        Ok(())
    }
}

/// Tells whether the node can serve: it has a leader and has caught up with it.
///
/// # Errors
/// Why it cannot.
pub fn readiness(shared: &Shared) -> Result<(), String> {
    let view = shared.view.load();
    if view.stopping {
        Err("stopping".into())
    } else if view.ready {
        Ok(())
    } else if view.healing {
        Err("healing: synced data was lost, and is not all back yet".into())
    } else if view.leader.is_none() {
        Err(format!("no leader is known in term {}", view.term))
    } else {
        Err("catching up with the leader".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_is_parsed_whole_or_not_at_all() {
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: x\r\n"), Head::Partial);
        let whole = Head::Whole("GET".into(), "/metrics".into());
        assert_eq!(parse(b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n"), whole);
        assert_eq!(parse(b"GET /met\x00rics HTTP/1.1\r\n\r\n"), Head::Bad);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(parse(many.as_bytes()), Head::TooLong);
    }

    #[test]
    fn head_of_a_page_has_its_length_and_no_body() {
        let page = Page::plain("200 OK", "ok\n");
        let text = write_page(&page, false);
        assert!(text.contains("Content-Length: 3\r\n") && text.ends_with("\r\n\r\n"), "{text}");
        assert!(write_page(&page, true).ends_with("\r\n\r\nok\n"));
    }
}
