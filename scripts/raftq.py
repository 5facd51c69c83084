#!/usr/bin/env python3
"""raftq.py: a client of the replicated job queue raftq, and a worker for it, in one file.

As a library:

    from raftq import Client
    with Client(["127.0.0.1:7101", "127.0.0.1:7102"]) as client:
        job_id = client.submit(command=["echo", "hello"])
        print(client.wait([job_id])[job_id]["output"])

As a worker (see `Worker`):

    from raftq import Worker
    worker = Worker(["127.0.0.1:7101", "127.0.0.1:7102"], slots=4)

    @worker.task("mail")
    def send(job):
        return b"sent to " + job.payload

    worker.run()

As a program, see --help; the nodes come from --addrs or RAFTQ_ADDRS. Exit codes: 0 ok, 1 failure, 2 usage, 3 not
found, 4 no leader or unreachable, 6 outcome unknown (the id is on stderr; repeat the submit with --id), 8 the job
failed or was cancelled. Needs Python 3.9 and the package `msgpack`. Written from wire-spec.md alone; "§" names its
sections. Licence: MIT OR Apache-2.0.
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import os
import random
import re
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import zlib
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Set, Tuple, Union

import msgpack

PREAMBLE = bytes.fromhex("c1524a510d0a1a0a")
HEADER = struct.Struct(">IBBHI")  # length, kind, flags, group, corr; the CRC follows
IGNORABLE = 0x01
NO_CLUSTER = bytes(16)

# Limits (§3)
HEADER_BYTES, BODY_BYTES_MAX, JOB_BYTES_MAX, COMMAND_WORDS_MAX = 16, 4_194_304, 1_048_576, 1_024
LIST_JOBS_MAX, WAIT_JOBS_MAX = 1_000, 1_024
OUTPUT_BYTES_MAX, ERROR_BYTES_MAX, RESERVE_JOBS_MAX, HELD_MAX = 16_384, 1_024, 256, 256
WORKER_SLOTS_MAX, WORKER_QUEUES_MAX, TAGS_MAX = 4_096, 64, 16
OPTIONS = {"priority", "delay_ms", "at_ms", "ttl_ms", "timeout_ms", "retries", "backoff_ms", "backoff_max_ms", "tags",
           "unique", "unique_for_ms"}
# Kinds (Appendix A)
HELLO, WELCOME, REJECT, REFUSED = 0x01, 0x02, 0x03, 0x80
SUBMIT_JOB, GET_JOB, LIST_JOBS, WAIT_JOBS = 0x11, 0x13, 0x14, 0x15
CANCEL_JOBS, LIST_WORKERS, GET_CLUSTER_STATUS, WHY_JOB = 0x16, 0x17, 0x18, 0x35
LIST_QUEUES, CHANGE_QUEUE, RETRY_JOBS, PURGE_JOBS = 0x1b, 0x1c, 0x1d, 0x1e
REGISTER_WORKER, HEARTBEAT, RESERVE, BATCH_UPDATE_JOB_STATUS, RELEASE_JOBS = 0x20, 0x21, 0x22, 0x24, 0x25
CHANGES = {SUBMIT_JOB, CANCEL_JOBS, CHANGE_QUEUE, RETRY_JOBS, PURGE_JOBS, REGISTER_WORKER, BATCH_UPDATE_JOB_STATUS,
           RELEASE_JOBS}
ANSWER = 0x80  # the bit that makes a request's kind its answer's, of all but one
UPDATED = 0xa3  # which answers BATCH_UPDATE_JOB_STATUS
# Errors (§10)
DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, RESOURCE_EXHAUSTED = 4, 5, 6, 8
FAILED_PRECONDITION = 9
INTERNAL, UNAVAILABLE, NOT_LEADER = 13, 14, 100

TRY_SECONDS = 6.0  # an answer takes 5.5 s at most, plus wait_ms (§9)
CONNECT_SECONDS = 3.0  # to connect and shake hands with one node
SETTLE_SECONDS = 50.0  # an id may be forgotten a minute after its job's end (§16): no submit is repeated later
WAIT_SLICE_MS = 10_000  # of one WAIT_JOBS; longer waits ask again
PAUSE_FIRST, PAUSE_MAX, HOPS_MAX = 0.05, 2.0, 3  # §13
PAUSE_SOON, SOON_SECONDS = 0.2, 3.0  # no longer pause in a call's first seconds: an election is over soon (§13)

# A worker's times and bounds (§12)
LEASE_SECONDS, HEARTBEAT_SECONDS, WORKER_PAUSE_MAX = 3.0, 1.0, 1.0
RESERVE_MS = 5_000  # of one look for jobs: so long one at a node that stands still may go on for nothing, and 6 s more
REPORTS_MAX = 64  # ends of attempts in one frame, which are 1 MiB then; what is beyond waits for the next
REPORTS_FIRST_SECONDS = 6.0  # how long reports go before a registration, which would make their jobs wait again
LEAVE_SECONDS = 6.0  # how long a worker that stops tries to report and to say so, beyond its grace
TURN_SECONDS = 0.05  # from one look at what is due to the next

FINAL = ("completed", "failed", "cancelled")
OK, FAILURE, USAGE, MISSING, NO_LEADER, UNKNOWN, JOB_FAILED = 0, 1, 2, 3, 4, 6, 8  # exit codes

Map = Dict[str, Any]
log = logging.getLogger("raftq")


class RaftqError(Exception):
    """A request that did not succeed: `code` and `name` of §10, `unknown` if it may have happened all the same,
    `retry_after` in seconds or None, `job_id` of the one job it is about."""

    def __init__(self, message: str, code: int = INTERNAL, name: str = "INTERNAL", unknown: bool = False,
                 retry_after: Optional[float] = None, leader: Optional[Map] = None) -> None:
        super().__init__(message)
        self.code, self.name, self.unknown = code, name, unknown
        self.retry_after, self.leader = retry_after, leader
        self.job_id: Optional[bytes] = None
        self.incarnation: Optional[int] = None

    @classmethod
    def from_map(cls, body: Map) -> RaftqError:
        """The error of a REFUSED, a REJECT or a `refused` in a list."""
        after = body.get("retry_after_ms")
        error = cls(body.get("message", ""), body.get("code", INTERNAL), body.get("name", "INTERNAL"),
                    body.get("unknown") is True, None if after is None else after / 1000, body.get("leader"))
        error.incarnation = body.get("incarnation")
        return error

    def __str__(self) -> str:
        return f"{self.name} ({self.code}): {self.args[0]}"

    def is_final(self) -> bool:
        """Whether the same request would meet the same again."""
        return not self.unknown and self.code not in (DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE,
                                                      NOT_LEADER)


class Refused(RaftqError):
    """A node answered, and the answer was no."""


class Rejected(RaftqError):
    """A node ended the connection with REJECT."""


class OutcomeUnknown(RaftqError):
    """The request may have happened, or may still happen."""


class ConnectionFailed(OSError):
    """A connection broke, timed out or spoke nonsense; `Client.call` goes on elsewhere."""


Result = Union[Map, RaftqError]


# --- frames (§4, §6) and bodies (§8, §11) ---------------------------------------------------------------------------
def decode_body(payload: bytes) -> Any:
    """The one MessagePack value of a body; an empty body is an empty map."""
    try:
        return msgpack.unpackb(payload, raw=False) if payload else {}
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ConnectionFailed(f"a body that is no MessagePack: {error}") from error


def encode_frame(kind: int, corr: int, body: Any, flags: int = 0, group: int = 0) -> bytes:
    """The bytes of a frame. An empty map is sent as no bytes."""
    payload = b"" if body == {} else msgpack.packb(body, use_bin_type=True)
    head = HEADER.pack(len(payload), kind, flags, group, corr)
    return head + struct.pack(">I", zlib.crc32(head + payload)) + payload


def decode_frame(header: bytes, payload: bytes) -> Tuple[int, int, int, int, Any]:
    """Kind, flags, group, corr and body of a frame, with its CRC checked."""
    if zlib.crc32(header[:12] + payload) != int.from_bytes(header[12:], "big"):
        raise ConnectionFailed("a frame with a wrong CRC")
    _length, kind, flags, group, corr = HEADER.unpack(header[:12])
    return kind, flags, group, corr, decode_body(payload)


def new_job_id() -> bytes:
    """48 bits of Unix milliseconds, then 80 random bits (§16)."""
    return int(time.time() * 1000).to_bytes(6, "big") + os.urandom(10)


def parse_job_id(text: str) -> bytes:
    """An id from its 32 hexadecimal digits."""
    if not re.fullmatch(r"[0-9a-fA-F]{32}", text):
        raise ValueError(f"not a job id (32 hexadecimal digits): {text!r}")
    return bytes.fromhex(text)


def hello_body(cluster: bytes = NO_CLUSTER) -> Map:
    """HELLO of a client."""
    return {"version_min": 1, "version_max": 1, "cluster": cluster, "role": "client", "agent": "raftq.py/1",
            "peer": None}


def submit_body(job_id: bytes, queue: str, command: Optional[Sequence[str]], payload: Optional[bytes],
                options: Optional[Map] = None) -> Map:
    """SUBMIT_JOB of a command or of a payload, checked against §3; a node checks the options (§11)."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", queue):
        raise ValueError(f"not a name (1 to 64 of A-Z a-z 0-9 . _ -): {queue!r}")
    body: Any
    if command is not None and payload is None:
        if not command or not command[0] or any("\0" in word for word in command):
            raise ValueError("a command needs a program, and no zero byte in its words")
        size, body = sum(len(word.encode()) for word in command), list(command)
    elif payload is not None and command is None:
        size, body = len(payload), payload
    else:
        raise ValueError("a job is either a command or a payload")
    if size > JOB_BYTES_MAX or len(command or ()) > COMMAND_WORDS_MAX:
        raise ValueError("the job is too large")
    job = {"id": job_id, "queue": queue, "body": {"payload" if command is None else "command": body}}
    return {**job, "options": options} if options else job


