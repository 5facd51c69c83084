"""kill -9 at full load: what was acknowledged is there afterwards, all of it, on every node."""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from disk_world import CannotLook, Cluster, Load, Lost, check_all, die, end_on_signals, program, say, until

# Snapshots and releases of the log happen all the time, and are met by kills.
FLAGS = ["--log-keep", "16MiB", "--snapshot-at", "16MiB"]

# Processes that submit, and jobs in each of their requests: together more than a small machine can take.
LANES = 4
BATCH = 2000

# A cluster is thrown away when it holds so many jobs, so that no node outgrows the machine.
JOBS_MAX = 2_000_000

# How long there is load between two kills, and how long the dead are dead, in seconds.
LOAD_S = (0.3, 1.5)
DEAD_S = (0.0, 0.7)

HELP = """
Real nodes on this machine take batches of submits from four processes, as many as they can. Again and again a node,
the leader, a minority or all nodes are killed and started. After each kill the cluster must be whole again, and go on
acknowledging; in the end, and whenever it holds two million jobs, every job that was ever acknowledged must be there,
and the digests of all nodes equal.
"""


def positive(text):
    if not text.isdigit() or text == "0":
        raise argparse.ArgumentTypeError(f"{text}: a number from 1 on")
    return int(text)


def parse():
    parser = argparse.ArgumentParser(prog="kill_full.sh", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=positive, default=20, help="times that nodes are killed (default 20)")
    parser.add_argument("--nodes", type=int, default=3, help="nodes of the cluster (default 3)")
    parser.add_argument("--seed", type=int, default=1, help="which nodes are killed when (default 1)")
    parser.add_argument("--dir", default=None, help="where the data is kept while it runs (default: a temporary directory)")
    return parser.parse_args()


def victims(cluster, number, dice):
    ids = list(cluster.ids())
    leader = next((n for n in ids if cluster.values(n).get("role") == "leader"), ids[0])
    return [
        ("a node", [dice.choice(ids)]),
        ("the leader", [leader]),
        ("a minority", dice.sample(ids, (len(ids) - 1) // 2)),
        ("all nodes", ids),
    ][number % 4]


def kill(cluster, load, number, dice):
    """Kills some nodes under load and starts them; returns when the cluster is whole and acknowledges again."""
    time.sleep(dice.uniform(*LOAD_S))
    who, nodes = victims(cluster, number, dice)
    die_if_ended(cluster)
    for node in nodes:
        cluster.kill(node)
    time.sleep(dice.uniform(*DEAD_S))
    began = time.monotonic()
    for node in nodes:
        cluster.start(node)
    until("all nodes ready", lambda: die_if_ended(cluster) or are_ready(cluster))
    whole = time.monotonic() - began
    # What ran before the kill is counted when its process ends: more than that has to come.
    enough = load.count() + LANES * BATCH
    until("jobs acknowledged after a kill", lambda: load.count() > enough)
    cluster.note_leaders()
    say(f"kill {number + 1}: {who} {nodes}, whole after {whole:.1f} s, {load.count()} jobs acknowledged so far")
    return len(nodes)


def are_ready(cluster):
    """Each node says of itself that it has caught up. Its peers may not have missed it yet."""
    return all(cluster.values(node).get("ready") == "true" for node in cluster.ids())


def die_if_ended(cluster):
    for node in cluster.ids():
        if cluster.has_ended(node):
            raise Lost(f"node {node} has ended by itself: {cluster.log_since(node, 0)[-600:]}")


def round_of(options, folder, first, dice):
    """Kills until all is done or the cluster is full. Returns the kills, the nodes killed, the jobs and the seconds."""
    cluster = Cluster(program(), options.nodes, folder, lambda node: folder / f"data{node}", FLAGS)
    load = None
    try:
        for node in cluster.ids():
            cluster.start(node)
        cluster.wait_leader()
        prefix = f"{dice.getrandbits(88):022x}"
        load, began = Load(cluster, prefix, lanes=LANES, size=BATCH, payload=256), time.monotonic()
        kills = killed = 0
        while first + kills < options.kills and load.count() < JOBS_MAX:
            killed += kill(cluster, load, first + kills, dice)
            kills += 1
        took = time.monotonic() - began
        acked = load.stop()
        cluster.settle(lambda: die_if_ended(cluster))
        check_all(cluster, acked)
        return kills, killed, len(acked), took
    finally:
        if load:
            load.stop(at_once=True)
        cluster.kill_all()


def main():
    options = parse()
    if not 3 <= options.nodes <= 7:
        die(2, "kill_full.sh: --nodes is 3 to 7")
    end_on_signals()
    dice = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="raftq-kill-full-", dir=options.dir))
    kills = killed = jobs = took = 0
    try:
        while kills < options.kills:
            some = round_of(options, folder / f"from{kills}", kills, dice)
            kills, killed, jobs, took = kills + some[0], killed + some[1], jobs + some[2], took + some[3]
            shutil.rmtree(folder, ignore_errors=True)
    except Lost as broken:
        die(1, f"kill_full.sh: {broken}\nrepeat it: scripts/kill_full.sh --nodes {options.nodes} --seed {options.seed}; data in {folder}")
    except (CannotLook, subprocess.SubprocessError) as unknown:
        shutil.rmtree(folder, ignore_errors=True)
        die(2, f"kill_full.sh: nobody knows whether all jobs are there: {unknown}")
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        die(130, "kill_full.sh: interrupted")
    shutil.rmtree(folder, ignore_errors=True)
    say(f"kill_full: {kills} kills, {killed} nodes killed, {jobs} jobs acknowledged at {jobs / took:.0f} a second, 0 lost")


if __name__ == "__main__":
    sys.exit(main())
