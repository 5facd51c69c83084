#!/usr/bin/env python3
"""raftq.py: a client of the replicated job queue raftq, in one file.

As a library:

    from raftq import Client
    with Client(["127.0.0.1:7101", "127.0.0.1:7102"]) as client:
        job_id = client.submit(command=["echo", "hello"])
        print(client.wait([job_id])[job_id]["output"])

As a program (see --help; the nodes come from --addrs or RAFTQ_ADDRS):

    raftq.py submit -- echo hello
    raftq.py submit --queue mail --payload TEXT
    raftq.py get ID | wait ID... | list | cancel ID... | workers | status
    raftq.py selftest --spec wire-spec.md

Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 no leader or unreachable, 6 outcome unknown (the id is on
stderr; the same submit may be repeated with --id), 8 the job failed or was cancelled.

Needs Python 3.9 and the package `msgpack`. Written from wire-spec.md alone; "§" below names its sections.
Licence: MIT OR Apache-2.0.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import re
import socket
import struct
import sys
import time
import zlib
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import msgpack

# --- numbers of the protocol (§3, §5, §6, §10, Appendix A) ---------------------------------------------------------

PREAMBLE = bytes.fromhex("c1524a510d0a1a0a")
HEADER = struct.Struct(">IBBHI")  # length, kind, flags, group, corr; the CRC follows
HEADER_BYTES = 16
IGNORABLE = 0x01
VERSION = 1
AGENT = "raftq.py/1"

BODY_BYTES_MAX = 4_194_304
JOB_BYTES_MAX = 1_048_576
COMMAND_WORDS_MAX = 1_024
LIST_JOBS_MAX = 1_000
WAIT_JOBS_MAX = 1_024
WAIT_MS_MAX = 30_000

HELLO, WELCOME, REJECT = 0x01, 0x02, 0x03
PING, SUBMIT_JOB, GET_JOB, LIST_JOBS = 0x10, 0x11, 0x13, 0x14
WAIT_JOBS, CANCEL_JOBS, LIST_WORKERS, GET_CLUSTER_STATUS = 0x15, 0x16, 0x17, 0x18
REFUSED = 0x80
ANSWER = 0x80  # the bit that makes a request's kind its answer's

DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, RESOURCE_EXHAUSTED = 4, 5, 6, 8
INTERNAL, UNAVAILABLE, NOT_LEADER = 13, 14, 100
FINAL = ("completed", "failed", "cancelled")

NO_CLUSTER = bytes(16)
TRY_SECONDS = 6.0  # an answer takes 5.5 s at most, plus wait_ms (§9)
CONNECT_SECONDS = 3.0  # to connect and shake hands with one node
SETTLE_SECONDS = 60.0  # an id may be forgotten a minute after its job's end (§16): no submit is repeated later
WAIT_SLICE_MS = 10_000  # of one WAIT_JOBS; longer waits ask again
PAUSE_FIRST, PAUSE_MAX, HOPS_MAX = 0.05, 2.0, 3  # §13
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

OK, FAILURE, USAGE, MISSING, NO_LEADER, UNKNOWN, JOB_FAILED = 0, 1, 2, 3, 4, 6, 8  # exit codes

Address = str
Map = Dict[str, Any]


# --- errors --------------------------------------------------------------------------------------------------------


class RaftqError(Exception):
    """A request that did not succeed.

    `code` and `name` are those of §10, `unknown` tells whether it may have happened all the same, `retry_after` is in
    seconds or None, `job_id` names the job of a submit.
    """

    def __init__(self, message: str, code: int = INTERNAL, name: str = "INTERNAL", unknown: bool = False,
                 retry_after: Optional[float] = None, leader: Optional[Map] = None) -> None:
        super().__init__(message)
        self.code = code
        self.name = name
        self.unknown = unknown
        self.retry_after = retry_after
        self.leader = leader
        self.job_id: Optional[bytes] = None

    @classmethod
    def from_map(cls, body: Map) -> "RaftqError":
        """The error of a REFUSED, a REJECT or a `refused` in a list."""
        code, name = body.get("code"), body.get("name")
        after, unknown = body.get("retry_after_ms"), body.get("unknown")
        return cls(str(body.get("message") or ""), code if isinstance(code, int) else INTERNAL, str(name or "INTERNAL"),
                   unknown is True, after / 1000 if isinstance(after, int) else None, body.get("leader"))

    def __str__(self) -> str:
        return f"{self.name} ({self.code}): {self.args[0]}"


class Refused(RaftqError):
    """A node answered, and the answer was no."""


class Rejected(RaftqError):
    """A node ended the connection with REJECT."""


class Unreachable(RaftqError):
    """No node took the request in time; it did not happen."""


class OutcomeUnknown(RaftqError):
    """The request may have happened, or may still happen."""


class ConnectionFailed(Exception):
    """A connection broke, timed out or spoke nonsense; `call` goes on elsewhere."""


# --- frames (§4, §6) -----------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """A frame as it was read."""

    kind: int
    flags: int
    group: int
    corr: int
    body: Any


def _pairs(pairs: Iterable[Tuple[Any, Any]]) -> Map:
    """A map from its pairs: keys are str, and none stands twice."""
    result: Map = {}
    for key, value in pairs:
        if not isinstance(key, str) or key in result:
            raise ValueError(f"a bad or repeated key: {key!r}")
        result[key] = value
    return result


def _no_extension(code: int, _data: bytes) -> Any:
    raise ValueError(f"an extension ({code}) in a body")


def decode_body(payload: bytes) -> Any:
    """The one MessagePack value of a body; an empty body is an empty map."""
    if not payload:
        return {}
    try:
        return msgpack.unpackb(payload, raw=False, object_pairs_hook=_pairs, ext_hook=_no_extension, timestamp=0)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ConnectionFailed(f"a body that is no MessagePack: {error}") from error


def encode_frame(kind: int, corr: int, body: Any, flags: int = 0, group: int = 0) -> bytes:
    """The bytes of a frame. An empty map is sent as no bytes."""
    payload = b"" if body == {} else msgpack.packb(body, use_bin_type=True)
    head = HEADER.pack(len(payload), kind, flags, group, corr)
    return head + struct.pack(">I", zlib.crc32(head + payload)) + payload


def check_header(header: bytes, limit: int = BODY_BYTES_MAX) -> int:
    """The length of the body, checked before room is made for it."""
    length = int.from_bytes(header[:4], "big")
    if length > limit:
        raise ConnectionFailed(f"a frame of {length} bytes")
    return length


def decode_frame(header: bytes, payload: bytes) -> Frame:
    """The frame of a header and its body, with its CRC checked."""
    if zlib.crc32(header[:12] + payload) != int.from_bytes(header[12:16], "big"):
        raise ConnectionFailed("a frame with a wrong CRC")
    _length, kind, flags, group, corr = HEADER.unpack(header[:12])
    return Frame(kind, flags, group, corr, decode_body(payload))


# --- bodies of requests (§8, §11) ----------------------------------------------------------------------------------


def new_job_id() -> bytes:
    """48 bits of Unix milliseconds, then 80 random bits (§16)."""
    return int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10)


def parse_job_id(text: str) -> bytes:
    """An id from its 32 hexadecimal digits."""
    if not re.fullmatch(r"[0-9a-fA-F]{32}", text):
        raise ValueError(f"not a job id (32 hexadecimal digits): {text!r}")
    return bytes.fromhex(text)


def check_name(name: str) -> str:
    """A name of §1, or ValueError."""
    if not NAME.fullmatch(name):
        raise ValueError(f"not a name (1 to 64 of A-Z a-z 0-9 . _ -): {name!r}")
    return name


def hello_body(cluster: bytes = NO_CLUSTER, agent: str = AGENT) -> Map:
    """HELLO of a client."""
    return {"version_min": VERSION, "version_max": VERSION, "cluster": cluster, "role": "client", "agent": agent,
            "peer": None}


def submit_body(job_id: bytes, queue: str, command: Optional[Sequence[str]] = None,
                payload: Optional[bytes] = None) -> Map:
    """SUBMIT_JOB of a command or of a payload, checked against §3."""
    if (command is None) == (payload is None):
        raise ValueError("a job is either a command or a payload")
    if command is not None:
        if not command or not command[0] or any("\0" in word for word in command):
            raise ValueError("a command needs a program, and no zero byte in its words")
        if len(command) > COMMAND_WORDS_MAX or sum(len(word.encode()) for word in command) > JOB_BYTES_MAX:
            raise ValueError("the command is too long")
        return {"id": job_id, "queue": check_name(queue), "body": {"command": list(command)}}
    if len(payload or b"") > JOB_BYTES_MAX:
        raise ValueError("the payload is too long")
    return {"id": job_id, "queue": check_name(queue), "body": {"payload": payload}}


def list_body(status: Optional[str] = None, queue: Optional[str] = None, worker: Optional[str] = None,
              after: Optional[bytes] = None, limit: int = 100) -> Map:
    """LIST_JOBS."""
    return {"status": status, "queue": queue, "worker": worker, "after": after, "limit": limit}


def wait_body(ids: Sequence[bytes], wait_ms: int) -> Map:
    """WAIT_JOBS."""
    return {"ids": list(ids), "wait_ms": wait_ms}


def status_body(local: bool = False) -> Map:
    """GET_CLUSTER_STATUS."""
    return {"local": local}


# --- one connection (§5 to §9) -------------------------------------------------------------------------------------


class Connection:
    """A connection to one node, after its handshake; one request at a time."""

    def __init__(self, address: Address, deadline: float, cluster: bytes = NO_CLUSTER) -> None:
        host, _, port = address.rpartition(":")
        self.address = address
        self.limit = BODY_BYTES_MAX
        self.corr = 0
        self.written = False  # whether any byte of the last request may have left
        try:
            self.socket = socket.create_connection((host.strip("[]"), int(port)), max(0.001, deadline - time.monotonic()))
        except (OSError, ValueError) as error:
            raise ConnectionFailed(f"{address}: {error}") from error
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.welcome = self._handshake(deadline, cluster)
        except BaseException as error:
            self.socket.close()
            if isinstance(error, OSError):
                raise ConnectionFailed(f"{address}: {error}") from error
            raise

    def _handshake(self, deadline: float, cluster: bytes) -> Map:
        self._write(PREAMBLE + encode_frame(HELLO, 0, hello_body(cluster)), deadline)
        if self._read(len(PREAMBLE), deadline) != PREAMBLE:
            raise ConnectionFailed(f"{self.address}: this is no raftq node")
        frame = self._read_frame(deadline)
        if frame.kind != WELCOME or not isinstance(frame.body, dict) or frame.body.get("version") != VERSION:
            raise ConnectionFailed(f"{self.address}: neither WELCOME nor REJECT of version {VERSION}")
        theirs = frame.body.get("cluster") or NO_CLUSTER
        if NO_CLUSTER not in (cluster, theirs) and cluster != theirs:
            raise ConnectionFailed(f"{self.address}: this node belongs to another cluster")
        limit = frame.body.get("frame_bytes_max")
        self.limit = limit if isinstance(limit, int) else BODY_BYTES_MAX
        return frame.body

    def close(self) -> None:
        """Ends the connection."""
        self.socket.close()

    def request(self, kind: int, body: Map, deadline: float) -> Map:
        """Sends a request and returns the body of its reply; Refused if it was refused."""
        self.corr = self.corr % 0xFFFF_FFFF + 1
        self.written = False
        data = encode_frame(kind, self.corr, body)
        if len(data) - HEADER_BYTES > self.limit:
            raise ValueError(f"the request is larger than this node takes ({self.limit} bytes)")
        self.written = True
        self._write(data, deadline)
        while True:
            frame = self._read_frame(deadline)
            if frame.corr != self.corr or frame.flags & IGNORABLE:
                continue  # an answer nobody waits for any more (§9), or what may be skipped (§6)
            if not isinstance(frame.body, dict):
                raise ConnectionFailed(f"{self.address}: a body that is no map")
            if frame.kind == REFUSED:
                raise Refused.from_map(frame.body)
            if frame.kind != kind | ANSWER:
                raise ConnectionFailed(f"{self.address}: kind {frame.kind:#04x} answers {kind:#04x}")
            return frame.body

    def _read_frame(self, deadline: float) -> Frame:
        header = self._read(HEADER_BYTES, deadline)
        frame = decode_frame(header, self._read(check_header(header, self.limit), deadline))
        if frame.kind == REJECT and isinstance(frame.body, dict):
            raise Rejected.from_map(frame.body)
        return frame

    def _write(self, data: bytes, deadline: float) -> None:
        try:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            self.socket.sendall(data)
        except OSError as error:
            raise ConnectionFailed(f"{self.address}: {error}") from error

    def _read(self, count: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                self.socket.settimeout(max(0.001, deadline - time.monotonic()))
                part = self.socket.recv(min(count - len(data), 65_536))
            except OSError as error:
                raise ConnectionFailed(f"{self.address}: {error}") from error
            if not part:
                raise ConnectionFailed(f"{self.address}: the connection ended")
            data += part
        return bytes(data)


# --- the client (§13) ----------------------------------------------------------------------------------------------

Result = Union[Map, RaftqError]


class Client:
    """A client of a cluster, known by the addresses of some of its nodes. Not for several threads at once.

    `timeout` is the deadline, in seconds, of each request over all its tries.
    """

    def __init__(self, seeds: Sequence[Address], timeout: float = 15.0) -> None:
        if not seeds:
            raise ValueError("no address")
        self.nodes: List[Address] = list(dict.fromkeys(seeds))
        self.timeout = timeout
        self.cluster = NO_CLUSTER
        self._leader: Optional[Address] = None
        self._known_term = 0
        self._connections: Dict[Address, Connection] = {}

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes every connection."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    # The requests.

    def ping(self) -> None:
        """Whether some node answers."""
        self.call(PING, {})

    def submit(self, command: Optional[Sequence[str]] = None, payload: Optional[bytes] = None, queue: str = "default",
               job_id: Optional[bytes] = None) -> bytes:
        """Submits a job and returns its id once a quorum has it. An error's `job_id` names it too."""
        job_id = job_id or new_job_id()
        try:
            self.call(SUBMIT_JOB, submit_body(job_id, queue, command, payload), change=True, settle=SETTLE_SECONDS)
        except RaftqError as error:
            error.job_id = job_id
            raise
        return job_id

    def get(self, job_id: bytes) -> Map:
        """One job; Refused with NOT_FOUND if nobody knows it."""
        return self.call(GET_JOB, {"id": job_id})

    def list(self, status: Optional[str] = None, queue: Optional[str] = None, worker: Optional[str] = None,
             limit: int = 100) -> List[Map]:
        """Up to `limit` jobs in ascending order of id, over as many pages as it takes."""
        jobs: List[Map] = []
        after: Optional[bytes] = None
        while len(jobs) < limit:
            body = list_body(status, queue, worker, after, min(limit - len(jobs), LIST_JOBS_MAX))
            page = self.call(LIST_JOBS, body)
            jobs += page["jobs"]
            if not page.get("more") or not page["jobs"]:
                break
            after = jobs[-1]["id"]
        return jobs

    def wait(self, ids: Iterable[bytes], timeout: Optional[float] = None) -> Dict[bytes, Result]:
        """Waits until all jobs have ended, or `timeout` seconds (None: for ever).

        Returns for each id the job as it is then, ended or not, or the error that the node has for it.
        """
        order = list(dict.fromkeys(ids))
        results: Dict[bytes, Result] = {}
        pending, end = list(order), None if timeout is None else time.monotonic() + timeout
        while pending:
            begun = time.monotonic()
            left_ms = WAIT_SLICE_MS if end is None else max(0, int((end - begun) * 1000))
            wait_ms = min(left_ms, WAIT_SLICE_MS, WAIT_MS_MAX)
            part, pending = pending[:WAIT_JOBS_MAX], pending[WAIT_JOBS_MAX:]
            # The wait's own end bounds it; a node that is slow or gone gets the usual time on top.
            reply = self.call(WAIT_JOBS, wait_body(part, wait_ms), wait_ms=wait_ms)
            again: List[bytes] = []
            for job_id, item in zip(part, results_of(reply, len(part))):
                results[job_id] = item
                if isinstance(item, RaftqError):
                    unsettled = item.code == RESOURCE_EXHAUSTED  # no room in that frame (§11)
                else:
                    unsettled = item["status"] not in FINAL
                if unsettled:
                    again.append(job_id)
            pending += again
            if end is not None and time.monotonic() >= end:
                break
            if len(again) == len(part) and time.monotonic() - begun < wait_ms / 2000:
                time.sleep(PAUSE_FIRST)  # answered early without news: do not spin
        return {job_id: results[job_id] for job_id in order if job_id in results}

    def cancel(self, ids: Iterable[bytes]) -> Dict[bytes, Result]:
        """Cancels jobs. Returns `{"status": "cancelled"}` or the error for each id."""
        order = list(dict.fromkeys(ids))
        results: Dict[bytes, Result] = {}
        for start in range(0, len(order), WAIT_JOBS_MAX):
            part = order[start:start + WAIT_JOBS_MAX]
            reply = self.call(CANCEL_JOBS, {"ids": part}, change=True)
            results.update(zip(part, results_of(reply, len(part))))
        return results

    def workers(self) -> List[Map]:
        """Every registered worker."""
        return self.call(LIST_WORKERS, {})["workers"]

    def status(self, local: bool = False) -> Map:
        """The state of the cluster as its leader, or with `local` some node, sees it."""
        return self.call(GET_CLUSTER_STATUS, status_body(local))

    # How a request finds its way.

    def call(self, kind: int, body: Map, change: bool = False, wait_ms: int = 0,
             settle: Optional[float] = None) -> Map:
        """Sends one request, unchanged over all tries, until it is answered for good or the deadline has passed.

        `settle`: seconds after the first try that may have happened, beyond which it is not repeated.
        """
        now = time.monotonic()
        deadline = now + self.timeout + wait_ms / 1000
        hops, pause, unknown = 0, PAUSE_FIRST, False
        rejected: Dict[Address, Rejected] = {}
        last: Union[RaftqError, ConnectionFailed, None] = None
        address = self._leader or random.choice(self.nodes)
        while time.monotonic() < deadline:
            began = time.monotonic()
            maybe = False  # whether this try may have changed something
            delay = random.uniform(0.5, 1.0) * pause
            try:
                reply = self._try(address, kind, body, min(deadline, began + TRY_SECONDS + wait_ms / 1000))
                self._leader = address
                return reply
            except Refused as error:
                last, maybe = error, change and error.unknown
                if error.code == NOT_LEADER:
                    hint = self._newer(error.leader) if hops < HOPS_MAX else None
                    if hint:
                        hops, address, delay = hops + 1, hint, 0.0
                    else:
                        hops, address = 0, self._next(address)
                elif error.unknown or error.code in (UNAVAILABLE, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED):
                    if error.code != RESOURCE_EXHAUSTED:
                        address = self._next(address)
                else:
                    if unknown and error.code != ALREADY_EXISTS:
                        raise _unknown(error) from error  # it speaks of its own try alone (§10)
                    raise
                delay = max(delay, error.retry_after or 0.0)
            except (ConnectionFailed, Rejected) as error:
                connection = self._connections.pop(address, None)
                if connection:
                    maybe = change and connection.written
                    connection.close()
                last = error
                if isinstance(error, Rejected):
                    if connection is None and error.code != RESOURCE_EXHAUSTED:
                        rejected[address] = error
                    if all(node in rejected for node in self.nodes):
                        raise (_unknown(error) if unknown else error) from error
                address = self._next(address)
            if maybe and not unknown and settle is not None:
                deadline = min(deadline, began + settle)
            unknown = unknown or maybe
            if delay > 0:
                pause = min(2 * pause, PAUSE_MAX)
                if time.monotonic() + delay >= deadline:
                    break
                time.sleep(delay)
        if unknown:
            raise _unknown(last)
        if isinstance(last, RaftqError):
            last.unknown = False  # nothing was changed, whatever the last try of a read says
            raise last
        raise Unreachable(f"no node answered in {self.timeout:g} s ({last})", UNAVAILABLE, "UNAVAILABLE")

    def _try(self, address: Address, kind: int, body: Map, deadline: float) -> Map:
        """One try at one node, on the connection that is kept."""
        connection = self._connections.get(address)
        if connection is None:
            connection = Connection(address, min(deadline, time.monotonic() + CONNECT_SECONDS), self.cluster)
            self._connections[address] = connection
            self.cluster = connection.welcome.get("cluster") or self.cluster
            for node in connection.welcome.get("nodes") or []:
                if node["addr"] not in self.nodes:
                    self.nodes.append(node["addr"])
        return connection.request(kind, body, deadline)

    def _newer(self, leader: Optional[Map]) -> Optional[Address]:
        """The address of a hint, unless an older one than was followed before."""
        if not leader or leader["term"] < self._known_term:
            return None
        self._known_term = leader["term"]
        return leader["addr"]

    def _next(self, address: Address) -> Address:
        """The next known node, in turn."""
        self._leader = None
        at = self.nodes.index(address) + 1 if address in self.nodes else 0
        return self.nodes[at % len(self.nodes)]