def list_body(status: Optional[str], queue: Optional[str], worker: Optional[str], after: Optional[bytes],
              limit: int, **more: Any) -> Map:
    """LIST_JOBS; `more` may have tag, text, since_ms, until_ms."""
    return {"status": status, "queue": queue, "worker": worker, "after": after, "limit": limit, **more}


def wait_body(ids: Sequence[bytes], wait_ms: int) -> Map:
    """WAIT_JOBS."""
    return {"ids": ids, "wait_ms": wait_ms}


def register_body(worker: str, incarnation: int, slots: int, serves: Map, tags: Sequence[str] = (),
                  gave_up: Optional[int] = None) -> Map:
    """REGISTER_WORKER."""
    body: Map = {"worker": worker, "incarnation": incarnation, "slots": slots, "serves": serves}
    body.update({"tags": list(tags)} if tags else {})
    return body if gave_up is None else {**body, "gave_up": gave_up}


def heartbeat_body(worker: str, incarnation: int, draining: bool, held: Sequence[Map] = ()) -> Map:
    """HEARTBEAT; `held` names jobs that it runs."""
    body: Map = {"worker": worker, "incarnation": incarnation, "draining": draining}
    return {**body, "held": list(held)} if held else body


def reserve_body(worker: str, incarnation: int, after: int, max: int, wait_ms: int) -> Map:
    """RESERVE."""
    return {"worker": worker, "incarnation": incarnation, "after": after, "max": max, "wait_ms": wait_ms}


def update_body(job: bytes, fence: int, output: bytes, error: Optional[str]) -> Map:
    """One report of a BATCH_UPDATE_JOB_STATUS: the end of the output, the start of the error."""
    body = {"job": job, "fence": fence, "completed": error is None, "output": output[-OUTPUT_BYTES_MAX:],
            "output_cut": len(output) > OUTPUT_BYTES_MAX}
    if error is not None:
        body["error"] = error.encode(errors="replace")[:ERROR_BYTES_MAX].decode(errors="ignore")
    return body


