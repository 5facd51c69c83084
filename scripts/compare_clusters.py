"""Clusters of three nodes that compare.py measures: raftq, etcd, RabbitMQ, NATS and the floor, each on 127.0.0.1."""

import glob
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

NODES = 3

# How long a cluster may take until it serves. RabbitMQ needs 20 s on two cores.
READY_S = 120

# How long the system may take to end killed processes.
GONE_S = 20

# How long one question to a node may take; the command line of RabbitMQ starts a whole Erlang.
ASK_S = 5
CTL_S = 60

# Ports below those that the system gives to outgoing connections, so that none of them takes one meanwhile.
PORTS = range(21000, 32000)

# The variable that every process started here has, and all it starts, so that each is found and ended by its pid.
MARK = "RAFTQ_COMPARE"


class Failed(Exception):
    """A cluster or a cell failed, in words."""


def marked(mark):
    """Returns the pids of all processes whose mark is this one or begins with it."""
    wanted = f"{MARK}={mark}".encode()
    pids = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            words = Path(path).read_bytes().split(b"\0")
        except OSError:
            continue  # gone, or another user's
        if any(word == wanted or word.startswith(wanted + b"/") for word in words):
            pids.append(int(path.split("/")[2]))
    return [pid for pid in pids if pid != os.getpid()]


def parent_of(pid):
    """Returns the pid of a process's parent; 0 if it is gone."""
    try:
        # The name in brackets may hold anything; behind it come the state and the parent.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def end_marked(mark):
    """Kills every process of this mark by its own pid; their data is thrown away, so none is asked first."""
    end = time.monotonic() + GONE_S
    looks = 0
    # A process that is just being started has its mark a moment later: one more look, then.
    while looks < 2:
        pids = marked(mark)
        parents = {parent_of(pid) for pid in pids}
        # Children first, so that their parents take note and leave no zombies behind.
        for pid in pids:
            if pid in parents and time.monotonic() < end - GONE_S / 2:
                continue
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if time.monotonic() > end:
            raise Failed(f"processes do not end: {pids}")
        looks = 0 if pids else looks + 1
        time.sleep(0.05)


class Ports:
    """Hands out free ports, none twice."""

    def __init__(self):
        first = secrets.randbelow(len(PORTS))
        self.left = [*PORTS[first:], *PORTS[:first]]

    def take(self, count):
        taken = []
        while len(taken) < count:
            if not self.left:
                raise Failed(f"there is no free port from {PORTS.start} to {PORTS.stop}")
            port = self.left.pop(0)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            taken.append(port)
        return taken


def ask(url, question=None):
    """Asks a node over HTTP for JSON; None while it does not answer."""
    try:
        with urllib.request.urlopen(url, question, timeout=ASK_S) as answer:
            return json.load(answer)
    except (OSError, ValueError, urllib.error.URLError):
        return None


def said(*command, env=None):
    """Runs a program for what it prints; nothing if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL, timeout=CTL_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def found(name):
    """Returns the path of a program; servers are often where only root looks."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")
    if not path:
        raise Failed(f"{name} is not installed")
    return path


