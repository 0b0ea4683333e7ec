"""Endpoints that hang, names that change, processes that die: nothing is lost, nobody else waits, and nothing inside is
reached.
"""

import collections
import os
import signal
import subprocess
import threading
import time

import pytest
from harness.client import recipient
from harness.metrics import Metrics
from harness.receiver import Hooks, Receiver, wait_known
from harness.wait import wait_until

SETTINGS = {"WEBHOOK_SCHEDULE_SEC": "1,2,2,2,2,2,2,2,2,2", "WEBHOOK_TIMEOUT_MS": 1000,
            "WEBHOOK_ALLOW_PRIVATE": "127.0.0.1", "WEBHOOK_MAX_IN_FLIGHT": 32}

PROCESSES = ("api-1", "consumerd-1", "consumerd-2")

# The first look at the name leads to an address that is allowed, each later one inside.
REBIND = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdatomic.h>
#include <string.h>

static _Atomic int looks;

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(RTLD_NEXT,
                                                                                               "getaddrinfo");

    if (node && !strcmp(node, "rebind.test"))
        node = atomic_fetch_add(&looks, 1) ? "127.0.0.2" : "127.0.0.1";
    return real(node, service, hints, out);
}
"""


@pytest.fixture(scope="module")
def stack(module_world):
    return module_world(replicas={"api": 1, "outboxd": 1, "consumerd": 2}, **SETTINGS)


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def hooked(stack):
    """Makes customers with an endpoint, who are gone after the test."""
    made = []

    def make(url, **fields):
        api = stack.api()
        hooks = Hooks(api, api.funded(10000))
        made.append((hooks, hooks.create(url, **fields)))
        return made[-1]

    yield make
    for hooks, hook in made:
        hooks.call("DELETE", hook["id"])
    wait_known(stack, 0, PROCESSES)


def test_those_that_hang_keep_nobody_waiting(stack, hooked, receiver):
    with Receiver() as hanging:
        hanging.answer(hangs=True)
        healthy, hook = hooked(receiver.url)
        others = [hooked(hanging.url) for _ in range(40)]
        wait_known(stack, 41, PROCESSES)
        api = stack.api()

        def latencies(n):
            seen = []
            for _ in range(n):
                count = len(receiver.events)
                sent = api.sent(healthy.customer)
                api.wait_final(healthy.customer, sent["message_identifier"])
                began = time.monotonic()
                receiver.wait_events(count + 1)
                seen.append(time.monotonic() - began)
            return sorted(seen)

        alone = latencies(10)
        for hooks, _ in others:
            api.sent(hooks.customer, [recipient(i) for i in range(50)])
        hanging.wait_requests(32)
        beside = latencies(20)
        print("alone", alone, "beside 40 that hang", beside)
        # A look for what is due every 200 ms, and not a timeout of anybody else's.
        assert beside[-1] < alone[-1] + 0.9, (alone, beside)


def test_killed_again_and_again(stack, hooked, receiver):
    """Everything arrives, the same thing always under the same id."""
    receiver.answer(delay=0.02)
    hooks, hook = hooked(receiver.url)
    wait_known(stack, 1, PROCESSES)
    api = stack.api()
    stop = threading.Event()

    def kill():
        while not stop.wait(1.5):
            for name in ("consumerd-1", "consumerd-2"):
                if not stop.is_set():
                    stack.kill(name)
                    stack.start(name)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        sent = [api.sent(hooks.customer, [recipient(i) for i in range(10)]) for _ in range(40)]
        for message in sent:
            api.wait_final(hooks.customer, message["message_identifier"], 90)
    finally:
        stop.set()
        killer.join()
    expected = {f"{m['message_identifier']}-{i}-done" for m in sent for i in range(10)}
    wait_until(lambda: {e["id"] for e in receiver.events} >= expected, 60, "every event arrives")
    bodies = collections.defaultdict(set)
    for request in receiver.taken:
        bodies[request.headers["webhook-id"]].add(request.body)
    assert set(bodies) == expected
    assert all(len(b) == 1 for b in bodies.values()), "the same id with another body"
    print("requests", len(receiver.taken), "for", len(expected), "events")


def test_a_name_that_leads_inside_on_the_second_look(stack, hooked, tmp_path, receiver):
    source = tmp_path / "rebind.c"
    library = tmp_path / "rebind.so"
    source.write_text(REBIND)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    stack.stop("consumerd-2")
    stack.restart("consumerd-1", LD_PRELOAD=library)
    try:
        with Receiver("127.0.0.2", receiver.port) as inside:
            url = f"http://rebind.test:{receiver.port}/hook"
            first, first_hook = hooked(url)
            second, second_hook = hooked(url)
            wait_known(stack, 2)
            api = stack.api()
            api.sent(first.customer)
            receiver.wait_events(1)
            api.sent(second.customer)
            wait_until(lambda: second.attempts(second_hook), 20, "a call of the second")
            assert {a["result"] for a in second.attempts(second_hook)} == {"blocked"}
            assert inside.connections == 0 and len(receiver.requests) == 1
    finally:
        stack.restart("consumerd-1", LD_PRELOAD="")
        stack.start("consumerd-2")


def test_parts_run_alone(stack, hooked, receiver):
    """One delivers and calls nobody; the other calls, and needs no broker, and no operators' files, at a reload either."""
    stack.restart("consumerd-1", CONSUMERD_PARTS="lanes")
    stack.restart("consumerd-2", CONSUMERD_PARTS="webhooks", RABBIT_URI="",
                  OPERATORS_FILE="/nowhere/operators.d")
    try:
        hooks, hook = hooked(receiver.url)
        wait_known(stack, 1, PROCESSES)
        api = stack.api()
        api.sent(hooks.customer)
        receiver.wait_events(1)

        def delivered(name):
            return Metrics.of(stack.url(name)).sum("msg_webhook_calls_total", result="delivered")

        wait_until(lambda: delivered("consumerd-2") == 1, 10, "the answer is counted")
        assert delivered("consumerd-1") == 0
        os.kill(stack.pid("consumerd-2"), signal.SIGHUP)
        wait_until(lambda: '"signal":"SIGHUP"' in stack.log_text("consumerd-2"), 10, "it is heard")
        api.sent(hooks.customer)
        receiver.wait_events(2)
        assert stack.status("consumerd-2") == 200
    finally:
        stack.restart("consumerd-1", CONSUMERD_PARTS="lanes,webhooks")
        stack.restart("consumerd-2", CONSUMERD_PARTS="lanes,webhooks", RABBIT_URI=stack.values["RABBIT_URI"],
                      OPERATORS_FILE="")


