//! The frames on the two pipes between a node and its guard: a length, then one MessagePack value.

use std::io::{self, Read, Write};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::jobs::job::Verdict;
use crate::types::{Fence, JobId, QueueName};
use crate::worker::clock::Moment;

/// The bytes of one frame's value, at most. The largest is a `Start` with a command or a payload of 1 MiB; what
/// is longer is no frame of ours, and the pipe is given up.
pub const FRAME_BYTES_MAX: usize = 2 << 20;

/// Bytes of a frame's length: a `u32`, the most significant byte first.
const LENGTH_BYTES: usize = 4;

/// What a node tells its guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Starts a command; answered by [`Event::Started`] and [`Event::Ended`], or by the latter alone.
    Start(Start),
    /// Ends a command: `SIGTERM` to its group, and `SIGKILL` after
    /// [`crate::worker::guard::KILL_GRACE`]. Nothing happens if it has ended.
    Kill {
        /// Which.
        fence: Fence,
    },
    /// Ends every command at once with `SIGKILL`: the node has lost its right to run them.
    KillAll,
    /// The node may run commands until this moment; an earlier one than before changes nothing.
    Lease {
        /// The end of it.
        until: Moment,
    },
    /// Ends every command and then the guard, as the end of the pipe does.
    Stop,
}

/// A command to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The token of the attempt; also its name between node and guard.
    pub fence: Fence,
    /// The job, for the command's environment.
    pub job: JobId,
    /// Which attempt, for the command's environment.
    pub attempt: u32,
    /// How long it may take, in milliseconds; then it is ended, and has failed.
    pub timeout_ms: Option<u64>,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its queue, for the command's environment.
    pub queue: QueueName,
    /// What it reads on its standard input; `None`: nothing.
    pub stdin: Option<Bytes>,
}

/// What a guard tells its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The command runs.
    Started {
        /// Which.
        fence: Fence,
        /// Its process, which is also its group.
        pid: u32,
    },
    /// The command is gone, and with it what was left of its group.
    Ended {
        /// Which.
        fence: Fence,
        /// How.
        verdict: Verdict,
        /// The guard ended it, on an order or for want of a lease: no verdict on the job.
        taken: bool,
    },
    /// The lease was read: the guard lives.
    Leased {
        /// The end of it, as ordered.
        until: Moment,
    },
}

/// Writes one frame and flushes it.
///
/// # Errors
/// Of the pipe; `InvalidData` for a value above [`FRAME_BYTES_MAX`], of which nothing is written.
pub fn write_frame<T: Serialize>(pipe: &mut impl Write, value: &T) -> io::Result<()> {
    let body = rmp_serde::to_vec(value)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    if body.len() > FRAME_BYTES_MAX {
        return Err(too_long(length));
    }
    let mut frame = Vec::with_capacity(LENGTH_BYTES + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    pipe.write_all(&frame)?;
    pipe.flush()
}

/// Reads one frame, waiting for it; `None` at the end of the pipe.
///
/// # Errors
/// Of the pipe; `InvalidData` for what is no frame, `UnexpectedEof` for half of one.
pub fn read_frame<T: DeserializeOwned>(pipe: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; LENGTH_BYTES];
    let Some((first, rest)) = length.split_first_mut() else { return Ok(None) };
    if pipe.read(std::slice::from_mut(first))? == 0 {
        return Ok(None);
    }
    pipe.read_exact(rest)?;
    let length = u32::from_be_bytes(length);
    let bytes = usize::try_from(length).unwrap_or(usize::MAX);
    if bytes > FRAME_BYTES_MAX {
        return Err(too_long(length));
    }
    let mut body = vec![0; bytes];
    pipe.read_exact(&mut body)?;
    decode(&body).map(Some)
}

/// Bytes of a pipe as they come, cut into frames.
#[derive(Debug, Default)]
pub struct Frames {
    /// At most one frame that is not whole yet, and what one read added to it.
    bytes: Vec<u8>,
}

impl Frames {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next frame; `None` until it is whole.
    ///
    /// # Errors
    /// `InvalidData` for what is no frame: the pipe is of no use any more.
    pub fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some((length, rest)) = self.bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length);
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes > FRAME_BYTES_MAX {
            return Err(too_long(length));
        }
        let Some(body) = rest.get(..bytes) else { return Ok(None) };
        let value = decode(body)?;
        self.bytes.drain(..LENGTH_BYTES + bytes);
        Ok(Some(value))
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn too_long(length: u32) -> io::Error {
    let text = format!("a frame of {length} bytes; at most {FRAME_BYTES_MAX}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(words: &[&str]) -> Order {
        let argv = words.iter().map(ToString::to_string).collect();
        Order::Start(Start {
            fence: Fence(4096),
            job: JobId([7; 16]),
            attempt: 2,
            timeout_ms: Some(9),
            argv,
            queue: QueueName::default(),
            stdin: Some(Bytes::from_static(b"in")),
        })
    }

    #[test]
    fn frames_written_are_read_back_in_order() {
        let orders = [start(&["echo", "hello"]), Order::KillAll, Order::Lease { until: Moment(9) }];
        let mut pipe = Vec::new();
        for order in &orders {
            write_frame(&mut pipe, order).unwrap();
        }
        let mut reader = pipe.as_slice();
        for order in &orders {
            assert_eq!(read_frame::<Order>(&mut reader).unwrap().as_ref(), Some(order));
        }
        assert_eq!(read_frame::<Order>(&mut reader).unwrap(), None);
    }

    #[test]
    fn frames_cut_at_every_byte_are_put_together_again() {
        let mut pipe = Vec::new();
        write_frame(&mut pipe, &start(&["a", "b"])).unwrap();
        write_frame(&mut pipe, &Order::Stop).unwrap();
        for cut in 0..pipe.len() {
            let (mut frames, mut taken) = (Frames::default(), Vec::new());
            for part in [&pipe[..cut], &pipe[cut..]] {
                frames.push(part);
                while let Some(order) = frames.take::<Order>().unwrap() {
                    taken.push(order);
                }
            }
            assert_eq!(taken, [start(&["a", "b"]), Order::Stop]);
        }
    }

    #[test]
    fn frame_of_four_gigabytes_is_refused_before_its_body() {
        let mut frames = Frames::default();
        frames.push(&[0xff; LENGTH_BYTES]);
        assert!(frames.take::<Order>().is_err());
        let mut pipe: &[u8] = &[0xff; 16];
        assert!(read_frame::<Order>(&mut pipe).is_err());
    }

    #[test]
    fn half_a_frame_is_an_error_and_not_an_end() {
        let mut pipe = Vec::new();
        write_frame(&mut pipe, &Order::Stop).unwrap();
        pipe.pop();
        assert!(read_frame::<Order>(&mut pipe.as_slice()).is_err());
    }
}
