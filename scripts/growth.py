"""What millions of jobs cost: memory a job, submits a second, restart."""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from disk_world import Cluster, die, end_on_signals, program, say, until

NODES = 3

# Jobs in one run of `raftq submit --batch`.
CHUNK = 50_000

# How long a node may take to read all it has, and to catch up.
READY_S = 300

# Flags of the nodes. What a bench has submitted and cancelled is not kept: the resident jobs are all there is.
FLAGS = ["--resident-max", "16GiB", "--finished-keep", "1000"]

# Little log is kept, and a snapshot is due as soon as the log has grown as much as the last one is long.
OFTEN = ["--log-keep", "1MiB", "--segment", "1MiB", "--snapshot-at", "1MiB"]

# Seconds of a window, and of the load before it, as `bench submit --secs 1` has them.
WINDOW_S = 1

# How long the wait for enough windows of one kind may take, and what one window may beyond its time.
WINDOWS_S = 300
BENCH_S = 120

# How often the data directories are looked at for a snapshot that is under way.
LOOK_S = 0.01

# What a directory holds meanwhile: a snapshot of its own, and one that comes from the leader.
WRITTEN, STREAMED = "snap.tmp", "snap.part-"

HELP = """
Three real nodes on this machine. It measures submits a second with an empty queue and with so many jobs resident, as
a share of the empty queue's; the memory of a node a job, before and after a start from its disk; and how long all
nodes take from their start until one leads and until all are ready. Jobs are payloads that nobody takes. With few
jobs the memory a job says nothing: what a node has without any is divided among them.

Then the nodes are started with little log kept, so that snapshots are frequent, and submits with 64 in flight are
measured in windows of a second: the median of the windows' p99 while a node writes a snapshot, and while one is
streamed to a follower that was away, against the windows with neither. The follower reads its disk in the windows of
its stream, too: it has just been started.
"""


def parse():
    parser = argparse.ArgumentParser(prog="growth.sh", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default="1000000", help="numbers of jobs, rising, with commas between (default 1000000)")
    parser.add_argument("--payload", type=int, default=256, help="bytes of each (default 256)")
    parser.add_argument("--secs", type=int, default=5, help="seconds of each measurement (default 5)")
    parser.add_argument("--windows", type=int, default=10,
                        help="windows of each kind with a snapshot under way (default 10; 0: without snapshots)")
    parser.add_argument("--dir", default=None, help="where the data is kept while it runs (default: a temporary directory)")
    return parser.parse_args()


def memory(cluster):
    """Resident bytes of each node."""
    sizes = {}
    for node, child in cluster.running.items():
        for line in Path(f"/proc/{child.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                sizes[node] = int(line.split()[1]) * 1024
    return sizes


def bench(cluster, secs):
    """Runs `bench submit` for so long; returns what it says."""
    words = ["bench", "submit", "--secs", str(secs), "--repeats", "1", "--no-floor", "--json"]
    answer = cluster.cli(*words, timeout=secs * 10 + 120)
    if answer.returncode != 0:
        die(1, f"growth.sh: bench failed: {answer.stderr}")
    return json.loads(answer.stdout.splitlines()[-1])


def fill(cluster, count, payload):
    """Submits so many jobs more; returns the seconds it took."""
    began = time.monotonic()
    line = json.dumps({"queue": "growth", "payload": "x" * payload})
    left = count
    while left > 0:
        now = min(left, CHUNK)
        answer = cluster.cli("submit", "--batch", "-", given="\n".join([line] * now), timeout=600)
        if answer.returncode != 0:
            die(1, f"growth.sh: a batch was refused: {answer.stderr[-500:]}")
        left -= now
    return time.monotonic() - began


def restart(cluster):
    """Kills all nodes and starts them; returns the seconds until the last one is ready, and until one leads."""
    cluster.kill_all()
    began = time.monotonic()
    for node in cluster.ids():
        cluster.start(node)
    until("a leader", lambda: any(cluster.values(n).get("ready") == "true" for n in cluster.ids()), READY_S)
    led = time.monotonic() - began
    until("all nodes ready", lambda: all(cluster.values(n).get("ready") == "true" for n in cluster.ids()), READY_S)
    return led, time.monotonic() - began


class Watch:
    """Notes when which snapshots are under way, by the files that they are written into."""

    def __init__(self, cluster):
        self.folders = [cluster.data(node) for node in cluster.ids()]
        self.spans = {WRITTEN: [], STREAMED: []}
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self):
        going = {}
        while not self.stopping.wait(LOOK_S):
            now = time.monotonic()
            names = {(kind, folder) for folder in self.folders for path in folder.glob("snap.*")
                     for kind in self.spans if path.name.startswith(kind)}
            for key in names - going.keys():
                going[key] = [now, now]
                self.spans[key[0]].append(going[key])
            for key in list(going):
                going[key][1] = now
                if key not in names:
                    del going[key]

    def overlaps(self, kind, begin, end):
        return any(since < end and until > begin for since, until in list(self.spans[kind]))

    def began(self, kind, after):
        return next((since for since, _until in list(self.spans[kind]) if since > after), None)

    def stop(self):
        self.stopping.set()
        self.thread.join(5)


def metric(cluster, node, name):
    with urllib.request.urlopen(f"http://{cluster.addrs[node]}/metrics", timeout=15) as answer:
        page = answer.read().decode()
    found = re.search(rf"^raftq_{name} (\d+)", page, re.M)
    if not found:
        die(1, f"growth.sh: node {node} tells no raftq_{name}")
    return int(found[1])