def _unknown(cause: Optional[Exception]) -> OutcomeUnknown:
    """What is raised when some try may have happened and none was answered for good."""
    after = cause.retry_after if isinstance(cause, RaftqError) else None
    return OutcomeUnknown(f"it may have happened, or happen yet; last: {cause}", DEADLINE_EXCEEDED,
                          "DEADLINE_EXCEEDED", True, after)


def results_of(reply: Map, count: int) -> List[Result]:
    """The items of a list of results, each as its `ok` or as an error (§10)."""
    results = reply["results"]
    if len(results) != count:
        raise RaftqError(f"{len(results)} results for {count} ids")
    return [item["ok"] if "ok" in item else Refused.from_map(item["refused"]) for item in results]


# --- selftest ------------------------------------------------------------------------------------------------------

KINDS = {HELLO: "HELLO", WELCOME: "WELCOME", REJECT: "REJECT", PING: "PING", SUBMIT_JOB: "SUBMIT_JOB",
         GET_JOB: "GET_JOB", LIST_JOBS: "LIST_JOBS", WAIT_JOBS: "WAIT_JOBS", CANCEL_JOBS: "CANCEL_JOBS",
         LIST_WORKERS: "LIST_WORKERS", GET_CLUSTER_STATUS: "GET_CLUSTER_STATUS", REFUSED: "REFUSED"}