def test_a_drain_leaves_nothing_half_done(stack, hooked, receiver):
    """What is out when a process is told to stop is answered, written down, and not told again."""
    receiver.answer(delay=0.3)
    stack.stop("consumerd-2")
    try:
        hooks, hook = hooked(receiver.url)
        wait_known(stack, 1)
        api = stack.api()
        sent = api.sent(hooks.customer, [recipient(i) for i in range(20)])
        api.wait_final(hooks.customer, sent["message_identifier"])
        receiver.wait_requests(3)
        stack.stop("consumerd-1")
        told = len(receiver.requests)
        rows = stack.db.value("SELECT COUNT(*) FROM webhook_events WHERE webhook_id=%s AND delivered_at IS NOT NULL",
                              hook["id"])
        assert told == rows == len(receiver.taken)
        stack.start("consumerd-1")
        receiver.wait_events(20)
        assert len(receiver.requests) == 20
    finally:
        stack.start("consumerd-2")


def test_one_that_fails_for_too_long_is_disabled(world, receiver):
    own = world(**{**SETTINGS, "WEBHOOK_DISABLE_AFTER_SEC": 3})
    receiver.answer(status=503)
    api = own.api()
    hooks = Hooks(api, api.funded(10000))
    hook = hooks.create(receiver.url)
    wait_known(own)
    api.sent(hooks.customer)
    wait_until(lambda: hooks.show(hook)["status"] == "disabled", 30, "it is disabled")
    assert hooks.show(hook)["disabled_for"] == "failing"
    first, last = receiver.requests[0], receiver.requests[-1]
    assert last.at - first.at >= 2.9
    assert Metrics.of(own.url("consumerd-1")).sum("msg_webhook_disabled_total", reason="failing") == 1
    receiver.heal()
    hooks.done("POST", f"{hook['id']}/enable")
    receiver.wait_events(1)
