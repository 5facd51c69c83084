"""The n-th write or sync of a real node fails: it stops with the reason, acknowledges nothing after, and comes back whole."""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from disk_world import Cluster, Load, Lost, Progress, check_acked, check_all, compile_shim, die, end_on_signals, program, say, until

NODES = 3

# Small files and little log, so that every kind of file is written soon.
FLAGS = ["--segment", "64KiB", "--log-keep", "128KiB", "--snapshot-at", "1MiB"]

# What is called, how it fails, and the words the system has for it.
KINDS = {
    "sync-eio": ("sync", "eio", "Input/output error"),
    "write-eio": ("write", "eio", "Input/output error"),
    "write-enospc": ("write", "enospc", "No space left on device"),
    "write-full": ("write", "full", "No space left on device"),
    "write-short": ("write", "short", None),
}

# Calls of a start: beyond them a fault that waits for a start hits a node that runs, as the other one does.
START_CALLS_MAX = 12

# Cycles of one cluster; then a new one is made, so that no state grows for ever.
CYCLES_PER_CLUSTER = 40

HELP = """
Three real nodes take submits. In one of them, the leader or a follower, the n-th fsync or fdatasync fails with
EIO, or the n-th write fails with EIO or ENOSPC, is cut short by a full disk, or is merely short (no error: the node
goes on). For small n also at the node's start. The node must end by itself with exit code 1 and say why; the
file that failed must not be written or synced again by it; and when it has started once more, every acknowledged
job is on every node, and all digests are equal.

It goes on where it stopped, toward --to, and tells the figures of all its runs. Exit code 77: it cannot run here
(no C compiler), and says why.
"""


def parse():
    parser = argparse.ArgumentParser(prog="sync_errors.sh", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=int, default=20, help="the last n (default 20)")
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="only this kind; may be repeated")
    parser.add_argument("--fresh", action="store_true", help="forget former runs, begin at n = 1")
    parser.add_argument("--state", default="target/sync-errors.json", help="where figures are kept")
    return parser.parse_args()


class Run:
    def __init__(self, folder, shim, progress):
        self.folder, self.shim, self.progress = Path(folder), shim, progress
        self.cluster = Cluster(program(), NODES, folder, lambda node: self.folder / f"data{node}", FLAGS)
        self.acked = []
        for node in self.cluster.ids():
            self.start(node)
        self.cluster.wait_leader()

    def file(self, node, name):
        return self.folder / f"{name}{node}"

    def start(self, node):
        env = {
            "LD_PRELOAD": str(self.shim),
            "SHIM_DIR": str(self.cluster.data(node)),
            "SHIM_CONTROL": str(self.file(node, "control")),
            "SHIM_TRACE": str(self.file(node, "trace")),
        }
        self.cluster.start(node, env)

    def arm(self, node, kind, number):
        call, how, _words = KINDS[kind]
        aside = self.file(node, "aside")
        aside.write_text(f"{call} {how} {number}\n")
        aside.rename(self.file(node, "control"))

    def disarm(self, node):
        self.file(node, "control").unlink()
        trace = self.file(node, "trace")
        told = trace.read_text().splitlines() if trace.exists() else []
        trace.unlink(missing_ok=True)
        return told

    def cycle(self, number, kind, at_start):
        began = time.monotonic()
        dice = random.Random(f"{number} {kind} {at_start}")
        leader = self.cluster.wait_leader()
        node = leader if dice.random() < 0.5 else dice.choice([n for n in self.cluster.ids() if n != leader])
        mark = self.cluster.log_size(node)
        load = Load(self.cluster, f"{os.getpid() % 65536:04x}{number:08x}{list(KINDS).index(kind):02x}{int(at_start):02x}{'0' * 6}", lanes=2, size=8)
        time.sleep(0.1)
        try:
            if at_start:
                self.cluster.kill(node)
                self.arm(node, kind, number)
                self.start(node)
            else:
                self.arm(node, kind, number)
            self.await_fault(node, kind, mark)
            # Long enough for others to take over and acknowledge more.
            time.sleep(0.05)
        finally:
            acked = load.stop(at_once=True)
        told = self.disarm(node)
        again = [line for line in told if line.startswith("again")]
        if again:
            raise Lost(f"{kind} {number}: node {node} trusted a file that had failed: {told}")
        if self.cluster.has_ended(node):
            raise Lost(f"{kind} {number}: node {node} ended, and nothing had failed")
        # A node that went on has its fault behind it: only another process takes a new order.
        self.cluster.kill(node)
        self.start(node)
        check_acked(self.cluster, acked)
        self.acked += acked
        self.progress.add(cycles=1, acked=len(acked), unknown=load.unknown, seconds=round(time.monotonic() - began, 2))
        where = told[0].split()[-1].rsplit("/", 1)[-1] if told else "-"
        role = "start" if at_start else "leader" if node == leader else "follower"
        say(f"{kind:12} {number:3}  {role:8}  {where[:24]:24}  acknowledged {len(acked):5}  lost 0  {time.monotonic() - began:4.1f} s")

    def await_fault(self, node, kind, mark):
        trace = self.file(node, "trace")
        until(f"call {kind} of node {node}", lambda: trace.exists() or self.cluster.has_ended(node))
        words = KINDS[kind][2]
        if words is None:
            return
        code = self.cluster.ended(node)
        told = self.cluster.log_since(node, mark)
        if code != 1 or words not in told or "ERROR" not in told:
            raise Lost(f"{kind}: node {node} ended with {code}, and its log says: {told[-2000:]}")

    def end(self):
        self.cluster.kill_all()


def plan(options, progress):
    """Returns every cycle that has not been done, in order."""
    kinds = options.kind or list(KINDS)
    done = progress.get("done_to")
    for number in range(done + 1, options.to + 1):
        for kind in kinds:
            yield number, kind, False
            if number <= START_CALLS_MAX:
                yield number, kind, True


def live_one_cluster(shim, progress, cycles):
    folder = tempfile.mkdtemp(prefix="raftq-sync-errors-")
    run = None
    try:
        run = Run(folder, shim, progress)
        for number, kind, at_start in cycles:
            run.cycle(number, kind, at_start)
        check_all(run.cluster, run.acked)
    except (Lost, subprocess.CalledProcessError) as broken:
        for log in sorted(Path(folder).glob("node*.log")):
            say(f"--- {log}\n" + log.read_text(errors="replace")[-1500:])
        die(1, f"sync_errors.sh: BROKEN: {broken}\nDirectories and logs are kept in {folder}")
    finally:
        if run:
            run.end()
    shutil.rmtree(folder)


def main():
    options = parse()
    end_on_signals()
    progress = Progress(options.state, options.fresh)
    with tempfile.TemporaryDirectory(prefix="raftq-shim-") as folder:
        shim = compile_shim("fail_nth", folder)
        todo = list(plan(options, progress))
        while todo:
            now, todo = todo[:CYCLES_PER_CLUSTER], todo[CYCLES_PER_CLUSTER:]
            live_one_cluster(shim, progress, now)
            # A number whose kinds are not all done is done again by the next run.
            done = todo[0][0] - 1 if todo else options.to
            progress.add(done_to=done - progress.get("done_to"))
    figures = progress.figures
    say(
        f"sync errors: n = 1..{figures.get('done_to', 0)}, {figures.get('cycles', 0)} faults, acknowledged {figures.get('acked', 0)},"
        f" unknown {figures.get('unknown', 0)}, lost 0, files trusted after a failure 0, {figures.get('seconds', 0):.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
