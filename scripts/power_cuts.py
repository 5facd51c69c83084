"""Power cuts on real file systems: each node on a loop mount of its own, shut down without a flush, and mounted again."""

import argparse
import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from disk_world import (
    CANNOT_RUN, Cluster, Load, Lost, Progress, check_acked, check_all, compile_shim, die, end_on_signals, held_by, program, say, until,
)

NODES = 3

# Cuts of one cluster; then a new one is made, so that no state grows for ever.
CUTS_PER_CLUSTER = 10

# FS_IOC_SHUTDOWN of linux/fs.h: the file system forgets all that is not on its disk, as a power cut makes it.
FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2

# Sparse, so that only what is written takes room. XFS makes none below 300 MB.
IMAGE_BYTES = {"ext4": 160 << 20, "xfs": 320 << 20}
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}

# Small files and little log, so that a short load rolls segments, writes snapshots and lets go of log.
FLAGS = ["--segment", "64KiB", "--log-keep", "256KiB", "--snapshot-at", "1MiB"]

HELP = """
Each of three nodes has its data on its own loop-mounted file system. While clients submit jobs, the
file systems are shut down without a flush (FS_IOC_SHUTDOWN): all that was not synced is gone, file names too.
Then kill -9, umount, mount, start. After every cut each node must hold every acknowledged job, all digests
must be equal, and no term may have had two leaders.

Kinds of cuts, drawn by the seed:
  all   all nodes at once
  one   the leader, or another node, while a third one is paused (SIGSTOP) or down; the one that was cut must
        then form the majority with that one alone, so that it may not have forgotten anything
  full  one disk, or all of them, has no room left: the node stops and says so, and goes on after room is made

It goes on where it stopped, toward --cuts, and tells the figures of all its runs. Exit code 77: it cannot run
here (no root, no loop devices, no mkfs), and says why.
"""


