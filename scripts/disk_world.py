"""What the tests of real disks share: a cluster of real nodes, a load that records what was acknowledged, and the checks."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

PATIENCE_S = 40

# The exit code of a script that cannot run here, as automake has it for a test that was skipped.
CANNOT_RUN = 77
HERE = Path(__file__).resolve().parent.parent


class Lost(Exception):
    """A promise was broken: what was acknowledged is gone, nodes differ, or two led in one term."""


class CannotLook(Exception):
    """What was acknowledged may be there or not: it could not be looked at."""


def say(text):
    print(text, flush=True)


def program():
    """Returns the program under test: $RAFTQ, or one built now."""
    given = os.environ.get("RAFTQ")
    if given:
        return given
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=HERE, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target"))
    return str(target / "release" / "raftq")


def compile_shim(name, folder):
    """Builds a library of tests/shims to be preloaded; ends the script loudly where that cannot be done."""
    compiler = next((one for one in ("cc", "gcc", "clang") if shutil.which(one)), None)
    if not compiler:
        die(CANNOT_RUN, "CANNOT RUN: there is no C compiler (apt-get install gcc libc6-dev)")
    shim = Path(folder) / f"{name}.so"
    source = HERE / "tests" / "shims" / f"{name}.c"
    if subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"]).returncode != 0:
        die(CANNOT_RUN, f"CANNOT RUN: {source} does not compile here")
    return shim


def until(what, done, patience=PATIENCE_S):
    """Polls until `done` gives something true and returns it."""
    end = time.monotonic() + patience
    while True:
        value = done()
        if value:
            return value
        if time.monotonic() > end:
            raise Lost(f"{what}: not within {patience} s")
        time.sleep(0.02)


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Cluster:
    """Nodes 1 to `count`, each in the data directory that `data` names for it."""

    def __init__(self, raftq, count, folder, data, flags):
        self.raftq, self.count, self.folder, self.data = raftq, count, Path(folder), data
        self.flags = flags
        self.addrs = {n: f"127.0.0.1:{port}" for n, port in enumerate(free_ports(count), 1)}
        self.running = {}
        self.leaders = {}
        self.folder.mkdir(parents=True, exist_ok=True)

    def ids(self):
        return range(1, self.count + 1)

    def log_path(self, node):
        return self.folder / f"node{node}.log"

    def log_since(self, node, offset):
        path = self.log_path(node)
        return path.read_text(errors="replace")[offset:] if path.exists() else ""

    def log_size(self, node):
        return len(self.log_since(node, 0))

    def start(self, node, env=None):
        peers = ",".join(f"{n}={addr}" for n, addr in self.addrs.items())
        command = [self.raftq, "node", "--id", str(node), "--listen", self.addrs[node], "--peers", peers]
        command += ["--data", str(self.data(node)), "--slots", "0", *self.flags]
        with open(self.log_path(node), "ab") as log:
            self.running[node] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                env={**os.environ, **(env or {})},
            )

    def signal(self, node, number):
        self.running[node].send_signal(number)

    def kill(self, node):
        child = self.running.pop(node, None)
        if child:
            child.kill()
            child.wait()

    def kill_all(self):
        for node in list(self.running):
            self.kill(node)

    def has_ended(self, node):
        return node in self.running and self.running[node].poll() is not None

    def ended(self, node, patience=PATIENCE_S):
        """Waits for a node to end by itself and returns its exit code."""
        child = self.running[node]
        until(f"the end of node {node}", lambda: child.poll() is not None, patience)
        del self.running[node]
        return child.returncode

    def cli(self, *args, nodes=None, given=None, timeout=60):
        addrs = ",".join(self.addrs[n] for n in nodes or self.ids())
        return subprocess.run(
            [self.raftq, "--addrs", addrs, *args], input=given, capture_output=True, text=True, timeout=timeout
        )

    def text(self, node, lines):
        """Asks a node in text mode, a question a line, and returns all it answers."""
        with socket.create_connection(self.addr_of(node), timeout=15) as stream:
            stream.sendall(("\n".join(lines) + "\n").encode())
            stream.shutdown(socket.SHUT_WR)
            got = b""
            while chunk := stream.recv(1 << 16):
                got += chunk
        return got.decode(errors="replace")

    def addr_of(self, node):
        host, port = self.addrs[node].rsplit(":", 1)
        return host, int(port)

    def values(self, node, command="status"):
        """Returns the `key=value` lines of an answer; nothing if the node does not answer."""
        try:
            answer = self.text(node, [command])
        except OSError:
            return {}
        return dict(re.findall(r"^([a-z_]+)=(.*)$", answer, re.M))

    def note_leaders(self, nodes=None):
        """Notes who leads in which term; two in one term are a broken promise."""
        for node in nodes or list(self.running):
            seen = self.values(node)
            if seen.get("role") == "leader":
                term = int(seen["term"])
                if self.leaders.setdefault(term, node) != node:
                    raise Lost(f"nodes {self.leaders[term]} and {node} both led in term {term}")

    def status(self, nodes=None):
        answer = self.cli("cluster", "status", "--json", "--timeout", "2s", nodes=nodes)
        if answer.returncode not in (0, 5) or not answer.stdout:
            return None
        status = json.loads(answer.stdout)
        return status if status.get("leader") else None

    def wait_leader(self, nodes=None):
        """Waits until a node leads and takes writes; returns its number."""
        def ready():
            for node in nodes or self.ids():
                seen = self.values(node)
                if seen.get("role") == "leader" and seen.get("ready") == "true":
                    return node
            return None
        leader = until("a ready leader", ready)
        self.note_leaders(nodes)
        return leader

    def wait_whole(self, tend):
        """Waits for a leader that hears every node; returns its status."""
        def whole():
            tend()
            status = self.status()
            return status and all(node["is_alive"] for node in status["nodes"]) and status
        return until("every node alive", whole)

    def settle(self, tend=lambda: None):
        """Submits until the digests of all nodes are taken at one index above all that is there now. Calls `tend`
        at every look."""
        floor = int(self.wait_whole(tend)["commit_index"])

        def same():
            tend()
            status = self.status()
            if not status:
                return None
            nodes = status["nodes"]
            # No digest: the leader does not hear the node, or the node has not yet taken its first one.
            at = {int(node["digest_index"]) if node["digest"] else 0 for node in nodes}
            # Digests are taken at the same indexes everywhere: at one index they are equal or a promise is broken.
            if len(at) == 1 and min(at) >= floor:
                if len({node["digest"] for node in nodes}) != 1:
                    raise Lost(f"digests differ at {min(at)}: {[node['digest'] for node in nodes]}")
                return min(at)
            # Digests come every 64 entries: each of these is one or more.
            if min(at) < floor:
                for _ in range(8):
                    self.cli("submit", "--queue", "filler", "--payload", "x", "--timeout", "5s")
            return None
        return until("equal digests", same)


class Load:
    """Submits jobs of known ids from several processes at once and keeps what was acknowledged."""

    def __init__(self, cluster, prefix, lanes=3, size=20, payload=300):
        self.cluster, self.prefix, self.size, self.payload = cluster, prefix, size, payload
        self.acked, self.unknown, self.lock = [], 0, threading.Lock()
        self.stopping = threading.Event()
        self.children = set()
        self.lanes = [threading.Thread(target=self._lane, args=(n,), daemon=True) for n in range(lanes)]
        for lane in self.lanes:
            lane.start()

    def _lane(self, lane):
        number = 0
        while not self.stopping.is_set():
            ids = [f"{self.prefix}{lane:02x}{number + n:08x}" for n in range(self.size)]
            number += self.size
            lines = "".join(
                json.dumps({"queue": "cuts", "id": one, "payload": (one + " ") * (self.payload // 33)}) + "\n" for one in ids
            )
            addrs = ",".join(self.cluster.addrs.values())
            child = subprocess.Popen(
                [self.cluster.raftq, "--addrs", addrs, "submit", "--batch", "-", "--timeout", "10s"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            with self.lock:
                self.children.add(child)
            out, _ = child.communicate(lines)
            told = [line for line in out.split("\n") if line]
            with self.lock:
                self.children.discard(child)
                self.acked += told
                self.unknown += self.size - len(told)

    def count(self):
        with self.lock:
            return len(self.acked)

    def stop(self, at_once=False):
        """Ends the load. What its last requests came to is unknown if it ends at once."""
        self.stopping.set()
        if at_once:
            with self.lock:
                for child in self.children:
                    child.kill()
        for lane in self.lanes:
            lane.join(30)
        return list(self.acked)


def held_by(cluster, node, ids):
    """Returns those of `ids` that a node's own replica does not hold."""
    missing = []
    for at in range(0, len(ids), 500):
        some = ids[at:at + 500]
        answers = cluster.text(node, [f"job {one}" for one in some])
        found = set(re.findall(r"^id=([0-9a-f]{32})$", answers, re.M))
        missing += [one for one in some if one not in found]
    return missing


