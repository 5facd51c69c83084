//! The handshake: who calls, who answers, and why not. These three bodies never change but by new keys.

use serde::{Deserialize, Serialize};

use crate::types::{ClusterId, DirId, NodeId};
use crate::wire::error::{WireError, check_count, check_header, not};
use crate::wire::frame::Frame;
use crate::wire::kind;
use crate::wire::message::{Code, LeaderHint, Refusal};
use crate::wire::named;
use crate::wire::refusal::{MESSAGE_BYTES_MAX, cut};

/// The version of the protocol that this program speaks; the only one there is.
pub const VERSION: u32 = 1;

/// Requests in flight on one connection, at most, as a node announces it. What is above is answered with
/// `RESOURCE_EXHAUSTED`.
pub const IN_FLIGHT_MAX: u32 = 4096;

/// Bytes of `agent` in a `HELLO`, at most.
pub const AGENT_BYTES_MAX: usize = 128;

/// Voters named in a `WELCOME`, at most; a cluster has 7.
pub const NODES_MAX: usize = 64;

/// The first frame of every connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The lowest protocol version spoken.
    pub version_min: u32,
    /// The highest.
    pub version_max: u32,
    /// The cluster meant; unknown (all zero) where the caller does not know it yet.
    #[serde(default)]
    pub cluster: ClusterId,
    /// Who calls.
    pub role: Role,
    /// Program and version, for logs; at most 128 bytes.
    #[serde(default)]
    pub agent: String,
    /// Only of a node.
    pub peer: Option<PeerHello>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A client or a library worker.
    Client,
    /// A node, on its Raft lane.
    Raft,
    /// A node, on its lane for snapshots.
    Bulk,
}

/// What a node says of itself and expects of the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    /// The caller.
    pub node: NodeId,
    /// Its data directory.
    pub dir: DirId,
    /// The node it means to reach.
    pub expects: NodeId,
    /// CRC-32 of the caller's peer list, `1=HOST:PORT,2=...` in order of id.
    pub peers_crc: u32,
}

/// The answer to a [`Hello`] that is welcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both will speak.
    pub version: u32,
    /// The cluster; unknown before its first leader.
    pub cluster: ClusterId,
    /// Who answers.
    pub node: NodeId,
    /// Its data directory.
    pub dir: DirId,
    /// Who leads, where known.
    pub leader: Option<LeaderHint>,
    /// Every voter's id and address.
    pub nodes: Vec<(NodeId, String)>,
    /// Bytes of a frame's body, at most.
    pub frame_bytes_max: u32,
    /// Requests in flight on this connection, at most; more are refused.
    pub in_flight_max: u32,
}

/// Why a connection ends before it began; the last frame on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The code.
    pub code: Code,
    /// The text a person reads.
    pub message: String,
    /// The lowest version the node speaks.
    pub version_min: u32,
    /// The highest.
    pub version_max: u32,
}

impl Reject {
    /// Makes a rejection by a node of this version.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), version_min: VERSION, version_max: VERSION }
    }

    /// Builds its frame.
    #[must_use]
    pub fn to_frame(&self, corr: u32) -> Frame {
        let body = RejectBody {
            code: self.code.number(),
            name: self.code.as_str().into(),
            message: cut(&self.message, MESSAGE_BYTES_MAX).into(),
            version_min: self.version_min,
            version_max: self.version_max,
        };
        Frame::new(kind::REJECT, corr, named::encode(&body))
    }

    /// Reads a frame of kind `REJECT`.
    ///
    /// # Errors
    /// [`WireError`] if it is none.
    pub fn from_frame(frame: &Frame) -> Result<Self, WireError> {
        let RejectBody { code, name, message, version_min, version_max } =
            open(frame, kind::REJECT, "REJECT")?;
        Ok(match Code::from_number(code) {
            Some(code) => Self { code, message, version_min, version_max },
            None => {
                let message = format!("{name} ({code}): {message}");
                Self { code: Code::Internal, message, version_min, version_max }
            }
        })
    }
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Self::new(reject.code, reject.message)
    }
}

impl From<&WireError> for Reject {
    fn from(error: &WireError) -> Self {
        Self::new(Code::InvalidArgument, error.to_string())
    }
}

#[derive(Serialize, Deserialize)]
struct RejectBody {
    code: u16,
    #[serde(default)]
    name: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    version_min: u32,
    #[serde(default)]
    version_max: u32,
}