def parse():
    parser = argparse.ArgumentParser(prog="power_cuts.sh", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fs", choices=sorted(MAKE), default="ext4")
    parser.add_argument("--cuts", type=int, default=5, help="cuts in all, those of former runs included (default 5)")
    parser.add_argument("--fresh", action="store_true", help="forget the figures of former runs")
    parser.add_argument("--seed", type=int, help="seed of the dice (default: the number of cuts done)")
    parser.add_argument("--kind", choices=["all", "one", "full"], help="cuts of this kind only")
    parser.add_argument("--state", help="where figures are kept (default target/power-cuts-FS.json)")
    parser.add_argument("--lying-disk", action="store_true", help="see the checks go red: syncs of the log do nothing, so that a loss must be found (exit code 0 then)")
    return parser.parse_args()


def require(filesystem):
    """Says loudly what is missing, if anything is."""
    missing = []
    if os.geteuid() != 0:
        missing.append("root")
    if not Path("/dev/loop-control").exists():
        missing.append("loop devices (/dev/loop-control)")
    package = {"ext4": "e2fsprogs", "xfs": "xfsprogs"}[filesystem]
    for tool in (MAKE[filesystem][0], "losetup", "mount", "umount"):
        if not shutil.which(tool):
            missing.append(tool + (f" (apt-get install {package})" if tool.startswith("mkfs") else ""))
    if missing:
        die(CANNOT_RUN, f"power_cuts.sh: CANNOT RUN on {filesystem}: missing: {', '.join(missing)}")


class Disks:
    """One file system for each node, in a file, mounted through a loop device."""

    def __init__(self, folder, filesystem):
        self.folder, self.filesystem, self.loops = Path(folder), filesystem, {}

    def mount_point(self, node):
        return self.folder / f"disk{node}"

    def make(self, node):
        image = self.folder / f"disk{node}.img"
        with open(image, "wb") as file:
            file.truncate(IMAGE_BYTES[self.filesystem])
        subprocess.run([*MAKE[self.filesystem], str(image)], check=True, stdout=subprocess.DEVNULL)
        loop = subprocess.run(["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True)
        self.loops[node] = loop.stdout.strip()
        self.mount_point(node).mkdir()
        self.mount(node)

    def mount(self, node):
        subprocess.run(["mount", "-t", self.filesystem, self.loops[node], str(self.mount_point(node))], check=True)

    def umount(self, node):
        point = str(self.mount_point(node))
        until(f"umount {point}", lambda: subprocess.run(["umount", point], stderr=subprocess.DEVNULL).returncode == 0, 10)

    def cut(self, nodes):
        """Cuts the power of several disks, as nearly at once as calls can be."""
        points = [os.open(self.mount_point(node), os.O_RDONLY) for node in nodes]
        for point in points:
            fcntl.ioctl(point, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        for point in points:
            os.close(point)

    def again(self, node):
        self.umount(node)
        self.mount(node)

    def fill(self, node):
        """Takes all room that is left."""
        with open(self.mount_point(node) / "ballast", "wb", buffering=0) as ballast:
            size = 1 << 20
            while size >= 512:
                try:
                    ballast.write(b"\xff" * size)
                except OSError:
                    size //= 2
            os.fsync(ballast.fileno())

    def make_room(self, node):
        (self.mount_point(node) / "ballast").unlink()

    def remove_all(self):
        for node, loop in self.loops.items():
            point = str(self.mount_point(node))
            subprocess.run(["umount", point], stderr=subprocess.DEVNULL)
            if os.path.ismount(point):
                subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL)
            subprocess.run(["losetup", "-d", loop], stderr=subprocess.DEVNULL)


class Run:
    """One cluster, and the cuts it lives through."""

    def __init__(self, options, folder, progress):
        self.options, self.progress = options, progress
        self.disks = Disks(folder, options.fs)
        data = lambda node: self.disks.mount_point(node) / "data"
        self.cluster = Cluster(program(), NODES, folder, data, FLAGS)
        self.acked = []
        # Where each node's log stood when its disk was filled.
        self.filled = {}
        self.env = {"LD_PRELOAD": str(compile_shim("lying_sync", folder))} if options.lying_disk else {}

    def start(self, node):
        self.cluster.start(node, self.env)

    def go(self):
        for node in self.cluster.ids():
            self.disks.make(node)
            self.start(node)
        self.cluster.wait_leader()
        for _ in range(min(CUTS_PER_CLUSTER, self.options.cuts - self.progress.get("cuts"))):
            number = self.progress.get("cuts")
            dice = random.Random(number if self.options.seed is None else self.options.seed + number)
            kind = self.options.kind or dice.choices(["all", "one", "full"], [60, 30, 10])[0]
            self.cycle(number, kind, dice)
        check_all(self.cluster, self.acked)

    def cycle(self, number, kind, dice):
        began = time.monotonic()
        self.filled = {}
        before = self.cluster.wait_leader()
        load = Load(self.cluster, f"{os.getpid() % 65536:04x}{number:08x}{'0' * 10}")
        time.sleep(dice.uniform(0.1, 0.8))
        try:
            detail = {"all": self.cut_all, "one": self.cut_one, "full": self.fill}[kind](dice, before, load)
        finally:
            acked = load.stop(at_once=True)
        self.cluster.note_leaders()
        check_acked(self.cluster, acked, self.revive)
        self.acked += acked
        self.progress.add(cuts=1, acked=len(acked), unknown=load.unknown, seconds=round(time.monotonic() - began, 2), **{kind: 1})
        say(
            f"cut {number + 1:3}  {self.options.fs:4}  {kind:4}  {detail:34}  acknowledged {len(acked):5}"
            f"  unknown {load.unknown:3}  lost 0  {time.monotonic() - began:4.1f} s"
        )

    def cut_all(self, dice, _leader, load):
        """The power of all machines fails at once."""
        self.disks.cut(self.cluster.ids())
        # Long enough for a node to notice, or not.
        time.sleep(dice.choice([0, 0, 0.02, 0.3]))
        self.cluster.kill_all()
        load.stop(at_once=True)
        for node in self.cluster.ids():
            self.disks.again(node)
        order = list(self.cluster.ids())
        dice.shuffle(order)
        for node in order:
            self.start(node)
            time.sleep(dice.choice([0, 0, 0.2]))
        after = self.cluster.wait_leader()
        return f"leads then {after}"

    def cut_one(self, dice, leader, load):
        """One machine loses its power while another one sleeps: what the two acknowledged without the sleeper
        must be on the disk of the one that was cut, for the next majority is these two."""
        others = [node for node in self.cluster.ids() if node != leader]
        sleeper = dice.choice(others)
        awake = [node for node in others if node != sleeper]
        victim = dice.choice([leader, *awake])
        witness = next(node for node in self.cluster.ids() if node not in (sleeper, victim))
        # One that sleeps still finds what the system took in for it; one that is down finds nothing.
        is_down = dice.random() < 0.5
        if is_down:
            self.cluster.kill(sleeper)
        else:
            self.cluster.signal(sleeper, signal.SIGSTOP)
        time.sleep(dice.uniform(0.2, 0.6))
        self.disks.cut([victim])
        time.sleep(dice.choice([0, 0, 0.02, 0.3]))
        self.cluster.kill(victim)
        acked = load.stop(at_once=True)
        # The only other one that knows sleeps now.
        self.cluster.signal(witness, signal.SIGSTOP)
        self.disks.again(victim)
        self.start(victim)
        if is_down:
            self.start(sleeper)
        else:
            self.cluster.signal(sleeper, signal.SIGCONT)
        after = self.cluster.wait_leader(nodes=[victim, sleeper])
        until(f"every acknowledged job on node {after}", lambda: not held_by(self.cluster, after, acked))
        self.cluster.signal(witness, signal.SIGCONT)
        role = "leader" if victim == leader else "follower"
        return f"{role} {victim}, {sleeper} {'down' if is_down else 'asleep'}, leads {after}"

    def fill(self, dice, leader, load):
        """A disk is full: its node stops with the reason, and goes on when there is room."""
        victims = list(self.cluster.ids()) if dice.random() < 0.3 else [dice.choice(list(self.cluster.ids()))]
        self.filled = {node: self.cluster.log_size(node) for node in victims}
        for node in victims:
            self.disks.fill(node)
        # A full disk stops a node when it needs a new file: zeroed segments have their room already. Of all, two
        # stop; the third is asked for nothing any more, or stops a little later.
        stopped = set()
        while len(stopped) < min(len(victims), 2):
            node = until("a node that stops", lambda: next((n for n in victims if n not in stopped and self.cluster.has_ended(n)), None))
            self.expect_no_room(node)
            stopped.add(node)
        if len(victims) > 1:
            load.stop(at_once=True)
        for node in victims:
            self.disks.make_room(node)
        for node in stopped:
            # It has room now: another stop would have another reason.
            del self.filled[node]
            self.start(node)
        self.cluster.wait_leader()
        return f"no room on {', '.join(map(str, victims))}"

    def expect_no_room(self, node):
        """A node that has ended did so for want of room, and said so."""
        code, told = self.cluster.ended(node), self.cluster.log_since(node, self.filled[node])
        if code != 1 or "No space left on device" not in told:
            raise Lost(f"node {node} ended with {code} on a full disk, and its log says: {told[-2000:]}")

    def revive(self):
        """Starts again what stopped late for want of room; a node that stops for another reason is a broken promise."""
        for node in list(self.filled):
            if self.cluster.has_ended(node):
                self.expect_no_room(node)
                del self.filled[node]
                self.start(node)

    def end(self):
        self.cluster.kill_all()
        self.disks.remove_all()


def live_one_cluster(options, progress):
    """Makes a cluster, cuts its power some times, and leaves nothing of it behind unless a promise was broken."""
    folder = tempfile.mkdtemp(prefix="raftq-power-cuts-")
    run = Run(options, folder, progress)
    try:
        run.go()
    except (Lost, subprocess.CalledProcessError) as broken:
        for log in sorted(Path(folder).glob("node*.log")):
            say(f"--- {log}\n" + log.read_text(errors="replace")[-1500:])
        die(1, f"power_cuts.sh: BROKEN at cut {progress.get('cuts') + 1}: {broken}\nDisks and logs are kept in {folder}")
    finally:
        run.end()
    shutil.rmtree(folder)


def see_it_go_red(options):
    """Counts a run over disks that lie as good when it finds what they lost."""
    folder = tempfile.mkdtemp(prefix="raftq-power-cuts-")
    progress = Progress(Path(folder) / "figures.json", True)
    run = Run(options, folder, progress)
    try:
        run.go()
    except Lost as found:
        say(f"power cuts on {options.fs}, syncs that do nothing: found at cut {progress.get('cuts') + 1}: {found}")
        return 0
    finally:
        run.end()
        shutil.rmtree(folder, ignore_errors=True)
    die(1, f"power_cuts.sh: syncs did nothing, and {options.cuts} cuts lost nothing: the checks see nothing")


def main():
    options = parse()
    require(options.fs)
    end_on_signals()
    if options.lying_disk:
        return see_it_go_red(options)
    progress = Progress(options.state or f"target/power-cuts-{options.fs}.json", options.fresh)
    while progress.get("cuts") < options.cuts:
        live_one_cluster(options, progress)
    figures = progress.figures
    kinds = ", ".join(f"{figures.get(kind, 0)} {kind}" for kind in ("all", "one", "full"))
    say(
        f"power cuts on {options.fs}: {figures.get('cuts', 0)} of {options.cuts} ({kinds}), acknowledged {figures.get('acked', 0)},"
        f" unknown {figures.get('unknown', 0)}, lost 0, two leaders in a term 0, {figures.get('seconds', 0):.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