LIMITS = {"PREAMBLE_BYTES": len(PREAMBLE), "HEADER_BYTES": HEADER_BYTES, "BODY_BYTES_MAX": BODY_BYTES_MAX,
          "JOB_BYTES_MAX": JOB_BYTES_MAX, "COMMAND_WORDS_MAX": COMMAND_WORDS_MAX, "LIST_JOBS_MAX": LIST_JOBS_MAX,
          "WAIT_JOBS_MAX": WAIT_JOBS_MAX, "WAIT_MS_MAX": WAIT_MS_MAX}


def rebuild(kind: int, body: Map) -> Optional[Map]:
    """A request of the specification made anew as `Client` makes it; None for what it does not make."""
    if kind == HELLO and body["role"] == "client":
        return hello_body(body["cluster"], body["agent"])
    if kind == SUBMIT_JOB:
        return submit_body(body["id"], body["queue"], **body["body"])
    if kind == LIST_JOBS:
        return list_body(**body)
    if kind == WAIT_JOBS:
        return wait_body(**body)
    if kind == GET_CLUSTER_STATUS:
        return status_body(body["local"])
    return {GET_JOB: {"id": body.get("id")}, CANCEL_JOBS: {"ids": body.get("ids")}, PING: {},
            LIST_WORKERS: {}}.get(kind)


