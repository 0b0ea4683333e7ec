"""From the release before to this one and back, process by process, under load, behind HAProxy as docs/upgrade.md
has it. FAULTS_OLD is a folder with the programs of the release before (test/upgrade/build)."""

import os
import subprocess
import time
from pathlib import Path

from harness.haproxy import Haproxy
from harness.stack import BUILD, binary, missing_binaries

from .bundles import Seen, watch
from .cases import Skip, case
from .cases_bundles import act
from .cases_drain import restart
from .check import Judge, Result
from .load import Load
from .site import Background, Site
from .watch import until

LARGE, SINGLE = {"RABBIT_BUNDLE_MAX": "50"}, {"RABBIT_BUNDLE_MAX": "1"}
HEAP_SEC = 0.6
MOVED_SEC = 30  # until what was published before is final
RATE = 120


def old_build():
    if not os.environ.get("FAULTS_OLD"):
        raise Skip("FAULTS_OLD names no build of the release before")
    build = Path(os.environ["FAULTS_OLD"]).resolve()
    if missing := missing_binaries(build):
        raise Skip("FAULTS_OLD has no " + " ".join(missing))
    return build


def makes_bundles(build):
    return "RABBIT_BUNDLE_MAX" in subprocess.run([binary("outboxd", build), "--help"], timeout=30, text=True,
                                                 stdout=subprocess.PIPE).stdout


class Change:
    """A site on its way from one build to another."""

    def __init__(self, run, site, result, old):
        self.run, self.site, self.result, self.old = run, site, result, old

    def replace(self, daemon, build, **settings):
        """One process, while both sorts are at work."""
        daemon.build = build
        daemon.settings.update(settings)
        restart(daemon, self.result)
        self.result.repetitions += 1
        self.heap()

    def move(self, kind, build, **settings):
        """Every process of a kind, one after the other."""
        for daemon in self.site.of(kind):
            self.replace(daemon, build, **settings)

    def heap(self):
        self.site.heap(HEAP_SEC)
        time.sleep(self.run.rng.uniform(0.2, 0.6))

    def moved_on(self):
        """All that was published until now is final: nothing of it waits in a queue any more."""
        last = self.site.db.value("SELECT MAX(id) FROM message_status")
        until(self.result, lambda: not self.site.db.value(
            "SELECT COUNT(*) FROM message_status WHERE id<=%s AND status IN ('pending','sending')", last),
            MOVED_SEC, "what was published before is final")


def upgraded(run, name, title, steps, **settings):
    """One result: load that may not fail, the steps, and what they have cost."""
    old = old_build()
    result = Result(name, title, unit="processes changed")
    seen = Seen()
    with Site("upgrade", run.servers, build=old, told=0, **settings) as site:
        site.up()
        judge = Judge(site)
        with Haproxy(site.stack.directory, *(d.url for d in site.of("api"))) as proxy, \
                Background(watch(site, seen)), \
                Load(site, run.new_seed(), rate=RATE, strict=True, front=proxy.address) as load:
            change = Change(run, site, result, old)
            change.heap()
            steps(change, old, seen)
            lifted = time.monotonic()
            load.end()
            result.notes.append(f"HAProxy repeated {proxy.repeats()} of {load.made} requests")
            judge.judge(result, load, lifted)
        result.notes.append(seen.words())
        if load.failures:
            result.violate(f"{len(load.failures)} of {load.made} requests failed", *map(str, load.failures[:3]))
        if result.repeats:
            result.violate(f"operators saw {result.repeats} repeats")
    return result


def dead_letters(site):
    return site.broker.ready(site.broker.dead) or 0


def no_dead_letters(site, result):
    if found := dead_letters(site):
        result.violate(f"{found} dead letters")


def upgrade_case(name, title, before_bundles=None, **settings):
    """before_bundles: whether the release before has to be one that knows bundles (False), or none (True)."""
    def register(steps):
        @case(name, title)
        def upgrade(run):
            if before_bundles is not None and makes_bundles(old_build()) == before_bundles:
                raise Skip("the release before makes bundles" if before_bundles else
                           "the release before knows no bundles")
            yield upgraded(run, name, title, steps, **settings)
        return upgrade
    return register


def forward(change, seen, then=LARGE):
    change.site.migrate()
    change.move("consumerd", BUILD)
    if seen.bundles and not makes_bundles(change.old):
        change.result.violate("bundles before this release makes any")
    change.move("outboxd", BUILD, **then)
    change.move("api", BUILD)


@upgrade_case("upgrade", "from the release before to this one and back, process by process, in the order of the"
              " documents")
def in_order(change, old, seen):
    forward(change, seen)
    if not seen.bundles:
        change.result.violate("this release's publishers made no bundle")
    # Back: publishers first, then what they have published, then who may not know how to read it.
    change.move("outboxd", old)
    change.moved_on()
    change.move("consumerd", old)
    change.move("api", old)
    no_dead_letters(change.site, change.result)


@upgrade_case("upgrade any order", "from the release before to this one and back, process by process, in an order left"
              " to chance", before_bundles=False)
def any_order(change, old, seen):
    for _ in range(change.run.times(3)):
        change.site.migrate()
        for build in (BUILD, old):
            daemons = list(change.site.daemons.values())
            change.run.rng.shuffle(daemons)
            for daemon in daemons:
                change.replace(daemon, build)
    no_dead_letters(change.site, change.result)


@upgrade_case("upgrade singles", "publishers upgraded before consumers, with RABBIT_BUNDLE_MAX=1 until all are new",
              before_bundles=True)
def publishers_first_singles(change, old, seen):
    change.site.migrate()
    change.move("outboxd", BUILD, **SINGLE)
    change.move("api", BUILD)
    change.move("consumerd", BUILD)
    if seen.bundles or dead_letters(change.site):
        change.result.violate(f"{seen.bundles} bundles and {dead_letters(change.site)} dead letters before all is new")
    change.move("outboxd", BUILD, **LARGE)
    if not seen.bundles:
        change.result.violate("no bundle after RABBIT_BUNDLE_MAX was raised")


@upgrade_case("upgrade wrong way", "publishers upgraded before consumers, with bundles: the consumers before make dead"
              " letters of them, `dead replay` brings every message back", before_bundles=True, REPAIR_AFTER_SEC=0)
def publishers_first_bundles(change, old, seen):
    site, result = change.site, change.result
    site.migrate()
    change.move("outboxd", BUILD, **LARGE)
    until(result, lambda: dead_letters(site), 20, "an old consumer has made a dead letter of a bundle")
    change.move("consumerd", BUILD)
    time.sleep(1)
    letters, recipients = dead_letters(site), site.db.value(
        "SELECT COUNT(*) FROM message_status WHERE status='pending'")
    result.notes.append(f"{letters} dead letters, with {recipients} recipients waiting")
    for words in (["list"], ["replay", "--all"], ["replay", "--all"]):
        act(site, result, *words)
    change.move("api", BUILD)
