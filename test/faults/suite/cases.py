"""The cases: each a generator of results."""

from collections import namedtuple

Case = namedtuple("Case", "name title function short shared")
CASES = {}


class Skip(Exception):
    """With the reason, for the person who reads the results."""


def case(name, title, short=False, shared=True):
    """short: part of `make test`. shared: uses the servers that all cases share, and spares them."""
    def register(function):
        CASES[name] = Case(name, title, function, short, shared)
        return function
    return register


def order():
    """Names of results as they appear in the table; a case may have several."""
    from .cases_failpoints import FAILPOINTS
    names = []
    for name in CASES:
        names += [f"failpoint {p}" for p in (*FAILPOINTS, "errors")] if name == "failpoints" else [name]
    return names


from . import (cases_failpoints, cases_killer, cases_links, cases_stopped,  # noqa: E402,F401
               cases_operators, cases_carriers, cases_servers, cases_disk, cases_repair, cases_input, cases_drain,
               cases_clock, cases_tamper, cases_bundles, cases_doorbell, cases_endpoints,
               cases_upgrade)
