"""Measures raftq beside etcd, RabbitMQ, NATS and the floor, on this machine and in one run."""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compare_clusters import CTL_S, MARK, SYSTEMS, Failed, Ports, end_marked, said
from compare_report import failure, render
from disk_world import CANNOT_RUN, HERE, end_on_signals, program

# The cells: what the driver is asked for, in this order.
CELLS = {
    "submit-1": ("submit", {"in-flight": 1}),
    "submit-64": ("submit", {"in-flight": 64}),
    "submit-1024": ("submit", {"in-flight": 1024}),
    "batch": ("submit", {"in-flight": 16, "batch": 100}),
    "cycle": ("cycle", {"in-flight": 128, "warm-up": 2}),
    "latency": ("latency", {"in-flight": 16}),
}
GROUPS = ("submit", "batch", "cycle", "latency")

# The latency cell has 50 jobs a second only: it takes so many times as long.
LATENCY_FACTOR = 2

# What a cell may take beyond the time that counts.
DRIVER_S = 90

# What the driver's build needs beside cargo: the protocol of etcd is compiled.
BUILD_PACKAGES = ["protobuf-compiler", "libprotobuf-dev"]
PROTOS = Path("/usr/include/google/protobuf/descriptor.proto")

# File systems in memory: a sync costs nothing there.
IN_MEMORY = ("tmpfs", "ramfs")

APT_S = 900

HELP = """
It runs a cluster of three nodes of each system on 127.0.0.1, one system at a time, and loads each with the same driver
(tests/compare): submits a second with 1, 64 and 1024 in flight; 100 jobs a request with 16 in flight (raftq, etcd,
floor); the whole cycle of a job with 4 workers; and how soon a job is acknowledged and delivered while workers are
idle. The floor is no product: a leader and two followers that write, sync and count a majority, and nothing else.

Missing systems are installed from Debian's packages, which needs root, and stay installed; no service is started.
All processes that it started are ended and their data is removed at the end, at Ctrl-C and at an error, too. The data
is kept below $CARGO_TARGET_DIR (default target/) meanwhile: some gigabytes, and no file system in memory will do.

With the default times it takes about 6 minutes a repeat, after the builds (5 to 8 minutes the first time). Nothing
else should run meanwhile.
Exit codes: 0 measured, 1 a cell failed (the report says which), 2 wrong options, 77 it cannot run here.
"""


def tell(text):
    print(text, file=sys.stderr, flush=True)


def cannot_run(why):
    tell(f"compare.sh: CANNOT RUN: {why}")
    sys.exit(CANNOT_RUN)


def listed(allowed):
    def parse(text):
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(allowed)}")
        if not names:
            raise argparse.ArgumentTypeError(f"name some of {', '.join(allowed)}")
        return [name for name in allowed if name in names]
    return parse


