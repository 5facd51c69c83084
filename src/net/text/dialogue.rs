//! A text connection from its first line to its end: lines in, answers out, and a close that nobody waits for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_std::net::TcpStream;
use async_std::task::yield_now;
use futures::{AsyncReadExt, AsyncWriteExt};

use crate::net::conn::{linger, within};
use crate::net::http;
use crate::net::shared::Ctx;
use crate::net::sniff;
use crate::net::text::answers;
use crate::net::text::command::{self, Command};
use crate::net::text::lines::{self, LINE_BYTES_MAX, Next};

/// Lines answered on one connection, at most; whoever wants more connects again.
pub const LINES_MAX: u32 = 10_000;

/// How a connection goes on after a line.
enum After {
    Go,
    End,
}

struct Dialogue<'a> {
    ctx: &'a Arc<Ctx>,
    stream: TcpStream,
    received: Vec<u8>,
    is_eof: bool,
    is_shell: bool,
    lines: u32,
}

/// Serves one text connection, or an HTTP request in its place.
pub async fn serve(ctx: &Arc<Ctx>, stream: TcpStream) {
    let place = ctx.text.take();
    let mut dialogue =
        Dialogue { ctx, stream, received: Vec::new(), is_eof: false, is_shell: false, lines: 0 };
    let ended = match place {
        Some(_place) => dialogue.run().await,
        None => {
            ctx.metrics().connections_refused.raise();
            let no =
                "ERR RESOURCE_EXHAUSTED as many text connections are open as this node takes\n";
            let said = dialogue.say(no).await;
            linger(&mut dialogue.stream, ctx.config.patience.linger).await;
            said
        }
    };
    if let Err(error) = ended {
        log::debug!("a text connection broke: {error}");
    }
}

impl Dialogue<'_> {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            let line = match self.next().await? {
                Next::Line(line) => line,
                Next::Nothing => break,
                Next::TooLong => {
                    self.say(&format!(
                        "ERR LINE_TOO_LONG a line has at most {LINE_BYTES_MAX} bytes\n"
                    ))
                    .await?;
                    break;
                }
            };
            if self.lines == 0 && sniff::is_http(&line) {
                let mut head = line;
                head.push(b'\n');
                head.append(&mut self.received);
                // A handle on the same socket; this one is not used any more.
                return http::serve(self.ctx, self.stream.clone(), head).await;
            }
            if let After::End = self.answer(&line).await? {
                break;
            }
            // Of many lines sent at once none waits for anything: others want their turn, too.
            yield_now().await;
        }
        linger(&mut self.stream, self.ctx.config.patience.linger).await;
        Ok(())
    }

    /// Answers one line; a blank one is passed over.
    async fn answer(&mut self, line: &[u8]) -> io::Result<After> {
        let Some(text) = lines::text(line) else {
            self.ctx.metrics().connections_noise.raise();
            self.say("ERR INVALID_ARGUMENT this is not a line of text\n").await?;
            return Ok(After::End);
        };
        if text.is_empty() {
            self.prompt().await?;
            return Ok(After::Go);
        }
        self.lines += 1;
        self.ctx.metrics().text_commands.raise();
        if sniff::is_http(text.as_bytes()) {
            self.say("ERR INVALID_ARGUMENT a request of HTTP must come first\n").await?;
            return Ok(After::End);
        }
        let answer = match command::parse(&text) {
            Ok(Command::Quit) => return self.say("OK\n").await.map(|()| After::End),
            Ok(Command::Shell) => {
                self.is_shell = true;
                "raftq, read-only; help lists what can be asked, quit ends\nOK\n".into()
            }
            Ok(command) => answers::answer(self.ctx, command).await,
            Err(fault) => format!("ERR INVALID_ARGUMENT {fault}\n"),
        };
        self.say(&answer).await?;
        self.prompt().await?;
        Ok(if self.lines < LINES_MAX { After::Go } else { After::End })
    }

    async fn prompt(&mut self) -> io::Result<()> {
        if !self.is_shell {
            return Ok(());
        }
        let view = self.ctx.shared.view.load();
        let role = if view.leads { "leader" } else { "follower" };
        let prompt = format!("n{}[{role}]> ", view.node);
        self.say(&prompt).await
    }

    async fn say(&mut self, text: &str) -> io::Result<()> {
        within(self.ctx.config.patience.write, async {
            self.stream.write_all(text.as_bytes()).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Waits for the next line, as long as is due at this point of the conversation. The last line may
    /// end with the input instead of a newline: `printf status | nc` is understood.
    async fn next(&mut self) -> io::Result<Next> {
        let patience = &self.ctx.config.patience;
        let pause = if self.is_shell {
            patience.shell
        } else if self.lines == 0 {
            patience.first_byte
        } else {
            patience.text_pause
        };
        // The pause is for the first byte of a line; once one is there, the line has its own time. A
        // terminal sends lines whole, so that a place among the few is not held with half of one.
        let line = if self.is_shell { patience.frame } else { patience.first_byte };
        if self.received.is_empty() && !self.is_eof && !self.receive(pause).await? {
            return Ok(Next::Nothing);
        }
        match within(line, self.whole_line()).await {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(Next::Nothing),
            next => next,
        }
    }

    async fn whole_line(&mut self) -> io::Result<Next> {
        loop {
            if let Some(next) = lines::cut(&mut self.received, self.is_eof) {
                return Ok(next);
            }
            self.read().await?;
        }
    }

    /// Reads more, for so long; returns whether anything came.
    async fn receive(&mut self, pause: Duration) -> io::Result<bool> {
        match async_std::future::timeout(pause, self.read()).await {
            Ok(read) => read.map(|()| !self.received.is_empty()),
            Err(_) => Ok(false),
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 2048];
        let count = self.stream.read(&mut chunk).await?;
        self.is_eof = count == 0;
        self.received.extend_from_slice(chunk.get(..count).unwrap_or_default());
        Ok(())
    }
}
