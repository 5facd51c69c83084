"""The tables of compare.py: for each cell the median over the repeats [lowest - highest], and the ratio of raftq to each."""

import statistics

# The system that the others are compared with.
OURS = "raftq"

ON_DISK = {
    "raftq": "the entry is synced (fdatasync) on a majority of the nodes",
    "etcd": "the entry is synced (fdatasync) on a majority of the nodes",
    "rabbitmq": "the quorum queue's log is synced on a majority of the nodes",
    "nats": "NOTHING is synced: it is in the memory of the kernel on a majority, and synced every 2 minutes. A killed "
            "process loses nothing; a power cut of a majority loses what was acknowledged",
    "floor": "the bytes are synced (fdatasync) on a majority of the nodes; there is nothing else: no consensus, no queue",
}

COMPLETED = {
    "raftq": "when the worker's report is on the disks of a majority. Counted when the worker begins a further job in "
             "its place, which says so; no more than 512 are between the two",
    "etcd": "when the transaction that deletes the assigned key is confirmed",
    "rabbitmq": "when the ack is SENT: AMQP 0-9-1 does not confirm it, so a job that is done may be delivered again",
    "nats": "when the server confirms the ack (double ack), which is not synced either",
    "floor": "never; it has no workers",
}

DRIVEN = {
    "raftq": "its own client library and worker; up to 4 clients of one connection each; `--slots 0`, else its defaults",
    "etcd": "etcd-client, up to 8 connections, all to the leader; a job is a key, assign and complete are transactions; "
            "quota of 8 GiB, else its defaults",
    "rabbitmq": "lapin, up to 4 connections and 16 channels, all to the leader's node; persistent, publisher confirms; "
                "busy waiting of the Erlang VM off, else its defaults",
    "nats": "async-nats, up to 4 connections, all to the leader; file stream, R3, work queue, one pull consumer; its defaults",
    "floor": "plain TCP, up to 16 connections",
}

INTRO = """\
Three nodes of each system on this one machine, and the driver beside them: one system at a time, the order rotated
with every repeat. Jobs of 256 bytes. Median over the repeats [lowest - highest]. A ratio is taken in each repeat by
itself, raftq's figure by the other's. Latencies count from the first try of a submit. "Driver cores" is what the load
itself has used: where it comes near the machine's cores, the driver is what was measured. "Cores of others" is what
other programs and the host of the machine took: where that is not near 0, the figures are those of a busy machine.
Figures of another machine, or of another hour of this one, cannot be compared with these: only the ratios can, and
with care."""


def get(result, path):
    for word in path.split("."):
        result = result.get(word) if isinstance(result, dict) else None
    return result if isinstance(result, (int, float)) else None


def plain(value):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def percent(value):
    return f"{value * 100:.1f} %" if value else "0"


def spread(values, shown):
    if not values:
        return "-"
    middle = shown(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} [{shown(min(values))} - {shown(max(values))}]"


def table(head, rows):
    """Makes a table that can be read as it is, too."""
    widths = [max(len(str(row[at])) for row in [head, *rows]) for at in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(str(word).ljust(width) for word, width in zip(line, widths)) + " |" for line in lines)


class Results:
    """What was measured, by cell and system, a value for each repeat."""

    def __init__(self, records):
        self.records = records
        self.systems = list(dict.fromkeys(record["system"] for record in records))
        self.systems.sort(key=list(ON_DISK).index)

    def by_repeat(self, cell, system, path):
        found = {}
        for record in self.records:
            if record["cell"] == cell and record["system"] == system and "result" in record:
                value = get(record["result"], path)
                if value is not None:
                    found[record["repeat"]] = value
        return found

    def values(self, cell, system, path):
        return list(self.by_repeat(cell, system, path).values())

    def ratio(self, cell, system, path):
        ours, theirs = (self.by_repeat(cell, one, path) for one in (OURS, system))
        return [ours[repeat] / theirs[repeat] for repeat in ours if theirs.get(repeat)]

    def rows(self, cell, columns):
        rows = []
        for system in self.systems:
            if not any(record["cell"] == cell and record["system"] == system for record in self.records):
                continue
            row = [system]
            for _title, kind, path in columns:
                if kind == "ratio":
                    row.append("" if system == OURS else spread(self.ratio(cell, system, path), plain))
                else:
                    row.append(spread(self.values(cell, system, path), percent if kind == "share" else plain))
            rows.append(row)
        return rows

    def table(self, cell, columns):
        rows = self.rows(cell, columns)
        return table(["system", *(title for title, _kind, _path in columns)], rows) if rows else ""


COSTS = [
    ("server CPU µs a job", "value", "server_us_per_job"),
    ("server cores", "value", "server_cores"),
    ("driver cores", "value", "driver_cores"),
    ("cores of others", "value", "other_cores"),
]


def submit_columns(what, per):
    return [
        (what, "value", "jobs_per_s"), ("raftq / it", "ratio", "jobs_per_s"),
        (f"p50 ms{per}", "value", "latency.p50_ms"), (f"p99 ms{per}", "value", "latency.p99_ms"),
        *COSTS, ("refused tries", "share", "refused_share"),
    ]


