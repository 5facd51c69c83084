"""What millions of jobs cost: memory a job, submits a second, restart."""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from disk_world import Cluster, die, end_on_signals, program, say, until

NODES = 3

# Jobs in one run of `raftq submit --batch`.
CHUNK = 50_000

# How long a node may take to read all it has, and to catch up.
READY_S = 300

HELP = """
Three real nodes on this machine. It measures submits a second with an empty queue and with so many jobs resident, as
a share of the empty queue's; the memory of a node a job, before and after a start from its disk; and how long all
nodes take from their start until one leads and until all are ready. Jobs are payloads that nobody takes. With few
jobs the memory a job says nothing: what a node has without any is divided among them.
"""


def parse():
    parser = argparse.ArgumentParser(prog="growth.sh", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default="1000000", help="numbers of jobs, rising, with commas between (default 1000000)")
    parser.add_argument("--payload", type=int, default=256, help="bytes of each (default 256)")
    parser.add_argument("--secs", type=int, default=5, help="seconds of each measurement (default 5)")
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
    say(json.dumps({"empty_per_s": empty["per_s"], "empty_p99_ms": empty["p99_ms"]}))
    return rows


def main():
    options = parse()
    end_on_signals()
    folder = Path(tempfile.mkdtemp(prefix="raftq-growth-", dir=options.dir))
    cluster = Cluster(program(), NODES, folder, lambda node: folder / f"data{node}", ["--resident-max", "16GiB"])
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