impl Hello {
    /// Makes the greeting of a client that does not know the cluster yet.
    #[must_use]
    pub fn client(agent: impl Into<String>) -> Self {
        Self {
            version_min: VERSION,
            version_max: VERSION,
            cluster: ClusterId::default(),
            role: Role::Client,
            agent: agent.into(),
            peer: None,
        }
    }

    /// Returns the version both sides speak, the highest: `None` if there is none.
    #[must_use]
    pub fn version(&self) -> Option<u32> {
        (self.version_min..=self.version_max).contains(&VERSION).then_some(VERSION)
    }

    /// Builds its frame; an agent that is too long is cut.
    #[must_use]
    pub fn to_frame(&self, corr: u32) -> Frame {
        let agent = cut(&self.agent, AGENT_BYTES_MAX).into();
        Frame::new(kind::HELLO, corr, named::encode(&Self { agent, ..self.clone() }))
    }

    /// Reads a frame of kind `HELLO`.
    ///
    /// # Errors
    /// [`WireError`] if it is none, if its versions are the wrong way round, or if it lacks `peer` where
    /// the role needs it.
    pub fn from_frame(frame: &Frame) -> Result<Self, WireError> {
        let hello: Self = open(frame, kind::HELLO, "HELLO")?;
        check_count("HELLO", "bytes of agent", hello.agent.len(), AGENT_BYTES_MAX)?;
        let invalid = |reason: &str| WireError::Invalid { name: "HELLO", reason: reason.into() };
        if hello.version_min > hello.version_max {
            return Err(invalid("version_min is above version_max"));
        }
        match (hello.role, &hello.peer) {
            (Role::Client, None) | (Role::Raft | Role::Bulk, Some(_)) => Ok(hello),
            (Role::Client, Some(_)) => Err(invalid("a client has no peer")),
            (Role::Raft | Role::Bulk, None) => {
                Err(invalid("a node must say which: peer is missing"))
            }
        }
    }
}

/// A voter's id and address.
#[derive(Serialize, Deserialize)]
struct NodeAddr {
    id: NodeId,
    addr: String,
}

#[derive(Serialize, Deserialize)]
struct WelcomeBody {
    version: u32,
    cluster: ClusterId,
    node: NodeId,
    dir: DirId,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<LeaderHint>,
    nodes: Vec<NodeAddr>,
    frame_bytes_max: u32,
    in_flight_max: u32,
}

impl Welcome {
    /// Builds its frame.
    #[must_use]
    pub fn to_frame(&self, corr: u32) -> Frame {
        let nodes = self.nodes.iter().map(|(id, addr)| NodeAddr { id: *id, addr: addr.clone() });
        let body = WelcomeBody {
            version: self.version,
            cluster: self.cluster,
            node: self.node,
            dir: self.dir,
            leader: self.leader.clone(),
            nodes: nodes.collect(),
            frame_bytes_max: self.frame_bytes_max,
            in_flight_max: self.in_flight_max,
        };
        Frame::new(kind::WELCOME, corr, named::encode(&body))
    }

    /// Reads a frame of kind `WELCOME`. (Whoever greets must be ready for a [`Reject`] instead.)
    ///
    /// # Errors
    /// [`WireError`] if it is none.
    pub fn from_frame(frame: &Frame) -> Result<Self, WireError> {
        let body: WelcomeBody = open(frame, kind::WELCOME, "WELCOME")?;
        check_count("WELCOME", "nodes", body.nodes.len(), NODES_MAX)?;
        Ok(Self {
            version: body.version,
            cluster: body.cluster,
            node: body.node,
            dir: body.dir,
            leader: body.leader,
            nodes: body.nodes.into_iter().map(|node| (node.id, node.addr)).collect(),
            frame_bytes_max: body.frame_bytes_max,
            in_flight_max: body.in_flight_max,
        })
    }
}

/// What a node answers to a `HELLO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Come in.
    Welcome(Welcome),
    /// Go away.
    Reject(Reject),
}

impl Greeting {
    /// Reads the answer to a `HELLO`.
    ///
    /// # Errors
    /// [`WireError`] if it is neither of the two.
    pub fn from_frame(frame: &Frame) -> Result<Self, WireError> {
        if frame.kind == kind::REJECT {
            return Reject::from_frame(frame).map(Self::Reject);
        }
        Welcome::from_frame(frame).map(Self::Welcome)
    }
}

fn open<T: serde::de::DeserializeOwned>(
    frame: &Frame,
    kind: u8,
    name: &'static str,
) -> Result<T, WireError> {
    if frame.kind != kind {
        return Err(not(name, frame));
    }
    check_header(frame)?;
    named::decode(name, &frame.body)
}