def check_example(block: str) -> bool:
    """Checks one frame of the specification; whether it was also made anew. ValueError says what is wrong."""
    shown, _, rest = block.partition("\n---\n")
    header_text, *body_text = rest.split("\n")
    header, payload = bytes.fromhex(header_text.replace("|", " ")), bytes.fromhex("".join(body_text))
    if len(header) != HEADER_BYTES or check_header(header) != len(payload):
        raise ValueError("the header's length is not the body's")
    frame = decode_frame(header, payload)
    # The body as people read it: JSON, folded at spaces, with h'..' for bytes.
    folded = re.sub(r"\n *", " ", shown)
    wanted = json.loads(re.sub(r"h'([0-9a-f]*)'", r'{"hex of bytes": "\1"}', folded),
                        object_hook=lambda m: bytes.fromhex(m["hex of bytes"]) if "hex of bytes" in m else m)
    if frame.body != wanted:
        raise ValueError(f"the bytes say {frame.body}")
    if encode_frame(frame.kind, frame.corr, frame.body, frame.flags, frame.group) != header + payload:
        raise ValueError("encoded again it is other bytes")
    made = rebuild(frame.kind, frame.body) if isinstance(frame.body, dict) else None
    if made is not None and encode_frame(frame.kind, frame.corr, made) != header + payload:
        raise ValueError("the request made anew is other bytes")
    return made is not None


