"""Two builds in turn on the same servers: what a message costs each of them in processor time.

A run is one build on a platform of its own (database, exchange, queues, simulators, load tool), for a
number of rows one after the other. Runs come in pairs, new old, old new, new old, …, because the machine
drifts; a row compares the medians of its runs. Rates say nothing here: they follow the machine.
"""

import os
import re
import statistics
import subprocess
import time
from pathlib import Path

from harness.stack import BUILD, missing_binaries

from . import usage
from .platform import LIFTED, LOADTEST, Platform

PROCESSES = ("mariadbd", "beam", "msg-api", "msg-outboxd", "msg-consumerd")
USERS = 5000
QUIET = 0.1  # share of the machine that others may use
# What makes two builds of the same sources cost differently.
ALIKE = ("CMAKE_BUILD_TYPE", "CMAKE_C_COMPILER", "CMAKE_C_FLAGS", "CMAKE_C_FLAGS_RELWITHDEBINFO",
         "CMAKE_C_FLAGS_RELEASE", "SANITIZE")

ROWS = {
    "ancestor": "{rps:g} sends/s end to end, {express:.0%} express, {seconds:g} s",
    "accept": "accepting alone, {concurrency} workers in a closed loop, {loop_seconds:g} s",
    "drain": "the drain of what the row before has accepted",
    "closed-loop": "end to end, {concurrency} workers in a closed loop, {loop_seconds:g} s, until all is done",
}


# -- the two builds -----------------------------------------------------------------------------------


def cache(build):
    file = build / "CMakeCache.txt"
    text = file.read_text() if file.exists() else ""
    return dict(re.findall(r"(?m)^(\w+):\w+=(.*)$", text))


