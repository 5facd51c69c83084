//! A node made of a script: real sockets and the real codec, and answers that the test chooses.

use std::sync::{Arc, Mutex};

use async_std::channel;
use async_std::net::{TcpListener, TcpStream};
use async_std::task;
use futures::future::{AbortHandle, BoxFuture, abortable};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, SinkExt as _, StreamExt as _};
use raftq::types::{ClusterId, DirId, JobId, Millis, NodeId, Term};
use raftq::wire::frame::{BODY_BYTES_MAX, Frame, FrameCodec, PREAMBLE};
use raftq::wire::hello::Reject;
use raftq::wire::message::{Hello, LeaderHint, Refusal, Reply, Request, Submitted, Welcome};
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::compat::{FuturesAsyncReadCompatExt as _, FuturesAsyncWriteCompatExt as _};

/// What the fake does with a request.
pub(crate) enum Act {
    Say(Reply),
    Later(BoxFuture<'static, Reply>),
    /// Breaks the connection.
    Break,
    /// Never answers.
    Ignore,
}

type Script = Arc<Mutex<dyn FnMut(&Request) -> Act + Send>>;

/// One fake node. It is gone when it is dropped, its connections with it.
pub(crate) struct Fake {
    pub(crate) addr: String,
    pub(crate) asked: Arc<Mutex<Vec<Request>>>,
    pub(crate) hellos: Arc<Mutex<Vec<Hello>>>,
    abort: AbortHandle,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

impl Fake {
    pub(crate) async fn start(script: impl FnMut(&Request) -> Act + Send + 'static) -> Self {
        Self::start_with(welcome(), script).await
    }

    pub(crate) async fn start_with(
        greeting: Result<Welcome, Reject>,
        script: impl FnMut(&Request) -> Act + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let hellos = Arc::new(Mutex::new(Vec::new()));
        let script: Script = Arc::new(Mutex::new(script));
        let served = (Arc::clone(&asked), Arc::clone(&hellos));
        let (accepting, abort) = abortable(async move {
            let mut sessions = futures::stream::FuturesUnordered::new();
            loop {
                futures::select! {
                    accepted = futures::FutureExt::fuse(listener.accept()) => {
                        let (tcp, _) = accepted.unwrap();
                        let (asked, hellos) = served.clone();
                        let greeting = greeting.clone();
                        sessions.push(serve(tcp, greeting, asked, hellos, Arc::clone(&script)));
                    }
                    () = sessions.select_next_some() => {}
                }
            }
        });
        task::spawn(async move {
            let _stopped: Result<(), _> = accepting.await;
        });
        Self { addr, asked, hellos, abort }
    }

    pub(crate) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.hellos.lock().unwrap().len()
    }
}

async fn serve(
    mut tcp: TcpStream,
    greeting: Result<Welcome, Reject>,
    asked: Arc<Mutex<Vec<Request>>>,
    hellos: Arc<Mutex<Vec<Hello>>>,
    script: Script,
) {
    let mut preamble = [0; 8];
    tcp.read_exact(&mut preamble).await.unwrap();
    assert_eq!(preamble, PREAMBLE);
    tcp.write_all(&PREAMBLE).await.unwrap();
    let mut frames = FramedRead::new(tcp.clone().compat(), FrameCodec::new(BODY_BYTES_MAX));
    let sink = tcp.clone().compat_write();
    let mut sink = FramedWrite::new(sink, FrameCodec::new(BODY_BYTES_MAX));
    let hello = frames.next().await.unwrap().unwrap();
    let corr = hello.corr;
    hellos.lock().unwrap().push(Hello::from_frame(&hello).unwrap());
    match greeting {
        Ok(welcome) => sink.send(welcome.to_frame(corr)).await.unwrap(),
        Err(reject) => return sink.send(reject.to_frame(0)).await.unwrap(),
    }
    let (answers, mut answered) = channel::unbounded::<Frame>();
    let reading = async move {
        while let Some(Ok(frame)) = frames.next().await {
            let request = Request::from_frame(&frame).unwrap();
            asked.lock().unwrap().push(request.clone());
            let act = (script.lock().unwrap())(&request);
            match act {
                Act::Say(reply) => answers.send(reply.to_frame(frame.corr)).await.unwrap(),
                Act::Later(reply) => {
                    let answers = answers.clone();
                    task::spawn(async move {
                        let frame = reply.await.to_frame(frame.corr);
                        // The connection may be gone by then.
                        let _late = answers.send(frame).await.is_err();
                    });
                }
                Act::Break => break,
                Act::Ignore => {}
            }
        }
        if let Err(error) = tcp.shutdown(std::net::Shutdown::Both) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
        }
    };
    let writing = async move {
        while let Some(frame) = answered.next().await {
            if sink.send(frame).await.is_err() {
                return;
            }
        }
    };
    futures::future::select(Box::pin(reading), Box::pin(writing)).await;
}

pub(crate) fn welcome() -> Result<Welcome, Reject> {
    Ok(Welcome {
        version: 1,
        cluster: ClusterId([7; 16]),
        node: NodeId(1),
        dir: DirId([1; 16]),
        leader: None,
        nodes: Vec::new(),
        frame_bytes_max: 4 << 20,
        in_flight_max: 4096,
    })
}

pub(crate) fn not_leader(addr: &str, term: u64) -> Act {
    let hint = LeaderHint { id: NodeId(2), addr: addr.into(), term: Term(term) };
    Act::Say(Reply::Refused(Refusal::not_leader(hint)))
}

pub(crate) fn refuse(refusal: Refusal) -> Act {
    Act::Say(Reply::Refused(refusal))
}

/// Takes every job.
pub(crate) fn take(request: &Request) -> Act {
    let Request::SubmitJob(job) = request else {
        panic!("not a submit: {request:?}");
    };
    Act::Say(Reply::Submitted(Submitted { id: job.id, created: true }))
}

pub(crate) fn id(number: u64) -> JobId {
    JobId::new(Millis(number), 0)
}

/// An address where nobody listens.
pub(crate) async fn dead_addr() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}