class Cluster:
    """A cluster in a folder of its own. Its processes write into logs there, and bear the folder as their mark."""

    packages = []           # of Debian
    fresh = True            # each cell gets a new cluster; else the queue is made anew
    prepares = False        # a queue has to be made
    cells = ("submit", "batch", "cycle", "latency")

    def __init__(self, folder, ports, programs):
        self.folder, self.programs = Path(folder), programs
        self.children = []
        self.folder.mkdir(parents=True)
        try:
            self.make(ports)
            self.start()
            self.until(self.is_ready, READY_S, "the cluster is not ready")
        except BaseException:
            self.stop()
            raise

    def node_folder(self, number):
        folder = self.folder / f"node{number}"
        folder.mkdir(exist_ok=True)
        return folder

    def run(self, name, command, env=None, stdin=subprocess.DEVNULL):
        """Starts a process in a session of its own, so that Ctrl-C is this program's alone."""
        env = {**os.environ, **(env or {}), MARK: str(self.folder)}
        with open(self.folder / f"{name}.log", "ab") as log:
            child = subprocess.Popen(
                [str(word) for word in command], cwd=self.folder, env=env, stdin=stdin, stdout=log,
                stderr=log, start_new_session=True,
            )
        self.children.append((name, child))

    def until(self, holds, patience, what):
        end = time.monotonic() + patience
        while not holds():
            for name, child in self.children:
                if child.poll() is not None:
                    raise Failed(f"{name} has ended with {child.returncode}: {self.last_words()}")
            if time.monotonic() > end:
                raise Failed(f"{what} within {patience} s: {self.last_words()}")
            time.sleep(0.1)

    def last_words(self):
        """Returns the end of each log."""
        logs = sorted(self.folder.glob("*.log"))
        return " | ".join(f"{log.stem}: {log.read_text(errors='replace')[-300:].strip()}" for log in logs)

    def pids(self):
        return marked(self.folder)

    def stop(self):
        end_marked(self.folder)
        for _name, child in self.children:
            child.wait(GONE_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    def endpoints(self):
        """Returns where the driver connects, the leader first."""
        return self.addrs


class Raftq(Cluster):
    name = "raftq"

    def make(self, ports):
        self.addrs = [f"127.0.0.1:{port}" for port in ports.take(NODES)]

    def start(self):
        peers = ",".join(f"{number}={addr}" for number, addr in enumerate(self.addrs, 1))
        for number, addr in enumerate(self.addrs, 1):
            # No built-in workers: those of the cells are the client library's.
            words = ["node", "--id", number, "--listen", addr, "--peers", peers, "--slots", 0]
            self.run(f"node{number}", [self.programs["raftq"], *words, "--data", self.node_folder(number) / "data"])

    def is_ready(self):
        ask = [self.programs["raftq"], "--addrs", ",".join(self.addrs), "--timeout", "2s", "cluster"]
        words = (["ready"], ["status", "--alive", str(NODES)])
        return all(subprocess.run([*ask, *some], capture_output=True, timeout=CTL_S).returncode == 0 for some in words)

    @staticmethod
    def version(programs):
        return said(programs["raftq"], "--version").strip()


class Etcd(Cluster):
    # A new cluster for each cell: in 3.4 a delete of many keys makes every transaction after it slower.
    name, packages = "etcd", ["etcd-server"]

    def make(self, ports):
        self.clients = [f"http://127.0.0.1:{port}" for port in ports.take(NODES)]
        self.peers = [f"http://127.0.0.1:{port}" for port in ports.take(NODES)]

    def start(self):
        members = ",".join(f"n{number}={peer}" for number, peer in enumerate(self.peers, 1))
        token = secrets.token_hex(8)
        for number, (client, peer) in enumerate(zip(self.clients, self.peers), 1):
            self.run(f"node{number}", [
                found("etcd"), "--name", f"n{number}", "--data-dir", self.node_folder(number) / "data",
                "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
                "--initial-advertise-peer-urls", peer, "--initial-cluster", members, "--initial-cluster-state", "new",
                "--initial-cluster-token", token, "--quota-backend-bytes", 8 << 30, "--log-level", "error",
            ])

    def status(self, client):
        return ask(f"{client}/v3/maintenance/status", b"{}") or {}

    def leads(self, client):
        status = self.status(client)
        return status.get("leader") not in (None, "0") and status["leader"] == status.get("header", {}).get("member_id")

    def is_ready(self):
        healthy = [str((ask(f"{client}/health") or {}).get("health")).lower() == "true" for client in self.clients]
        return all(healthy) and any(self.leads(client) for client in self.clients)

    def endpoints(self):
        # The sort is stable: the leader comes first.
        return sorted(self.clients, key=lambda client: not self.leads(client))

    @staticmethod
    def version(_programs):
        return said(found("etcd"), "--version").split("\n")[0].replace(" Version:", "")


class Nats(Cluster):
    name, packages, fresh, prepares = "nats", ["nats-server"], False, True
    cells = ("submit", "cycle", "latency")

    def make(self, ports):
        clients, routes, self.monitors = (ports.take(NODES) for _ in range(3))
        self.addrs = [f"nats://127.0.0.1:{port}" for port in clients]
        known = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
        for number in range(NODES):
            folder = self.node_folder(number)
            (folder / "nats.conf").write_text(
                f"server_name: n{number}\nlisten: 127.0.0.1:{clients[number]}\nhttp: 127.0.0.1:{self.monitors[number]}\n"
                f'jetstream {{ store_dir: "{folder}/js", max_mem: 1G, max_file: 20G }}\n'
                f"cluster {{ name: c, listen: 127.0.0.1:{routes[number]}, routes: [ {known} ] }}\n"
            )

    def start(self):
        for number in range(NODES):
            self.run(f"node{number}", [found("nats-server"), "-c", self.node_folder(number) / "nats.conf"])

    def is_ready(self):
        states = [ask(f"http://127.0.0.1:{port}/jsz") or {} for port in self.monitors]
        meta = [state.get("meta_cluster", {}) for state in states]
        return all(one.get("leader") and one.get("cluster_size") == NODES for one in meta)

    def leader(self):
        """Returns the number of the node that leads the stream, -1 if none does."""
        for port in self.monitors:
            state = ask(f"http://127.0.0.1:{port}/jsz?accounts=true&streams=true") or {}
            for account in state.get("account_details", []):
                for stream in account.get("stream_detail", []):
                    leader = (stream.get("cluster") or {}).get("leader")
                    if stream.get("name") == "JOBS" and leader:
                        return int(leader[1:])
        return -1

    def endpoints(self):
        self.until(lambda: self.leader() >= 0, READY_S, "the stream has no leader")
        leader = self.leader()
        return [self.addrs[leader], *self.addrs[:leader], *self.addrs[leader + 1:]]

    @staticmethod
    def version(_programs):
        return said(found("nats-server"), "--version").strip().replace(": v", " ")


class Rabbit(Cluster):
    name, packages, fresh, prepares = "rabbitmq", ["rabbitmq-server"], False, True
    cells = ("submit", "cycle", "latency")

    def make(self, ports):
        clients, distribution, (self.epmd,) = ports.take(NODES), ports.take(NODES), ports.take(1)
        self.addrs = [f"amqp://guest:guest@127.0.0.1:{port}/%2f" for port in clients]
        tag = secrets.token_hex(4)
        self.names = [f"r{number}x{tag}@localhost" for number in range(NODES)]
        home = self.folder / "home"
        home.mkdir()
        (home / ".erlang.cookie").write_text(secrets.token_hex(16))
        (home / ".erlang.cookie").chmod(0o400)
        members = "".join(f"cluster_formation.classic_config.nodes.{at} = {name}\n" for at, name in enumerate(self.names, 1))
        self.envs = []
        for number in range(NODES):
            folder = self.node_folder(number)
            (folder / "rabbitmq.conf").write_text(
                f"listeners.tcp.1 = 127.0.0.1:{clients[number]}\nlog.console = true\nlog.console.level = error\n"
                f"log.file = false\ncluster_formation.peer_discovery_backend = classic_config\n{members}"
            )
            (folder / "enabled_plugins").write_text("[].\n")
            self.envs.append({
                "HOME": str(home), "RABBITMQ_NODENAME": self.names[number], "RABBITMQ_NODE_PORT": str(clients[number]),
                "RABBITMQ_DIST_PORT": str(distribution[number]), "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
                "RABBITMQ_LOG_BASE": f"{folder}/log", "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq", "RABBITMQ_LOGS": "-",
                "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins", "RABBITMQ_PID_FILE": f"{folder}/pid",
                "RABBITMQ_CONF_ENV_FILE": f"{folder}/none", "ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(self.epmd),
                # Busy waiting is off: with three nodes on few cores it would take the time from the others.
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                    "+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
                "RABBITMQ_CTL_ERL_ARGS": "+sbwt none",
            })

    @staticmethod
    def program(name):
        places = ["/usr/lib/rabbitmq/bin", *glob.glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin")]
        return next((f"{place}/{name}" for place in places if os.access(f"{place}/{name}", os.X_OK)), None) or found(name)

    def start(self):
        epmd = shutil.which("epmd") or max(glob.glob("/usr/lib/erlang/erts-*/bin/epmd"), default="epmd")
        self.run("epmd", [epmd, "-port", self.epmd, "-address", "127.0.0.1"], {"ERL_EPMD_ADDRESS": "127.0.0.1"})
        for number in range(NODES):
            self.run(f"node{number}", [self.program("rabbitmq-server")], self.envs[number])

    def control(self, number, *words):
        env = {**os.environ, **self.envs[number], MARK: str(self.folder)}
        return said(self.program("rabbitmqctl"), "-n", self.names[number], *words, env=env)

    def is_ready(self):
        """A quorum queue takes its members from the nodes there are: all must be."""
        try:
            return len(json.loads(self.control(0, "cluster_status", "--formatter", "json"))["running_nodes"]) == NODES
        except (ValueError, KeyError):
            return False

    def leader(self):
        listed = self.control(0, "-q", "list_queues", "name", "leader", "--no-table-headers")
        match = re.search(r"^jobs\s+(\S+)", listed, re.MULTILINE)
        return self.names.index(match.group(1)) if match and match.group(1) in self.names else -1

    def endpoints(self):
        self.until(lambda: self.leader() >= 0, READY_S, "the queue has no leader")
        leader = self.leader()
        return [self.addrs[leader], *self.addrs[:leader], *self.addrs[leader + 1:]]

    @staticmethod
    def version(_programs):
        packages = said("dpkg-query", "-W", "-f", "${Package} ${Version}, ", "rabbitmq-server", "erlang-base")
        return packages.strip(", ")


class Floor(Cluster):
    """No product: the least that a commit on the disks of a majority can be here (src/bench/floor.rs)."""

    name = "floor"
    cells = ("submit", "batch")

    def make(self, _ports):
        """Its nodes choose their ports themselves."""

    def start(self):
        followers = [self.start_node(number) for number in range(1, NODES)]
        self.addrs = [self.start_node(0, "--leads", ",".join(followers))]

    def start_node(self, number, *leads):
        """Starts a node and returns the address that it tells. It ends when its stdin does."""
        name = f"node{number}"
        words = [self.programs["raftq"], "bench", "floor-node", "--dir", self.node_folder(number), *leads]
        self.run(name, words, stdin=subprocess.PIPE)
        self.until(lambda: self.told(name), READY_S, f"{name} of the floor tells no address")
        return self.told(name)[0]

    def told(self, name):
        """Returns what a node has told so far: its address, then that it is ready."""
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        return [line for line in lines if line == "ready" or re.fullmatch(r"127\.0\.0\.1:\d+", line)]

    def is_ready(self):
        return all("ready" in self.told(name) for name, _child in self.children)

    @staticmethod
    def version(_programs):
        return "no product: `raftq bench floor-node`"


SYSTEMS = {system.name: system for system in (Raftq, Etcd, Rabbit, Nats, Floor)}
