"""RABBIT_URI as a list: the nodes of one cluster, here a broker behind two doors."""

from urllib.parse import urlparse

import pytest
import requests
from harness.proxy import FaultProxy
from harness.wait import wait_until

DAEMONS = ("api-1", "outboxd-1", "consumerd-1")


@pytest.fixture
def doors(world):
    """(stack, [proxy, proxy]); each connection has one of them for its home."""
    stack = world("api", "outboxd", "consumerd", "operators")
    broker = urlparse(stack.values["RABBIT_URI"])
    proxies = [FaultProxy(broker.hostname, broker.port) for _ in range(2)]
    nodes = ",".join(stack.values["RABBIT_URI"].replace(str(broker.port), str(proxy.port)) for proxy in proxies)
    for name in DAEMONS:
        stack.restart(name, RABBIT_URI=nodes, RABBIT_REBALANCE_SEC=1)
    yield stack, proxies
    for name in DAEMONS:
        stack.stop(name)  # before their broker goes
    for proxy in proxies:
        proxy.close()


def delivered(stack, customer, **send):
    api = stack.api()
    assert set(api.wait_final(customer, api.sent(customer, **send)["message_identifier"]).values()) == {"done"}


def held(proxies):
    return [len(proxy.held()) for proxy in proxies]


def test_a_lost_node_is_left_and_found_again(doors):
    stack, proxies = doors
    customer = stack.api().funded(1000)
    delivered(stack, customer)
    spread = wait_until(lambda: (n := held(proxies)) and min(n) >= 3 and n, 10, lambda: held(proxies))

    for lost, other in (proxies, proxies[::-1]):
        lost.refuse()
        delivered(stack, customer)
        delivered(stack, customer, type="express")
        wait_until(lambda: sum(held([other])) >= sum(spread) - 2, 30, lambda: (held(proxies), spread))
        assert not held([lost])[0]
        lost.heal()
        wait_until(lambda: held([lost])[0] >= 2, 30, lambda: (held(proxies), spread))
        delivered(stack, customer)
        delivered(stack, customer, type="express")
    for name in DAEMONS:
        assert stack.status(name) == 200


def test_a_silent_node_holds_nobody_up_for_long(doors):
    stack, proxies = doors
    customer = stack.api().funded(1000)
    delivered(stack, customer)
    proxies[0].stall()
    proxies[0].reset()
    delivered(stack, customer)
    delivered(stack, customer, type="express")


def test_all_nodes_away_is_said_of_one_of_them(doors):
    stack, proxies = doors
    customer = stack.api().funded(1000)
    for proxy in proxies:
        proxy.refuse()
    doors_named = tuple(f"127.0.0.1:{proxy.port}: broker" for proxy in proxies)

    def told():
        return requests.get(stack.url("consumerd-1") + "/readyz", timeout=5).json()["lanes"]
    wait_until(lambda: all(lane.startswith(doors_named) for lane in told().values()), 30, told)
    sent = stack.api().sent(customer)["message_identifier"]
    for proxy in proxies:
        proxy.heal()
    assert set(stack.api().wait_final(customer, sent).values()) == {"done"}
