"""The cases: each a function that does its faults to a site under load and fills a result."""

import contextlib
import time
from collections import namedtuple

from suite.check import Result
from suite.load import Load
from suite.watch import until

from .watch import SENDS_GAP_SEC, deliveries, longest_gap

Case = namedtuple("Case", "name title unit times short function")
CASES = {}
RATE = 60


def case(name, title, unit="times", times=3, short=False):
    """times: how often by default. short: part of the run in CI."""
    def register(function):
        CASES[name] = Case(name, title, unit, times, short, function)
        return function
    return register


class Trial:
    """One case's load and result. `times` is how often the fault is wanted."""

    def __init__(self, site, case, rng, times, rate=RATE):
        self.site, self.rng, self.times = site, rng, times
        self.result = Result(case.name, case.title, unit=case.unit)
        self.load = Load(site, rng.getrandbits(32), rate=rate)

    def note(self, text):
        self.result.notes.append(text)

    def repetitions(self):
        for n in range(self.times):
            yield n
            self.result.repetitions += 1

    def took(self, what, seconds):
        """The longest and the median of a list of measures."""
        if seconds:
            middle = sorted(seconds)[len(seconds) // 2]
            self.note(f"{what}: {max(seconds):.1f} s at most, {middle:.1f} s in the middle of {len(seconds)}")

    def sends_went_on(self):
        """Nobody saw anything of it."""
        load, result = self.load, self.result
        gap = longest_gap(load.times, load.began_at, self.lifted)
        self.note(f"no send was accepted for {gap:.1f} s at most; answers {dict(load.answers)}, {load.cut} cut")
        if gap > SENDS_GAP_SEC:
            result.violate(f"no send was accepted for {gap:.1f} s")

    def only_answers(self, *statuses, cut=False):
        if set(self.load.answers) - set(statuses):
            self.result.violate(f"answers {dict(self.load.answers)}")
        if self.load.cut and not cut:
            self.result.violate(f"{self.load.cut} requests were cut")


@contextlib.contextmanager
def under_load(trial, may_lose=False):
    """The body does the faults; afterwards everything is made whole and the judge has its say."""
    site, load = trial.site, trial.load
    load.began_at = time.monotonic()
    with load:
        until(trial.result, lambda: len(load.accepted) > 20, 20, "the load is under way")
        yield
        site.whole()
        trial.lifted = time.monotonic()
        load.end()
        if not may_lose:
            site.judge.judge(trial.result, load, trial.lifted, deadline=120)
        trial.note("nothing became final for {:.1f} s at most; the slowest took {:.1f} s".format(*deliveries(site, load)))


from . import cases_brokers, cases_databases, cases_machines  # noqa: E402,F401
