"""Two builds in turn on the same servers: what a message costs each of them in processor time.

A run is one build on a platform of its own (database, exchange, queues, simulators, load tool), for a
number of rows one after the other. Runs come in pairs, old new, new old, old new, …, because the machine
drifts; a row compares the medians of its runs. What counts is everything: servers, daemons, simulators
and load tool. Rates say nothing here: they follow the machine.
"""

import os
import re
import statistics
import subprocess
import time

from harness.stack import BUILD, missing_binaries

from . import usage
from .platform import LIFTED, LOADTEST, PROCESSES, Platform
from .rows import KEEPS_UP, Result

PLATFORM = PROCESSES[:5]  # without the simulators and the load tool
USERS = 5000
RECIPIENTS, REQUESTS_RPS = 100, 60
QUIET = 0.1  # share of the machine that others may use
PURGE_SEC = 20
PREVIOUS = "b1d7a05"  # the release before this one, which the ratios are promised against
# What makes two builds of the same sources cost differently.
ALIKE = ("CMAKE_BUILD_TYPE", "CMAKE_C_COMPILER", "CMAKE_C_FLAGS", "CMAKE_C_FLAGS_RELWITHDEBINFO",
         "CMAKE_C_FLAGS_RELEASE", "SANITIZE")

ROWS = {
    "against-closed-loop": "end to end, {concurrency} workers in a closed loop, {loop_seconds:g} s, until all is done",
    "against-ancestor": "{rps:g} sends/s end to end, {express:.0%} express, {paced_seconds:g} s",
    "against-recipients": f"{REQUESTS_RPS} requests/s of {RECIPIENTS} recipients each, end to end, "
                          "{half_paced_seconds:g} s",
    "against-accept": "accepting alone, {concurrency} workers in a closed loop, {loop_seconds:g} s",
    "against-drain": "the drain of what the row before has accepted",
}
PROMISED = {"against-closed-loop": 0.65, "against-ancestor": 0.60, "against-recipients": 0.70}


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


def faults_of(load):
    found = []
    if not load["passed"]:
        found.append(f"not as it should be: {load['audit']}")
    if load["non2xx"] or load["http_err"]:
        found.append(f"{load['non2xx']} refused, {load['http_err']} without an answer")
    return found


def behind(load, rps):
    return [f"{load['achieved_rps']:.0f} sends/s of {rps:g}"] if load["achieved_rps"] < KEEPS_UP * rps else []


def closed_loop(p, o):
    load = p.load(0, o["loop_seconds"], o["concurrency"], USERS)
    return {"against-closed-loop": cost(load.cpu_sec, load.recipients)}, faults_of(load)


def paced(p, o):
    load = p.load(o["rps"], o["paced_seconds"], o["concurrency"], o["users"], recipients=o["recipients"],
                  express=o["express"])
    return {"against-ancestor": cost(load.cpu_sec, load.recipients)}, faults_of(load) + behind(load, o["rps"])


def recipients(p, o):
    load = p.load(REQUESTS_RPS, o["half_paced_seconds"], o["concurrency"], USERS, recipients=RECIPIENTS)
    return {"against-recipients": cost(load.cpu_sec, load.recipients)}, faults_of(load) + behind(load, REQUESTS_RPS)


def accept_then_drain(p, o):
    accepted, before = {}, {}

    def then(so_far):
        accepted.update(so_far())
        p.wait_purged(PURGE_SEC)
        before.update(so_far())
        p.stack.up("consumerd", "outboxd")

    p.stack.stop("outboxd-1")
    p.stack.stop("consumerd-1")
    load = p.load(0, o["loop_seconds"], o["concurrency"], USERS, meanwhile=then)
    drained = {name: sec - before[name] for name, sec in load.cpu_sec.items()}
    return {"against-accept": cost(accepted, load["ok"]),
            "against-drain": cost(drained, load.recipients)}, faults_of(load)


PARTS = {closed_loop: ("against-closed-loop",), paced: ("against-ancestor",), recipients: ("against-recipients",),
         accept_then_drain: ("against-accept", "against-drain")}


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


def measure(servers, which, build, o, names):
    """One run: {row: {"us": {process: µs a message}, "elsewhere": share, "faults": [text]}}."""
    found = {}
    with Platform(f"against-{which}", servers, build, **LIFTED) as p:
        p.up()
        p.seed(max(USERS, o["users"]))
        p.load(o["rps"], o["warm_up_seconds"], o["concurrency"], o["users"], express=o["express"])
        for part, rows in PARTS.items():
            if set(rows) & set(names):
                p.wait_purged(PURGE_SEC)
                others = Elsewhere(p)
                us, faults = part(p, o)
                found.update({row: {"us": us[row], "elsewhere": others.share(), "faults": faults} for row in rows})
    return {name: found[name] for name in names}


