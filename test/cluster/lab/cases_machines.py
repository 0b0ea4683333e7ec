"""HAProxy, whole machines, and all at once."""

import time

from suite.site import Background
from suite.watch import until

from .cases import case, under_load
from .cases_brokers import killer
from .cases_databases import promoted, rebuilt
from .site import BROKERS, pause
from .watch import delivers_again

MIX_MESSAGES = 50_000
MIX_RATE = 150
SLOWEST_RATE = 20  # of a busy machine
KILL_EVERY_SEC = 20


@case("HAProxy restarted", "HAProxy killed and started again", "kills", times=5)
def haproxy(trial):
    site = trial.site
    with under_load(trial):
        for _ in trial.repetitions():
            pause(trial.rng.uniform(1, 2))
            site.kill("haproxy")
            site.start("haproxy")
    trial.sends_went_on()
    trial.only_answers(200, cut=True)


@case("machine gone", "a machine with a broker node and one of each daemon gone at once, and back", "machines",
      short=True)
def machine_gone(trial):
    site, waits = trial.site, []
    with under_load(trial):
        for n in trial.repetitions():
            machine = BROKERS[n % len(BROKERS)]
            pause(trial.rng.uniform(1, 2))
            last = site.newest()
            site.kill(machine)
            waits.append(delivers_again(site, trial.result, since=last))
            pause(trial.rng.uniform(0.5, 2))
            site.start(machine)
            site.whole()
    trial.took("delivery went on after", waits)
    trial.sends_went_on()
    trial.only_answers(200, 502, 503, 504, cut=True)


@case("mix", f"{MIX_MESSAGES} messages with one broker node after the other killed, {KILL_EVERY_SEC} s after the one"
      " before is back, and one promotion", "runs", times=1)
def mix(trial):
    site, load, kills, waits = trial.site, trial.load, [], []
    load.rate = MIX_RATE
    with under_load(trial):
        for _ in trial.repetitions():
            wanted = len(load.accepted) + MIX_MESSAGES
            with Background(lambda stop: killer(site, trial.rng, KILL_EVERY_SEC, stop, kills)):
                enough(trial, wanted - MIX_MESSAGES // 2)
                site.kill(site.stack.config.primary)
                promoted(trial, waits)
                rebuilt(trial)
                enough(trial, wanted)
    trial.note(f"{len(kills)} nodes killed, {len(load.accepted)} messages")
    trial.took("sends were accepted after the promotion within", waits)


def enough(trial, wanted):
    began, before = time.monotonic(), len(trial.load.accepted)
    limit = 120 + (wanted - before) / SLOWEST_RATE
    until(trial.result, lambda: len(trial.load.accepted) >= wanted, limit, f"{wanted} messages are accepted", pause=0.5)
    trial.note(f"{len(trial.load.accepted) - before} messages in {time.monotonic() - began:.0f} s")