def window(cluster, watch, at=None):
    """Measures a window under load; returns its p99 and which kinds of snapshots were under way. `at` is called when
    the load begins, with the time at which the window does."""
    words = ["bench", "submit", "--secs", str(WINDOW_S), "--repeats", "1", "--no-floor", "--json"]
    child = subprocess.Popen([cluster.raftq, "--addrs", ",".join(cluster.addrs.values()), *words],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stuck = threading.Timer(BENCH_S, child.kill)
    stuck.start()
    try:
        told = []
        for line in child.stderr:
            told.append(line)
            if "round 1 of 1" in line:
                break
        begin = time.monotonic() + WINDOW_S
        if at:
            at(begin)
        out, rest = child.communicate()
    finally:
        stuck.cancel()
        child.kill()
        child.wait()
    if child.returncode != 0:
        die(1, f"growth.sh: bench failed: {''.join(told)}{rest}")
    kinds = {kind for kind in watch.spans if watch.overlaps(kind, begin, begin + WINDOW_S)}
    return json.loads(out.splitlines()[-1])["p99_ms"], kinds


def raft(cluster, node, name):
    return int(cluster.values(node, "raft").get(name, 0))


def away_and_back(cluster, watch, lead_s):
    """Lets a follower miss so much that it needs a snapshot, and measures while that is streamed. The follower is
    started so that the transfer begins in the window, if it begins `lead_s` after the start. Returns the windows, and
    how long it took to begin."""
    leader = cluster.wait_leader()
    follower = next(node for node in cluster.ids() if node != leader)
    last = raft(cluster, follower, "last_index")
    cluster.kill(follower)
    end = time.monotonic() + WINDOWS_S
    while raft(cluster, leader, "first_index") <= last + 1:
        if time.monotonic() > end:
            die(1, f"growth.sh: the leader has let go of no log within {WINDOWS_S} s")
        window(cluster, watch)
    started = []

    def start(begin):
        time.sleep(max(begin - time.monotonic() - lead_s, 0))
        started.append(time.monotonic())
        cluster.start(follower)

    windows = [window(cluster, watch, start)]
    end = time.monotonic() + READY_S
    while cluster.values(follower).get("ready") != "true":
        if time.monotonic() > end:
            die(1, f"growth.sh: node {follower} is not ready within {READY_S} s")
        windows.append(window(cluster, watch))
    began = watch.began(STREAMED, started[0])
    return [p99 for p99, kinds in windows if STREAMED in kinds], began and began - started[0]


def under_snapshots(cluster, options):
    """Measures submits while snapshots are written and streamed, and while none is."""
    cluster.flags = [*FLAGS, *OFTEN]
    restart(cluster)
    watch = Watch(cluster)
    try:
        leader = cluster.wait_leader()
        before = metric(cluster, leader, "snapshots_written_total")
        quiet, written, streamed = [], [], []
        end = time.monotonic() + WINDOWS_S
        while min(len(written), len(quiet)) < options.windows and time.monotonic() < end:
            p99, kinds = window(cluster, watch)
            (written if kinds else quiet).append(p99)
        snapshots = metric(cluster, leader, "snapshots_written_total") - before
        sent = 0
        lead_s = 0
        end = time.monotonic() + WINDOWS_S
        while len(streamed) < options.windows and time.monotonic() < end:
            leader = cluster.wait_leader()
            before = metric(cluster, leader, "snapshots_sent_total")
            some, took = away_and_back(cluster, watch, lead_s)
            sent += metric(cluster, leader, "snapshots_sent_total") - before
            streamed += some
            lead_s = took or 0
    finally:
        watch.stop()
        cluster.flags = FLAGS
    row = {"windows": len(quiet), "p99_ms": statistics.median(quiet) if quiet else None}
    for name, p99s, count in (("written", written, snapshots), ("streamed", streamed, sent)):
        p99 = statistics.median(p99s) if p99s else None
        row |= {f"windows_{name}": len(p99s), f"p99_ms_{name}": p99, f"snapshots_{name}": count}
        row[f"ratio_{name}"] = round(p99 / row["p99_ms"], 2) if p99 and quiet else None
    return row


def measure(cluster, options, base):
    rows = []
    empty = bench(cluster, options.secs)
    base_memory = max(memory(cluster).values())
    have = 0
    for goal in [int(number) for number in options.jobs.split(",")]:
        took = fill(cluster, goal - have, options.payload)
        rate = (goal - have) / took
        have = goal
        full = max(memory(cluster).values())
        ratios, p99s = [], []
        for _ in range(3):
            figures = bench(cluster, options.secs)
            ratios.append(figures["per_s"] / empty["per_s"])
            p99s.append(figures["p99_ms"])
        led, ready = restart(cluster)
        fresh = max(memory(cluster).values())
        rows.append({
            "jobs": goal, "filled_per_s": round(rate), "bytes_a_job": round((full - base_memory) / goal),
            "bytes_a_job_after_restart": round((fresh - base) / goal), "of_empty": round(statistics.median(ratios), 2),
            "p99_ms": statistics.median(p99s), "restart_ready_s": round(ready, 1), "restart_leader_s": round(led, 1),
        })
        say(json.dumps(rows[-1]))
        if options.windows > 0:
            say(json.dumps({"jobs": goal, **under_snapshots(cluster, options)}))
            restart(cluster)
    say(json.dumps({"empty_per_s": empty["per_s"], "empty_p99_ms": empty["p99_ms"]}))
    return rows


def main():
    options = parse()
    end_on_signals()
    folder = Path(tempfile.mkdtemp(prefix="raftq-growth-", dir=options.dir))
    cluster = Cluster(program(), NODES, folder, lambda node: folder / f"data{node}", FLAGS)
    try:
        for node in cluster.ids():
            cluster.start(node)
        cluster.wait_leader()
        base = max(memory(cluster).values())
        measure(cluster, options, base)
    finally:
        cluster.kill_all()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