SECTIONS = [
    ("submit-1", "Submits, 1 in flight", submit_columns("submits/s", "")),
    ("submit-64", "Submits, 64 in flight", submit_columns("submits/s", "")),
    ("submit-1024", "Submits, 1024 in flight", submit_columns("submits/s", "")),
    ("batch", "100 jobs a request, 16 requests in flight", submit_columns("jobs/s", " a request")),
    ("cycle", "Whole cycle (submit, assign, complete): 4 workers of 64 jobs, at most 512 jobs on their way", [
        ("jobs/s", "value", "jobs_per_s"), ("raftq / it", "ratio", "jobs_per_s"), *COSTS,
    ]),
    ("latency", "50 jobs a second, 4 idle workers (a ratio below 1: raftq is sooner)", [
        ("acknowledged p50 ms", "value", "acknowledged.p50_ms"), ("raftq / it", "ratio", "acknowledged.p50_ms"),
        ("delivered p50 ms", "value", "delivered.p50_ms"), ("raftq / it", "ratio", "delivered.p50_ms"),
        ("delivered p99 ms", "value", "delivered.p99_ms"), COSTS[0], *COSTS[2:],
    ]),
]


# What stands in the first table: its columns, each a cell.
SHORT_CELLS = {
    "submit-1": "1 in flight", "submit-64": "64 in flight", "submit-1024": "1024 in flight",
    "batch": "100 a request, 16 in flight", "cycle": "whole cycle",
}


def short(results, cores):
    """Returns the table of raftq alone: its figures, and how they stand to the others'."""
    cells = [cell for cell in SHORT_CELLS if results.values(cell, OURS, "jobs_per_s")]
    if not cells:
        return []

    def row(title, values_of, shown=plain):
        row = [title, *(spread(values_of(cell), shown) for cell in cells)]
        return [row] if any(word != "-" for word in row[1:]) else []

    def own(path):
        return lambda cell: results.values(cell, OURS, path)

    def to(system, path="jobs_per_s"):
        return lambda cell: results.ratio(cell, system, path)

    def tail(cell):
        p50, p99 = (results.by_repeat(cell, OURS, f"latency.{name}_ms") for name in ("p50", "p99"))
        return [p99[repeat] / p50[repeat] for repeat in p50 if p50[repeat]]

    def driver(cell):
        return [value / cores for value in results.values(cell, OURS, "driver_cores")]

    rows = row("jobs/s", own("jobs_per_s")) + row("p50 ms", own("latency.p50_ms"))
    rows += row("p99 ms", own("latency.p99_ms")) + row("p99 / p50", tail)
    rows += row("share of the floor", to("floor"), percent)
    rows += row("p50, as a multiple of the floor's", to("floor", "latency.p50_ms"))
    for system, remark in (("etcd", ""), ("rabbitmq", ""), ("nats", ", which syncs nothing")):
        rows += row(f"jobs/s, as a multiple of {system}'s{remark}", to(system))
    rows += row("server CPU µs a job", own("server_us_per_job"))
    rows += row("refused tries", own("refused_share"), percent)
    rows += row("the driver's share of all cores", driver, percent)
    return [table(["raftq", *(SHORT_CELLS[cell] for cell in cells)], rows)]


def short_latency(results):
    """Returns a sentence on a cluster with little to do."""
    figures = [(name, results.values("latency", OURS, f"{name}.p50_ms")) for name in ("acknowledged", "delivered")]
    told = [f"{name} {spread(values, plain)} ms" for name, values in figures if values]
    return [f"raftq with 50 jobs a second and idle workers, p50: {', '.join(told)}."] if told else []


def render(records, machine, versions):
    """Returns the whole report as Markdown."""
    results = Results(records)
    loads = [record["load"] for record in records]
    load = f"{min(loads):.1f} - {max(loads):.1f}, median {statistics.median(loads):.1f}"
    parts = [
        f"## raftq beside other systems, {machine['date']}",
        f"{machine['cores']} cores ({machine['cpu']}), kernel {machine['kernel']}, {machine['system']}, data on "
        f"{machine['disk']}; load average over the run {load}, this run's own load included; "
        f"repeats: {machine['repeats']}, of {machine['secs']} s a cell.",
        INTRO,
    ]
    if in_short := short(results, machine["cores"]) + short_latency(results):
        parts += ["### raftq in short", *in_short]
    for cell, title, columns in SECTIONS:
        if made := results.table(cell, columns):
            parts += [f"### {title}", made]
    if any(record["cell"] != "latency" for record in records) and OURS in results.systems:
        parts.append(
            "Refused tries: submits that were refused for want of room (RESOURCE_EXHAUSTED) and made again as the same, as "
            "a share of all tries. raftq's nodes count them, because its client library tries again by itself."
        )
    parts.append("### What is on disk before a submit is acknowledged, what \"completed\" means, and how each is driven")
    parts += [
        f"- **{system}** ({versions.get(system) or 'version unknown'})\n  - on disk before a submit is acknowledged: {ON_DISK[system]}\n"
        f"  - a job is completed: {COMPLETED[system]}\n  - driven by: {DRIVEN[system]}" for system in results.systems
    ]
    if "nats" in results.systems:
        parts.append("So NATS is no like for like: it shows what is to be had without durability.")
    failures = [f"- {record['system']}, {record['cell']}, repeat {record['repeat'] + 1}: {why}"
                for record in records if (why := failure(record))]
    if failures:
        parts += ["### What failed", "\n".join(failures)]
    return "\n\n".join(parts) + "\n"


def failure(record):
    """Returns what went wrong in a cell, if something did."""
    if "error" in record:
        return "it could not be measured: " + " ".join(record["error"].split())[:400]
    failed = record["result"].get("failed")
    return f"{failed} requests failed" if failed else ""