def selftest(path: str) -> int:
    """Checks this file against the specification: every frame's bytes, and the numbers used here."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        complain(error)
        return FAILURE
    faults: List[str] = []
    examples = re.findall(r"^```frame ([^\n]*)\n(.*?)\n```$", text, re.M | re.S)
    made = 0
    for title, block in examples:
        try:
            made += check_example(block)
        except (ValueError, ConnectionFailed, KeyError, TypeError) as error:
            faults.append(f"frame {title}: {error}")
    preambles = re.findall(r"^```preamble\n(.*?)\n```$", text, re.M | re.S)
    if not examples or [bytes.fromhex(part) for part in preambles] != [PREAMBLE]:
        faults.append("no frames, or another preamble")
    if zlib.crc32(b"123456789") != 0xCBF43926:
        faults.append("another CRC")
    kinds = {int(number, 16): name for number, name in re.findall(r"^\| (0x[0-9a-f]{2}) \| `(\w+)`", text, re.M)}
    faults += [f"kind {kind:#04x} is {kinds.get(kind)}" for kind, name in KINDS.items() if kinds.get(kind) != name]
    limits = {name: int(value.replace(",", "")) for name, value in
              re.findall(r"^\| `([A-Z_]+)` \| ([0-9,]+) \|", text, re.M)}
    faults += [f"{name} is {limits.get(name)}" for name, value in LIMITS.items() if limits.get(name) != value]
    for fault in faults:
        complain(fault)
    print(f"{len(examples)} frames, {made} of them made anew as requests; {len(KINDS)} kinds, {len(LIMITS)} limits; "
          f"{len(faults)} faults")
    return FAILURE if faults else OK


# --- command line --------------------------------------------------------------------------------------------------


def exit_code(error: RaftqError) -> int:
    """The exit code of an error."""
    if error.unknown:
        return UNKNOWN
    if error.code == NOT_FOUND:
        return MISSING
    return NO_LEADER if error.code in (UNAVAILABLE, NOT_LEADER, DEADLINE_EXCEEDED) else FAILURE


def printable(value: Any, key: str = "") -> Any:
    """A value as JSON has it: ids in hexadecimal, other bytes as text, or as {"base64": ...} if they are none."""
    if isinstance(value, dict):
        return {name: printable(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [printable(item, key) for item in value]
    if not isinstance(value, bytes):
        return value
    if key in ("id", "cluster_id"):
        return value.hex()
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def print_json(value: Any) -> None:
    """Prints a value as JSON."""
    print(json.dumps(printable(value), indent=2))


def complain(text: object) -> None:
    """A line on stderr, with control characters as dots."""
    line = re.sub(r"[\x00-\x1f\x7f-\x9f]", ".", str(text))
    print(f"raftq.py: {line}", file=sys.stderr)


def run_submit(client: Client, args: argparse.Namespace) -> int:
    """submit: the id, or with --wait the output."""
    command = args.words or None
    payload = None if args.payload is None else os.fsencode(args.payload)
    begun = time.monotonic()
    job_id = client.submit(command, payload, args.queue, parse_job_id(args.id) if args.id else None)
    if not args.wait:
        print(job_id.hex())
        return OK
    left = None if args.timeout is None else max(0.0, args.timeout - (time.monotonic() - begun))
    try:
        job = client.wait([job_id], left)[job_id]
        if isinstance(job, RaftqError):
            raise job
    except RaftqError as error:
        error.job_id = job_id  # it was submitted: say which
        raise
    sys.stdout.buffer.write(job["output"])
    sys.stdout.flush()
    if job["status"] not in FINAL:
        complain(f"job {job_id.hex()} is still {job['status']}")
        return FAILURE
    if job["status"] != "completed":
        complain(f"job {job_id.hex()} {job['status']}: {job.get('error') or 'exit code %s' % job.get('exit_code')}")
        return JOB_FAILED
    return OK


def run_results(client: Client, args: argparse.Namespace) -> int:
    """wait and cancel: a line `ID STATUS` for each job."""
    ids = [parse_job_id(text) for text in args.ids]
    results = client.cancel(ids) if args.verb == "cancel" else client.wait(ids, args.timeout)
    codes = []
    for job_id, result in results.items():
        if isinstance(result, RaftqError):
            complain(f"job {job_id.hex()}: {result}")
            codes.append(exit_code(result))
            continue
        print(job_id.hex(), result["status"])
        if args.verb == "wait" and result["status"] != "completed":
            codes.append(JOB_FAILED if result["status"] in FINAL else FAILURE)
    return next((code for code in (UNKNOWN, NO_LEADER, MISSING, FAILURE, JOB_FAILED) if code in codes), OK)


def run(args: argparse.Namespace) -> int:
    """Does what the command line asks for."""
    if args.verb == "selftest":
        return selftest(args.spec)
    addresses = [part.strip() for part in args.addrs.split(",") if part.strip()]
    with Client(addresses, 15.0 if args.timeout is None else args.timeout) as client:
        if args.verb == "submit":
            return run_submit(client, args)
        if args.verb in ("wait", "cancel"):
            return run_results(client, args)
        if args.verb == "get":
            print_json(client.get(parse_job_id(args.ids)))
        elif args.verb == "list":
            print_json(client.list(args.status, args.queue, limit=args.limit))
        elif args.verb == "workers":
            print_json(client.workers())
        elif args.verb == "status":
            status = client.status()
            print_json(status)
            return OK if status.get("leader") is not None else NO_LEADER
    return OK


def parser() -> argparse.ArgumentParser:
    """The command line; --addrs and --timeout may stand before or after the verb."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--addrs", metavar="H:P,H:P", help="nodes to begin with (RAFTQ_ADDRS, 127.0.0.1:7101)")
    common.add_argument("--timeout", type=float, metavar="S", help="seconds for all tries (15), or to wait for jobs")
    top = argparse.ArgumentParser(prog="raftq.py", description="A client of the replicated job queue raftq.",
                                  parents=[common])
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    submit = verbs.add_parser("submit", parents=[common], help="submit [--queue Q] [--wait] -- CMD ARG...")
    submit.add_argument("--queue", default="default")
    submit.add_argument("--payload", metavar="TEXT", help="a payload instead of a command")
    submit.add_argument("--wait", action="store_true", help="print the job's output when it has ended")
    submit.add_argument("--id", metavar="ID", help="repeat a submit whose outcome is unknown")
    verbs.add_parser("get", parents=[common], help="one job").add_argument("ids", metavar="ID")
    for verb, text in (("wait", "wait until jobs have ended"), ("cancel", "cancel jobs")):
        verbs.add_parser(verb, parents=[common], help=text).add_argument("ids", metavar="ID", nargs="+")
    listing = verbs.add_parser("list", parents=[common], help="jobs in ascending order of id")
    listing.add_argument("--status", choices=("pending", "running") + FINAL)
    listing.add_argument("--queue")
    listing.add_argument("--limit", type=int, default=100, metavar="N")
    verbs.add_parser("workers", parents=[common], help="the registry of workers")
    verbs.add_parser("status", parents=[common], help="the cluster as its leader sees it")
    test = verbs.add_parser("selftest", help="check the examples of the specification")
    test.add_argument("--spec", default="wire-spec.md", metavar="PATH")
    return top


def main(argv: Sequence[str]) -> int:
    """The program."""
    at = argv.index("--") if "--" in argv else len(argv)
    top = parser()
    args = top.parse_args(argv[:at])
    args.words = list(argv[at + 1:])
    args.addrs = getattr(args, "addrs", None) or os.environ.get("RAFTQ_ADDRS") or "127.0.0.1:7101"
    args.timeout = getattr(args, "timeout", None)
    if args.words and args.verb != "submit":
        top.error("only submit takes a command")
    if args.verb == "submit" and bool(args.words) == (args.payload is not None):
        top.error("submit needs either -- CMD ARG... or --payload TEXT")
    try:
        return run(args)
    except RaftqError as error:
        if error.job_id:
            complain(f"job {error.job_id.hex()}: {error}")
        else:
            complain(error)
        return exit_code(error)
    except (KeyError, TypeError) as error:
        complain(f"an answer that is not as specified: {error!r}")
        return FAILURE
    except ValueError as error:
        complain(error)
        return USAGE
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