# -- all of them --------------------------------------------------------------------------------------


def compare(servers, builds, o, names):
    """[{build, pair, rows}] in the order they were run."""
    runs = []
    for pair in range(o["pairs"]):
        for which in ("old", "new") if pair % 2 == 0 else ("new", "old"):
            began = time.monotonic()
            rows = measure(servers, which, builds[which], o, names)
            runs.append({"build": which, "pair": pair + 1, "rows": rows})
            others = max(r["elsewhere"] for r in rows.values())
            print(f"pair {pair + 1} {which}: " + ", ".join(
                f"{n} {sum(r['us'].values()):.1f} µs" for n, r in rows.items())
                + f"; others {others:.0%} of the machine; took {time.monotonic() - began:.0f} s", flush=True)
    return runs


def of_build(runs, name, which):
    return [r["rows"][name] for r in runs if r["build"] == which]


def together(found, processes=PROCESSES):
    return [sum(r["us"][p] for p in processes) for r in found]


def medians(found):
    return {p: round(statistics.median(r["us"][p] for r in found), 1) for p in PROCESSES}


def spread(values):
    return (max(values) - min(values)) / statistics.median(values)


def noise(new, old, elsewhere):
    if len(new) < 2:
        return "noise unknown with one pair"
    said = f"spread between runs of the same build: new {spread(new):.1%}, old {spread(old):.1%}"
    return said + (f"; others used up to {elsewhere:.0%} of the machine: measure again when it is quiet"
                   if elsewhere > QUIET else "")


def allowed(name, o, old):
    """A ratio that is promised against the release before; else no more than the bound."""
    promised = PROMISED.get(name) if old.startswith(PREVIOUS) else None
    return promised or 1 + o["bound"]


def judge(runs, name, o, old_revision):
    new_runs, old_runs = of_build(runs, name, "new"), of_build(runs, name, "old")
    new, old = together(new_runs), together(old_runs)
    ratio = statistics.median(new) / statistics.median(old)
    of_platform = (statistics.median(together(new_runs, PLATFORM))
                   / statistics.median(together(old_runs, PLATFORM)))
    limit = allowed(name, o, old_revision)
    result = Result(name, f"{ROWS[name].format(**o)}: processor time a message, as a share of {old_revision}'s",
                    f"≤ {limit:.2f}")
    result.measured = (f"{ratio:.2f}: {statistics.median(new):.0f} of {statistics.median(old):.0f} µs; without "
                       f"simulators and load tool {of_platform:.2f}")
    result.cpu_us, result.old_us = medians(new_runs), medians(old_runs)
    result.notes += ["by pair " + " ".join(f"{a / b:.3f}" for a, b in zip(new, old)),
                     noise(new, old, max(r["elsewhere"] for r in new_runs + old_runs))]
    result.require(ratio <= limit, "above what is promised")
    for fault in [f"{which}: {text}" for which, found in (("new", new_runs), ("old", old_runs))
                  for r in found for text in r["faults"]]:
        result.require(False, fault)
    return result


def table(runs, name):
    columns = (*PROCESSES, "without the last two", "all")
    lines = ["| pair | build | " + " | ".join(columns) + " | others |",
             "| ---: | --- |" + " ---: |" * (len(columns) + 1)]

    def cells(us):
        return [*(us[p] for p in PROCESSES), sum(us[p] for p in PLATFORM), sum(us.values())]

    for r in runs:
        row = r["rows"][name]
        lines.append(f"| {r['pair']} | {r['build']} | " + " | ".join(f"{c:.1f}" for c in cells(row["us"]))
                     + f" | {row['elsewhere']:.0%} |")
    return "\n".join(lines)


def run(servers, builds, o, names):
    """The rows' results; what every run said is printed."""
    began = time.monotonic()
    old_revision = revision(builds["old"])
    runs = compare(servers, builds, o, names)
    results = [judge(runs, name, o, old_revision) for name in names]
    for result in results:
        print(f"\n{result.title}; µs a message\n\n{table(runs, result.name)}\n", flush=True)
        result.seconds = round((time.monotonic() - began) / len(results), 1)
    return results


def builds_of(other):
    return {"new": BUILD, "old": other}
