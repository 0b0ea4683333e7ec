"""Every failpoint of the programs: death exactly there, under load, again and again; and the same
step failing without a death."""

import contextlib
import re
import time

from harness.audit import quiesce
from harness.stack import REPOSITORY

from .bundles import between, bundle, cut, unknown_message
from .cases import case
from .check import Judge, Result
from .load import Load
from .site import Background, KillLoop, Site
from .watch import total

SOURCE = REPOSITORY / "libcommon/daemon/failpoint.c"
FAILPOINTS = re.findall(r'\] = "(\w+\.\w+)"', SOURCE.read_text())
NEEDS_POISON = "consumer.after_letter"
VICTIM = {"api": "api", "outbox": "outboxd", "consumer": "consumerd", "refund": "consumerd",
          "receipts": "api", "webhooks": "consumerd"}
# Passes between two deaths: at least one, at most so many.
PASSES = {"api": 20, "outbox": 20, "consumer": 40, "refund": 2, "receipts": 20, "webhooks": 20, NEEDS_POISON: 10}
KILLS = {"webhooks": 10}  # of 30 elsewhere: endpoints wait for ten seconds for one that has died
ERROR_SEC = 2
REPUBLISHED_SEC = 30
BURST = 40   # sends that are due together: bundles of several
BATCH = 200  # what a worker of msg-outboxd publishes before it deletes, at most


def settings_of(kind):
    return {"rejected_share": 0.6} if kind == "refund" else {}


@case("failpoints", "death at every failpoint", short=True)
def failpoints(run):
    with Site("failpoints", run.servers) as site:
        site.up()
        judge = Judge(site)
        # The short run takes one of each kind of daemon and a refund.
        names = [run.rng.choice([n for n in FAILPOINTS if n.startswith(kind)]) for kind in VICTIM] \
            if run.short else FAILPOINTS
        for name in names:
            yield kill_at(run, site, judge, name)
        if not run.short:
            yield from errors(run, site, judge)


def duplicates(site):
    """Deliveries of what was finished already. Only while no consumer dies."""
    return total(site.of("consumerd"), "worker_events_total", result="duplicate")


def poison(run, site):
    """Bundles with a member that nobody has: a letter is made of each."""
    def change(queue, members):
        for part in cut(list(members), run.rng, 10):
            part.insert(run.rng.randint(0, len(part)), unknown_message(run.rng, part[0]["type"]))
            yield bundle(part)
    return Background(between(site, change))


def drop_letters(site):
    quiesce(site.stack)
    site.verb("consumerd", "dead", "drop", "--all")


def kill_at(run, site, judge, name):
    began = time.monotonic()
    kind = name.split(".")[0]
    result = Result(f"failpoint {name}", f"killed at `{name}`", unit="kills")
    victims = site.of(VICTIM[kind])
    loop = KillLoop(victims, name, run.rng, PASSES.get(name, PASSES[kind]))
    copies = duplicates(site)
    with Load(site, run.new_seed(), rate=150, burst=BURST, **settings_of(kind)) as load:
        with poison(run, site) if name == NEEDS_POISON else contextlib.nullcontext():
            loop.run(run.times(KILLS.get(kind, 30), 3), deadline=30 + 3 * run.repeat)
        lifted = time.monotonic()
        site.up()
        load.end()
        if name == NEEDS_POISON:
            drop_letters(site)
        result.repetitions = loop.kills
        result.violate(*loop.problems)
        judge.judge(result, load, lifted, replays=None if kind == "api" else 50)
    if result.repeats:
        result.violate(f"operators saw {result.repeats} repeats: who takes over asks first")
    if kind == "outbox":
        copies = duplicates(site) - copies
        result.notes.append(f"{copies:.0f} messages published twice")
        if result.recovery_sec > REPUBLISHED_SEC:
            result.violate(f"published again only after {result.recovery_sec:.1f} s")
        if copies > BATCH * loop.kills:
            result.violate(f"{copies:.0f} messages published twice by {loop.kills} deaths")
    result.seconds = time.monotonic() - began
    return result


def errors(run, site, judge):
    """Each step told to act as if it had failed, one time in three."""
    result = Result("failpoint errors", "each of these steps failing without a death", unit="steps")
    began = time.monotonic()
    for name in FAILPOINTS:
        kind = name.split(".")[0]
        with Load(site, run.new_seed(), rate=150, burst=BURST, **settings_of(kind)) as load:
            for victim in site.of(VICTIM[kind]):
                victim.kill()
                victim.start(MSG_FAILPOINT=f"{name}:error:every=3")
            time.sleep(ERROR_SEC)
            lifted = time.monotonic()
            for victim in site.of(VICTIM[kind]):
                victim.kill()
            site.up()
            load.end()
            result.repetitions += 1
            before = len(result.violations)
            judge.judge(result, load, lifted, replays=20)
            result.violations[before:] = [f"{name}: {v}" for v in result.violations[before:]]
    result.seconds = time.monotonic() - began
    yield result