# --- one connection (§5 to §9) --------------------------------------------------------------------------------------
class Connection:
    """A connection to one node, after its handshake; one request at a time."""

    def __init__(self, address: str, deadline: float, cluster: bytes) -> None:
        host, _, port = address.rpartition(":")
        self.limit, self.corr = BODY_BYTES_MAX, 0
        left = max(0.001, deadline - time.monotonic())
        self.socket = socket.create_connection((host.strip("[]"), int(port)), left)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._write(PREAMBLE + encode_frame(HELLO, 0, hello_body(cluster)), deadline)
            if self._read(len(PREAMBLE), deadline) != PREAMBLE:
                raise ConnectionFailed("this is no raftq node")
            kind, _flags, _corr, self.welcome = self._read_frame(deadline)
            if kind != WELCOME or self.welcome.get("version") != 1:
                raise ConnectionFailed("neither WELCOME nor REJECT")
            self.limit = self.welcome.get("frame_bytes_max") or BODY_BYTES_MAX
        except (OSError, RaftqError):
            self.socket.close()
            raise

    def request(self, kind: int, body: Map, deadline: float) -> Map:
        """Sends a request and returns the body of its reply; Refused if it was refused."""
        self.corr = self.corr % 0xFFFF_FFFF + 1
        data = encode_frame(kind, self.corr, body)
        if len(data) - HEADER_BYTES > self.limit:
            raise ValueError(f"the request is larger than this node takes ({self.limit} bytes)")
        self._write(data, deadline)
        while True:
            answer, flags, corr, reply = self._read_frame(deadline)
            if corr != self.corr or flags & IGNORABLE:
                continue  # an answer nobody waits for any more (§9), or what may be skipped (§6)
            if answer == REFUSED:
                raise Refused.from_map(reply)
            if answer != (UPDATED if kind == BATCH_UPDATE_JOB_STATUS else kind | ANSWER):
                raise ConnectionFailed(f"kind {answer:#04x} answers {kind:#04x}")
            return reply

    def _read_frame(self, deadline: float) -> Tuple[int, int, int, Map]:
        header = self._read(HEADER_BYTES, deadline)
        length = int.from_bytes(header[:4], "big")
        if length > self.limit:
            raise ConnectionFailed(f"a frame of {length} bytes")
        kind, flags, _group, corr, body = decode_frame(header, self._read(length, deadline))
        if not isinstance(body, dict):
            raise ConnectionFailed("a body that is no map")
        if kind == REJECT:
            raise Rejected.from_map(body)
        return kind, flags, corr, body

    def _write(self, data: bytes, deadline: float) -> None:
        self.socket.settimeout(max(0.001, deadline - time.monotonic()))
        self.socket.sendall(data)

    def _read(self, count: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            part = self.socket.recv(min(count - len(data), 65_536))
            if not part:
                raise ConnectionFailed("the connection ended")
            data += part
        return bytes(data)


# --- the client (§13) -----------------------------------------------------------------------------------------------
class Client:
    """A client, for one thread at a time. `seeds`: some nodes; `timeout`: seconds of a request over all its tries."""

    def __init__(self, seeds: Sequence[str], timeout: float = 15.0) -> None:
        if not seeds:
            raise ValueError("no address")
        self.nodes: List[str] = list(dict.fromkeys(seeds))
        self.timeout = timeout
        self.cluster = NO_CLUSTER
        self._leader: Optional[str] = None
        self._known_term = 0
        self.try_began = 0.0  # when the last try of the last call did, on the monotonic clock
        self._connections: Dict[str, Connection] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes every connection."""
        while self._connections:
            self._connections.popitem()[1].socket.close()

    def submit(self, command: Optional[Sequence[str]] = None, payload: Optional[bytes] = None, queue: str = "default",
               job_id: Optional[bytes] = None, **options: Any) -> bytes:
        """Submits a job and returns its id once a quorum has it. An error's `job_id` names it too.

        What it asks for beside being run goes by the names of §11: `priority=9`, `delay_ms=60_000`, `at_ms=...`,
        `ttl_ms=...`, `timeout_ms=...`, `retries=3`, `backoff_ms=...`, `backoff_max_ms=...`, `tags=["gpu"]`,
        `unique="invoice 4711"`, `unique_for_ms=...`. With `unique` the id may be that of the job which has the key.
        """
        unknown = sorted(set(options) - OPTIONS)
        if unknown:
            raise ValueError(f"no such option: {', '.join(unknown)}; there are {', '.join(sorted(OPTIONS))}")
        job_id = job_id or new_job_id()
        return self.call(SUBMIT_JOB, submit_body(job_id, queue, command, payload, options))["id"]

    def get(self, job_id: bytes) -> Map:
        """One job; Refused with NOT_FOUND if nobody knows it."""
        return self.call(GET_JOB, {"id": job_id})

    def list(self, status: Optional[str] = None, queue: Optional[str] = None, worker: Optional[str] = None,
             limit: int = 100, **more: Any) -> List[Map]:
        """Up to `limit` jobs in ascending order of id, over as many pages as it takes; also `tag`, `text`, `since_ms`,
        `until_ms`. A page may be empty and yet lead on."""
        jobs: List[Map] = []
        after: Optional[bytes] = None
        while len(jobs) < limit:
            size = min(limit - len(jobs), LIST_JOBS_MAX)
            page = self.call(LIST_JOBS, list_body(status, queue, worker, after, size, **more))
            jobs += page["jobs"]
            after = page.get("after") or (page["jobs"][-1]["id"] if page["jobs"] else None)
            if not page["more"] or after is None:
                break
        return jobs

    def why(self, job_id: bytes) -> Map:
        """Why a job is where it is: `reasons`, each with its name and its sentence, the most decisive first."""
        return self.call(WHY_JOB, {"id": job_id})

    def wait(self, ids: Iterable[bytes], timeout: Optional[float] = None) -> Dict[bytes, Result]:
        """Waits until all have ended, or `timeout` seconds (None: for ever); each job as it is then, or its error."""
        results: Dict[bytes, Result] = {job_id: RaftqError("not asked in time") for job_id in ids}
        pending, end = list(results), None if timeout is None else time.monotonic() + timeout
        while pending:
            begun = time.monotonic()
            left_ms = WAIT_SLICE_MS if end is None else max(0, int((end - begun) * 1000))
            part, pending = pending[:WAIT_JOBS_MAX], pending[WAIT_JOBS_MAX:]
            answered = self._each(WAIT_JOBS, wait_body(part, min(left_ms, WAIT_SLICE_MS)))
            results.update(answered)
            # Once more: jobs that go on, and those that had no room in the frame (§11).
            again = [job_id for job_id, job in answered.items()
                     if (job.code == RESOURCE_EXHAUSTED if isinstance(job, RaftqError) else job["status"] not in FINAL)]
            pending += again
            if end is not None and time.monotonic() >= end:
                break
            if len(again) == len(part) and time.monotonic() - begun < left_ms / 2000:
                time.sleep(PAUSE_FIRST)  # answered early without news: do not spin
        return results

    def cancel(self, ids: Iterable[bytes]) -> Dict[bytes, Result]:
        """Cancels jobs. Returns `{"status": "cancelled"}` or the error for each id."""
        return self._in_parts(CANCEL_JOBS, ids)

    def retry(self, ids: Iterable[bytes]) -> Dict[bytes, Result]:
        """Has jobs that failed or were cancelled tried again. `{}` or the error for each id; not to be repeated."""
        return self._in_parts(RETRY_JOBS, ids)

    def purge(self, ids: Iterable[bytes]) -> Dict[bytes, Result]:
        """Forgets jobs that have ended. `{}` or the error for each id."""
        return self._in_parts(PURGE_JOBS, ids)

    def queues(self) -> List[Map]:
        """Every queue that has jobs or rules, in order of name."""
        queues: List[Map] = []
        while True:
            page = self.call(LIST_QUEUES, {"after": queues[-1]["name"]} if queues else {})
            queues += page["queues"]
            if not page["more"] or not page["queues"]:
                return queues

    def change_queue(self, queue: str, change: Union[str, Map]) -> Map:
        """Changes the rules of a queue: "pause", "drain", "resume", {"limit": 4}, {"rate": {"count": 5, "per_ms": 1000}}."""
        return self.call(CHANGE_QUEUE, {"queue": queue, "change": change})

    def workers(self) -> List[Map]:
        """Every registered worker."""
        return self.call(LIST_WORKERS, {})["workers"]

    def status(self, local: bool = False) -> Map:
        """The state of the cluster as its leader, or with `local` some node, sees it."""
        return self.call(GET_CLUSTER_STATUS, {"local": local})

    def _in_parts(self, kind: int, ids: Iterable[bytes]) -> Dict[bytes, Result]:
        """A request about any number of jobs, in as many frames as it takes."""
        order, results = list(dict.fromkeys(ids)), {}
        for start in range(0, len(order), WAIT_JOBS_MAX):
            results.update(self._each(kind, {"ids": order[start:start + WAIT_JOBS_MAX]}))
        return results

    def _each(self, kind: int, body: Map) -> Dict[bytes, Result]:
        """A request about several jobs: each one's `ok` or error (§10)."""
        results = self.call(kind, body)["results"]
        if len(results) != len(body["ids"]):
            raise RaftqError(f"{len(results)} results for {len(body['ids'])} ids")
        return {job_id: item["ok"] if "ok" in item else Refused.from_map(item["refused"])
                for job_id, item in zip(body["ids"], results)}

    def call(self, kind: int, body: Map, timeout: Optional[float] = None, one_try: float = TRY_SECONDS) -> Map:
        """Sends one request, unchanged over all tries, until it is answered for good or the deadline has passed."""
        change, wait = kind in CHANGES, body.get("wait_ms", 0) / 1000
        timeout = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout + wait
        hops, pause, unknown, soon = 0, PAUSE_FIRST, False, time.monotonic() + SOON_SECONDS
        rejected: Set[str] = set()
        last: RaftqError = RaftqError(f"no node answered in {timeout:g} s", UNAVAILABLE, "UNAVAILABLE")
        address = self._leader or random.choice(self.nodes)
        while time.monotonic() < deadline:
            self.try_began = began = time.monotonic()
            delay, maybe = random.uniform(0.5, 1.0) * pause, False
            try:
                reply = self._try(address, kind, body, min(deadline, began + one_try + wait))
                self._leader = address
                return reply
            except Refused as error:
                last, maybe = error, change and error.unknown
                hint = error.leader if error.code == NOT_LEADER and hops < HOPS_MAX else None
                if hint and hint["term"] >= self._known_term:
                    self._known_term, address, hops, delay = hint["term"], hint["addr"], hops + 1, 0.0
                elif error.code == NOT_LEADER:
                    hops, address = 0, self._next(address)
                elif error.unknown or error.code in (UNAVAILABLE, DEADLINE_EXCEEDED):
                    address = self._next(address)
                elif error.code != RESOURCE_EXHAUSTED:
                    # Two settle it, whatever other tries did (§10).
                    settles = error.code == (FAILED_PRECONDITION if kind == REGISTER_WORKER else ALREADY_EXISTS)
                    unknown = unknown and not settles
                    break
                delay = max(delay, error.retry_after or 0.0)
            except (OSError, Rejected) as error:
                connection = self._connections.pop(address, None)
                if connection:
                    maybe = change  # some of the request may have left
                    connection.socket.close()
                if isinstance(error, OSError):
                    last = RaftqError(f"{address}: {error}", UNAVAILABLE, "UNAVAILABLE")
                else:
                    last = error
                    if connection is None and error.code != RESOURCE_EXHAUSTED:
                        rejected.add(address)
                    if rejected.issuperset(self.nodes):
                        break
                address = self._next(address)
            if maybe and not unknown and kind == SUBMIT_JOB:
                deadline = min(deadline, began + SETTLE_SECONDS)
            unknown = unknown or maybe
            if maybe and kind == RETRY_JOBS:  # done twice it is not the same as done once (§11)
                break
            is_full = last.code == RESOURCE_EXHAUSTED
            longest = PAUSE_SOON if began < soon and not is_full else PAUSE_MAX
            pause = min(2 * pause, longest) if delay else pause
            if time.monotonic() + delay >= deadline:
                break
            time.sleep(delay)
        if unknown:  # a definite refusal speaks of its own try alone (§10)
            last = OutcomeUnknown(f"it may have happened, or happen yet; last: {last}", DEADLINE_EXCEEDED,
                                  "DEADLINE_EXCEEDED", True, last.retry_after)
        last.unknown, last.job_id = unknown, body.get("id")
        raise last

    def _try(self, address: str, kind: int, body: Map, deadline: float) -> Map:
        """One try at one node, on the connection that is kept."""
        connection = self._connections.get(address)
        if connection is None:
            connection = Connection(address, min(deadline, time.monotonic() + CONNECT_SECONDS), self.cluster)
            met = connection.welcome["cluster"]
            if self.cluster == NO_CLUSTER:
                self.cluster = met
            elif met not in (NO_CLUSTER, self.cluster):  # nothing is asked there (§8)
                connection.socket.close()
                raise Rejected(f"{address} belongs to another cluster", FAILED_PRECONDITION, "FAILED_PRECONDITION")
            self._connections[address] = connection
            self.nodes = list(dict.fromkeys(self.nodes + [node["addr"] for node in connection.welcome["nodes"]]))
        return connection.request(kind, body, deadline)

    def _next(self, address: str) -> str:
        """The next known node, in turn."""
        self._leader = None
        at = self.nodes.index(address) + 1 if address in self.nodes else 0
        return self.nodes[at % len(self.nodes)]


# --- the worker (§12) -----------------------------------------------------------------------------------------------
class Job:
    """One attempt at a job, as its handler sees it: `id`, `queue`, `payload`, `attempt` (from 1 on) and `fence`.

    The fence is higher than that of every attempt before. Hand it to whatever the job writes to, so that the store can
    refuse a lower one than it has seen: `UPDATE ... SET fence = ? WHERE id = ? AND fence < ?`.
    """

    def __init__(self, worker: Worker, sent: Map) -> None:
        self.id: bytes = sent["id"]
        self.queue: str = sent["queue"]
        self.payload: bytes = sent["body"].get("payload", b"")
        self.attempt: int = sent["attempt"]
        self.fence: int = sent["fence"]
        timeout_ms = sent.get("timeout_ms")
        self._worker, self._is_dropped = worker, False
        self._timeout = float("inf") if timeout_ms is None else timeout_ms / 1000
        self._times_out = time.monotonic() + self._timeout

    def cancelled(self) -> bool:
        """Whether the result does not count any more: the job's timeout is over, it may be another worker's by now, or
        this worker was told to stop and its grace is over. Nobody can end a thread from outside, so a handler that
        takes long should look here now and then, and return. That a client cancelled the job comes within about a second.
        """
        now = time.monotonic()
        return self._is_dropped or now >= self._times_out or now >= self._worker._lease_end


Handler = Callable[[Job], Union[bytes, str, None]]


class Worker:
    """Runs handlers for the payloads of some queues, each job in a thread of its own, at most `slots` at once.

    `@worker.task("mail")` makes a function of one `Job` the handler of that queue. What it returns (bytes, str or None)
    is the job's output; an exception is a failed attempt, told by the last line of its traceback. `worker.run()` works
    until SIGTERM or SIGINT, or `worker.stop()`: then nothing more is begun, what runs may end within `grace` seconds,
    and the rest is given back without using up an attempt. A second signal gives back what runs at once.

    The name must be no other running worker's; without one, it is drawn at random. A worker survives changes of leader
    and restarts of nodes. When no leader has answered its heartbeats for 3 s, its jobs are given to others: so it drops
    them, and registers anew. Every job runs at least once and counts exactly once: see `Job`.

    Threads: two for the duties, one that looks for jobs, one for each job. Handlers that do not return though their
    result does not count any more stand in the way: once there are as many as slots, no further job is begun.
    """

    def __init__(self, addrs: Union[str, Sequence[str]], slots: int = 4, tags: Sequence[str] = (),
                 name: Optional[str] = None, grace: float = 10.0) -> None:
        self.addrs = [part.strip() for part in addrs.split(",")] if isinstance(addrs, str) else list(addrs)
        self.name = name or f"python-{os.urandom(8).hex()}"
        self.slots, self.tags, self.grace = slots, list(tags), grace
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name):
            raise ValueError(f"not a name (1 to 64 of A-Z a-z 0-9 . _ -): {self.name!r}")
        if not 1 <= slots <= WORKER_SLOTS_MAX:
            raise ValueError(f"{slots} slots; 1 to {WORKER_SLOTS_MAX}")
        if len(self.tags) > TAGS_MAX:
            raise ValueError(f"{len(self.tags)} tags; at most {TAGS_MAX}")
        self.finished = self.abandoned = 0  # attempts whose end was recorded; attempts dropped before their end
        self._handlers: Dict[str, Handler] = {}
        self._changed = threading.Condition()  # guards all below; waited on by the lanes
        self._incarnation = (int(time.time() * 1000) << 20) + random.getrandbits(20)
        self._gave_up: Optional[int] = None  # the start before, which dropped what it held
        self._is_registered = self._was_registered = self._is_leaving = self._is_over = self._is_drained = False
        self._maybe_registered = False  # whether this start may be registered, as far as is known
        self._lease_end = 0.0  # 3 s after the last answered heartbeat was sent; means something once registered
        self._due = self._reports_first = 0.0  # when to register or beat next; until when reports go before that
        self._failures = self._short_lives = 0
        self._running: Dict[int, Job] = {}  # by fence
        self._stuck: Set[Job] = set()  # handlers that go on though their result does not count
        self._reports: List[Map] = []  # bounded by the slots, for a slot is free only when its report is answered
        self._stops, self._stop_at = 0, float("inf")  # how often it was told to stop; when its grace is over
        self._fault: Optional[RaftqError] = None

    def task(self, queue: str) -> Callable[[Handler], Handler]:
        """Makes a function the handler of a queue."""
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", queue):
            raise ValueError(f"not a name (1 to 64 of A-Z a-z 0-9 . _ -): {queue!r}")
        if queue in self._handlers:
            raise ValueError(f"the queue {queue!r} has two handlers")

        def register(handler: Handler) -> Handler:
            self._handlers[queue] = handler
            return handler
        return register

    def stop(self) -> None:
        """Has it stop, as a signal does; twice as two do. Returns at once."""
        self._stops += 1  # no lock: a signal may come while its thread holds it

    def run(self) -> None:
        """Works until it is told to stop. RaftqError if the cluster does not take it as it is."""
        if not 1 <= len(self._handlers) <= WORKER_QUEUES_MAX:
            raise ValueError(f"a worker needs a task for 1 to {WORKER_QUEUES_MAX} queues")
        signals = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
        former = [(each, signal.signal(each, lambda *_: self.stop())) for each in signals]
        for lane in (self._attend, self._report):
            threading.Thread(target=self._lane, args=(lane,), daemon=True).start()
        try:
            while not self._turn():
                time.sleep(TURN_SECONDS)
            self._leave()
        finally:
            with self._changed:
                self._is_leaving = self._is_over = True
                self._drop_all()
                self._changed.notify_all()
            for each, handler in former:
                signal.signal(each, handler)
        if self._fault:
            raise self._fault

    def _turn(self) -> bool:
        """Looks at what is due; whether it is time to leave."""
        with self._changed:
            now = time.monotonic()
            self._look(now)
            if self._is_drained and self._is_registered and not (self._running or self._reports or self._stops):
                self._stops = 1  # its users have decided so, and nothing is left to run
            if self._stops and self._stop_at == float("inf"):
                self._stop_at, self._due = now + self.grace, 0.0  # the leader hears at once that it takes no more
                self._changed.notify_all()
            if self._stops > 1:
                self._stop_at = min(self._stop_at, now)
            if self._fault or now >= self._stop_at + LEAVE_SECONDS:
                return True
            if now >= self._stop_at:
                self._drop_all()
            is_open = self._maybe_registered and not self._is_registered  # it may yet be given jobs: not now (§12)
            return self._stops > 0 and not (self._running or self._reports or is_open)

    def _leave(self) -> None:
        """Says that it gives back whatever it holds."""
        with self._changed:
            self._is_leaving = True
            start = self._incarnation if self._is_registered else self._gave_up
        if start is None:
            return
        try:
            with Client(self.addrs) as client:
                left = max(HEARTBEAT_SECONDS, self._stop_at + LEAVE_SECONDS - time.monotonic())
                body = {"worker": self.name, "incarnation": start, "leaving": True}
                client.call(RELEASE_JOBS, body, min(left, LEAVE_SECONDS), HEARTBEAT_SECONDS)
        except RaftqError as error:
            log.warning("worker %s could not say that it leaves; others get its jobs 3 s later: %s", self.name, error)

    def _lane(self, turn: Callable[[Client], None]) -> None:
        """Does one duty again and again, with connections of its own, so that no other holds it up."""
        with Client(self.addrs) as client:
            while not self._is_over:
                try:
                    turn(client)
                except Exception:  # an answer that is none, most likely: the duty goes on
                    log.exception("worker %s", self.name)
                    time.sleep(WORKER_PAUSE_MAX)

    def _attend(self, client: Client) -> None:
        """Registers, or beats, once that is due."""
        with self._changed:
            self._changed.wait_for(lambda: time.monotonic() >= self._due or self._is_over,
                                   max(0.0, self._due - time.monotonic()))
            is_beat, incarnation, is_full = self._is_registered, self._incarnation, len(self._stuck) >= self.slots
            is_stopping = self._stops > 0
            # One that runs more names others each time (§12).
            running = list(self._running.values())
            held = [{"job": job.id, "fence": job.fence} for job in random.sample(running, min(len(running), HELD_MAX))]
            if not is_beat:
                self._changed.wait_for(lambda: not self._reports, max(0.0, self._reports_first - time.monotonic()))
            if self._is_leaving or not is_beat and (is_full or is_stopping) and not self._maybe_registered:
                self._changed.wait(TURN_SECONDS)
                return
            former_maybe, self._maybe_registered = self._maybe_registered, True
            gave_up = self._gave_up
        try:
            if is_beat:
                body = heartbeat_body(self.name, incarnation, is_full or is_stopping, held)
                answer = client.call(HEARTBEAT, body, HEARTBEAT_SECONDS, HEARTBEAT_SECONDS)
            else:
                serves = {"payloads": sorted(self._handlers)}
                body = register_body(self.name, incarnation, self.slots, serves, self.tags, gave_up)
                answer = client.call(REGISTER_WORKER, body, LEASE_SECONDS, HEARTBEAT_SECONDS)
        except RaftqError as error:
            with self._changed:
                if incarnation == self._incarnation and not self._is_leaving:
                    self._maybe_registered = former_maybe or error.unknown
                    self._not_answered(error)
            return
        with self._changed:
            if incarnation != self._incarnation:
                return  # it has given up meanwhile
            self._lease_end, self._failures = client.try_began + LEASE_SECONDS, 0
            self._due = client.try_began + HEARTBEAT_SECONDS
            self._short_lives = 0 if is_beat else self._short_lives
            for taken in answer.get("withdrawn", ()):
                job = self._running.pop(taken["fence"], None)
                if job:
                    self.abandoned += 1
                    self._drop(job)
            self._is_drained = answer.get("intake") == "drain"
            self._was_registered = True
            if not self._is_registered:
                self._is_registered = True
                # One of a former start ends by itself, within the time of one call.
                threading.Thread(target=self._reserve, args=(incarnation,), daemon=True).start()

    def _not_answered(self, error: RaftqError) -> None:
        """Hears that a registration or a heartbeat came to nothing."""
        is_over = isinstance(error, Refused) and error.code == FAILED_PRECONDITION
        if is_over and self._was_registered and (error.incarnation or 0) > self._incarnation:
            log.error("worker %s: another worker of this name has begun; this one ends", self.name)
            self._fault = error  # a higher number would take the jobs from it, and so on for ever (§12)
        elif is_over:
            log.warning("worker %s: the cluster says that this start of it is over; its jobs are dropped and it "
                        "registers anew. Is there another worker of this name?", self.name)
            self._short_lives += 1
            pause = random.random() * min(WORKER_PAUSE_MAX, PAUSE_FIRST * 2 ** min(self._short_lives, 10))
            self._give_up(pause, error.incarnation)
        elif error.is_final() and not self._is_registered:
            self._fault = error
        else:
            log.debug("worker %s: %s", self.name, error)
            self._failures += 1
            pause = min(WORKER_PAUSE_MAX, PAUSE_FIRST * 2 ** min(self._failures, 10))
            self._due = time.monotonic() + (PAUSE_FIRST if self._is_registered else random.uniform(0.5, 1.0) * pause)

    def _look(self, now: float) -> None:
        """First of all: a worker that was frozen must not begin or count anything before it looks at the clock."""
        if self._is_registered and now >= self._lease_end and not self._is_leaving:
            log.warning("worker %s: no heartbeat answered for %g s; its jobs are dropped and it registers anew",
                        self.name, LEASE_SECONDS)
            self._give_up(0.0, None)
        for job in [job for job in self._running.values() if now >= job._times_out]:
            self._end(job, b"", f"timed out after {job._timeout:g} s")
            self._drop(job)

    def _give_up(self, pause: float, named: Optional[int]) -> None:
        """Drops what runs, and draws a new start, above the one that was named."""
        self._drop_all()
        self._gave_up = self._incarnation if self._is_registered else None
        self._is_registered = self._maybe_registered = self._is_drained = False
        self._incarnation = max(self._incarnation, named or 0) + (1 << 20) + random.getrandbits(20)
        self._due = time.monotonic() + pause
        self._reports_first = time.monotonic() + REPORTS_FIRST_SECONDS
        self._changed.notify_all()

    def _drop_all(self) -> None:
        self.abandoned += len(self._running)
        while self._running:
            self._drop(self._running.popitem()[1])

    def _drop(self, job: Job) -> None:
        job._is_dropped = True
        self._stuck.add(job)
        if len(self._stuck) == self.slots:
            self._due = 0.0  # the leader hears at once that it takes no more
            self._changed.notify_all()

    def _reserve(self, incarnation: int) -> None:
        """Looks for jobs of one start, and begins them, until it is over."""
        after = 0
        with Client(self.addrs, TRY_SECONDS) as client:
            while self._incarnation == incarnation and not self._stops and not self._is_over:
                begun = time.monotonic()
                try:
                    body = reserve_body(self.name, incarnation, after, min(self.slots, RESERVE_JOBS_MAX), RESERVE_MS)
                    jobs = [Job(self, sent) for sent in client.call(RESERVE, body)["jobs"]]
                except Exception as error:
                    log.debug("worker %s: %s", self.name, error)
                    time.sleep(random.random() * WORKER_PAUSE_MAX)
                    continue
                for job in jobs:
                    if job.fence > after:
                        after = job.fence
                        self._start(job, incarnation)
                if not jobs:
                    client._leader = None  # it may be cut off from the others: look elsewhere
                    time.sleep(PAUSE_FIRST if time.monotonic() - begun < PAUSE_FIRST else 0.0)  # and do not spin

    def _start(self, job: Job, incarnation: int) -> None:
        """Begins a job, unless it is another's by now or will be given back."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._stuck) < self.slots or self._incarnation != incarnation
                                   or self._stops > 0)
            now = time.monotonic()
            self._look(now)
            if self._incarnation != incarnation or self._stops:
                return
            job._times_out = now + job._timeout
            self._running[job.fence] = job
            try:
                threading.Thread(target=self._work, args=(job,), daemon=True).start()
            except RuntimeError as error:
                self._end(job, b"", f"no thread for the handler: {error}")

    def _work(self, job: Job) -> None:
        """Runs the handler of a job."""
        output, error = b"", None
        try:
            result = self._handlers[job.queue](job)
            if not isinstance(result, (bytes, str, type(None))):
                raise TypeError(f"a handler returns bytes, str or None, and this one a {type(result).__name__}")
            output = result.encode() if isinstance(result, str) else result or b""
        except BaseException as fault:  # also SystemExit: it ends the attempt, not the worker
            log.warning("job %s, attempt %d failed", job.id.hex(), job.attempt, exc_info=True)
            error = traceback.format_exception_only(type(fault), fault)[-1].strip()
        with self._changed:
            self._look(time.monotonic())
            self._end(job, output, error)
            self._stuck.discard(job)
            self._changed.notify_all()

    def _end(self, job: Job, output: bytes, error: Optional[str]) -> None:
        """Has the end of an attempt reported; nothing if it was dropped before."""
        if self._running.pop(job.fence, None):
            self._reports.append(update_body(job.id, job.fence, output, error))
            self._changed.notify_all()

    def _report(self, client: Client) -> None:
        """Reports what has ended, again and again until it is answered."""
        with self._changed:
            self._changed.wait_for(lambda: self._reports or self._is_over)
            part = self._reports[:REPORTS_MAX]
        if self._is_over:
            return
        try:
            results = client.call(BATCH_UPDATE_JOB_STATUS, {"updates": part})["results"]
        except RaftqError as error:
            if not error.is_final():
                log.debug("worker %s: %s", self.name, error)
                time.sleep(random.uniform(0.5, 1.0) * PAUSE_FIRST)  # a call has made its own pauses
                return
            results = [{"refused": {"code": error.code, "name": error.name, "message": error.args[0]}}] * len(part)
        if len(results) != len(part):
            raise RaftqError(f"{len(results)} results for {len(part)} reports")
        with self._changed:
            del self._reports[:len(part)]  # the others only append
            for update, result in zip(part, results):
                no = Refused.from_map(result["refused"]) if "refused" in result else None
                if no is None:
                    self.finished += 1
                elif no.unknown or no.code == RESOURCE_EXHAUSTED:
                    self._reports.append(update)
                else:  # somebody else has the job, or it was cancelled: the result does not count
                    log.info("worker %s: the end of job %s came to nothing: %s", self.name, update["job"].hex(), no)
            self._changed.notify_all()


# --- selftest -------------------------------------------------------------------------------------------------------
def rebuild(kind: int, body: Map) -> Optional[Map]:
    """A request of the specification made anew as `Client` makes it; None for what it does not make."""
    if kind == HELLO and body["role"] == "client":
        return hello_body(body["cluster"])
    if kind == SUBMIT_JOB:
        work = body["body"]
        return submit_body(body["id"], body["queue"], work.get("command"), work.get("payload"), body.get("options"))
    if kind == LIST_JOBS:
        return list_body(**body)
    if kind == BATCH_UPDATE_JOB_STATUS:
        return {"updates": [update_body(it["job"], it["fence"], it["output"], it.get("error"))
                            for it in body["updates"]]}
    makes: Dict[int, Callable[..., Map]] = {WAIT_JOBS: wait_body, REGISTER_WORKER: register_body,
                                            HEARTBEAT: heartbeat_body, RESERVE: reserve_body}
    return makes[kind](**body) if kind in makes else None


def check_example(block: str) -> bool:
    """Checks one frame of the specification; whether it was also made anew. ValueError says what is wrong."""
    shown, _, rest = block.partition("\n---\n")
    header_text, _, body_text = rest.partition("\n")
    header, payload = bytes.fromhex(header_text.replace("|", " ")), bytes.fromhex(body_text)
    if len(header) != HEADER_BYTES or int.from_bytes(header[:4], "big") != len(payload):
        raise ValueError("the header's length is not the body's")
    kind, flags, group, corr, body = decode_frame(header, payload)
    # The body as people read it: JSON, folded at spaces, with h'..' for bytes.
    plain = re.sub(r"h'([0-9a-f]*)'", r'{"hex of bytes": "\1"}', re.sub(r"\n *", " ", shown))
    if body != json.loads(plain, object_hook=lambda m: bytes.fromhex(m["hex of bytes"]) if "hex of bytes" in m else m):
        raise ValueError(f"the bytes say {body}")
    if encode_frame(kind, corr, body, flags, group) != header + payload:
        raise ValueError("encoded again it is other bytes")
    made = rebuild(kind, body) if isinstance(body, dict) else None
    if made is not None and encode_frame(kind, corr, made) != header + payload:
        raise ValueError(f"the request made anew is {made}")
    return made is not None


def selftest(path: str) -> int:
    """Checks this file against the specification: every frame's bytes, and the numbers used here."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    faults: List[str] = []
    made = numbers = 0
    examples = re.findall(r"^```frame ([^\n]*)\n(.*?)\n```$", text, re.M | re.S)
    for title, block in examples:
        try:
            made += check_example(block)
        except (ValueError, KeyError, TypeError, ConnectionFailed, RaftqError) as error:
            faults.append(f"frame {title}: {error}")
    if not examples or f"```preamble\n{PREAMBLE.hex(' ')}\n```" not in text or zlib.crc32(b"123456789") != 0xCBF43926:
        faults.append("no frames, another preamble or another CRC")
    # Kinds and errors stand as `| 0x11 | NAME |`, limits as `| NAME | 1,024 |`; those this file knows by name.
    rows = re.findall(r"^\| (0x[0-9a-f]{2}|\d+) \| `([A-Z_]+)` \|", text, re.M)
    rows += [(value, name) for name, value in re.findall(r"^\| `([A-Z_]+)` \| ([\d,]+) \|", text, re.M)]
    for value, name in rows:
        if name in globals():
            numbers += 1
            if globals()[name] != int(value.replace(",", ""), 0):
                faults.append(f"{name} is {value}")
    for fault in faults:
        complain(fault)
    print(f"{len(examples)} frames, {made} of them made anew as requests; {numbers} numbers; {len(faults)} faults")
    return FAILURE if faults else OK