def revision(build):
    source = cache(build).get("CMAKE_HOME_DIRECTORY", "")
    done = subprocess.run(["git", "-C", source or "/", "describe", "--always", "--dirty"], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.strip() or "unknown"


def unfit(builds):
    """Why these two cannot be compared, or nothing."""
    for build in builds.values():
        missing = missing_binaries(build) + [str(p) for p in [build / LOADTEST] if not p.exists()]
        if missing:
            return "not built: " + " ".join(missing)
    new, old = (cache(build) for build in builds.values())
    other = [name for name in ALIKE if new.get(name, "") != old.get(name, "")]
    return "the builds were not made alike: " + ", ".join(
        f"{n} is '{new.get(n, '')}' and '{old.get(n, '')}'" for n in other) if other else ""


# -- a run --------------------------------------------------------------------------------------------


def cost(spent, messages):
    """µs a message by process."""
    return {name: 1e6 * spent[name] / messages for name in PROCESSES}


def note_faults(faults, where, load):
    if not load["passed"]:
        faults.append(f"{where}: not as it should be: {load['audit']}")
    if load["non2xx"] or load["http_err"]:
        faults.append(f"{where}: {load['non2xx']} refused, {load['http_err']} without an answer")


def paced(p, o, faults, where):
    load = p.load(o["rps"], o["seconds"], o["concurrency"], o["users"], recipients=o["recipients"],
                  express=o["express"])
    note_faults(faults, where, load)
    if load["achieved_rps"] < 0.98 * o["rps"]:
        faults.append(f"{where}: {load['achieved_rps']:.0f} sends/s of {o['rps']:g}")
    return {"ancestor": cost(load.cpu_sec, load.recipients)}


def accept_then_drain(p, o, faults, where):
    accepted, before = {}, {}

    def then(so_far):
        accepted.update(so_far())
        p.wait_purged()
        before.update(so_far())
        p.stack.up("consumerd", "outboxd")

    p.stack.stop("outboxd-1")
    p.stack.stop("consumerd-1")
    load = p.load(0, o["loop_seconds"], o["concurrency"], USERS, meanwhile=then)
    note_faults(faults, where, load)
    drained = {name: sec - before[name] for name, sec in load.cpu_sec.items()}
    return {"accept": cost(accepted, load["ok"]), "drain": cost(drained, load.recipients)}


def closed_loop(p, o, faults, where):
    load = p.load(0, o["loop_seconds"], o["concurrency"], USERS)
    note_faults(faults, where, load)
    return {"closed-loop": cost(load.cpu_sec, load.recipients)}


PARTS = {paced: ("ancestor",), accept_then_drain: ("accept", "drain"), closed_loop: ("closed-loop",)}


class Elsewhere:
    """The share of the machine that others use while a part is measured: more than a few percent and the
    figures are theirs, since what waits for a processor gathers into larger batches."""

    def __init__(self, p):
        self._meter, self._began = p.meter(), time.monotonic()
        self._before = usage.machine_sec() - usage.own_sec()

    def share(self):
        ours = sum(self._meter.stop().values())
        others = usage.machine_sec() - usage.own_sec() - self._before - ours
        return max(0.0, others / (time.monotonic() - self._began) / os.cpu_count())


def measure(servers, which, build, o, names, faults):
    """({row: {process: µs a message}}, {row: others' share of the machine}) of one run."""
    found, elsewhere = {}, {}
    with Platform(f"against-{which}", servers, build, **LIFTED) as p:
        p.up()
        p.seed(max(USERS, o["users"]))
        p.load(o["rps"], o["warm_up_seconds"], o["concurrency"], o["users"], express=o["express"])
        for part, rows in PARTS.items():
            if set(rows) & set(names):
                p.wait_purged()
                others = Elsewhere(p)
                found.update(part(p, o, faults, f"{which}, {rows[-1]}"))
                elsewhere.update(dict.fromkeys(rows, others.share()))
    return {name: found[name] for name in names}, {name: elsewhere[name] for name in names}


# -- all of them --------------------------------------------------------------------------------------


def compare(servers, builds, o, names):
    """[{build, pair, rows, elsewhere}] in the order they were run, and what went wrong in them."""
    runs, faults = [], []
    for pair in range(o["pairs"]):
        for which in ("new", "old") if pair % 2 == 0 else ("old", "new"):
            began = time.monotonic()
            rows, elsewhere = measure(servers, which, builds[which], o, names, faults)
            runs.append({"build": which, "pair": pair + 1, "rows": rows, "elsewhere": elsewhere})
            print(f"pair {pair + 1} {which}: " + ", ".join(
                f"{n} {sum(us.values()):.1f} µs" for n, us in rows.items())
                + f"; others {max(elsewhere.values()):.0%} of the machine; took {time.monotonic() - began:.0f} s", flush=True)
    return runs, faults


def together(runs, name, which):
    return [sum(r["rows"][name].values()) for r in runs if r["build"] == which]


def spread(values):
    return (max(values) - min(values)) / statistics.median(values)


def judge(runs, name, bound):
    """What a row's runs say. A new build that costs less is within any bound."""
    new, old = (together(runs, name, which) for which in ("new", "old"))
    ratio = statistics.median(new) / statistics.median(old)
    return {"new": statistics.median(new), "old": statistics.median(old), "ratio": ratio,
            "pairs": [a / b for a, b in zip(new, old)], "spread": {"new": spread(new), "old": spread(old)},
            "elsewhere": max(r["elsewhere"][name] for r in runs),
            "within": ratio <= 1 + bound}


def table(runs, name):
    lines = ["| pair | build | " + " | ".join(PROCESSES) + " | all five | others |",
             "| ---: | --- |" + " ---: |" * (len(PROCESSES) + 2)]

    def line(pair, which, cells, others=""):
        return f"| {pair} | {which} | " + " | ".join(f"{c:.1f}" for c in cells) + f" | {others} |"

    medians = {}
    for r in runs:
        us = [r["rows"][name][p] for p in PROCESSES]
        lines.append(line(r["pair"], r["build"], [*us, sum(us)], f"{r['elsewhere'][name]:.0%}"))
        medians.setdefault(r["build"], []).append([*us, sum(us)])
    new, old = ([statistics.median(column) for column in zip(*medians[w])] for w in ("new", "old"))
    lines += [line("median", "new", new), line("median", "old", old),
              "| | new/old | " + " | ".join(f"{a / b:.3f}" if b >= 1 else "–" for a, b in zip(new, old))
              + " | |"]
    return lines


def noise(verdict, bound):
    if len(verdict["pairs"]) < 2:
        return "noise unknown with one pair"
    spreads, others = verdict["spread"], verdict["elsewhere"]
    said = f"spread between runs of the same build: new {spreads['new']:.1%}, old {spreads['old']:.1%}"
    if others > QUIET:
        return f"{said}; others used up to {others:.0%} of the machine: measure again when it is quiet"
    return said + (", more than the bound: take more pairs" if max(spreads.values()) > bound else "")


def sentence(name, verdict, bound):
    return (f"{'within the bound' if verdict['within'] else 'BEYOND THE BOUND'} {name}: new/old of the medians "
            f"{verdict['ratio']:.3f} ({verdict['new']:.1f} of {verdict['old']:.1f} µs), at most {1 + bound:.3f}; by "
            f"pair {' '.join(f'{r:.3f}' for r in verdict['pairs'])}, their median "
            f"{statistics.median(verdict['pairs']):.3f}; {noise(verdict, bound)}")


def markdown(runs, about, o, names, bound):
    lines = [about, ""]
    for name in names:
        lines += [f"{name}: {ROWS[name].format(**o)}; processor time a message in µs", "", *table(runs, name), "",
                  sentence(name, judge(runs, name, bound), bound), ""]
    return "\n".join(lines)