def check_acked(cluster, ids, tend=lambda: None):
    """Every node holds every acknowledged job, once all have caught up. Calls `tend` at every look until then."""
    cluster.settle(tend)
    for node in cluster.ids():
        missing = held_by(cluster, node, ids)
        if missing:
            raise Lost(f"node {node} lacks {len(missing)} of {len(ids)} acknowledged jobs, {missing[0]} is one")


def check_all(cluster, ids):
    """The leader's list holds every job ever acknowledged."""
    answer = cluster.cli("list", "--json", "--queue", "cuts", "--limit", "100000000", "--timeout", "60s", timeout=600)
    if answer.returncode != 0:
        raise CannotLook(f"the list of jobs broke off: {answer.stderr[-300:]}")
    held = {json.loads(line)["id"] for line in answer.stdout.splitlines()}
    missing = [one for one in ids if one not in held]
    if missing:
        raise Lost(f"{len(missing)} of {len(ids)} jobs ever acknowledged are gone, {missing[0]} is one")


class Progress:
    """Figures that outlive a run: a long one goes on where it stopped."""

    def __init__(self, path, fresh):
        self.path = Path(path)
        self.figures = json.loads(self.path.read_text()) if self.path.exists() and not fresh else {}

    def add(self, **more):
        for key, value in more.items():
            self.figures[key] = self.figures.get(key, 0) + value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".tmp")
        aside.write_text(json.dumps(self.figures, indent=1) + "\n")
        aside.rename(self.path)

    def get(self, key):
        return self.figures.get(key, 0)


def end_on_signals():
    """Lets SIGTERM and SIGHUP end the program as Ctrl-C does, so that everything is cleaned up."""
    def end(number, _frame):
        raise KeyboardInterrupt(f"signal {number}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def die(code, text):
    print(text, file=sys.stderr, flush=True)
    sys.exit(code)