def at_least_1(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("1 at least")
    return number


def parse():
    parser = argparse.ArgumentParser(
        prog="compare.sh", description=__doc__ + "\n" + HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(SYSTEMS)
    parser.add_argument("--secs", type=at_least_1, default=5, help="seconds of a cell that count (default 5; latency takes twice that)")
    parser.add_argument("--repeats", type=at_least_1, default=3, help="how often everything is measured (default 3)")
    parser.add_argument("--only", type=listed(names), default=names, metavar="NAME,...", help=f"of {', '.join(names)}")
    parser.add_argument("--cells", type=listed(GROUPS), default=list(GROUPS), metavar="CELL,...", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    parser.add_argument("--keep-json", type=Path, metavar="FILE", help="append every result there, a line of JSON each")
    return parser.parse_args()


def is_installed(package):
    return "install ok installed" in said("dpkg-query", "-W", "-f", "${Status}", package)


def install(systems):
    """Installs what is missing. Debian starts services unless a program of this name says no."""
    if sys.platform != "linux":
        cannot_run("it needs Linux")
    wanted = [package for name in systems for package in SYSTEMS[name].packages]
    if not (shutil.which("protoc") and PROTOS.exists()):
        wanted += BUILD_PACKAGES
    missing = [package for package in wanted if not is_installed(package)]
    if not missing:
        return
    listed_missing = " ".join(missing)
    if not (Path("/etc/debian_version").exists() and shutil.which("apt-get") and shutil.which("dpkg-query")):
        cannot_run(f"this is no Debian, and these of its packages are needed: {listed_missing}")
    if os.geteuid() != 0:
        cannot_run(f"packages are missing and installing them needs root: apt-get install {listed_missing}")
    tell(f"installing {listed_missing}; no service is started")
    policy = Path("/usr/sbin/policy-rc.d")
    is_ours = not policy.exists()
    try:
        if is_ours:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
            done = subprocess.run(["apt-get", *words], env=env, capture_output=True, text=True, timeout=APT_S)
            if done.returncode != 0:
                cannot_run(f"apt-get {' '.join(words)} failed: {(done.stderr or done.stdout).strip()[-600:]}")
    finally:
        if is_ours:
            policy.unlink(missing_ok=True)


def build():
    """Builds raftq and the driver; returns their paths and the directory they are built in."""
    if not shutil.which("cargo"):
        cannot_run("cargo is missing, and raftq and the driver are built with it (https://rustup.rs)")
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target")).absolute()
    os.environ["CARGO_TARGET_DIR"] = str(target)
    tell("building raftq and the driver")
    raftq = str(Path(program()).absolute())
    manifest = HERE / "tests" / "compare" / "Cargo.toml"
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", str(manifest)], check=True)
    return {"raftq": raftq, "driver": str(target / "release" / "raftq-compare")}, target


def drive(programs, cluster, cell, endpoints, options, folder, secs):
    """Runs the driver once and returns what it says."""
    words = [programs["driver"], cell, cluster.name, "--endpoints", ",".join(endpoints)]
    words += ["--pids", ",".join(str(pid) for pid in cluster.pids()), "--secs", str(secs)]
    words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    env = {**os.environ, MARK: str(folder)}
    try:
        done = subprocess.run(words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=secs + DRIVER_S)
    except subprocess.TimeoutExpired:
        raise Failed(f"the driver did not end: {cluster.last_words()}") from None
    if done.returncode != 0:
        raise Failed(f"{done.stderr.strip()[-500:]} | {cluster.last_words()}")
    for line in done.stderr.strip().splitlines()[:5]:
        tell(f"    {line}")
    return json.loads(done.stdout)


class Run:
    """Everything of one run: what is started, and what was measured."""

    def __init__(self, args, programs, folder):
        self.args, self.programs, self.folder = args, programs, Path(folder)
        self.ports = Ports()
        self.records = []
        self.clusters = 0

    def start(self, name):
        self.clusters += 1
        return SYSTEMS[name](self.folder / f"{name}-{self.clusters}", self.ports, self.programs)

    def measure(self, cluster, cell):
        verb, options = CELLS[cell]
        secs = self.args.secs * (LATENCY_FACTOR if cell == "latency" else 1)
        if cluster.prepares:
            drive(self.programs, cluster, "prepare", cluster.addrs, {}, self.folder, CTL_S)
        return drive(self.programs, cluster, verb, cluster.endpoints(), options, self.folder, secs)

    def system(self, repeat, name):
        """Measures all cells of a system."""
        cluster = None
        try:
            for cell in CELLS:
                group = cell.split("-")[0]
                if group not in self.args.cells or group not in SYSTEMS[name].cells:
                    continue
                record = {"repeat": repeat, "system": name, "cell": cell}
                try:
                    cluster = cluster or self.start(name)
                    record["result"] = self.measure(cluster, cell)
                except (Failed, OSError, ValueError, subprocess.SubprocessError) as error:
                    record["error"] = str(error)
                self.keep(record)
                if cluster and ("error" in record or cluster.fresh):
                    cluster.stop()
                    cluster = None
        finally:
            if cluster:
                cluster.stop()

    def keep(self, record):
        record["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record["load"] = os.getloadavg()[0]
        self.records.append(record)
        if self.args.keep_json:
            with open(self.args.keep_json, "a") as out:
                out.write(json.dumps(record) + "\n")
        result = record.get("result", {})
        if "delivered" in result:
            figure = f"delivered p50 {result['delivered']['p50_ms']:.2f} ms"
        else:
            figure = f"{result.get('jobs_per_s', 0):,.0f}/s"
        tell(f"repeat {record['repeat'] + 1}  {record['system']:<8} {record['cell']:<11} {failure(record) or figure}")

    def all(self):
        names = self.args.only
        for repeat in range(self.args.repeats):
            # The order rotates, so that none is always the first or after the same one.
            turn = repeat % len(names)
            for name in names[turn:] + names[:turn]:
                self.system(repeat, name)


def file_system(folder):
    """Returns the name of the file system that a folder is on; statfs has one name for ext2, ext3 and ext4."""
    folder, found = Path(folder).resolve(), (0, "an unknown file system")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        # Blanks in a mount point are written as in C.
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), before.split()[4]))
        # What is mounted later on the same point hides what was there.
        if folder.is_relative_to(point) and len(point.parts) >= found[0]:
            found = len(point.parts), after.split()[0]
    return found[1]


def machine(args, folder):
    """Tells what it runs on."""
    lines = [line for name in ("/etc/os-release", "/proc/cpuinfo") for line in Path(name).read_text().splitlines()]

    def value(name, split, default):
        return next((line.split(split, 1)[1].strip(' "') for line in lines if line.startswith(name)), default)

    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cores": os.cpu_count(),
        "cpu": value("model name", ":", platform.machine()),
        "kernel": platform.release(),
        "system": value("PRETTY_NAME=", "=", "an unknown Linux"),
        "disk": file_system(folder),
        "repeats": args.repeats,
        "secs": args.secs,
    }


def clean(folder):
    """Ends every process and removes every file, whatever comes in between."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        end_marked(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    args = parse()
    if not any(group in SYSTEMS[name].cells for name in args.only for group in args.cells):
        tell(f"compare.sh: {', '.join(args.only)} cannot do {', '.join(args.cells)}")
        sys.exit(2)
    end_on_signals()
    install(args.only)
    programs, target = build()
    folder = Path(tempfile.mkdtemp(prefix="compare-", dir=target))
    try:
        about = machine(args, folder)
        if about["disk"] in IN_MEMORY:
            cannot_run(f"{target} is in memory ({about['disk']}), where a sync costs nothing: set CARGO_TARGET_DIR to a disk's")
        run = Run(args, programs, folder)
        run.all()
        versions = {name: SYSTEMS[name].version(programs) for name in args.only}
    finally:
        clean(folder)
    text = render(run.records, about, versions)
    print(text, end="", flush=True)
    if args.markdown:
        args.markdown.write_text(text)
    sys.exit(1 if any(failure(record) for record in run.records) else 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        tell("compare.sh: ended; everything it started is ended, too")
        sys.exit(130)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        tell(f"compare.sh: {error}")
        sys.exit(1)
