"""Operators that speak HTTP badly, lie, or answer what was not asked: carriers of the harness, each
judged by its own record of what it took and delivered.
"""

import time

from harness.carrier import LIES, REQUEST_TIMEOUT, Carrier, answer, taken

from .cases import case
from .check import Judge, Result
from .load import Load
from .site import Site


def second_answers(a, rng):
    if rng.random() < 0.3:
        a.on_idle(after=0.05, says=REQUEST_TIMEOUT, closes=rng.random() < 0.5)
        return
    more = rng.choice([taken(), answer(400, b"{}"), REQUEST_TIMEOUT, taken()[:30]])
    a.on_post(share=0.5, again=more, again_after=rng.choice([0, 0.01, 0.05]))


def cuts(a, rng):
    a.on_post(share=0.3, cut=rng.choice(["answer", "answer", "headers", "body"]), takes=rng.random() < 0.7,
              on_kept=rng.choice([None, True]), resets=rng.random() < 0.5)


def lies(a, rng):
    a.on_post(share=0.3, takes=rng.random() < 0.7, **LIES[rng.choice(sorted(LIES))])


def lies_when_asked(a, rng):
    a.on_post(share=0.3, cut="answer")
    a.on_lookup(**rng.choice([LIES[rng.choice(sorted(LIES))], {"status": 500}, {"status": 302}]))


def slow_when_asked(a, rng):
    a.on_post(share=0.3, cut="answer")
    a.on_lookup(delay=rng.choice([1, 5]))


def slow_to_know(a, rng):
    a.knows_after = 3
    a.on_post(share=0.3, cut="answer", takes=rng.random() < 0.7)


def long_bodies(a, rng):
    a.on_post(share=0.3, body=b" " * 70_000, **rng.choice([{}, {"status": 503, "takes": False},
                                                           {"status": 200, "takes": False}]))


def refuses_us(a, rng):
    a.on_post(takes=False, status=rng.choice([401, 402, 403, 404, 407, 302]))


# Name: title, what it does, whether it can be asked truly, whether it knows a reference again, settings.
BAD = {
    "carrier answers twice": ("an operator answers twice, late, or on idle connections", second_answers, True,
                              False, {}),
    "carrier cuts": ("an operator cuts connections before or in its answers; it can be asked", cuts, True,
                     False, {}),
    "carrier lies": ("an operator answers 2xx with what is no acceptance; it can be asked", lies, True, False,
                     {}),
    "carrier lies when asked": ("an operator cuts connections, and answers questions with what is no answer",
                                lies_when_asked, False, True, {}),
    "carrier slow when asked": ("an operator cuts connections, and takes its time when asked",
                                slow_when_asked, False, True, {}),
    "carrier slow to know": ("an operator cuts connections, and knows after 3 s what it has taken"
                             " (`OPERATOR_LOOKUP_SETTLES_MS=5000`)", slow_to_know, True, False,
                             {"OPERATOR_LOOKUP_SETTLES_MS": 5000}),
    "carrier long answers": ("an operator answers with 70,000 bytes; it can be asked", long_bodies, True, False,
                             {}),
    "carrier refuses us": ("an operator refuses our credentials, our credit or our address", refuses_us, True,
                           False, {}),
    "carriers refuse us": ("both operators refuse our credentials, our credit or our address: nothing fails",
                           refuses_us, True, False, {}),
}
BOTH = ("carriers refuse us",)


def misbehaves(name, title, does, tells, knows_references, settings):
    @case(name, title, short=name == "carrier answers twice")
    def misbehaving(run):
        result = Result(name, title, unit="times")
        with Carrier("operatorA", seed=run.new_seed()) as a, Carrier("operatorB") as b:
            a.knows_references = knows_references
            with Site("carrier", run.servers, replicas=1, carriers=[a, b], DELIVERY_RETRY_WINDOW_SEC=300,
                      **settings) as site:
                site.up()
                judge = Judge(site)
                with Load(site, run.new_seed(), rate=40, rejected_share=0) as load:
                    for _ in range(run.times(6)):
                        time.sleep(run.rng.uniform(0.5, 1))
                        bad = (a, b) if name in BOTH else (a,)
                        for carrier in bad:
                            does(carrier, run.rng)
                        time.sleep(run.rng.uniform(2, 3))
                        for carrier in bad:
                            carrier.heal()
                        lifted = time.monotonic()
                        result.repetitions += 1
                    load.end()
                    judge.judge(result, load, lifted, deadline=90, unknown=not tells)
                judge_records(result, (a, b), tells)
        yield result


def judge_records(result, carriers, tells):
    """What the operators themselves say was delivered."""
    for carrier in carriers:
        twice = [r for r, n in carrier.sms_by_reference().items() if n > 1]
        if twice:
            result.violate(f"{carrier.name} delivered {len(twice)} references more than once, {twice[0]}")
    if tells and result.both_unknown:
        result.violate(f"{result.both_unknown} delivered by both though {carriers[0].name} could be asked")
    if not carriers[0].sms():
        result.violate(f"{carriers[0].name} took nothing")


for _name, _row in BAD.items():
    misbehaves(_name, *_row)
