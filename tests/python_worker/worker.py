"""A worker made with scripts/raftq.py, for the tests that kill, freeze and stop it: worker.py ADDRS NAME."""

import logging
import sys
import threading
import time

import raftq

logging.basicConfig(level=logging.INFO, format="%(message)s")
addrs, name = sys.argv[1:]
worker = raftq.Worker(addrs, slots=4, name=name, tags=["python"])
held = set()


def say(what, job):
    sys.stdout.write(f"{what} {job.id.hex()} {job.attempt} {job.fence}\n")  # in one piece: four threads say something
    sys.stdout.flush()


@worker.task("work")
def work(job):
    time.sleep(int(job.payload) / 1000)
    return f"{job.payload.decode()} ms in {job.queue}"


@worker.task("hold")
def hold(job):
    """Held until it is cancelled by the process named in the payload, when it meets the job first; else done at once."""
    if job.payload.decode() != name or job.id in held:
        return b"done by " + name.encode()
    held.add(job.id)
    say("held", job)
    while not job.cancelled():
        time.sleep(0.005)
    say("cancelled", job)
    return "never"


@worker.task("deaf")
def deaf(job):
    say("deaf", job)
    time.sleep(1.5)
    assert job.cancelled()
    say("heard", job)


@worker.task("end")
def end(job):
    say("end", job)
    what = job.payload.decode()
    if what == "raise":
        raise ValueError("no such mailbox")
    if what == "exit":
        sys.exit("no more")
    if what == "fail twice" and job.attempt < 3:
        raise LookupError(f"attempt {job.attempt}")
    return {"bytes": b"\x00\xff", "str": "é", "nothing": None, "number": 3, "long": "a" * 20_000 + "z"}.get(what, what)


worker.run()
assert threading.main_thread().is_alive()
print("finished", worker.finished, "abandoned", worker.abandoned, flush=True)