# --- command line ---------------------------------------------------------------------------------------------------
def exit_code(error: RaftqError) -> int:
    """The exit code of an error."""
    if error.unknown or error.code == NOT_FOUND:
        return UNKNOWN if error.unknown else MISSING
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


def complain(text: object) -> None:
    """A line on stderr, with control characters as dots (§19)."""
    print("raftq.py: " + re.sub(r"[\x00-\x1f\x7f-\x9f]", ".", str(text)), file=sys.stderr)


def run_submit(client: Client, args: argparse.Namespace) -> int:
    """submit: the id, or with --wait the output."""
    payload = None if args.payload is None else os.fsencode(args.payload)
    begun = time.monotonic()
    job_id = client.submit(args.words, payload, args.queue, parse_job_id(args.id) if args.id else None)
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
    if job["status"] == "completed":
        return OK
    complain(f"job {job_id.hex()} is {job['status']}: {job.get('error') or 'exit code %s' % job.get('exit_code')}")
    return JOB_FAILED if job["status"] in FINAL else FAILURE


def run_results(client: Client, args: argparse.Namespace) -> int:
    """wait and cancel: a line `ID STATUS` for each job."""
    ids = [parse_job_id(text) for text in args.ids]
    codes = []
    for job_id, job in (client.cancel(ids) if args.verb == "cancel" else client.wait(ids, args.timeout)).items():
        if isinstance(job, RaftqError):
            complain(f"job {job_id.hex()}: {job}")
            codes.append(exit_code(job))
        else:
            print(job_id.hex(), job["status"])
            if args.verb == "wait" and job["status"] != "completed":
                codes.append(JOB_FAILED if job["status"] in FINAL else FAILURE)
    return next((code for code in (UNKNOWN, NO_LEADER, MISSING, FAILURE, JOB_FAILED) if code in codes), OK)


def run(args: argparse.Namespace) -> int:
    """Does what the command line asks for."""
    if args.verb == "selftest":
        return selftest(args.spec)
    addresses = [part.strip() for part in args.addrs.split(",") if part.strip()]
    with Client(addresses, 15.0 if args.timeout is None else args.timeout) as client:
        if args.verb in ("submit", "wait", "cancel"):
            return run_submit(client, args) if args.verb == "submit" else run_results(client, args)
        answer: Any = (client.get(parse_job_id(args.id)) if args.verb == "get" else
                       client.list(args.status, args.queue, limit=args.limit) if args.verb == "list" else
                       client.workers() if args.verb == "workers" else client.status())
    print(json.dumps(printable(answer), indent=2))
    return NO_LEADER if args.verb == "status" and answer.get("leader") is None else OK


def parser() -> argparse.ArgumentParser:
    """The command line; --addrs and --timeout may stand before or after the verb."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--addrs", metavar="H:P,H:P", help="nodes to begin with (RAFTQ_ADDRS, 127.0.0.1:7101)")
    common.add_argument("--timeout", type=float, metavar="S", help="seconds for all tries (15), or to wait for jobs")
    top = argparse.ArgumentParser(prog="raftq.py", description="A client of raftq.", parents=[common])
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    submit = verbs.add_parser("submit", parents=[common], help="submit [--queue Q] [--wait] -- CMD ARG...")
    submit.add_argument("--queue", default="default")
    submit.add_argument("--payload", metavar="TEXT", help="a payload instead of a command")
    submit.add_argument("--wait", action="store_true", help="print the job's output when it has ended")
    submit.add_argument("--id", metavar="ID", help="repeat a submit whose outcome is unknown")
    verbs.add_parser("get", parents=[common], help="one job").add_argument("id", metavar="ID")
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
    args.words = list(argv[at + 1:]) or None
    args.addrs = getattr(args, "addrs", None) or os.environ.get("RAFTQ_ADDRS") or "127.0.0.1:7101"
    args.timeout = getattr(args, "timeout", None)
    if args.words and args.verb != "submit":
        top.error("only submit takes a command")
    if args.verb == "submit" and (args.words is None) == (args.payload is None):
        top.error("submit needs either -- CMD ARG... or --payload TEXT")
    try:
        return run(args)
    except RaftqError as error:
        complain(f"job {error.job_id.hex()}: {error}" if error.job_id else error)
        return exit_code(error)
    except (KeyError, TypeError, OSError, ValueError) as error:
        complain(f"{type(error).__name__}: {error}")
        return USAGE if isinstance(error, ValueError) else FAILURE
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
